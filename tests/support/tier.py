"""The tier that the tests run in, and what depends on it: how many episodes, kills, examples.

`dev` is `make test`, `ci` is `.ci/run`, `soak` is `make soak`. PERSONLOG_TEST_PROFILE says which; without it, it is
`ci` where CI is set, and else `dev`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

TIERS = ("dev", "ci", "soak")

LEFT_OUT = ("kafka", "sdk", "browser", "fault", "alone")
"""Marks of the tests that `make test` leaves out."""


def tier_of(environment: Mapping[str, str]) -> str:
    """The tier that the environment asks for; ValueError for a name that is none."""
    tier = environment.get("PERSONLOG_TEST_PROFILE") or ("ci" if environment.get("CI") else "dev")
    if tier not in TIERS:
        raise ValueError(f"PERSONLOG_TEST_PROFILE is {tier!r}; it must be one of {', '.join(TIERS)}")
    return tier


TIER = tier_of(os.environ)


def sized(*, dev: T, ci: T, soak: T) -> T:
    """What this tier's run takes."""
    return {"dev": dev, "ci": ci, "soak": soak}[TIER]
