"""`personlog dead`: list, show and replay dead letters. Imports wait until it runs."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from shared.domain.commands import (
    Capture,
    Command,
    RecordBlock,
    Write,
    decode,
    encode,
    route,
)
from shared.domain.errors import BadInput, BadRecord, NotFound
from shared.domain.ids import DEAD, Position, format_positions, parse_positions
from shared.log.dead import CORRUPT, Letter, kind_of, letters, note
from shared.log.port import Entry, Log
from shared.runtime.process.exits import DONE, FOUND_WRONG
from shared.runtime.settings import SECRETS_OF, Settings, SettingsError

PAGE = 50
"""Letters of one list."""

REASON_CHARS_MAX = 160
"""Of a reason in a list; `show` prints the whole."""

GROUP = "operator"


def add(commands: Any) -> None:
    """Add the command's parsers."""
    dead = commands.add_parser("dead", help="list, show and replay dead letters")
    kinds = dead.add_subparsers(required=True, metavar="COMMAND")
    listing = kinds.add_parser(
        "list", help="list dead letters that were not replayed, oldest first"
    )
    listing.add_argument("--limit", type=int, default=PAGE, help="rows to list")
    listing.add_argument(
        "--after", default="", metavar="POSITION", help="continue after this position"
    )
    listing.set_defaults(command=_list)
    show = kinds.add_parser(
        "show", help="show a dead letter with its bytes, escaped for the terminal"
    )
    show.add_argument("position", metavar="POSITION")
    show.set_defaults(command=_show)
    replay = kinds.add_parser(
        "replay", help="append dead letters again that can be folded now"
    )
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--reason", default="", help="all letters whose reason begins with this text"
    )
    which.add_argument("positions", nargs="*", default=[], metavar="POSITION")
    replay.set_defaults(command=_replay)
    for command in (listing, show, replay):
        command.set_defaults(secrets=SECRETS_OF["operator"])


def _list(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.person import iso

    after = _position(options.after) if options.after else None

    async def act(log: Log) -> int:
        closed = await _replayed(log)
        sources: dict[
            Position, None
        ] = {}  # a redelivered record may have several letters
        skipping = after is not None
        async for letter in letters(log, GROUP):
            if skipping:
                skipping = letter.source != after
            elif letter.source not in closed and letter.source not in sources:
                if len(sources) >= options.limit:
                    print(
                        f"more: personlog dead list --after {_name(list(sources)[-1])}"
                    )
                    return DONE
                sources[letter.source] = None
                age = max(0.0, time.time() - letter.at / 1e6) / 3_600
                reason = safe(letter.head.reason)[:REASON_CHARS_MAX]
                print(
                    f"{_name(letter.source)}  {iso(letter.at)}  {age:.1f} h  {reason}"
                )
        if skipping:
            raise NotFound(f"There is no dead letter of {options.after}.")
        return DONE

    return _with_log(settings, act)


def _show(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.person import iso

    position = _position(options.position)

    async def act(log: Log) -> int:
        closed = await _replayed(log)
        async for letter in letters(log, GROUP):
            if letter.source == position and not letter.head.replayed:
                print(
                    f"position: {_name(position)}{' (replayed)' if position in closed else ''}"
                )
                print(f"written: {iso(letter.at)}")
                print(f"reason: {safe(letter.head.reason)}")
                print(f"key: {letter.key.hex()}")
                print(
                    f"value: {safe(letter.value.decode('utf-8', 'backslashreplace'))}"
                )
                return DONE
        raise NotFound(f"There is no dead letter of {options.position}.")

    return _with_log(settings, act)


def _replay(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.clickhouse.connect import connect_store

    positions = {_position(text) for text in options.positions}
    reason: str = options.reason

    async def act(log: Log) -> int:
        store = await connect_store(settings, "migrator")
        matches: set[Position] = set()
        code = DONE
        try:
            closed = await _replayed(log)
            async for letter in letters(log, GROUP):
                source = letter.source
                by_reason = reason and letter.head.reason.startswith(reason)
                if not (source in positions or by_reason):
                    continue
                if letter.head.replayed or source in matches:
                    continue
                matches.add(source)
                if source in closed:
                    print(f"{_name(source)}: was replayed before")
                    continue
                try:
                    position = await replay(log, store, letter)
                    print(f"{_name(source)}: replayed as {_name(position)}")
                except BadRecord as error:
                    print(f"{_name(source)}: not replayed: {safe(error.detail)}")
                    code = FOUND_WRONG
        finally:
            await store.close()
        if absent := sorted(positions - matches):
            raise NotFound(f"There is no dead letter of {_name(absent[0])}.")
        return code

    return _with_log(settings, act)


async def replay(log: Log, store: Any, letter: Letter) -> Position:
    """Append a letter's command to its topic, and a note that it was replayed; its new position.

    Raises BadRecord with the reason when it cannot be replayed. A second replay has no effect: the
    command is recognised, and keeps its own time.
    """
    if kind_of(letter.head.reason) == CORRUPT:
        raise BadRecord("its bytes are not those that were written")
    command = msgspec.structs.replace(decode(letter.value), replayed=True)
    if await _deleted_since(store, command):
        raise BadRecord("what it tells of was deleted since")
    counts = log.partitions()
    positions = await log.append([Entry(*route(command, counts), encode(command))])
    await log.append([note(letter, counts[DEAD])])
    return positions[0]


async def _deleted_since(store: Any, command: Command) -> bool:
    """Whether a deletion covers a command, whose row or object it would not plan again."""
    from shared.store.clickhouse.queries import load

    if not isinstance(command, Capture | RecordBlock | Write):
        return False
    ((count,),) = await store.rows(
        load(Path(__file__).with_suffix(".sql"))["deletions"],
        project=command.project,
        fragment=command.fragment,
        at=command.at,
        events=int(isinstance(command, Capture)),
        recordings=int(isinstance(command, RecordBlock)),
    )
    return bool(count)


async def _replayed(log: Log) -> set[Position]:
    return {
        letter.source async for letter in letters(log, GROUP) if letter.head.replayed
    }


def _with_log(settings: Settings, act: Callable[[Log], Awaitable[int]]) -> int:
    from shared.store.clickhouse.connect import connect_store
    from shared.store.logwatch import right_log

    async def go() -> int:
        store = await connect_store(settings, "migrator")
        try:
            async with right_log(settings, store) as (log, _):
                return await act(log)
        finally:
            await store.close()

    return asyncio.run(go())


def _position(text: str) -> Position:
    try:
        (position,) = parse_positions(text)
    except (BadInput, ValueError):
        raise SettingsError(f"{text!r} is no position like c.3.17") from None
    return position


def _name(position: Position) -> str:
    return format_positions([position]) if position.offset >= 0 else "unreadable"


def safe(text: str) -> str:
    """Escape all characters that a terminal would obey."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )
