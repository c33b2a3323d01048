"""Each protective rule, removed alone, must be caught by the simulator within a bounded number of episodes.

The rules are taken away here, by replacing code in a test; production code has no switch for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from services.deleter.restores import Restores
from services.deleter.sweep.planner import plan
from services.projector import worker as worker_module
from services.projector.fold import FragmentFolder
from services.projector.loader import Loader
from services.projector.lookout import Lookout
from services.projector.shares import key_of
from services.projector.tables.clickhouse import Closed, Facts
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain.commands import CommandDecoder, Revive
from shared.domain.ids import IDENTITY, version_of
from shared.domain.operations import Room, Weight
from shared.domain.person import cells as cells_module
from shared.domain.person import identity
from shared.domain.person.fragment import FoldOutcome, Fragment
from shared.domain.person.fragment_events import FragmentChanged, FragmentEvent, FragmentPurged, FragmentRestored
from shared.domain.person.identity import Decision, Membership
from shared.domain.person.replay import Replay
from shared.domain.purged import Cut, cuts_of
from shared.domain.restore import ClosedLife
from tests.support import deleting, invariants
from tests.support.episodes import given_back_without_what_was_purged, read_while_another_log_lay_there
from tests.support.gates import GatedTables
from tests.support.planted_logs import PLANTED_LOGS, doubts_since_the_look
from tests.support.planted_renewals import PLANTED_RENEWALS
from tests.support.simulator import fault, found_wrong

EPISODES_MAX = 6_000
"""Within so many episodes each planted fault must be found; most are within the first ten."""


def skip_by_version(patch: pytest.MonkeyPatch) -> None:
    """A record at or below the row's version is folded again."""
    handle = Fragment.handle

    def careless(self: Fragment, command: Any, version: int, partition: int, life: Any = None) -> FoldOutcome:
        self.version = min(self.version, version - 1)
        return handle(self, command, version, partition, life)

    patch.setattr(Fragment, "handle", careless)


def key_dedup(patch: pytest.MonkeyPatch) -> None:
    """Neither an Idempotency-Key nor an event's uuid is remembered."""
    patch.setattr("shared.domain.person.fragment.EVENTS_MAX", 0)
    patch.setattr("shared.domain.person.fragment.recall", lambda keys, command: None)
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
    patch.setattr(Fragment, "_stamp", lambda self, command, since: since or command.at)


def erase_dedup(patch: pytest.MonkeyPatch) -> None:
    """An erase record that comes a second time erases again."""
    erase = Fragment._erase

    def again(self: Fragment, command: Any, version: int) -> FoldOutcome:
        held, self.erased = self.erased, 0
        outcome = erase(self, command, version)
        self.erased = max(held, self.erased)
        return outcome

    patch.setattr(Fragment, "_erase", again)


