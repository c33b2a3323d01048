"""The house rules that a reader would otherwise have to check: sizes, names, words, and complete documentation."""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from services.cli import _parser
from shared.runtime import telemetry
from shared.runtime.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]

SOURCES = ("clients", "services", "shared")
FOLDERS = (*SOURCES, "bench", "tests")

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = {"clients": 50, "services": 50, "shared": 50, "bench": 70, "tests": 70}
FOLDER_MODULES_MAX = 12
TOKENS_MAX = 212_000
"""Tokens of Python in clients, services and shared, without comments and docstrings; docs/adr/030 says why."""

LINE_TOKENS_MAX = 8.0
"""On average: denser lines are not read, but deciphered."""

FILLERS = set(
    "asked fed found given gone held judged kept known left looked made mine missing most named one ours part passed"
    " reached rest said seen sent shown stored taken told wanted".split()
)
"""Participles and fillers: a name is a noun or a verb of the field."""

FILLERS_SHARE_MAX = 0.01

MODULE_NAMES_BANNED = {"utils", "util", "helpers", "helper", "common", "base", "manager", "managers", "misc"}

WORDS_BANNED = {
    "alias_id": "distinct id",
    "attribute_name": "property",
    "audit_log": "timeline",
    "backfill": "rebuild",
    "checkpoint": "position",
    "dead_queue": "dead letter",
    "poison": "dead letter",
    "shard": "partition",
    "soft_delete": "tombstone",
    "sub_profile": "fragment",
    "team_id": "project",
    "tenant": "project",
    "ticket": "deletion request",
    "workspace": "project",
}
"""An identifier must not say what the glossary has another word for."""

PARAMETERS_MAX = 6
"""Of a constructor, without `self`; an aggregate's `id` and `timestamp` are the library's."""

ROW_SUBSCRIPTS_MAX = 20
"""Places that take a column of a row by its number, or look like it: a row has a type with names."""

ROWS_DEFINED = {"shared/store/timeline.py", "services/projector/tables/rows.py"}
"""Modules that define a row may take its columns by number: what runs for every fact does."""

ROW_NAMES = re.compile(r"(^|_)(row|rows|fact|facts|record|records|found|entry|entries|identity)$")

EXCEPTIONS_EXPLAINED = {
    "shared/log/memory.py": "its readers are part of the log, and reach into it",
}
"""Files where one reason stands for all exceptions to lint rules."""

INDEX_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("proxy", "golang"), ("repo1", "maven"), ("npmjs", "org"),
        ("crates", "io"),
    )
)


TELLERS_OF_LIVES = {
    "services/deleter/sweep/sweep.sql": "plans where a life ends that is to be erased",
    "shared/store/targets.sql": "erases a life, and leaves the two facts of its end",
    "services/projector/tables/flush.sql": "opens the life that an erasure closed, when that is taken back",
    "services/projector/rebuild/rebuild.sql": "derives rows from all facts, erasures among them",
}
"""Files of SQL beside lives.sql that know the facts by which a life ends."""


LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
"""Tokens that are no code."""


