"""The documents: they name only what is in the repository, and public text is written for customers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from services.api.app import ROUTES
from services.api.http.routing import Route
from services.cli import _parser
from tests.unit.test_tidiness import ROOT, committed, shown

ARCHITECTURE_LINES_MAX = 180

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/")
"""Of now. The others are of the past: CHANGELOG.md, bench/ and the decisions name what there was."""

TEXTS = (".py", ".md", ".sql", ".toml", ".yml", ".mjs", "")
"""Suffixes of files that may name a document."""

OUTSIDE = {
    "shared/store/clickhouse/migrations/0001_tables.sql": "a migration's text is its checksum, and never changes",
    "tests/unit/test_papers.py": "it looks for them",
}
"""Files that may name a document which is not here, and why."""

WORDS_BANNED = re.compile(
    r"\b(who|what) (is|was|are|were|has|had|asks|sends)\b|\b(is|are|be) told\b|\bnobody\b|\bours\b"
)
"""Clauses that stand for a noun, and talk of the house in public text."""


def texts(*names: str) -> Iterator[tuple[str, str]]:
    for path in committed():
        if path.suffix in TEXTS and shown(path).startswith(names or ("",)):
            yield shown(path), path.read_text("utf-8", "ignore")


def current() -> list[tuple[str, str]]:
    return [(name, text) for name, text in texts(*DOCUMENTS) if name.endswith(".md") and "/adr/" not in name]


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every text of the command line."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (one.help or "" for one in action._choices_actions)
            for child in action.choices.values():
                yield from helps(child)
        elif action.help:
            yield action.help


def test_no_file_names_a_document_that_is_not_here() -> None:
    names = {path.name for path in committed()}
    lost = {
        f"{name}: {found}"
        for name, text in texts()
        if name not in OUTSIDE
        for found in re.findall(r"\b[\w-]+\.md\b|\b(?:CONTRACT|DESIGN|STYLE|HANDOVER) §", text)
        if found not in names
    }
    assert lost == set()


def test_each_section_of_the_contract_that_is_cited_is_there() -> None:
    contract = (ROOT / "docs/contract.md").read_text()
    sections = set(re.findall(r"^## (\d+)\. ", contract, re.M))
    cited = {
        (name, section)
        for name, text in texts()
        for sections_cited in re.findall(r"contract(?:\.md)?((?:,? (?:and )?(?:of )?§\d+)+)", text)
        for section in re.findall(r"§(\d+)", sections_cited)
    }
    assert len(cited) > len(sections) and {one for one in cited if one[1] not in sections} == set()


def test_every_path_that_a_document_names_is_there() -> None:
    lost = {
        f"{name}: {path}"
        for name, text in current()
        for path in re.findall(r"`((?:services|shared|clients|tests|bench|docs)/[\w./-]*)`", text)
        if not (ROOT / path).exists()
    }
    assert lost == set()


def test_the_architecture_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= ARCHITECTURE_LINES_MAX


def test_every_decision_is_listed_with_its_title() -> None:
    folder = ROOT / "docs/adr"
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+\.md)\) \|$", (folder / "README.md").read_text(), re.M)
    there = {path.name: path.read_text().partition("\n")[0] for path in folder.glob("[0-9]*.md")}
    assert {name: f"# {number}. {title}" for number, title, name in listed} == there
    assert [int(number) for number, _, _ in listed] == list(range(1, len(there) + 1))


def test_documents_name_no_task_of_their_making() -> None:
    task = re.compile(r"(?<![\d./])\b\d{1,2}/(?:6|10)\b(?![\d./])|\bissue \d")
    found = [(name, one) for name, text in texts(*DOCUMENTS) for one in task.findall(text)]
    assert found == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_summary_of_a_route_is_a_verb_phrase(route: Route) -> None:
    summary = (route.handler.__doc__ or "").strip()
    assert re.fullmatch(r"[A-Z][^\n:]*\.", summary) and not WORDS_BANNED.search(summary), summary


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_parameters_of_a_route_are_described_for_customers(route: Route) -> None:
    assert [one.name for one in route.query if WORDS_BANNED.search(one.says)] == []


def test_the_texts_of_the_command_line_are_for_customers() -> None:
    found = list(helps(_parser()))
    assert len(found) > 40 and [text for text in found if WORDS_BANNED.search(text)] == []
