"""One time for all processes of a data folder, and a warning when the machine's clock leaves it.

The first process since the machine's start trusts the clock and saves, in `run/clock`, the moment
from which elapsed time is counted; all later processes count from there. The clock of a ClickHouse
server, which is another machine's, may correct it; the embedded engine's clock is the same one.
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
"""Time between two checks of the clock."""

JUDGE_SECONDS = 60.0
"""Time between two requests for a server's time."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Holds a new id after each start of the machine, when elapsed time begins at zero again."""

ServerTime = Callable[[], Awaitable[int]]
"""Reads another machine's time, in microseconds since the epoch."""


class BootTime(msgspec.Struct, frozen=True):
    """The content of `run/clock`: the machine's start, by its clock when that was trusted."""

    boot: str
    since: int


def clock_of(settings: Settings) -> SystemClock:
    """Return the clock for a process of this data folder."""
    boot = _boot()
    boot_time = read_boot_time(settings)
    if boot_time is not None and boot_time.boot == boot:
        return SystemClock(boot_time.since)
    clock = SystemClock()
    if boot:
        _save(settings, BootTime(boot, clock.since))
    return clock


def path_of(settings: Settings) -> Path:
    return settings.data / "run" / "clock"


def read_boot_time(settings: Settings) -> BootTime | None:
    """Read `run/clock`; None when it is missing or damaged."""
    try:
        return msgspec.json.decode(path_of(settings).read_bytes(), type=BootTime)
    except (OSError, msgspec.DecodeError):
        return None


def advice(ahead_us: int, settings: Settings) -> str:
    """Say how far a clock is off and what to do; an empty text while it is followed."""
    if abs(ahead_us) <= FOLLOWED_US:
        return ""
    way = "ahead of" if ahead_us > 0 else "behind"
    return (
        f"the machine's clock is {abs(ahead_us) / 1e6:,.0f} s {way} the time that has gone by,"
        " and is not followed; set it right, or if it is right, stop personlog,"
        f" remove {path_of(settings)} and start again"
    )


async def agree(clock: SystemClock, judge: ServerTime, settings: Settings) -> None:
    """Adopt another machine's time when this clock differs from it by more than FOLLOWED_US."""
    try:
        now = await judge()
    except Transient:  # the next look retries
        return
    ahead = clock.now_us() - now
    if abs(ahead) > FOLLOWED_US:
        clock.set(now)
        structlog.get_logger().warning(
            "clock of the store",
            ahead_seconds=round(ahead / 1e6),
            follows="the store's",
        )
        if boot := _boot():
            _save(settings, BootTime(boot, clock.since))


async def watch(
    clock: SystemClock, settings: Settings, judge: ServerTime | None = None
) -> None:
    """Log when the clock is no longer followed, and when it is again, until cancelled."""
    trouble = Trouble("clock")
    looks = 0
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


def _save(settings: Settings, boot_time: BootTime) -> None:
    path = path_of(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, msgspec.json.encode(boot_time), 0o600)
