"""The unmodified browser SDK of PostHog in a real Chromium, on a page of another origin, with only the host changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import Chromium, shop
from tests.support.processes import TOKEN, Stack, wait_for
from tests.support.sdks import (
    BUNDLES,
    SECONDS_MAX,
    SET_UP,
    SETUPS,
    captured,
    ends_right,
    everybody,
    told_by_browser,
    write_shop,
)

pytestmark = pytest.mark.browser


@pytest.fixture
def stack_settings() -> dict[str, str]:
    return {"PERSONLOG_STATIC": str(BUNDLES)}


@pytest.fixture
def origin(either_stack: Stack, tmp_path: Path) -> Iterator[str]:
    """Where the pages are."""
    write_shop(tmp_path / "shop", either_stack.url)
    with shop(tmp_path / "shop") as origin:
        yield origin


@pytest.mark.parametrize("how", SETUPS)
def test_the_story_ends_right_and_the_browser_has_no_complaint(
    either_stack: Stack, chromium: Chromium, origin: str, how: str
) -> None:
    page = chromium.page()
    anonymous = told_by_browser(page, f"{origin}/{how}.html", either_stack)
    page.close()
    wait_for(lambda: captured(either_stack, "left") == ["ada"], SECONDS_MAX, "what was said when the tab was closed")
    ada, strangers = ends_right(either_stack, anonymous)
    assert strangers == []
    shown = ada["properties"]
    assert (shown["$initial_utm_source"], shown["$initial_pathname"]) == ("news", f"/{how}.html")
    assert shown["$initial_browser"] == "Chrome" and shown["$initial_referrer"] == "$direct"
    assert captured(either_stack, "viewed") == [anonymous]
    asked = {url.removeprefix(either_stack.url).partition("?")[0] for _, url, _ in page.requests}
    assert {f"/array/{TOKEN}/config.js", "/flags/", "/i/v0/e/", "/api/surveys/"} <= asked
    assert (page.noise, page.console) == ([], [])


def test_who_gives_no_name_makes_no_person(either_stack: Stack, chromium: Chromium, origin: str) -> None:
    page = chromium.page()
    page.open(f"{origin}/bundle.html")
    page.wait(SET_UP)
    page.run("posthog.capture('looked')")
    page.close()
    wait_for(lambda: len(captured(either_stack, "looked")) == 1, SECONDS_MAX, "the event")
    assert everybody(either_stack) == []
    assert page.noise == []


def test_after_a_reset_the_next_one_is_somebody_else(either_stack: Stack, chromium: Chromium, origin: str) -> None:
    page = chromium.page()
    page.open(f"{origin}/bundle.html")
    page.wait(SET_UP)
    ids = [page.run("posthog.get_distinct_id()")]
    page.run("posthog.identify('ada', {plan: 'pro'})")
    wait_for(lambda: captured(either_stack, "$identify") == ["ada"], SECONDS_MAX, "the first one to be known")
    page.run("posthog.reset()")
    ids.append(page.run("posthog.get_distinct_id()"))
    page.run("posthog.identify('grace', {plan: 'free'})")
    wait_for(lambda: len(captured(either_stack, "$identify")) == 2, SECONDS_MAX, "both to be known")
    page.close()
    people = {frozenset(person["distinct_ids"]): person["properties"]["plan"] for person in everybody(either_stack)}
    assert people == {frozenset(("ada", ids[0])): "pro", frozenset(("grace", ids[1])): "free"}
    assert page.noise == []


def test_a_visit_is_recorded_once_the_project_says_so(either_stack: Stack, chromium: Chromium, origin: str) -> None:
    assert either_stack.call("projects", "recordings", "1", "on").returncode == 0
    config = f"/array/{TOKEN}/config"
    wait_for(lambda: either_stack.ask("GET", config, key=None).json["sessionRecording"], SECONDS_MAX, "the API to know")
    page = chromium.page()
    page.open(f"{origin}/snippet.html")
    page.wait(SET_UP)
    page.wait("posthog.sessionRecordingStarted()")
    page.click(40, 40)
    page.run("document.querySelector('button').textContent = 'Bought'")
    sent = f"{either_stack.url}/s/"
    wait_for(lambda: any(url.startswith(sent) for _, url, _ in page.requests), SECONDS_MAX, "a recording to be sent")
    page.close()
    stored = "SELECT uniq(session) FROM recording_blocks"
    wait_for(lambda: either_stack.query(stored) == "1", SECONDS_MAX, "the recording to be stored")
    assert {status for _, url, status in page.requests if url.startswith(sent)} == {200}
    assert f"{either_stack.url}/static/1.449.2/lazy-recorder.js" in {url for _, url, _ in page.requests}
    assert page.noise == []
