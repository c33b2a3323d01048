"""Each protective rule, removed alone, must be caught by the simulator within a bounded number of episodes.

The rules are taken away here, by replacing code in a test; production code has no switch for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.projector import worker as worker_module
from services.projector.memory import MemoryTables
from services.projector.tables import Facts
from services.projector.worker import Worker
from shared.domain import identity
from shared.domain.fragment import Fragment, Outcome
from shared.domain.ids import IDENTITY
from tests.support.gates import GatedTables
from tests.support.simulator import found_wrong

EPISODES_MAX = 2_000
"""Within so many episodes each planted fault must be found; most are within the first ten."""


def skip_by_version(patch: pytest.MonkeyPatch) -> None:
    """A record at or below the row's version is folded again."""
    handle = Fragment.handle

    def careless(self: Fragment, command: Any, version: int, partition: int) -> Outcome:
        self.version = min(self.version, version - 1)
        return handle(self, command, version, partition)

    patch.setattr(Fragment, "handle", careless)


def key_dedup(patch: pytest.MonkeyPatch) -> None:
    """Neither an Idempotency-Key nor an event's uuid is remembered."""
    patch.setattr("shared.domain.fragment.EVENTS_MAX", 0)
    patch.setattr("shared.domain.fragment.recall", lambda keys, command: None)
    patch.setattr(identity, "recall", lambda keys, command: None)


def position_before_state(patch: pytest.MonkeyPatch) -> None:
    """The position row goes ahead of the rows that it vouches for."""
    write = GatedTables.write_state

    async def ahead(self: GatedTables, topic: str, state: list[Any], positions: Sequence[Any]) -> None:
        await write(self, topic, [], positions)
        await write(self, topic, state, positions)

    patch.setattr(GatedTables, "write_state", ahead)


def state_before_timeline(patch: pytest.MonkeyPatch) -> None:
    """Facts are written after the state."""
    late: dict[int, Facts] = {}
    write_facts, write_state = GatedTables.write_facts, GatedTables.write_state

    async def keep(self: GatedTables, facts: Facts) -> None:
        late[id(self)] = facts

    async def then(self: GatedTables, topic: str, state: list[Any], positions: Sequence[Any]) -> None:
        await write_state(self, topic, state, positions)
        await write_facts(self, late.pop(id(self)))

    patch.setattr(GatedTables, "write_facts", keep)
    patch.setattr(GatedTables, "write_state", then)


def identity_in_pieces(patch: pytest.MonkeyPatch) -> None:
    """The rows of an identity batch arrive one by one, the position row last."""
    write = MemoryTables.write_state

    async def pieces(self: GatedTables, topic: str, state: list[Any], positions: Sequence[Any]) -> None:
        await self.gate.before(worker_module.Transient)
        for row in state if topic == IDENTITY else ():
            await write(self.tables, topic, [row], [])
            await self.gate.before(worker_module.Transient)
        await write(self.tables, topic, [] if topic == IDENTITY else state, positions)
        self.expected.visible(self.tables, topic, [position for position, *_ in positions])
        await self.gate.after(worker_module.Transient)

    patch.setattr(GatedTables, "write_state", pieces)


def monotone_stamp(patch: pytest.MonkeyPatch) -> None:
    """A stamp is the API host's time, whatever the fragment's last one was."""
    change = Fragment._change

    def unordered(self: Fragment, command: Any, version: int, stamp: int, partition: int) -> Outcome:
        historical = getattr(command, "historical", False)
        return change(self, command, version, stamp if historical else command.at, partition)

    patch.setattr(Fragment, "_change", unordered)


def erase_dedup(patch: pytest.MonkeyPatch) -> None:
    """An erase record that comes a second time erases again."""
    erase = Fragment._erase

    def again(self: Fragment, command: Any, version: int) -> Outcome:
        held, self.erased = self.erased, 0
        outcome = erase(self, command, version)
        self.erased = max(held, self.erased)
        return outcome

    patch.setattr(Fragment, "_erase", again)


def position_check_on_load(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on although somebody else has moved the partition on."""
    patch.setattr(Worker, "_check", lambda self, partitions, loaded: None)


PLANTED: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    skip_by_version, key_dedup, position_before_state, state_before_timeline, identity_in_pieces, monotone_stamp,
    erase_dedup, position_check_on_load,
)  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_rule_that_is_taken_away_is_missed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    plant(monkeypatch)
    for seed in range(EPISODES_MAX):
        if found_wrong(seed, Counter()) is not None:
            record_property("planted_fault_found", f"{plant.__name__} after {seed + 1}")
            return
    pytest.fail(f"{plant.__name__} was not missed in {EPISODES_MAX} episodes")
