"""One story told by each of PostHog's unmodified SDKs, with nothing but the host changed, and what must come of it.

Somebody looks around without a name (personless), signs in as `ada`, changes what is known of her, has a second name,
and belongs to a company. Recorded by `tests.support.recorder`, told for real by tests/e2e.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import posthog
import pytest

from tests.support.chromium import Page
from tests.support.processes import ROOT, TOKEN, Stack, wait_for

SDKS = ROOT / "tests" / "sdk"
MODULES = SDKS / "node_modules"
BUNDLES = MODULES / "posthog-js" / "dist"
PROGRAMS = {
    "go": ("go", SDKS / "go" / "dist" / "story"),
    "rust": ("cargo", SDKS / "rust" / "dist" / "story"),
    "rust-v1": ("cargo", SDKS / "rust" / "dist" / "story-v1"),
}
"""What compiles each story that is compiled, and where it then is."""

STORY_SECONDS_MAX = 120.0
"""Two seconds on a quiet machine."""

NODE_RETRY_MS = 50
"""posthog-node waits 3 s before each retry, whatever it was told."""

SECONDS_MAX = 60.0
"""For what is visible in tens of milliseconds on a quiet machine."""

ADA = {"plan": "pro", "first_plan": "free"}
"""What is known of her in the end; `theme` was set and unset."""


def need_modules() -> None:
    """Skip where `make test` could not install the SDKs."""
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    if not BUNDLES.exists():
        pytest.skip(f"{MODULES} is missing: make tests/sdk/node_modules/.stamp")


def need_program(name: str) -> Path:
    """A compiled story; skip where its language is absent, for `make test-all` compiles it elsewhere."""
    compiler, program = PROGRAMS[name]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    if not program.exists():
        pytest.skip(f"{program} is missing: make {program.relative_to(ROOT)}")
    return program


def told_by_python(host: str, mode: str = "v0", key: str | None = None, token: str = TOKEN) -> list[str]:
    """Everything that the SDK complained about."""
    complaints: list[str] = []
    listener = _Listener(complaints)
    logging.getLogger("posthog").addHandler(listener)
    client = posthog.Posthog(
        token, host=host, capture_mode=mode, secret_key=key, enable_local_evaluation=key is not None,
        on_error=lambda error, _: complaints.append(repr(error)),
    )  # fmt: skip
    try:
        client.capture("viewed", distinct_id="anon-1", properties={"$process_person_profile": False})
        known = {"$anon_distinct_id": "anon-1", "$set": {"plan": "free"}, "$set_once": {"first_plan": "free"}}
        client.capture("$identify", distinct_id="ada", properties=known)
        client.set(distinct_id="ada", properties={"plan": "pro", "theme": "dark"})
        client.set_once(distinct_id="ada", properties={"first_plan": "pro"})
        client.capture("tidied", distinct_id="ada", properties={"$unset": ["theme"]})
        client.alias(previous_id="ada", distinct_id="ada-2")
        client.group_identify("company", "acme", {"name": "Acme"})
        client.capture("met", distinct_id="ada", groups={"company": "acme"})
        client.capture("nobody")
        assert client.evaluate_flags("ada").get_flag("beta") is None
        assert client.get_all_flags("ada") == {}
    finally:
        client.shutdown()
        logging.getLogger("posthog").removeHandler(listener)
    return complaints


def told_by_node(host: str, mode: str = "v0", key: str | None = None, token: str = TOKEN) -> dict[str, Any]:
    """What it complained about, and what it said of flags."""
    need_modules()
    capture = {"POSTHOG_CAPTURE_MODE": "v1"} if mode == "v1" else {}
    return _told(["node", "story.mjs"], host, key, token, **capture, STORY_RETRY_MS=str(NODE_RETRY_MS))


def told_by_go(host: str, mode: str = "v0", key: str | None = None, token: str = TOKEN) -> dict[str, Any]:
    """The same of posthog-go, which knows only v0."""
    assert mode == "v0"
    return _told([str(need_program("go"))], host, key, token)


def told_by_rust(host: str, mode: str = "v0", key: str | None = None, token: str = TOKEN) -> dict[str, Any]:
    """The same of posthog-rs, which is compiled for one of the two."""
    return _told([str(need_program("rust" if mode == "v0" else "rust-v1"))], host, key, token)


def _told(command: list[str], host: str, key: str | None, token: str, **settings: str) -> dict[str, Any]:
    """What a program prints that tells the story."""
    ran = subprocess.run(
        [*command, host, token, key or ""], cwd=SDKS, capture_output=True, text=True, check=False,
        timeout=STORY_SECONDS_MAX, env=os.environ | settings,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, ""), (ran.stdout, ran.stderr)
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def everybody(stack: Stack) -> list[dict[str, Any]]:
    """All persons, once all that is in the log is visible: that is what a moment just gone waits for."""
    answer = stack.persons(f"/?as_of={datetime.now(UTC).isoformat().replace('+00:00', 'Z')}")
    assert answer.status == 200, answer.body
    return answer.json["results"]  # type: ignore[no-any-return]


def ends_right(stack: Stack, anonymous: str) -> tuple[dict[str, Any], list[str]]:
    """What must come of the story: the person it is about, and the ids that only group calls have used."""
    people = everybody(stack)
    (ada,) = [person for person in people if "ada" in person["distinct_ids"]]
    assert set(ada["distinct_ids"]) == {"ada", "ada-2", anonymous} and ada["is_identified"] is True
    shown = {name: value for name, value in ada["properties"].items() if name in (*ADA, "theme", "name")}
    assert shown == ADA
    others = [person for person in people if person is not ada]
    assert all(person["properties"] == {} and not person["is_identified"] for person in others), others
    return ada, [one for person in others for one in person["distinct_ids"]]


def captured(stack: Stack, event: str) -> list[str]:
    """The distinct ids of all captured events of that name."""
    return stack.query(f"SELECT distinct_id FROM captured_events FINAL WHERE event = '{event}'").split()


def event_counts(stack: Stack) -> Counter[str]:
    """How often each event of the stack's project is stored; the persons are to be waited for before."""
    names = stack.query(f"SELECT event FROM captured_events FINAL WHERE project = {stack.project}")
    return Counter(names.split())