@cache
def committed() -> tuple[Path, ...]:
    """Git's files where there is git, else every file that git would not ignore."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        not_ours = {".venv", "var", ".git", "node_modules"}
        files = [path for path in ROOT.rglob("*") if not not_ours & set(path.relative_to(ROOT).parts)]
    return tuple(path for path in files if path.is_file())


def python(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def tokens_and_lines(path: Path) -> tuple[int, int]:
    """The tokens of a module and the lines that they stand on, without comments and docstrings."""
    text = path.read_text()
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in LAYOUT and not (token.type == tokenize.STRING and token.start[0] in documented)
    ]
    return len(tokens), len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)})


def names(path: Path) -> Iterator[str]:
    """The names that a module gives: to variables, parameters, attributes and functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[str]:
    """Every command with what leads to it, such as `keys create`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                deeper = list(commands(child, f"{prefix}{name} "))
                yield from deeper or [prefix + name]


def test_no_module_is_too_long_to_read() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in python(*FOLDERS)}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}


def test_no_function_is_too_long_to_read() -> None:
    long = {
        f"{shown(path)}:{node.name}": lines
        for folder, lines_max in FUNCTION_LINES_MAX.items()
        for path in python(folder)
        for node in functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > lines_max
    }
    assert long == {}


def test_no_constructor_takes_too_many_parameters() -> None:
    library = {"self", "id", "timestamp"}
    long = {
        f"{shown(path)}:{node.lineno}": sorted(names)
        for path in python("services", "shared")
        for node in functions(path)
        if node.name == "__init__" and len(names := {one.arg for one in parameters(node)} - library) > PARAMETERS_MAX
    }
    assert long == {}


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def test_columns_of_rows_have_names() -> None:
    places = [
        f"{shown(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in python("services", "shared")
        if shown(path) not in ROWS_DEFINED
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript) and takes_a_column(node)
    ]
    assert len(places) <= ROW_SUBSCRIPTS_MAX, "\n".join(places)


def takes_a_column(node: ast.Subscript) -> bool:
    """Whether a name as rows have it is subscripted by numbers: row[3], row[3:5], rows[0][1]."""
    bounds = [node.slice.lower, node.slice.upper] if isinstance(node.slice, ast.Slice) else [node.slice]
    if not any(is_number(bound) for bound in bounds):
        return False
    value = node.value
    while isinstance(value, ast.Subscript):
        value = value.value
    name = value.id if isinstance(value, ast.Name) else getattr(value, "attr", "")
    return ROW_NAMES.search(name) is not None


def is_number(node: ast.expr | None) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, int)


def test_the_whole_stays_within_its_budget() -> None:
    sizes = [tokens_and_lines(path) for path in python(*SOURCES)]
    tokens, lines = (sum(size) for size in zip(*sizes, strict=True))
    assert tokens <= TOKENS_MAX
    assert tokens / lines <= LINE_TOKENS_MAX


def test_no_folder_has_too_many_modules() -> None:
    counts = Counter(shown(path.parent) for path in python(*SOURCES) if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > FOLDER_MODULES_MAX} == {}


def test_names_are_nouns_and_verbs() -> None:
    given = Counter(name.lstrip("_") for path in python(*SOURCES) for name in names(path))
    fillers = {name: given[name] for name in FILLERS & given.keys()}
    assert sum(fillers.values()) <= FILLERS_SHARE_MAX * given.total(), fillers


def test_a_public_class_name_stands_once() -> None:
    places: dict[str, list[str]] = {}
    for path in python(*SOURCES):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(shown(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_module_is_named_for_nothing() -> None:
    assert [shown(path) for path in python(*FOLDERS) if path.stem in MODULE_NAMES_BANNED] == []


def test_every_module_says_what_it_does() -> None:
    sources = [path for path in python(*FOLDERS) if path.read_text()]
    assert [shown(path) for path in sources if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_identifiers_use_the_words_of_the_glossary() -> None:
    found = {}
    for path in python(*SOURCES):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
            for name in names:
                if isinstance(name, str) and (word := name.lower().strip("_")) in WORDS_BANNED:
                    found[f"{shown(path)}: {name}"] = WORDS_BANNED[word]
    assert found == {}


def test_one_module_loads_chdb() -> None:
    """It is loaded by name, when it serves, so that import-linter does not see it."""
    loaders = [shown(path) for path in python(*SOURCES) if re.search(r'module\("chdb', path.read_text())]
    assert loaders == ["services/engine/library.py"]


def test_one_text_says_what_a_life_is() -> None:
    """A reader with a rule of its own showed what had been deleted. Who sees former lives as well has a reason."""
    tells = {shown(path) for folder in SOURCES for path in (ROOT / folder).rglob("*.sql")
             if "'fragment.erased'" in path.read_text("utf-8")}  # fmt: skip
    assert tells == {"shared/store/lives.sql"} | TELLERS_OF_LIVES.keys()


def test_no_committed_file_names_a_package_index() -> None:
    found = [
        shown(path)
        for path in committed()
        if (text := path.read_text(errors="ignore")) and any(host in text for host in INDEX_HOSTS)
    ]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError\(\))")
    assert [shown(path) for path in python(*SOURCES, "bench") if left.search(path.read_text())] == []


def test_every_lint_exception_has_its_reason() -> None:
    bare = re.compile(r"#\s*(noqa|type: ignore)[^#]*$")
    found = [
        f"{shown(path)}:{number}"
        for path in python(*SOURCES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line) and shown(path) not in EXCEPTIONS_EXPLAINED
    ]
    assert found == []


@pytest.mark.parametrize("name", [PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)])
def test_every_setting_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs/settings.md").read_text()


def test_no_setting_is_documented_that_is_none() -> None:
    known = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}
    assert set(re.findall(r"^\| `(PERSONLOG_\w+)` \|", (ROOT / "docs/settings.md").read_text(), re.M)) == known


@pytest.mark.parametrize("command", list(commands(_parser())))
def test_every_command_is_documented(command: str) -> None:
    assert f"| `personlog {command}` |" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("name", telemetry.NAMES)
def test_every_metric_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs/operations.md").read_text()


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{shown(path)} -> {target}"
        for path in committed()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []
