"""The unmodified Go SDK of PostHog, with only the host changed."""

from __future__ import annotations

import pytest

from tests.support.processes import PERSONAL_KEY, Stack
from tests.support.sdks import captured, ends_right, everybody, told_by_go

pytestmark = pytest.mark.sdk

QUIET = {"complaints": [], "flags": {"one": False, "all": {}}}


def test_the_story_ends_right_and_the_sdk_has_no_complaint(either_stack: Stack) -> None:
    assert told_by_go(either_stack.url) == QUIET
    ada, strangers = ends_right(either_stack, "anon-1")
    assert strangers == ["$company_acme"]
    assert not any(name.startswith("$") for name in ada["properties"])
    assert captured(either_stack, "viewed") == ["anon-1"]


def test_told_twice_it_is_the_same_story(either_stack: Stack) -> None:
    told_by_go(either_stack.url)
    before = everybody(either_stack)
    assert told_by_go(either_stack.url, key=PERSONAL_KEY) == QUIET
    shown = [{**person, "last_seen_at": None} for person in everybody(either_stack)]
    assert shown == [{**person, "last_seen_at": None} for person in before]
