"""The unmodified Rust SDK of PostHog, with only the host changed."""

from __future__ import annotations

import pytest

from tests.support.processes import PERSONAL_KEY, Stack
from tests.support.sdks import captured, ends_right, everybody, told_by_rust

pytestmark = pytest.mark.sdk

OF_ITS_MACHINE = {"$os", "$os_version", "$initial_os", "$initial_os_version"}
"""It says with each event what it runs on, unlike the other servers' SDKs, and that is lifted by rule."""

QUIET = {"complaints": [], "flags": {"one": None, "all": []}}


@pytest.mark.parametrize("mode", ["v0", "v1"])
def test_the_story_ends_right_and_the_sdk_has_no_complaint(either_stack: Stack, mode: str) -> None:
    assert told_by_rust(either_stack.url, mode) == QUIET
    ada, strangers = ends_right(either_stack, "anon-1")
    assert strangers == ["$company_acme"]
    assert {name for name in ada["properties"] if name.startswith("$")} == OF_ITS_MACHINE
    assert captured(either_stack, "viewed") == ["anon-1"]


def test_told_twice_it_is_the_same_story(either_stack: Stack) -> None:
    told_by_rust(either_stack.url)
    before = everybody(either_stack)
    assert told_by_rust(either_stack.url, key=PERSONAL_KEY) == QUIET
    shown = [{**person, "last_seen_at": None} for person in everybody(either_stack)]
    assert shown == [{**person, "last_seen_at": None} for person in before]
