"""The tiers: which one a run is in, and that all who name what is left out name the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.tier import LEFT_OUT, tier_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environment", "tier"),
    [
        ({}, "dev"),
        ({"CI": ""}, "dev"),
        ({"CI": "true"}, "ci"),
        ({"CI": "true", "PERSONLOG_TEST_PROFILE": "dev"}, "dev"),
        ({"PERSONLOG_TEST_PROFILE": "soak"}, "soak"),
    ],
    ids=str,
)
def test_the_environment_names_the_tier(environment: dict[str, str], tier: str) -> None:
    assert tier_of(environment) == tier


def test_an_unknown_tier_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="'deep'; it must be one of dev, ci, soak"):
        tier_of({"PERSONLOG_TEST_PROFILE": "deep"})


def test_the_makefile_leaves_out_what_the_tiers_say_and_every_mark_is_declared(pytestconfig: pytest.Config) -> None:
    (left_out,) = re.findall(r"^LEFT_OUT := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert tuple(left_out.split(" or ")) == LEFT_OUT
    assert {line.partition(":")[0] for line in pytestconfig.getini("markers")} >= set(LEFT_OUT)
