"""One time for all processes of a data folder, and what is said when the machine's clock leaves it.

The first process since the machine was started believes the clock and keeps, in `run/clock`, the moment from which
the time that goes by is counted; all later ones count from there. A ClickHouse server's clock may correct it: it is
another machine's. The embedded engine's is the same clock, and says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from shared.domain.errors import Transient
from shared.runtime import telemetry
from shared.runtime.clock import FOLLOWED_US, SystemClock
from shared.runtime.files import write_whole
from shared.runtime.settings import Settings
from shared.runtime.trouble import Trouble

LOOK_SECONDS = 5.0
"""Between two looks at the clock."""

JUDGE_SECONDS = 60.0
"""Between two questions to a server."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each start of the machine, when the time that has gone by begins at zero again."""

Judge = Callable[[], Awaitable[int]]
"""Asks another machine how late it is, in microseconds since the epoch."""


class Kept(msgspec.Struct, frozen=True):
    """`run/clock`: the moment that this machine was started, as its clock said when it was believed."""

    boot: str
    since: int


def clock_of(settings: Settings) -> SystemClock:
    """The clock of a process of this data folder."""
    boot = _boot()
    kept = read_kept(settings)
    if kept is not None and kept.boot == boot:
        return SystemClock(kept.since)
    clock = SystemClock()
    if boot:
        _keep(settings, Kept(boot, clock.since))
    return clock


def path_of(settings: Settings) -> Path:
    return settings.data / "run" / "clock"


def read_kept(settings: Settings) -> Kept | None:
    """What the file says; None when there is none, or half of one."""
    try:
        return msgspec.json.decode(path_of(settings).read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None


def advice(ahead_us: int, settings: Settings) -> str:
    """What is wrong with a clock that is so far ahead, and what to do; nothing while it is followed."""
    if abs(ahead_us) <= FOLLOWED_US:
        return ""
    way = "ahead of" if ahead_us > 0 else "behind"
    return (
        f"the machine's clock is {abs(ahead_us) / 1e6:,.0f} s {way} the time that has gone by, and is not followed;"
        f" set it right, or if it is right, stop personlog, remove {path_of(settings)} and start again"
    )


async def agree(clock: SystemClock, judge: Judge, settings: Settings) -> None:
    """Take over the time of another machine when this one's differs by more than is followed."""
    try:
        now = await judge()
    except Transient:  # it is asked again
        return
    ahead = clock.now_us() - now
    if abs(ahead) > FOLLOWED_US:
        clock.set(now)
        structlog.get_logger().warning("clock of the store", ahead_seconds=round(ahead / 1e6), follows="the store's")
        if boot := _boot():
            _keep(settings, Kept(boot, clock.since))


async def watch(clock: SystemClock, settings: Settings, judge: Judge | None = None) -> None:
    """Tell when the clock is no longer followed, and when it is again, until cancelled."""
    trouble, looks = Trouble("clock"), 0
    while True:
        if judge is not None and looks % round(JUDGE_SECONDS / LOOK_SECONDS) == 0:
            await agree(clock, judge, settings)
        looks += 1
        ahead = clock.ahead_us()
        trouble.is_now(advice(ahead, settings))
        telemetry.CLOCK_AHEAD.set(ahead / 1e6 if trouble.detail else 0)
        await asyncio.sleep(LOOK_SECONDS)


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:  # not on Linux: each process counts from its own start
        return ""


def _keep(settings: Settings, kept: Kept) -> None:
    path = path_of(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, msgspec.json.encode(kept), 0o600)
