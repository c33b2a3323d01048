"""`personlog doctor`: check all that personlog needs, and print each trouble with its remedy.

Read-only. It prints neither SQL nor values; of an error of the store only the code.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

from services.health import lines
from shared.domain.deletion import OPEN
from shared.domain.errors import Corrupt, LogClosed, PersonlogError, Transient
from shared.domain.ids import (
    COMMANDS,
    DELETIONS,
    IDENTITY,
    Position,
    position_key,
    position_of,
)
from shared.log.connect import connect_log
from shared.log.dead import letters
from shared.log.port import Log
from shared.runtime.clock import FOLLOWED_US
from shared.runtime.process.exits import DONE, FOUND_WRONG
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import advice, clock_of
from shared.runtime.trouble import free_bytes
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.connect import judge_of
from shared.store.clickhouse.migrate import status
from shared.store.clickhouse.queries import load
from shared.store.generations import compared, current
from shared.store.objects import Objects

CHECK_SECONDS_MAX = 60.0
"""Of one check; joining a consumer group on Kafka takes some seconds of it."""

MOVE_SECONDS_MAX = 5.0
"""Time for a consumer with lag to move: a flush takes some tenths of a second."""

SPACE_BYTES_MIN = 1 << 30
"""Free space below it is reported, long before anything stops."""

GROUP = "operator"

DAY_US = 86_400_000_000

_CODE = re.compile(r"code \d+(, [A-Z0-9_]+)?")


class Wrong(Exception):
    """A trouble, and what to do."""


class Parts(NamedTuple):
    """The parts that checks examine."""

    settings: Settings
    store: Store
    log: Log

    async def rows(self, name: str) -> list[tuple[Any, ...]]:
        return await self.store.rows(load(Path(__file__).with_suffix(".sql"))[name])


DoctorCheck = Callable[[Parts], Awaitable[str]]
"""Returns a note on a healthy part; raises Wrong."""


def doctor(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    """Run all checks; return the exit code."""
    return asyncio.run(_examine(settings))


async def _examine(settings: Settings) -> int:
    async with _connected(settings) as (store, log):
        wrong = await _report("disk", lambda: _disk(settings))
        unavailable = await _report("store", lambda: _store(store))
        unavailable += await _report("log", lambda: _log(log, store))
        if unavailable or isinstance(store, str) or isinstance(log, str):
            print("everything else is looked at once store and log are well")
            return FOUND_WRONG
        parts = Parts(settings, store, log)
        for name, check in CHECKS.items():
            wrong += await _report(name, partial(check, parts))
        descriptions, ready = await asyncio.to_thread(lines, settings.data)
        print("\n".join(descriptions), end="\n" if descriptions else "")
        wrong += not ready
    return FOUND_WRONG if wrong else DONE


@asynccontextmanager
async def _connected(
    settings: Settings,
) -> AsyncIterator[tuple[Store | str, Log | str]]:
    """Yield store and log, each connected, or the reason why it is not."""
    store: Store | str
    log: Log | str
    generation = None
    try:
        store = await Store.connect(settings.store_url("migrator"))
        generation = await current(store)
    except PersonlogError as error:
        store = _reason(error)
    log = connect_log(settings, generation)
    started = log
    try:
        await started.start()
    except PersonlogError as error:
        log = _reason(error)
    try:
        yield store, log
    finally:
        await started.close()
        if isinstance(store, Store):
            await store.close()


async def _report(name: str, check: Callable[[], Awaitable[str]]) -> int:
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            note = await check()
    except Wrong as error:
        print(f"{name}: wrong: {error}")
    except TimeoutError:
        print(
            f"{name}: wrong: no answer within {CHECK_SECONDS_MAX:g} s;"
            " try again when there is less load"
        )
    except PersonlogError as error:
        print(f"{name}: wrong: {_reason(error)}; see the logs of the processes")
    else:
        print(f"{name}: ok{note and ', '}{note}")
        return 0
    return 1


def _reason(error: PersonlogError) -> str:
    """Return an error's text, cut behind a store's code: a statement may follow."""
    code = _CODE.search(error.detail)
    return error.detail[: code.end()] if code else error.detail


async def _disk(settings: Settings) -> str:
    free = {
        folder: free_bytes(folder) for folder in (settings.data, Path(gettempdir()))
    }
    for folder, count in free.items():
        if count < SPACE_BYTES_MIN:
            raise Wrong(
                f"{count:,} bytes are free in {folder}; make room, or move it to a larger disk"
            )
    return f"{min(free.values()) >> 30:,} GiB free"


async def _store(store: Store | str) -> str:
    if isinstance(store, str):
        raise Wrong(f"{store}; start the engine, or see PERSONLOG_CLICKHOUSE")
    migrations = (await status(store)).pending
    if migrations:
        raise Wrong(f"{len(migrations)} migrations are missing; run personlog migrate")
    return ""


async def _log(log: Log | str, store: Store | str) -> str:
    if isinstance(log, str):
        raise Wrong(f"{log}; start the brokers, or see PERSONLOG_KAFKA")
    if isinstance(store, Store) and not (await status(store)).pending:
        mismatch = await compared(log, store, await current(store))
        if mismatch is not None:
            raise Wrong(mismatch.line)
    if await log.sealed(COMMANDS):
        raise Wrong(
            f"{LogClosed().detail} If no renewal runs, `personlog log renew` must go on"
        )
    if trouble := await log.trouble():
        raise Wrong(trouble)
    records = sum(head.offset + 1 for head in await log.heads(COMMANDS))
    return f"{records} commands in {log.partitions()[COMMANDS]} partitions"


async def _clock(parts: Parts) -> str:
    clock = clock_of(parts.settings)
    if wrong := advice(clock.ahead_us(), parts.settings):
        raise Wrong(wrong)
    judge = judge_of(parts.settings, parts.store)
    if judge is not None and abs(off := clock.now_us() - await judge()) > FOLLOWED_US:
        raise Wrong(
            f"it is {off / 1e6:,.0f} s ahead of the ClickHouse server's; set both by NTP"
        )
    highest = max((stamp for _, _, stamp in await parts.rows("positions")), default=0)
    if highest - clock.now_us() > FOLLOWED_US:
        ahead = (highest - clock.now_us()) / 1e6
        raise Wrong(
            f"something was stamped {ahead:,.0f} s from now;"
            " until then new values are stamped right behind it"
        )
    return ""


async def _projection(parts: Parts) -> str:
    async def position() -> dict[tuple[str, int], int]:
        versions = {
            fragment: version for fragment, version, _ in await parts.rows("positions")
        }
        return {
            (topic, partition): versions.get(position_key(topic, partition), 0)
            for topic in (COMMANDS, IDENTITY)
            for partition in range(parts.log.partitions()[topic])
        }

    return await _moves(parts.log, (COMMANDS, IDENTITY), position, "projector")


async def _intake(parts: Parts) -> str:
    async def position() -> dict[tuple[str, int], int]:
        rows = await parts.rows("intake")
        return {(DELETIONS, partition): version for partition, version in rows}

    return await _moves(parts.log, (DELETIONS,), position, "deleter")


async def _moves(
    log: Log,
    topics: tuple[str, ...],
    position: Callable[[], Awaitable[dict[tuple[str, int], int]]],
    service: str,
) -> str:
    """Report the number of waiting records; raise Wrong when none is processed meanwhile."""
    heads = [head for topic in topics for head in await log.heads(topic)]
    first = last = await position()
    waiting = _waiting(heads, first)
    for _ in range(round(MOVE_SECONDS_MAX / 0.25)):
        if not waiting or last != first:
            return f"{waiting} records wait"
        await asyncio.sleep(0.25)
        last = await position()
        waiting = _waiting(heads, last)
    raise Wrong(
        f"{waiting} records wait, and none was taken in {MOVE_SECONDS_MAX:g} s;"
        f" is a {service} running? see its log"
    )


def _waiting(heads: list[Position], versions: dict[tuple[str, int], int]) -> int:
    count = 0
    for head in heads:
        version = versions.get((head.topic, head.partition), 0)
        position = position_of(head.topic, head.partition, version)
        last = position.offset if position.generation == head.generation else -1
        count += max(0, head.offset - last)
    return count


async def _deletions(parts: Parts) -> str:
    groups = {
        state: (count, oldest) for state, count, oldest in await parts.rows("requests")
    }
    if "failed" in groups:
        raise Wrong(
            f"{groups['failed'][0]} requests failed; deletion_requests say why;"
            " then personlog deletions run"
        )
    waiting = [groups[state] for state in OPEN if state in groups]
    first = min((oldest for _, oldest in waiting), default=0)
    days = (clock_of(parts.settings).now_us() - first) / DAY_US
    if waiting and days > parts.settings.deletion_days:
        raise Wrong(
            f"the oldest request waits for {days:.1f} days; run personlog deletions run"
        )
    return f"{sum(count for count, _ in waiting)} requests are open"


async def _dead_letters(parts: Parts) -> str:
    dead: set[Position] = set()
    replayed: set[Position] = set()
    async for letter in letters(parts.log, GROUP):
        (replayed if letter.head.replayed else dead).add(letter.source)
    if dead - replayed:
        raise Wrong(
            f"{len(dead - replayed)} records could not be folded; see personlog dead list"
        )
    return "none"


async def _objects(parts: Parts) -> str:
    objects = [path for (path,) in await parts.rows("block")]
    try:
        home = await Objects(parts.settings.objects_url).home()
    except Transient as error:
        raise Wrong(
            f"{error.detail}; see PERSONLOG_OBJECTS and its credentials"
        ) from None
    except Corrupt:
        if objects:
            raise Wrong(
                "it has no name, and recordings were written: it is another store, or was emptied"
            ) from None
        return "no recordings yet"
    if any(not path.startswith(f"{home}/") for path in objects):
        raise Wrong("recordings lie in a store of another name; see PERSONLOG_OBJECTS")
    return "" if objects else "no recordings yet"


async def _signing_key(parts: Parts) -> str:
    from services.deleter.receipts import public_key, signing_key

    folder = parts.settings.data / "receipts"
    ((signed,),) = await parts.rows("receipts")
    here = any(folder.glob("*.json"))
    if not (folder / "signing-key.pem").exists():
        if here or (signed and parts.settings.embedded):
            raise Wrong(
                f"it is gone from {folder};"
                " put it back from a backup, or receipts get another signature"
            )
        return (
            "made with the first receipt" if not signed else "on the deleter's machine"
        )
    try:
        key = signing_key(folder)
        public = public_key(folder / "public-key.pem")
    except (Corrupt, ValueError, OSError):
        text = f"the keys in {folder} cannot be read; put them back from a backup"
        raise Wrong(text) from None
    if key.public_key() != public:
        raise Wrong(
            f"public-key.pem in {folder} is of another key; put both back from a backup"
        )
    return f"{signed} receipts"


CHECKS: dict[str, DoctorCheck] = {
    "clock": _clock,
    "projection": _projection,
    "intake of deletions": _intake,
    "deletions": _deletions,
    "dead letters": _dead_letters,
    "objects": _objects,
    "signing key": _signing_key,
}
"""Checks of a system whose store and log are available, in this order."""
