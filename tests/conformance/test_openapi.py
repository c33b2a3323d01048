"""/openapi.json says what the router serves, and schemathesis finds nothing that it says wrongly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import sent
from tests.support.processes import ROOT, Stack
from tests.support.tier import TIER, sized

SETTINGS = ROOT / "tests/conformance/schemathesis"
EXAMPLES = sized(dev=4, ci=100, soak=1_000)
"""Cases of one operation while fuzzing; stateful runs a third as many sequences."""

PARTS = {
    "of one person": r"persons/\{id\}/", "of persons": r"persons/(?!\{id\})", "of capture": r"^/(?!api/environments)",
}  # fmt: skip
SHARES = sized(dev={"of everything": ""}, ci=PARTS, soak=PARTS)
"""The operations in three parts by path, so that both workers have some; a start takes longer than all cases of dev."""

PHASES = sized(dev="examples,fuzzing", ci="examples,coverage,fuzzing", soak="examples,coverage,fuzzing")
"""Coverage is every bound of every field once, at any number of examples."""

CASES_MIN: dict[str, int] = sized(
    dev={"of everything": 100},
    ci={"of one person": 1_500, "of persons": 1_000, "of capture": 600},
    soak={"of one person": 12_000, "of persons": 8_000, "of capture": 5_000},
)
SECONDS_MAX = 1_800
SEED = "20261124"
"""The same cases every time; a soak takes others."""

PERSONS = "/api/environments/{project_id}/persons"

@pytest.fixture(scope="module")
def spec(stack: Stack) -> dict[str, Any]:
    answer = stack.ask("GET", "/openapi.json", key=None)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "application/json")
    return answer.json  # type: ignore[no-any-return]


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_has_every_route_of_the_router_and_no_other(spec: dict[str, Any]) -> None:
    """All three prefixes are the documented one, and what is optional at the end is there."""
    from services.api.app import router_of  # the router itself, not what it was made from
    from services.api.capture.v0 import PATHS

    served = set()
    for resource in router_of("", {}).resources:
        path = (
            resource.template.replace("{suffix}{slash}", "/")
            .replace("{slash}", "/")
            .replace("{project}", "{project_id}")
        )
        path = re.sub(
            r"^/api/(projects/\{project_id\}/persons|person(?=/))", "/api/environments/{project_id}/persons", path
        )
        if path.startswith("/api/environments/{project_id}/") and "/persons" not in path:  # documented once
            path = path.replace("environments", "projects", 1)
        path += "/" if path in PATHS else ""  # capture's have one resource with the slash and one without
        served |= {(method, path) for method in resource.routes if method != "HEAD"}
    assert {(method, path) for method, path, _ in operations(spec)} == served


def test_every_operation_says_what_it_does_whom_it_lets_in_and_how_it_fails(spec: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(spec)]
    assert len(ids) == len(set(ids))
    for _, path, operation in operations(spec):
        assert operation["summary"].endswith((".", "…", ")", "]")) and operation["responses"], path
        if "persons" in path:
            assert "Scope: `" in operation["description"]
            assert {"400", "401", "403", "404", "406", "429", "503"} <= operation["responses"].keys()
            for parameter in operation["parameters"]:
                assert parameter["description"] and parameter["schema"]


VERBS = (
    "batch bulk cancel capture delete evaluate export get list merge preflight purge record reset split update"
).split()


def test_operation_ids_are_good_names_of_methods(spec: dict[str, Any]) -> None:
    """Generated clients call their methods by them: unique, snake_case, a verb first."""
    ids = [operation["operationId"] for _, _, operation in operations(spec)]
    assert len(ids) == len(set(ids))
    for name in ids:
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name) and name.partition("_")[0] in VERBS, name


def test_every_route_is_called_by_the_id_of_its_operation(spec: dict[str, Any]) -> None:
    """Rows that the document does not show are twins of others: HEAD, and paths without the slash."""
    from services.api.app import router_of

    ids = {operation["operationId"] for _, _, operation in operations(spec)}
    names = {route.name for resource in router_of("", {}).resources for route in resource.routes.values()}
    assert {name.replace("head_", "get_", 1) if name.startswith("head_") else name for name in names} == (
        ids - {"update_person_put"}
    )


def test_links_lead_to_operations(spec: dict[str, Any]) -> None:
    ids = {operation["operationId"] for _, _, operation in operations(spec)}
    linked = [
        link["operationId"]
        for _, _, operation in operations(spec)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(linked) > 10 and set(linked) <= ids


def test_the_page_for_people_has_every_operation_and_asks_no_other_host(stack: Stack, spec: dict[str, Any]) -> None:
    answer = stack.ask("GET", "/docs", key=None)
    page = answer.body.decode()
    assert answer.status == 200 and "<script" not in page and "//" not in page.replace("</", "")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for method, path, operation in operations(spec):
        assert f'id="{operation["operationId"]}"' in page and f"{method} {path}" in page


@pytest.mark.parametrize("share", [*SHARES, "stateful"])
def test_schemathesis_finds_no_fault(
    stack: Stack, tmp_path: Path, share: str, record_property: Callable[[str, object], None]
) -> None:
    for name in ("user@example.com", "ada@example.com", "device-1"):
        position = sent(stack, name, **{"$set": {"email": name, "plan": "pro"}})
    examples = EXAMPLES if share != "stateful" else max(5, EXAMPLES // 3)
    which = ["--phases", PHASES, "--include-path-regex", SHARES.get(share, "")]
    ran = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "--config-file", SETTINGS / "schemathesis.toml", "run",
            f"{stack.url}/openapi.json", "--max-examples", str(examples), "--no-color",
            *([] if TIER == "soak" else ["--seed", SEED]),
            *(which if share in SHARES else ["--phases", "stateful"]),
        ],
        cwd=tmp_path,
        env=os.environ | {
            "SCHEMATHESIS_KEY": stack.key, "SCHEMATHESIS_TOKEN": stack.token, "SCHEMATHESIS_POSITION": position,
            "PYTHONPATH": str(SETTINGS),
        },
        capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
    count = re.search(r"(\d+) generated", ran.stdout)
    assert count is not None
    record_property("schemathesis", f"{share}: {count[1]} cases, 0 faults")
    assert int(count[1]) >= CASES_MIN.get(share, 1)
