"""Versions beside each other: what an older one wrote is read; what a newer one wrote stops, and is not buried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import msgspec
import orjson
import pytest
from structlog.testing import capture_logs

from services.api.http import errors
from services.deleter.intake import Intake
from services.deleter.ledger import decide
from services.projector.app import _duty
from services.projector.fold import Folder, FragmentFolder, IdentityFolder
from services.projector.search import Duty
from services.projector.tables import rows as r
from services.projector.tables.memory import MemoryTables
from services.projector.worker import Worker
from shared.domain import commands as module
from shared.domain.commands import (
    FORMATS,
    Cancel,
    Capture,
    Command,
    CommandDecoder,
    Delete,
    Erase,
    MergePersons,
    RecordBlock,
    RequestDeletion,
    Revive,
    Scope,
    SplitPerson,
    Write,
    decode,
    encode,
    route,
)
from shared.domain.deletion import DeletionRequest, load
from shared.domain.errors import BadRecord, NewerVersion
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, Position, fragment_id
from shared.domain.person.fragment_events import FragmentErased
from shared.log.evidence import Standing
from shared.log.memory import MemoryLog
from shared.log.port import Entry
from shared.store.timeline import FAILED, TIMELINE, event_of
from tests.support.virtual import virtual

GOLDEN = Path(__file__).parents[1] / "golden"
PARTITIONS = {COMMANDS: 2, IDENTITY: 1, DELETIONS: 1, DEAD: 1}

E98B22B = CommandDecoder(
    Capture | Write | Erase | RecordBlock | MergePersons | SplitPerson | Delete | RequestDeletion | Cancel, {}
)
"""Reads the commands of e98b22b. The reader of then had no such rule, and buried what it did not know."""

SINCE = {"revive", "purge", "restore"}
"""Ops that came later."""

SECONDS_MAX = 60.0


def golden(name: str) -> dict[str, bytes]:
    return {case: text.encode() for case, text in json.loads((GOLDEN / name).read_text()).items()}


def write(name: str, at: int, **changes: Any) -> Write:
    return Write(id=uuid4(), project=1, at=at, fragment=fragment_id(1, name), distinct_id=name, set=changes)


def future(command: Command, **told: Any) -> bytes:
    """The command as a later version would write it."""
    return orjson.dumps(orjson.loads(encode(command)) | told)


@pytest.mark.parametrize("case", golden("commands-e98b22b.json"))
def test_what_e98b22b_wrote_is_read(case: str) -> None:
    """An API of before, with the projectors of now."""
    value = golden("commands-e98b22b.json")[case]
    assert encode(decode(value)) == value


@pytest.mark.parametrize("case", golden("commands.json"))
def test_a_reader_of_before_reads_what_it_knows_and_stops_at_what_it_does_not(case: str) -> None:
    """An API of now, with the projectors of before: never a bad record, which would be buried."""
    value = golden("commands.json")[case]
    if orjson.loads(value)["op"] in SINCE:
        with pytest.raises(NewerVersion):
            E98B22B.decode(value)
    else:
        assert E98B22B.decode(value).at


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"op": "forecast"}, NewerVersion),
        ({"v": 2}, NewerVersion),
        ({"v": 2, "fragment": {"of": "another kind"}}, NewerVersion),
        ({"fragment": {"of": "another kind"}}, BadRecord),
        ({"op": "forecast", "id": "no uuid"}, BadRecord),
        ({"v": "2"}, BadRecord),
        ({"v": 1, "unheard": {"of": 1}}, None),
    ],
)
def test_a_newer_record_is_told_from_a_bad_one(told: dict[str, Any], expected: type[Exception] | None) -> None:
    value = future(write("a", 1, x=1), **told)
    if expected is None:
        assert decode(value)
        return
    with pytest.raises(expected):
        decode(value)


def test_a_command_is_written_in_its_format_and_older_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = encode(write("a", 1, x=1))
    monkeypatch.setitem(FORMATS, Write, 3)
    assert orjson.loads(encode(write("a", 1, x=1)))["v"] == 3
    assert "v" not in orjson.loads(encode(Erase(id=uuid4(), project=1, at=1, fragment=fragment_id(1, "a"), iver=1)))
    reader = CommandDecoder(Command, FORMATS)
    assert [reader.decode(before).v, reader.decode(future(write("a", 1), v=2)).v] == [1, 2]
    assert reader.decode(encode(write("a", 1, x=1))).v == 3
    with pytest.raises(NewerVersion):
        reader.decode(future(write("a", 1), v=4))
    with pytest.raises(NewerVersion):
        decode(encode(write("a", 1, x=1)))


def test_the_fields_of_a_command_change_only_with_its_format_or_knowingly() -> None:
    """commands.py says which change of a field needs the next format."""
    found = {}
    for kind in [*get_args(Command), Scope, module.Restored]:
        fields = msgspec.structs.fields(kind)
        tag = kind.__struct_config__.tag or kind.__name__
        found[str(tag)] = {
            "format": FORMATS.get(kind, 1),
            "required": [one.encode_name for one in fields if one.required],
            "optional": [one.encode_name for one in fields if not one.required],
        }
    assert found == json.loads((GOLDEN / "formats.json").read_text())


class Stage:
    """Workers of one version or another on one log and its tables."""

    def __init__(self) -> None:
        self.log, self.tables = MemoryLog(PARTITIONS), MemoryTables()

    def worker(self, topic: str, reader: CommandDecoder | None = None) -> Worker:
        folder: Folder = FragmentFolder() if topic == COMMANDS else IdentityFolder()
        monotonic = asyncio.get_running_loop().time
        made = Worker(
            log=self.log, reader=self.log.reader(topic, "g"), tables=self.tables, folder=folder, monotonic=monotonic
        )
        if reader is not None:
            made.read = reader.decode
        return made

    async def tell(self, *commands: Command | bytes) -> None:
        """Append; bytes go where the fragment a has its commands."""
        for command in commands:
            value = command if isinstance(command, bytes) else encode(command)
            topic, partition, key = route(write("a", 0) if isinstance(command, bytes) else command, PARTITIONS)
            await self.log.append([Entry(topic, partition, key, value)])

    async def reached(self, worker: Worker, positions: Mapping[int, int]) -> None:
        """Project until the worker stands at these offsets, and some time more."""
        task = asyncio.create_task(worker.run())
        async with asyncio.timeout(SECONDS_MAX):
            while {partition: position.offset for partition, position in worker.positions.items()} != positions:
                await asyncio.sleep(0.05)
        await asyncio.sleep(30)
        assert {partition: position.offset for partition, position in worker.positions.items()} == positions
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def properties(self, name: str) -> dict[str, Any]:
        row = self.tables.state[COMMANDS].get((1, fragment_id(1, name)))
        return r.fragment_of(row).properties if row else {}


A_PARTITION = route(write("a", 0), PARTITIONS)[1]
OTHER = next(name for name in map(str, range(100)) if route(write(name, 0), PARTITIONS)[1] != A_PARTITION)


@virtual
@pytest.mark.parametrize("told", [{"op": "forecast"}, {"v": 2}], ids=["op", "v"])
@pytest.mark.parametrize("first", [False, True], ids=["after others", "first"])
async def test_a_newer_record_stops_its_partition_in_one_line_and_buries_and_skips_nothing(
    told: dict[str, Any], first: bool
) -> None:
    stage = Stage()
    before = [] if first else [write("a", 1, x=1)]
    await stage.tell(*before, future(write("a", 2, y=2), **told), write("a", 3, z=3), write(OTHER, 4, other=1))
    old = stage.worker(COMMANDS)
    with capture_logs() as lines:
        await stage.reached(old, {A_PARTITION: len(before) - 1, 1 - A_PARTITION: 0})
    assert [line for line in lines if line["event"] == "stopped"] == [{
        "event": "stopped", "log_level": "error", "service": "projector", "topic": COMMANDS, "partition": A_PARTITION,
        "reason": f"A newer version wrote this; upgrade the projectors first. Offset {len(before)}.",
    }]  # fmt: skip
    assert old.stopped.keys() == {A_PARTITION}
    assert (stage.log.records(DEAD), stage.properties("a")) == ([], {} if first else {"x": 1})
    assert stage.properties(OTHER) == {"other": 1}, "other partitions go on"
    assert _duty([old, stage.worker(IDENTITY)], PARTITIONS) is not Duty.OTHERS, "and who feeds the search table feeds"


@virtual
async def test_the_upgraded_projector_goes_on_where_the_older_one_stopped() -> None:
    stage = Stage()
    purge = module.Purge(
        id=uuid4(), project=1, at=3, fragment=fragment_id(1, "a"), names=("x",), before=3, request=uuid4()
    )
    await stage.tell(write("a", 1, x=1), write("a", 2, y=2), purge, write("a", 4, z=3), write(OTHER, 5, other=1))
    await stage.reached(stage.worker(COMMANDS, E98B22B), {A_PARTITION: 1, 1 - A_PARTITION: 0})
    assert stage.properties("a") == {"x": 1, "y": 2}
    await stage.reached(stage.worker(COMMANDS), {A_PARTITION: 3, 1 - A_PARTITION: 0})
    assert (stage.properties("a"), stage.log.records(DEAD)) == ({"y": 2, "z": 3}, [])


@virtual
async def test_an_older_projector_stops_at_a_newer_command_of_identity() -> None:
    stage = Stage()
    person = fragment_id(1, "a")
    restore = module.Restore(id=uuid4(), project=1, at=2, person=person, request=uuid4(), iver=1, members=())
    split = SplitPerson(id=uuid4(), project=1, at=3, person=person, leave=(person,))
    await stage.tell(split, restore, split)
    await stage.reached(stage.worker(IDENTITY, E98B22B), {0: 0})
    assert stage.log.records(DEAD) == []


@virtual
async def test_a_partition_that_stopped_is_tried_again_by_whoever_takes_it_over() -> None:
    """The same process, too: somebody else may have projected further meanwhile."""
    stage = Stage()
    await stage.tell(write("a", 1, x=1), future(write("a", 2, y=2), op="forecast"))
    one = stage.worker(COMMANDS)
    task = asyncio.create_task(one.run())
    await asyncio.sleep(5)
    assert one.stopped.keys() == {A_PARTITION}
    one._reader.assign(frozenset({1 - A_PARTITION}))  # type: ignore[attr-defined]
    await asyncio.sleep(5)
    assert one.stopped == {}
    with capture_logs() as lines:
        one._reader.assign(frozenset({0, 1}))  # type: ignore[attr-defined]
        await asyncio.sleep(5)
    assert one.stopped.keys() == {A_PARTITION}
    assert [line["event"] for line in lines] == ["stopped"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@virtual
async def test_a_life_with_a_fact_of_a_newer_version_is_not_opened_again_without_it() -> None:
    stage = Stage()
    person = fragment_id(1, "a")
    delete = Delete(id=uuid4(), project=1, at=2, person=person, request=uuid4())
    await stage.tell(write("a", 1, x=1), delete)
    await stage.reached(stage.worker(IDENTITY), {0: 0})
    await stage.reached(stage.worker(COMMANDS), {A_PARTITION: 1, 1 - A_PARTITION: -1})
    (erased,) = [event_of(row) for row in stage.tables.timeline.values() if row[3] == FragmentErased.TOPIC]
    assert isinstance(erased, FragmentErased)
    (born,) = [row for row in stage.tables.timeline.values() if row[3] == "fragment.changed"]
    unknown = (*born[:3], "fragment.forecast", *born[4:])
    stage.tables.timeline[unknown[:4]] = unknown
    await stage.tell(Revive(id=uuid4(), project=1, at=3, fragment=person, iver=erased.iver), write(OTHER, 4, other=1))
    one = stage.worker(COMMANDS)
    await stage.reached(one, {A_PARTITION: 1, 1 - A_PARTITION: 0})
    assert (one.stopped.keys(), stage.log.records(DEAD)) == ({A_PARTITION}, [])
    del stage.tables.timeline[unknown[:4]]
    await stage.reached(stage.worker(COMMANDS), {A_PARTITION: 2, 1 - A_PARTITION: 0})
    assert stage.properties("a") == {"x": 1}


def test_an_unknown_fact_is_refused_and_a_failed_record_is_no_fact() -> None:
    row = [""] * len(TIMELINE)
    row[3] = "fragment.forecast"
    with pytest.raises(NewerVersion):
        event_of(tuple(row))
    row[3] = FAILED
    assert event_of(tuple(row)) is None


def test_a_client_is_told_to_come_again_where_an_older_api_would_have_to_leave_facts_out() -> None:
    refusal = errors.refusal_of(NewerVersion(), "/route")
    assert (refusal.status, refusal.code, refusal.headers["Retry-After"]) == (503, "unavailable", "1")


class ListedLedger:
    """What an intake needs of a ledger."""

    def __init__(self) -> None:
        self.documents: dict[UUID, bytes] = {}
        self.at = Standing(Position(DELETIONS, 0, -1), 0)

    async def position(self, partition: int) -> Position:
        return self.at.position

    async def vouched(self, partition: int) -> Standing:
        return self.at

    async def stand(self, topic: str, partitions: Sequence[int]) -> dict[int, Standing]:
        return dict.fromkeys(partitions, self.at)

    async def advance(self, position: Position, record: int) -> None:
        self.at = Standing(position, record)

    async def take(self, commands: Sequence[RequestDeletion | Cancel], now_us: int) -> None:
        known = {request: load(request, document) for request, document in self.documents.items()}
        for request in decide(commands, known):
            self.documents[request.id] = request.document(None)


@asynccontextmanager
async def unlocked() -> Any:
    yield


def intake(log: MemoryLog, ledger: ListedLedger) -> Intake:
    return Intake(
        log=log, reader=log.reader(DELETIONS, "g"), ledger=ledger, lock=unlocked, now_us=lambda: 9  # type: ignore[arg-type]
    )  # fmt: skip


async def ran(one: Intake, until: Callable[[], bool]) -> None:
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(SECONDS_MAX):
        while not until():
            await asyncio.sleep(0.1)
    await asyncio.sleep(5)
    assert until()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def asked(number: int) -> RequestDeletion:
    person = UUID(int=number)
    return RequestDeletion(
        id=uuid4(), project=1, at=number, request=UUID(int=number), person=person, members=(person,),
        scope=Scope(profile=True),
    )  # fmt: skip


@virtual
async def test_a_newer_command_stops_the_ledger_and_the_erasing_until_the_deleter_is_upgraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, ledger = MemoryLog(PARTITIONS), ListedLedger()
    put = partial(Entry, DELETIONS, 0, b"1")
    cancel = Cancel(id=uuid4(), project=1, at=9, request=UUID(int=1))
    await log.append([put(encode(asked(1))), put(encode(cancel)), put(encode(asked(2)))])
    older = CommandDecoder(Capture | RequestDeletion, {})
    monkeypatch.setattr("services.deleter.intake.decode", older.decode)
    one = intake(log, ledger)
    with capture_logs() as lines:
        await ran(one, lambda: bool(one.stopped))
    assert one.stopped == "A newer version wrote this; upgrade the deleter first. Offset 1."
    assert [line["event"] for line in lines] == ["stopped"]
    assert not one.owns(), "what the record says may be that something must not be erased"
    assert (ledger.documents.keys(), ledger.at.position.offset, log.records(DEAD)) == ({UUID(int=1)}, 0, [])
    monkeypatch.setattr("services.deleter.intake.decode", decode)
    one = intake(log, ledger)
    await ran(one, lambda: ledger.at.position.offset == 2)
    assert one.owns()
    assert load(UUID(int=1), ledger.documents[UUID(int=1)]).state == "cancelling"


@virtual
async def test_a_ledger_that_a_newer_version_wrote_stops_an_older_deleter() -> None:
    log, ledger = MemoryLog(PARTITIONS), ListedLedger()
    document = orjson.loads(DeletionRequest.of(asked(1)).document(None))
    document["history"].append({"topic": "deletion.forecast", "timestamp": document["history"][0]["timestamp"]})
    ledger.documents[UUID(int=1)] = orjson.dumps(document)
    with pytest.raises(NewerVersion, match="upgrade the deleter first"):
        load(UUID(int=1), ledger.documents[UUID(int=1)])
    cancel = encode(Cancel(id=uuid4(), project=1, at=9, request=UUID(int=1)))
    await log.append([Entry(DELETIONS, 0, b"1", cancel)])
    await ran(one := intake(log, ledger), lambda: bool(one.stopped))
    assert (one.owns(), ledger.at.position.offset) == (False, -1)


def test_a_field_that_a_newer_version_added_to_a_fact_of_the_ledger_is_left_out() -> None:
    document = orjson.loads(DeletionRequest.of(asked(1)).document(None))
    document["history"][0]["forecast"] = 1
    assert load(UUID(int=1), orjson.dumps(document)).state == "pending"


def test_every_kind_has_an_op_of_its_own() -> None:
    ops = [kind.__struct_config__.tag for kind in get_args(Command)]
    assert len(set(ops)) == len(ops)
