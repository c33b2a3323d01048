"""The tiers: which one a run is in, and that all who name what is left out name the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import tier as tiers
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


def test_soak_is_on_a_disk_and_what_memory_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "ROOM_BYTES_MIN", 0)
    monkeypatch.setattr(tiers, "IN_MEMORY", tmp_path)
    assert [tiers.temporary_root(one) for one in tiers.TIERS] == [tmp_path, tmp_path, None]
    monkeypatch.setattr(tiers, "ROOM_BYTES_MIN", 1 << 60)
    assert tiers.temporary_root("dev") is None
    monkeypatch.setattr(tiers, "IN_MEMORY", tmp_path / "absent")
    assert tiers.temporary_root("dev") is None
