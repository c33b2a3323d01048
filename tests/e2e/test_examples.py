"""docs/examples.md runs from top to bottom, again and again, and under every heading its route is really called."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.api.app import ROUTES
from services.api.http.routing import PREFIXES, Route
from tests.support.processes import PERSONAL_KEY, ROOT, TOKEN, running

pytestmark = pytest.mark.alone

CAPTURE = ("POST /capture/", "POST /batch/", "POST /s/")
ONLY_REFUSES = "POST /"
"""What is answered with an error that says what to do instead."""

NO_WINDOW = {"PERSONLOG_WINDOW": "0 0 29 2 *", "PERSONLOG_WINDOW_HOURS": "1"}
"""No deletion window opens while the examples look at what is pending."""

RECORDING = """
import json as _json, requests as _requests
_send, _heading = _requests.Session.request, ""
def _recorded(session, method, url, **arguments):
    answer = _send(session, method, url, **arguments)
    path = answer.request.path_url.partition("?")[0]
    with open("calls", "a") as calls:
        calls.write(_json.dumps([_heading, method.upper(), path, answer.status_code]) + "\\n")
    return answer
_requests.Session.request = _recorded
"""


def heading_of(route: Route) -> str:
    """As the page names a route: `GET :id/activity/`."""
    path = re.sub("{(.*?)}", r":\1", route.path).removeprefix("/")
    return f"{route.method} {path}/"


def called(method: str, path: str) -> str:
    """The heading of what answers this call: a literal path is tried before one with an id, as the API does."""
    if f"{method} {path}" in CAPTURE:
        return f"{method} {path}"
    for route in ROUTES:
        if route.prefixes != PREFIXES and path == f"{route.prefixes[0]}{route.path}/".replace("{project}", "1"):
            return heading_of(route)
    prefix = PREFIXES[1].replace("{project}", "1")
    below = re.sub(r"^/api/(projects|environments)/1/persons", "", path).rstrip("/")
    assert path.startswith((prefix, prefix.replace("projects", "environments"))), path
    if (method, below) == ("POST", ""):
        return ONLY_REFUSES
    for route in ROUTES:
        if route.method == method and re.fullmatch(re.sub("{.*?}", "[^/]+", route.path), below):
            return heading_of(route)
    raise AssertionError(f"no route for {method} {path}")


def examples() -> tuple[list[str], str]:
    """The page's headings of routes, and its Python as one script that records what it calls under which."""
    text = (ROOT / "docs/examples.md").read_text()
    parts = re.findall(r"^### ([^\n]+)$|^```python\n(.*?)^```$", text, re.M | re.S)
    headings = [heading for heading, _ in parts if heading]
    script = "\n".join(f"_heading = {heading!r}" if heading else code for heading, code in parts)
    return headings, RECORDING + script


def run(folder: Path, url: str) -> list[tuple[str, str, int]]:
    """One run of the examples: (heading, what was called, status) of every call."""
    ran = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=os.environ | {"H": url, "PERSONLOG_PERSONAL_KEY": PERSONAL_KEY, "PERSONLOG_PROJECT_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return [(heading, called(method, path), status) for heading, method, path, status in lines]


def test_every_route_has_its_example_and_there_are_no_others() -> None:
    headings, _ = examples()
    assert sorted(headings) == sorted([*CAPTURE, ONLY_REFUSES, *(heading_of(route) for route in ROUTES)])


def test_the_examples_run_and_each_calls_its_route_and_they_may_be_run_again(tmp_path: Path) -> None:
    headings, script = examples()
    (tmp_path / "script.py").write_text(script)
    with running(tmp_path / "var", **NO_WINDOW) as stack:
        calls = run(tmp_path, stack.url)
        run(tmp_path, stack.url)
    succeeded = {under for under, call, status in calls if under == call and status < 300}
    refused = {under for under, call, status in calls if under == call and status == 405}
    assert (set(headings) - succeeded, refused) == ({ONLY_REFUSES}, {ONLY_REFUSES})
