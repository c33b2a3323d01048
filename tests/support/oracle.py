"""The whole model again, written from the contract's text as dicts and lists: what the code is held against.

A fragment is the list of all its operations, replayed in the order of their stamps; the people are lists of keys.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from shared.domain import operations
from shared.domain.commands import (
    Capture,
    Delete,
    Erase,
    MergePersons,
    Purge,
    RecordBlock,
    Restore,
    Revive,
    SplitPerson,
    Write,
)

BAD = set("anonymous guest distinctid distinct_id id not_authenticated email undefined true false".split())
EXACT = {"[object Object]", "NaN", "None", "none", "null", "0"}

DROPPED = "dropped"


class Oracle:
    """One project. `apply` takes commands in log order; offsets of commands partitions and of identity are apart."""

    def __init__(self) -> None:
        self.fragments: dict[Any, dict[str, Any]] = {}
        self.people: list[list[Any]] = []
        self.marked, self.erase, self.erased_at = set[Any](), dict[Any, int](), dict[Any, int]()
        self.deleted: dict[int, list[tuple[Any, bool, int, int]]] = {}

    def fragment(self, key: Any) -> dict[str, Any]:
        blank = {"ops": [], "born": None, "name": "", "seen": set(), "closed": [], "cuts": {}, "log": []}
        zeros = ("stamp", "erased", "erased_at", "effect", "restored", "hour")
        return self.fragments.setdefault(key, blank | dict.fromkeys(zeros, 0))

    def person(self, key: Any) -> list[Any]:
        for people in self.people:
            if key in people:
                return people
        self.people.append([key])
        return self.people[-1]

    def apply(self, command: Any, version: int) -> bool:
        """Whether the command counts as done: the Idempotency-Key of one that was dropped is free."""
        folds = {Erase: self._erase, MergePersons: self._merge, SplitPerson: self._split, Delete: self._delete}
        folds |= {Restore: self._restore, Revive: self._revive, Purge: self._purge}
        if type(command) is RecordBlock:  # it changes nobody
            return True
        return folds.get(type(command), self._write)(command, version) is not DROPPED

    def _delete(self, command: Delete, version: int) -> None:
        members = self.person(command.person)
        self.people.remove(members)
        self.deleted[version] = [
            (key, key in self.marked, self.erase.get(key, 0), self.erased_at.get(key, 0)) for key in members
        ]
        for key in members:
            self.erase[key], self.erased_at[key] = version, command.at
            self.marked.discard(key)
            self.people.append([key])

    def _restore(self, command: Restore, version: int) -> None:
        members = self.deleted[command.iver]
        if any(self.erase.get(key) != command.iver or self.person(key) != [key] for key, *_ in members):
            return
        for key, marked, erase, erased_at in members:
            self.people.remove([key])
            self.erase[key], self.erased_at[key] = erase, erased_at
            self.marked |= {key} if marked else set()
        self.people.append([key for key, *_ in members])

    def _revive(self, command: Revive, version: int) -> None:
        """The life that was closed last, and after it what came since."""
        one = self.fragment(command.fragment)
        if command.iver != one["erased"]:
            return
        before = one["closed"].pop()
        births = [(life["born"], life["name"]) for life in (before, one) if life["born"] is not None]
        born, name = min(births, key=lambda birth: birth[0], default=(None, ""))
        since, one["log"], one["cuts"] = one["log"], before["log"] + one["log"], dict(before["cuts"])
        one |= {"ops": list(before["ops"]), "born": born, "name": name, "effect": version}
        one |= {"erased": before["erased"], "erased_at": before["erased_at"]}
        one |= {"restored": max(one["restored"], command.iver), "stamp": max(one["stamp"], command.at)}
        one["hour"] = max(one["hour"], before["hour"])
        for kind, what in since:  # in the order in which it came while the life was closed
            one["ops"] += [what] if kind == "op" else []
            if kind == "cut":
                self._cut_later(one, *what)

    def _erase(self, command: Erase, version: int) -> None:
        one = self.fragment(command.fragment)
        if command.iver > max(one["erased"], one["restored"]):
            one["closed"].append(dict(one))
            one["hour"] = 0
            one |= {"ops": [], "born": None, "name": "", "cuts": {}, "log": []}
            one |= {"erased": command.iver, "erased_at": command.at}
            one |= {"effect": version, "stamp": max(one["stamp"], command.at)}

    def _purge(self, command: Purge, version: int) -> None:
        """Of a name there is what still counts of after the cut-off, and an unset at it."""
        one = self.fragment(command.fragment)
        for name in [name for name in command.names if one["cuts"].get(name, 0) < command.before]:
            nothing = all(op[1] != name for op in one["ops"])
            kept = self._cut(one, name, command.before)
            one["log"].append(("cut", (name, command.before, kept or nothing)))
            one |= {"effect": version, "stamp": max(one["stamp"], command.before)}

    def _cut_later(self, one: dict[str, Any], name: str, before: int, kept: bool) -> None:
        """The same of a closed life that is given back, by what is left of all that it and the next were told: a window
        may have taken the rest. `kept` is whether the next life had nothing of the name, or still a set_once."""
        one["ops"] = [op for op in one["ops"] if op[1] != name or (op[0] > before and (kept or op[2] != "once"))]
        one["ops"] += [(before, name, "unset", None)] if one["born"] is not None else []
        one["cuts"][name] = max(before, one["cuts"].get(name, 0))

    def _cut(self, one: dict[str, Any], name: str, before: int) -> bool:
        """Whether a set_once is left."""
        hard, once = self._cells(one["ops"], name)
        one["ops"] = [op for op in one["ops"] if op[1] != name]
        one["cuts"][name] = before
        if one["born"] is not None:
            one["ops"].append((before, name, "unset", None))
            one["ops"] += [(hard[0], name, *hard[1:])] if hard and hard[0] > before else []
            one["ops"] += [(once[0], name, "once", once[1])] if once and once[0] > before else []
        return once is not None and once[0] > before

    def _write(self, command: Write | Capture, version: int) -> None:
        one = self.fragment(command.fragment)
        imported = command.since > 0 if isinstance(command, Write) else command.historical
        then = command.since if isinstance(command, Write) else max(command.timestamp, 1)
        if isinstance(command, Capture) and (not command.person or command.uuid in one["seen"]):
            return
        late = isinstance(command, Write) and 0 < command.iver < one["erased"]  # a birth that a delete has overtaken
        if late or (imported and then < one["erased_at"]):
            return
        if isinstance(command, Capture):
            one["seen"].add(command.uuid)
            one["hour"] = max(one["hour"], command.timestamp // 3_600_000_000 * 3_600_000_000)
        elif command.expect is not None and command.expect != one["effect"]:
            return
        stamp = then if imported else max(command.at, one["stamp"] + 1)
        before = (len(one["ops"]), one["born"])
        self._operations(one, command, stamp)
        birth = then if imported else command.at
        if isinstance(command, Capture):  # a person is as old as its oldest event
            birth = min(birth, max(command.timestamp, 1))
        if one["born"] is None or ((imported or isinstance(command, Capture)) and birth < one["born"]):
            one["born"], one["name"] = birth, command.distinct_id
        if before != (len(one["ops"]), one["born"]):
            one["effect"], one["stamp"] = version, max(one["stamp"], stamp)

    def _operations(self, one: dict[str, Any], command: Write | Capture, stamp: int) -> None:
        """set_once, then set, then unset; only operations that have an effect are kept."""
        shown = self.shown(one)
        lifted = command.lifted if isinstance(command, Capture) else {}
        unset = dict.fromkeys(command.unset)
        ranked = ("once", command.set_once), ("set", lifted), ("set", command.set), ("unset", unset)
        final = {name: (kind, value) for kind, part in ranked for name, value in part.items()}
        for name in {name: None for _, part in reversed(ranked) for name in part}:
            kind, value = final[name]
            same = name in shown and type(shown[name]) is type(value) and shown[name] == value
            equal_lifted = name in lifted and name not in command.set and kind == "set" and same
            if equal_lifted or (kind == "once" and value is None) or stamp <= one["cuts"].get(name, 0):
                continue
            candidate = (stamp, name, kind, value)
            moves = self._cells([*one["ops"], candidate], name) != self._cells(one["ops"], name)
            if moves and self._room(one["ops"], candidate):
                one["ops"].append(candidate)
                one["log"].append(("op", candidate))

    def _room(self, ops: list[Any], candidate: Any) -> bool:
        """Whether a fragment of these operations may take one more: what takes no more bytes than before always may."""
        before, after = self._bytes(ops), self._bytes([*ops, candidate])
        names = {op[1] for op in ops}
        fits = after <= max(before, operations.FRAGMENT_BYTES_MAX)
        return fits and (candidate[1] in names or len(names) < operations.FRAGMENT_NAMES_MAX)

    def _bytes(self, ops: list[Any]) -> int:
        """JSON of names and what they show: `"name":value,`, or `"name",` for one that shows nothing."""
        shown, text = self.shown({"ops": ops}), partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
        parts = [text(name) + (f":{text(shown[name])}" if name in shown else "") for name in {op[1] for op in ops}]
        return sum(len(part.encode()) + 1 for part in parts)

    @staticmethod
    def _cells(ops: Any, name: str) -> Any:
        """(newest set or unset, set_once that counts), by replaying a name's operations in the order of stamps."""
        hard, once = None, None
        for stamp, _, kind, value in sorted((op for op in ops if op[1] == name), key=lambda op: op[0]):
            if kind == "once":
                if once is None and (hard is None or hard[2] is None) and not (hard and hard[0] == stamp):
                    once = (stamp, value)
            elif hard is None or stamp > hard[0]:
                hard, once = (stamp, kind, value), None
        return hard, once

    def shown(self, *ones: dict[str, Any], keys: tuple[Any, ...] = ()) -> dict[str, Any]:
        """The merged view of fragments; `keys` break ties of stamps."""
        found: dict[str, Any] = {}
        for name in {op[1] for one in ones for op in one["ops"]}:
            cells = [(self._cells(one["ops"], name), key) for one, key in zip(ones, keys or range(9), strict=False)]
            hards = [(hard_cell[0], key, hard_cell) for (hard_cell, _), key in cells if hard_cell]
            hard = max(hards, key=lambda one: one[:2])[2] if hards else None
            onces = [(once[0], key, once[1]) for (_, once), key in cells if once and (not hard or once[0] > hard[0])]
            if onces and (not hard or hard[2] is None):
                found[name] = min(onces, key=lambda one: one[:2])[2]
            elif hard and hard[1] == "set":
                found[name] = hard[2]
        return found

    def _merge(self, command: MergePersons, version: int) -> str | None:
        into, source = self.person(command.into), self.person(command.source)
        ids = [one for one in (command.into_id, command.source_id) if one is not None]
        if command.into == command.source or any(map(bad, ids)):
            return None
        known = {command.into: command.into_erase, command.source: command.source_erase}
        if any(command.since and command.since < self.erased_at.get(one, 0) for one in known):
            return DROPPED  # imported from before a delete
        if any(erase is not None and self.erase.get(one, 0) > erase for one, erase in known.items()):
            return None  # deleted since the API looked
        refused = command.mode in ("identify", "alias") and not self.marked.isdisjoint(source)
        if command.mode != "operator":
            self.marked.add(command.into)
        if into is not source and not refused:
            self.people.remove(source)
            into.extend(source)
        return None

    def _split(self, command: SplitPerson, version: int) -> None:
        person = self.person(command.person)
        leaving = [key for key in person if (key != command.keep if command.keep else key in command.leave)]
        if len(leaving) < len(person):
            self.people.remove(person)
            self.people += [[key for key in person if key not in leaving], *([key] for key in leaving)]

    def persons(self) -> dict[Any, dict[str, Any]]:
        """Every living person by the uuid of its root."""
        found = {}
        for people in [*self.people, *([key] for key in self.fragments if not any(key in p for p in self.people))]:
            living = [
                key for key in people
                if key in self.fragments and self.fragments[key]["born"] is not None
                and self.fragments[key]["erased"] >= self.erase.get(key, 0)
            ]  # fmt: skip
            ones = [self.fragments[key] for key in living]
            if ones:
                view = {"distinct_ids": [one["name"] for one in ones], "created_at": min(one["born"] for one in ones)}
                view |= {"properties": self.shown(*ones, keys=tuple(living))}
                found[people[0]] = view | {"identified": any(key in self.marked for key in living)}
        return found


def bad(name: str) -> bool:
    bare = name.strip().strip("'\"").strip()
    return not bare or bare.lower() in BAD or bare in EXACT or "\x00" in name or len(name) > 400
