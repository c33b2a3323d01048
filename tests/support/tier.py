"""The tier that the tests run in, and what depends on it: how many episodes, kills, examples.

`dev` is `make test`, `ci` is `.ci/run`, `soak` is `make soak`. PERSONLOG_TEST_PROFILE says which; without it, it is
`ci` where CI is set, and else `dev`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
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


IN_MEMORY = Path("/dev/shm")  # noqa: S108  # pytest makes a folder in it that only this user may enter
"""Where the data folders of a run may lie."""

ROOM_BYTES_MIN = 4 << 30
"""How much must be free there, and of the machine's memory: a run has less than a tenth of it at once."""


def temporary_root(tier: str) -> Path | None:
    """A folder for data whose fsyncs cost nothing, where there is room for it. None is the system's own, a disk, which
    soak takes always. A process that is killed loses the same from both, which is nothing that was written."""
    try:
        free = os.statvfs(IN_MEMORY)
        available = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) << 10
    except (OSError, IndexError):
        return None
    room = min(free.f_bavail * free.f_frsize, available)
    return IN_MEMORY if tier != "soak" and room >= ROOM_BYTES_MIN else None