def _is_known(stack: Stack, name: str) -> bool:
    return bool(stack.persons(f"/?distinct_id={name}").json["results"])


def _has_told(stack: Stack, anonymous: str) -> bool:
    viewed = captured(stack, "viewed")
    return anonymous in viewed and len(captured(stack, "met")) == len(viewed)


class _Listener(logging.Handler):
    """Keeps what the SDK warns of."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(record.getMessage())


SETUPS = {
    # What a bundler makes of `import posthog from "posthog-js"`, served by the page's own origin.
    "bundle": """<script type="module">
        import posthog from "/module.mjs"
        window.posthog = posthog
        posthog.init("%(token)s", %(config)s)
    </script>""",
    # The snippet of posthog-js itself, and array.js, from our host.
    "snippet": """<script src="%(host)s/static/loader-bootstrap.js" data-asset-host="%(host)s"></script>
    <script>posthog.init("%(token)s", %(config)s)</script>""",
}


def write_shop(folder: Path, host: str, **options: Any) -> None:
    """The pages of a shop: /bundle.html and /snippet.html, with posthog-js set up as documented, only the host ours."""
    need_modules()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUNDLES / "module.mjs", folder / "module.mjs")
    # a driven browser is taken for a bot, and posthog-js sends nothing at all from one
    config = json.dumps({"api_host": host, "opt_out_useragent_filter": True, **options})
    for name, setup in SETUPS.items():
        loaded = setup % {"token": TOKEN, "config": config, "host": host}
        (folder / f"{name}.html").write_text(PAGE.format(loaded))


PAGE = '<!doctype html><title>shop</title><link rel="icon" href="data:,">{}<h1>Shop</h1><button>Buy</button>'

SET_UP = "window.posthog?.analyticsDefaultEndpoint === '/i/v0/e/'"
"""posthog-js is there and has taken over its configuration."""


def told_by_browser(page: Page, url: str, stack: Stack) -> str:
    """The story in a browser, but for the closing of the tab; the visitor's first id.

    posthog-js has several requests on their way at once, so `$identify` may overtake or be overtaken: it is waited for.
    A tab that is closed takes requests on their way along (seen: 2 of 12), but not what waits in the SDK's queue; so
    everything has arrived before the last event, which goes in the beacon.
    """
    page.open(url + "?utm_source=news")
    page.wait(SET_UP)
    anonymous = page.run("posthog.capture('viewed'), posthog.get_distinct_id()")
    page.run("posthog.identify('ada', {plan: 'free'}, {first_plan: 'free'})")
    wait_for(lambda: _is_known(stack, str(anonymous)), SECONDS_MAX, "the merge")
    page.run("posthog.setPersonProperties({plan: 'pro', theme: 'dark'}, {first_plan: 'pro'})")
    page.run("posthog.unsetPersonProperties(['theme'])")
    page.run("posthog.alias('ada-2')")
    page.run("posthog.group('company', 'acme', {name: 'Acme'})")
    page.run("posthog.capture('met')")
    asked = "new Promise(done => posthog.onFeatureFlags(() => done(String(posthog.getFeatureFlag('beta')))))"
    assert page.run(asked) == "undefined"
    assert page.run("new Promise(done => posthog.getSurveys(done, true))") == []
    assert page.run("new Promise(done => posthog.getEarlyAccessFeatures(done, true))") == []
    wait_for(lambda: _has_told(stack, str(anonymous)), SECONDS_MAX, "what was queued")
    page.run("posthog.capture('left')")
    return str(anonymous)