def position_check_on_load(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on although somebody else has moved the partition on."""
    patch.setattr(Loader, "_check", lambda self, partitions, loaded: None)


def imports_before_a_delete(patch: pytest.MonkeyPatch) -> None:
    """A merge that is imported from before a delete merges all the same."""
    patch.setattr(identity, "_before_a_delete", lambda command, named: False)


def deletes_since_the_look(patch: pytest.MonkeyPatch) -> None:
    """An operator's merge is not held against a delete that came after the API had found both."""
    patch.setattr(identity, "_deleted_since", lambda command, named: False)


def births_behind_the_erasure(patch: pytest.MonkeyPatch) -> None:
    """Who was deleted is not born again behind its erase record when a capture merges it."""
    patch.setattr(identity, "_births", lambda command, named: ())


def births_of_their_own_delete(patch: pytest.MonkeyPatch) -> None:
    """A birth that is sent again after a crash revives who was deleted since."""
    write = Fragment._write

    def timeless(self: Fragment, command: Any, version: int, partition: int) -> FoldOutcome:
        return write(self, msgspec.structs.replace(command, iver=0), version, partition)

    patch.setattr(Fragment, "_write", timeless)


def late_erase_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    """An erase record that comes after its delete was taken back erases."""
    erase = Fragment._erase

    def forgetful(self: Fragment, command: Any, version: int) -> FoldOutcome:
        self.restored = 0
        return erase(self, command, version)

    patch.setattr(Fragment, "_erase", forgetful)


def restores_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """Of two deletes that were taken back, the one that was taken back last is known."""

    def last(self: FragmentRestored, fragment: Fragment) -> None:
        fragment.restored, fragment.effect = self.iver, self.originator_version
        fragment.stamp = max(fragment.stamp, self.timestamp)

    patch.setattr(FragmentRestored, "apply", last)


def former_lives(patch: pytest.MonkeyPatch) -> None:
    """A closed life is opened again with all that were closed before it."""
    made = ClosedLife.__init__

    def whole(self: ClosedLife, *arguments: Any) -> None:
        made(self, *arguments)
        project, fragment, iver, ends = arguments
        self.since = 0
        self._replay = Replay(project, fragment, undone=frozenset({iver, *(end.iver for end in ends)}))

    patch.setattr(ClosedLife, "__init__", whole)


def batch_cut_before_a_restore(patch: pytest.MonkeyPatch) -> None:
    """A closed life is read while the batch still holds facts of it."""
    patch.setattr(FragmentFolder, "cut", lambda self, commands: len(commands))

    def every(self: FragmentFolder, commands: Any) -> Any:
        found = []
        for command, record in commands:
            if isinstance(command, Revive):
                version = version_of(record.offset)
                found.append(Closed(command.project, command.fragment, command.iver, version))
        return found

    patch.setattr(FragmentFolder, "closed", every)


def landing_before_a_restore(patch: pytest.MonkeyPatch) -> None:
    """A closed life is read while facts of it are in flight."""

    async def early(self: Worker, decoded: Any) -> None:
        for closed in self._folder.closed((command, record) for record, command in decoded):
            await self._loader.open(closed)

    patch.setattr(Worker, "_open", early)


def membership_before_a_restore(patch: pytest.MonkeyPatch) -> None:
    """A restore takes its members from whomever they belong to by now."""
    restore = identity._restore

    def grasping(command: Any, at: tuple[int, int], named: list[Membership]) -> Decision:
        for member in named:
            member.root, member.members, member.erase = member.id, (member.id,), command.iver
        return restore(command, at, named)

    patch.setattr(identity, "_restore", grasping)


def a_run_beside_a_restore(patch: pytest.MonkeyPatch) -> None:
    """A run erases what a restore that the deleter waits for has left behind."""

    def heedless(*arguments: Any, cancelling: Any, **named: Any) -> Any:
        return plan(*arguments, **named)

    patch.setattr(deleting, "plan", heedless)


def waiting_for_revivals(patch: pytest.MonkeyPatch) -> None:
    """A request is cancelled as soon as the identity is restored."""
    passed = Restores._caught_up

    async def hasty(self: Restores, topic: str, partitions: Any) -> bool:
        return topic != IDENTITY or await passed(self, topic, partitions)

    patch.setattr(Restores, "_caught_up", hasty)


def purge_tombstone(patch: pytest.MonkeyPatch) -> None:
    """A purge leaves nothing, so that an import of before counts again."""
    apply = FragmentPurged.apply

    def forgetful(self: FragmentPurged, fragment: Fragment) -> None:
        apply(self, fragment)
        fragment.purged = {}
        for name in self.names:
            if name not in fragment.properties:
                fragment.cells.pop(name, None)

    patch.setattr(FragmentPurged, "apply", forgetful)


def purge_cut_off(patch: pytest.MonkeyPatch) -> None:
    """A purge takes what was set after it was asked for as well."""
    purge = Fragment._purge

    def greedy(self: Fragment, command: Any, version: int) -> FoldOutcome:
        return purge(self, msgspec.structs.replace(command, before=max(command.before, self.stamp)), version)

    patch.setattr(Fragment, "_purge", greedy)


def purge_of_facts(patch: pytest.MonkeyPatch) -> None:
    """The window takes every element of a purged name, of after the cut-off too."""

    def endless(facts: Any) -> list[Cut]:
        return [Cut(cut.name, 2**63, cut.version) for cut in cuts_of(facts)]

    patch.setattr(invariants, "cuts_of", endless)


def decided_when_folded(patch: pytest.MonkeyPatch) -> None:
    """A replay decides again for which operations there is room."""
    apply = FragmentChanged.apply

    def again(self: FragmentChanged, fragment: Fragment) -> None:
        cells, properties = dict(fragment.cells), dict(fragment.properties)
        room = Room(Weight(), cells, properties, self.timestamp)
        kept = cells_module.apply(cells, properties, self.operations, self.timestamp, admits=room.admit)
        apply(msgspec.structs.replace(self, names=kept.names, kinds=kept.kinds, values=kept.values), fragment)

    patch.setattr(FragmentChanged, "apply", again)


def exact_bounds(patch: pytest.MonkeyPatch) -> None:
    """Whether there is room is judged by the estimate that a loaded row has."""

    def certain(self: Weight, most: int = 0) -> None:
        self.bytes, self.exact = most, True

    patch.setattr(Weight, "__init__", certain)


def order_behind_a_heavy_record(patch: pytest.MonkeyPatch) -> None:
    """Light records are folded though a heavy one before them in their partition waits."""

    def overtaking(decoded: Sequence[Any], unloaded: Any) -> tuple[list[Any], list[Any]]:
        waits = [key_of(command) in unloaded for _, command in decoded]
        pairs = list(zip(decoded, waits, strict=True))
        return [one for one, late in pairs if not late], [one for one, late in pairs if late]

    patch.setattr(worker_module, "loaded", overtaking)


def purges_of_a_closed_life(patch: pytest.MonkeyPatch) -> None:
    """A closed life is given back of facts that a window has not taken purged values from."""

    def whole(self: ClosedLife, event: FragmentEvent) -> None:
        self._replay.apply(event)

    patch.setattr(ClosedLife, "replay", whole)


def looking_at_the_heads(patch: pytest.MonkeyPatch) -> None:
    """Records that do not come are waited for."""

    async def trusting(self: Lookout, positions: Any) -> None: ...

    patch.setattr(Lookout, "look", trusting)


def stopping_at_newer_versions(patch: pytest.MonkeyPatch) -> None:
    """A record that a newer version wrote goes to the dead letters."""
    patch.setattr(CommandDecoder, "_is_newer", lambda self, value: False)


PLANTED: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    skip_by_version, key_dedup, position_before_state, state_before_timeline, identity_in_pieces, monotone_stamp,
    erase_dedup, position_check_on_load, imports_before_a_delete, deletes_since_the_look, births_behind_the_erasure,
    births_of_their_own_delete, late_erase_after_a_restore, restores_in_any_order, former_lives,
    batch_cut_before_a_restore, landing_before_a_restore, membership_before_a_restore, a_run_beside_a_restore,
    waiting_for_revivals, purge_tombstone, purge_cut_off, purge_of_facts, purges_of_a_closed_life,
    looking_at_the_heads,
    stopping_at_newer_versions,
    *PLANTED_LOGS,
    *PLANTED_RENEWALS,
    decided_when_folded, exact_bounds, order_behind_a_heavy_record,
)  # fmt: skip

FOUND_BY = {
    purges_of_a_closed_life: given_back_without_what_was_purged(),
    doubts_since_the_look: read_while_another_log_lay_there(),
}
"""Episodes that find what hardly any other does, tried first."""


RARE = (position_check_on_load, a_run_beside_a_restore)
"""They are missed after hundreds of episodes only, which takes as long as all others together."""


@pytest.mark.parametrize(
    "plant",
    [pytest.param(plant, id=plant.__name__, marks=[pytest.mark.alone] if plant in RARE else []) for plant in PLANTED],
)
def test_a_rule_that_is_taken_away_is_missed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    plant(monkeypatch)
    if plant in FOUND_BY and fault(FOUND_BY[plant], Counter()) is not None:
        record_property("planted_fault_found", f"{plant.__name__} by its own episode")
        return
    for seed in range(EPISODES_MAX):
        if found_wrong(seed, Counter()) is not None:
            record_property("planted_fault_found", f"{plant.__name__} by seed {seed}")
            return
    pytest.fail(f"{plant.__name__} was not missed in {EPISODES_MAX} episodes")
