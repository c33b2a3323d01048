"""Episodes for the simulator: what clients send and what befalls the workers, from a seed. Runs nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from shared.domain.commands import Capture, Command, Delete, MergePersons, Purge, RecordBlock, Scope, SplitPerson, Write
from shared.domain.ids import COMMANDS, IDENTITY, fragment_id

TOPICS = (COMMANDS, IDENTITY)
SENDS = 24
SHRINK_RUNS_MAX = 400
SKEWS = (0, 7_001, -4_003)
"""Clocks of the API hosts, in microseconds off. No two give one time: a delete is told from another by it."""

NAMES = ("a", "b", "c", "d", "null")
MODES = ("identify", "alias", "dangerous", "operator")

Step = tuple[str, Any]


class Episode(NamedTuple):
    """What happens (steps), and the seed of what goes wrong within it."""

    seed: int
    steps: tuple[Step, ...]


def episode(seed: int) -> Episode:
    """An episode of SENDS client commands among starts, kills, freezes, restored copies, rebuilds,
    renewals of the log, windows and logs in the place of the right one; some of its deletes are cancelled."""
    chosen = random.Random(seed)
    steps: list[Step] = [("start", topic) for topic in TOPICS]
    sent: list[Command] = []
    regrets = 0
    for number in range(SENDS):
        command = _again(chosen, sent, number) if sent and chosen.random() < 0.15 else _command(chosen, number)
        sent.append(command)
        if isinstance(command, MergePersons) and command.mode == "operator":  # the API looks first, some time before
            steps.insert(chosen.randrange(max(len(steps) - 12, 0), len(steps) + 1), ("look", command))
        steps.append(("send", command))
        steps.append(("turns", chosen.randrange(1, 8)))
        regrets += isinstance(command, Delete)
        if regrets and chosen.random() < 0.3:
            kind = chosen.choice(("cancel", "cancel", "cancel", "window", "window"))
            regrets -= kind == "cancel"
            steps += [("wait", 0)] * chosen.randrange(3)  # until the request has come that far, as a rule
            steps.append((kind, chosen.randrange(1 << 16)))
        if chosen.random() < 0.03:
            steps.append(("garbage", chosen.randrange(2)))
        if chosen.random() < 0.55:
            kind = chosen.choice(_SCHEDULER)
            steps.append((kind, chosen.choice(TOPICS) if kind == "start" else chosen.randrange(1 << 16)))
            if kind == "renew":  # which waits for the workers, several times
                steps += [("wait", 0)] * chosen.randrange(12)
    return Episode(seed, tuple(steps))


_SCHEDULER = (
    "turns turns wait wait start start start kill freeze freeze thaw snapshot restore rebuild assign window swap"
    " renew"
).split()


def _command(chosen: random.Random, number: int) -> Command:
    project, name, other = chosen.choice((1, 1, 2)), chosen.choice(NAMES), chosen.choice(NAMES)
    one = UUID(int=chosen.getrandbits(128))
    at = 1_000_000 + number * 1_000 + chosen.choice(SKEWS)
    common: dict[str, Any] = {"id": one, "project": project, "at": at}
    fragment = fragment_id(project, name)
    if chosen.random() < 0.06:
        place: dict[str, Any] = {"object": f"home/{number}", "start": number, "length": 7}
        told = {"session": chosen.choice("st"), "window": "w", "started_at": at, "ended_at": at + number}
        return RecordBlock(**common, fragment=fragment, uuid=one, **place, **told)
    if chosen.random() < 0.05:
        return _purge(chosen, common, fragment)
    kind = chosen.random()
    if kind < 0.62:
        values = [number, "x", None, True]
        changes: dict[str, Any] = {"set": {chosen.choice("pq"): chosen.choice(values)}} if chosen.random() < 0.7 else {}
        if chosen.random() < 0.4:
            changes["set_once"] = {chosen.choice("pq"): number}
        if chosen.random() < 0.2:
            changes["unset"] = (chosen.choice("pq"),)
        if kind < 0.03:  # what an imported merge gives birth with
            return Write(**common, fragment=fragment, distinct_id=name, reason="merge", since=at - number % 20_000)
        if kind < 0.3:
            key = chosen.choice((0, number + 1))
            return Write(**common, key=key, digest=key, fragment=fragment, distinct_id=name, reason="update", **changes)
        captured = {"fragment": fragment, "distinct_id": name, "uuid": one, "event": "e"}
        if kind < 0.36:  # an import: its own time; `moved` says why it has no unset and no null
            then = at - chosen.randrange(20_000)
            return Capture(**common, **captured, timestamp=then, historical=True, set={"p": number})
        lifted = {"l": chosen.choice((1, 2))} if chosen.random() < 0.3 else {}
        then = at + chosen.randrange(3) * 3_600_000_000
        return Capture(**common, **captured, timestamp=then, lifted=lifted, **changes)
    if kind < 0.82:
        mode = chosen.choice(MODES)
        named: dict[str, Any] = {} if mode == "operator" else {"into_id": name, "source_id": other}
        if named and chosen.random() < 0.3:  # an import, which may be of before a delete
            named["since"] = at - chosen.randrange(20_000)
        key = chosen.choice((0, number + 1))
        source = fragment_id(project, other)
        return MergePersons(**common, key=key, digest=key, into=fragment, source=source, mode=mode, **named)  # type: ignore[arg-type]
    if kind < 0.92:
        leave = tuple(fragment_id(project, one) for one in chosen.sample(NAMES, 2))
        how: dict[str, Any] = {"keep": fragment} if chosen.random() < 0.5 else {"leave": leave}
        return SplitPerson(**common, person=fragment, **how)
    scope = Scope(profile=True, events=chosen.random() < 0.5)
    return Delete(**common, person=fragment, request=one, scope=scope)


def _purge(chosen: random.Random, common: dict[str, Any], fragment: UUID) -> Purge:
    """Of one fragment; that of a whole project comes later than it was asked for."""
    before = common["at"] - chosen.choice((0, 0, 3_000))
    return Purge(
        **common, fragment=fragment, names=tuple("pql"[: chosen.randrange(1, 4)]), before=before, request=common["id"]
    )


def _again(chosen: random.Random, sent: Sequence[Command], number: int) -> Command:
    """A client repeats a command that it got no answer for: the same key or event uuid, another record."""
    keyed = [one for one in sent if isinstance(one, Capture) or one.key]
    if not keyed:
        return _command(chosen, number)
    first = chosen.choice(keyed)
    at = 1_000_000 + number * 1_000 + chosen.choice(SKEWS)
    return msgspec.structs.replace(first, id=UUID(int=chosen.getrandbits(128)), at=at)


def given_back_without_what_was_purged() -> Episode:
    """A purge in the next life of somebody who is given back takes a set, and leaves a set_once of after it. (What seed
    13,042 was: after a window had taken the set, the restored person had another value than before.)"""
    name, start = "a", 1_000_000
    common: dict[str, Any] = {"project": 1, "fragment": fragment_id(1, name)}
    person = {"distinct_id": name, "reason": "update"}
    ids = [UUID(int=number) for number in range(1, 5)]
    first = Write(**common, **person, id=ids[0], at=start, set={"p": True})
    delete = Delete(
        project=1, id=ids[1], at=start + 10, person=fragment_id(1, name), request=ids[1], scope=Scope(profile=True)
    )
    later = Write(**common, **person, id=ids[2], at=start + 31, set_once={"p": 12})
    purge = Purge(**common, id=ids[3], at=start + 30, names=("p",), before=start + 30, request=ids[3])
    waits = [("wait", 0)] * 3
    sends = [("send", command) for command in (first, delete)], [("send", command) for command in (later, purge)]
    return Episode(0, (("start", IDENTITY), *sends[0], *waits, *sends[1], ("cancel", 0)))


def read_while_another_log_lay_there() -> Episode:
    """A worker reads a record that was never acknowledged, of topics made anew, and the right ones are back before it
    is folded. (What seed 14,260 was.)"""
    into, source = (fragment_id(1, name) for name in ("a", "b"))
    names = {"into": into, "source": source, "into_id": "a", "source_id": "b", "mode": "alias"}
    merge = MergePersons(project=1, id=UUID(int=1), at=1_000_000, **names)  # type: ignore[arg-type]  # as they are
    before = (*(("start", topic) for topic in TOPICS), ("turns", 8), ("kill", 2), ("turns", 6))
    return Episode(14_260, (*before, ("swap", 32_337), ("send", merge), ("turns", 1), ("swap", 30_567), ("turns", 7)))


def shrink(failing: Episode, fails: Callable[[Episode], bool]) -> Episode:
    """Fewer steps that fail as well: first halves are left out, then smaller parts, then single steps."""
    runs, size = 0, len(failing.steps) // 2
    while size and runs < SHRINK_RUNS_MAX:
        start = 0
        while start < len(failing.steps) and runs < SHRINK_RUNS_MAX:
            fewer = Episode(failing.seed, failing.steps[:start] + failing.steps[start + size :])
            runs += 1
            if fails(fewer):
                failing = fewer
            else:
                start += size
        size //= 2
    return failing
