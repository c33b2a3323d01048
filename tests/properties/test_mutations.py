"""Each protective rule, removed alone, must be caught by the simulator within a bounded number of episodes.

The rules are taken away here, by replacing code in a test; production code has no switch for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from services.deleter.planner import plan
from services.deleter.restores import Restores
from services.projector import worker as worker_module
from services.projector.fold import FragmentFolder
from services.projector.memory import MemoryTables
from services.projector.tables import Closed, Facts
from services.projector.worker import Worker
from shared.domain import identity
from shared.domain.commands import Revive
from shared.domain.fragment import Fragment, FragmentPurged, FragmentRestored, Outcome
from shared.domain.identity import Decision, Membership
from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, version_of
from shared.domain.purged import Cut, cuts_of
from shared.domain.replay import Replay
from shared.domain.restore import ClosedLife
from shared.log import evidence
from shared.log import identity as log_identity
from shared.log.doubts import Doubts
from shared.log.identity import Evidence
from shared.log.memory import MemoryLog
from shared.log.port import Record
from shared.log.renewal import Renewal
from tests.support import deleting, invariants
from tests.support.gates import GatedTables
from tests.support.renewing import MemoryBooks
from tests.support.simulator import found_wrong

EPISODES_MAX = 6_000
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

    def timeless(self: Fragment, command: Any, version: int, partition: int) -> Outcome:
        return write(self, msgspec.structs.replace(command, iver=0), version, partition)

    patch.setattr(Fragment, "_write", timeless)


def late_erase_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    """An erase record that comes after its delete was taken back erases."""
    erase = Fragment._erase

    def forgetful(self: Fragment, command: Any, version: int) -> Outcome:
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
            self._folder.open(closed, await self._tables.life(closed))

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
    passed = Restores._passed

    async def hasty(self: Restores, topic: str, partitions: Any) -> bool:
        return topic != IDENTITY or await passed(self, topic, partitions)

    patch.setattr(Restores, "_passed", hasty)


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

    def greedy(self: Fragment, command: Any, version: int) -> Outcome:
        return purge(self, msgspec.structs.replace(command, before=max(command.before, self.stamp)), version)

    patch.setattr(Fragment, "_purge", greedy)


def purge_of_facts(patch: pytest.MonkeyPatch) -> None:
    """The window takes every element of a purged name, of after the cut-off too."""

    def endless(facts: Any) -> list[Cut]:
        return [Cut(cut.name, 2**63, cut.version) for cut in cuts_of(facts)]

    patch.setattr(invariants, "cuts_of", endless)


def before_the_first_of_identity(patch: pytest.MonkeyPatch) -> None:
    """A generation begins without the position rows of one table."""
    vouch = MemoryBooks._vouch

    async def forgetful(self: MemoryBooks, topic: str, positions: Sequence[Any]) -> None:
        await vouch(self, topic, [one for one in positions if topic != IDENTITY or one.offset >= 0])

    patch.setattr(MemoryBooks, "_vouch", forgetful)


def before_the_first_of_partitions_that_were_added(patch: pytest.MonkeyPatch) -> None:
    """A generation begins with the position rows of the ending one's partitions only."""
    vouch = MemoryBooks._vouch

    async def narrow(self: MemoryBooks, topic: str, positions: Sequence[Any]) -> None:
        counts = self.ledger().generation.partitions
        await vouch(self, topic, [one for one in positions if one.offset >= 0 or one.partition < counts[topic]])

    patch.setattr(MemoryBooks, "_vouch", narrow)


def generations_in_versions(patch: pytest.MonkeyPatch) -> None:
    """What a later generation changes has the versions of the first."""
    patch.setattr(Record, "version", property(lambda self: version_of(self.offset)))


def all_of_a_generation_before_the_next(patch: pytest.MonkeyPatch) -> None:
    """The next generation begins while records of the last one are not projected."""

    async def hasty(self: Renewal, log: Any, topics: Any) -> None:
        return

    patch.setattr(Renewal, "_projected", hasty)


def identity_closed_before_commands(patch: pytest.MonkeyPatch) -> None:
    """All topics are closed at once, and what identity still has to tell fragments is refused."""
    end = Renewal.end

    async def at_once(self: Renewal, log: Any) -> Any:
        await log.seal((COMMANDS, IDENTITY, DELETIONS))
        return await end(self, log)

    patch.setattr(Renewal, "end", at_once)


def closed_topics(patch: pytest.MonkeyPatch) -> None:
    """A generation that has ended still takes records."""

    async def open_(self: MemoryLog, topics: Any) -> None:
        return

    patch.setattr(MemoryLog, "seal", open_)
def records_of_position_rows(patch: pytest.MonkeyPatch) -> None:
    """Whoever starts compares heads with positions, and not the records there."""

    async def trusting(log: Any, one: Evidence) -> Evidence:
        return one

    patch.setattr(evidence, "_whole", trusting)


def heads_below_positions(patch: pytest.MonkeyPatch) -> None:
    """A log that ends before the tables' positions is taken for theirs."""
    older = log_identity._older

    def generous(one: Evidence) -> Any:
        return older(one) if one.offset <= one.head.offset else None

    patch.setattr(log_identity, "_older", generous)


def identities_of_logs(patch: pytest.MonkeyPatch) -> None:
    """Whoever starts does not ask by what the log is known."""
    patch.setattr(log_identity, "_identities", lambda known, actual: None)


def offsets_that_rise(patch: pytest.MonkeyPatch) -> None:
    """An append is acknowledged wherever it landed."""
    patch.setattr(Doubts, "rises", lambda self, first, floor: self.check())


def assurance_before_a_flush(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on when another log has come to lie there."""

    async def assured(self: MemoryLog, topic: str) -> None: ...

    patch.setattr(MemoryLog, "assure", assured)


PLANTED: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    skip_by_version, key_dedup, position_before_state, state_before_timeline, identity_in_pieces, monotone_stamp,
    erase_dedup, position_check_on_load, imports_before_a_delete, deletes_since_the_look, births_behind_the_erasure,
    births_of_their_own_delete, late_erase_after_a_restore, restores_in_any_order, former_lives,
    batch_cut_before_a_restore, landing_before_a_restore, membership_before_a_restore, a_run_beside_a_restore,
    waiting_for_revivals, purge_tombstone, purge_cut_off, purge_of_facts, before_the_first_of_identity,
    before_the_first_of_partitions_that_were_added, generations_in_versions, all_of_a_generation_before_the_next,
    identity_closed_before_commands, closed_topics,
    records_of_position_rows, heads_below_positions, identities_of_logs, offsets_that_rise, assurance_before_a_flush,
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
