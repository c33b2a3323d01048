"""Purges on a real engine: what a sweep takes from every table, what it leaves, and that a rebuild finds the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.api.reads import persons as reads
from services.deleter.purges import Purges
from services.projector.rebuild.run import Rebuild
from services.projector.search import Feeder
from shared.domain.commands import Capture, MergePersons, Purge, RequestDeletion, Scope, SplitPerson, Write
from shared.domain.ids import fragment_id
from shared.domain.person.cells import ONCE, SET, UNSET
from shared.domain.person.fragment_events import FragmentChanged, FragmentEvent, FragmentPurged
from shared.domain.person.lifted import copies
from shared.domain.person.replay import FOREVER
from shared.domain.purged import Cut, stripped, without
from shared.store import purged
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import Query
from shared.store.lives import load_with_lives
from shared.store.targets import TABLES
from shared.store.timeline import timeline_row
from tests.support.erasing import JANUARY, MARCH, World

NOBODY = UUID(int=0)
VALUES = ("SECRET-1", "SECRET-2", "SECRET-3", "SECRET-4", "SECRET-5")


def captured(world: World, who: str, month: int = JANUARY, **properties: Any) -> Capture:
    """An event whose properties say what it sets, as the API has them."""
    capture = world.capture(who, month)
    sets, once = properties.get("$set", {}), properties.get("$set_once", {})
    raw = msgspec.Raw(orjson.dumps(properties))
    return msgspec.structs.replace(capture, set=sets, set_once=once, properties=raw)


def purge_of(world: World, who: str | None, key: str = "ssn") -> list[Any]:
    """What the API sends for one person of one distinct id, or for the project."""
    world.at += 1
    request, at = uuid4(), world.at
    members = () if who is None else (fragment_id(1, who),)
    common: dict[str, Any] = {"project": 1, "at": at, "request": request}
    purges = [Purge(id=uuid4(), fragment=one, names=copies(key), before=at, **common) for one in members]
    person = members[0] if members else NOBODY
    return [*purges, RequestDeletion(id=uuid4(), person=person, members=members, scope=Scope(purge=key), **common)]


async def everything(world: World) -> dict[str, str]:
    """All rows of all tables as text, hidden ones too."""
    await world.settle()
    await Feeder(world.store, world.log.partitions()).feed()
    found = {}
    for table in TABLES:
        rows = await world.store.rows_with_hidden(
            Query(name="all", sql=f"SELECT formatRow('JSONEachRow', *) FROM {table}")
        )
        found[table] = "".join(row[0] for row in rows)
    return found


async def unmerged(world: World) -> None:
    """Superseded rows stay until they are erased, as they would in large parts."""
    for table in TABLES:
        setting = f"ALTER TABLE {table} MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1"
        await world.store.command(Query(name="unmerged", sql=setting))


async def window(world: World) -> list[Any]:
    """What `deletions run` does."""
    await world.settle()
    sweep = world.sweep()

    async def projected() -> bool:
        return await sweep.projected([*await world.log.heads("personlog.commands")])

    purges = Purges(world.log, world.store, world.ledger, world.clock.now_us, projected)
    for _ in range(100):
        ready = await purges.spread(again=True)
        await world.settle()
        if len(ready) == len(await world.ledger.purges()):
            break
    await Feeder(world.store, world.log.partitions()).feed()
    assert await purges.search_caught_up()
    return await sweep.run(projected=True, purged=ready)


async def verified(world: World) -> None:
    report = await Rebuild(world.store, world.log.partitions(), world.clock.now_us, lambda report: None).run(
        verify=True
    )
    assert (report.state, report.differences, report.corrupt) == ("swapped", 0, 0), report.findings


async def test_a_purge_takes_the_values_of_one_person_from_every_table(world: World) -> None:
    await unmerged(world)
    feeder = Feeder(world.store, world.log.partitions())
    for who in ("ann", "bob"):
        await world.tell(
            captured(world, who, **{"$set": {"ssn": f"SECRET of {who}", "a": 1.0}, "ssn": "own", "n": 1.0})
        )
        await world.settle()
        await feeder.feed()
        await world.tell(
            captured(world, who, MARCH, **{"$set_once": {"ssn": f"SECRET again {who}", "b": [1, {"x": "y,}"}]}})
        )
        await world.settle()
        await feeder.feed()
    before = await everything(world)
    assert all("SECRET of ann" in before[table] for table in ("timeline", "captured_events", "fragments", "search"))
    purge, request = purge_of(world, "ann")
    await world.tell(purge, request)
    await world.tell(captured(world, "ann", MARCH, **{"$set": {"ssn": "NEW of ann"}}))
    (ended,) = await window(world)
    assert (ended.state, ended.id) == ("verified", request.request), ended.reason
    assert ended.hidden["purged_events"] == 2
    assert ended.hidden["purged_timeline"] == 1  # the set_once had no effect
    assert ended.hidden["purged_fragments"] >= 1
    assert ended.hidden["purged_search"] >= 1
    after = await everything(world)
    assert "SECRET of ann" not in str(after)
    assert "SECRET again ann" not in str(after)
    for table in ("timeline", "captured_events"):
        assert "NEW of ann" in after[table]
        assert after[table].count("bob") == before[table].count("bob")
    assert after["captured_events"].count('\\"n\\":1.0') == 2
    assert '\\"$set\\":{\\"a\\":1.0},\\"ssn\\":\\"own\\"' in after["captured_events"]
    await verified(world)


async def test_imports_and_late_events_bring_nothing_back(world: World) -> None:
    first = captured(world, "ann", **{"$set": {"ssn": "SECRET", "a": 1}})
    await world.tell(first, *purge_of(world, "ann"))
    await world.settle()
    await verified(world)
    assert [one.state for one in await window(world)] == ["verified"]
    late = msgspec.structs.replace(first, id=uuid4(), uuid=uuid4(), at=world.at + 9, historical=True)
    await world.tell(first, late)
    await world.tell(captured(world, "ann", **{"$set": {"b": 2}}))
    found = await everything(world)
    assert "SECRET" not in str(found)
    (row,) = [row for row in await world.rows("fragments", "ann") if '"b":2' in row[0]]
    assert orjson.loads(row[0]) == {"a": 1, "b": 2}
    assert await window(world) == []
    await verified(world)


async def test_a_purge_of_a_project_finds_everybody_who_has_anything_of_it(world: World) -> None:
    people = [f"p{number}" for number in range(30)]
    await world.tell(*(captured(world, who, **{"$set": {"ssn": f"SECRET {who}", "email": who}}) for who in people))
    await world.tell(captured(world, "lacking", **{"$set": {"email": "lacking"}}))
    nobody = msgspec.structs.replace(captured(world, "anon", **{"$set": {"ssn": "SECRET anon"}}), person=False, set={})
    gone = captured(world, "gone", **{"$set": {"ssn": "SECRET gone"}})
    other = msgspec.structs.replace(captured(world, "other", **{"$set": {"ssn": "KEPT"}}), project=2)
    await world.tell(nobody, gone, msgspec.structs.replace(other, fragment=fragment_id(2, "other")))
    await world.settle()
    await world.tell(world.delete("gone", Scope(profile=True)))
    await world.settle()
    (request,) = purge_of(world, None)
    await world.tell(request)
    await world.tell(captured(world, "p1", **{"$set": {"ssn": "NEW"}}))
    ended = await window(world)
    assert {one.state for one in ended} == {"verified"}, [one.reason for one in ended]
    after = await everything(world)
    assert "SECRET" not in str(after)
    assert "NEW" in after["captured_events"] and "NEW" in after["fragments"]
    assert after["captured_events"].count("KEPT") == 1
    facts = Query(name="facts", sql="SELECT uniqExact(fragment) FROM timeline WHERE topic = 'fragment.purged'")
    # everybody with the value, the event without a person, and who is gone
    assert await world.store.rows(facts) == [(32,)]
    await verified(world)


async def test_a_former_root_keeps_no_row_with_the_value(world: World) -> None:
    await unmerged(world)
    feeder = Feeder(world.store, world.log.partitions())
    ann, bob = fragment_id(1, "ann"), fragment_id(1, "bob")
    await world.tell(
        captured(world, "ann", **{"$set": {"a": 1}}), captured(world, "bob", **{"$set": {"ssn": "SECRET"}})
    )
    await world.settle()
    common: dict[str, Any] = {"project": 1, "at": world.at}
    for command in (
        MergePersons(id=uuid4(), into=ann, source=bob, mode="operator", **common),
        SplitPerson(id=uuid4(), person=ann, keep=ann, **common),
    ):
        await world.tell(command)
        await world.settle()
        await feeder.feed()
    await world.tell(*purge_of(world, "bob"))
    (ended,) = await window(world)
    assert ended.state == "verified"
    assert ended.hidden["purged_search"] >= 3
    assert "SECRET" not in str(await everything(world))


async def test_a_lifted_property_goes_with_its_first_value_and_the_events_own(world: World) -> None:
    sent = {"$browser": "SECRET", "$set_once": {"$initial_browser": "SECRET", "x": 1}, "$os": "KEPT"}
    event = captured(world, "ann", **sent)
    lifted = msgspec.structs.replace(event, lifted={"$browser": "SECRET", "$os": "KEPT"})
    await world.tell(lifted, *purge_of(world, "ann", "$browser"))
    assert [one.state for one in await window(world)] == ["verified"]
    after = await everything(world)
    assert "SECRET" not in str(after)
    assert '{\\"$set_once\\":{\\"x\\":1},\\"$os\\":\\"KEPT\\"}' in after["captured_events"]


async def test_what_crashed_between_the_log_and_the_ledger_is_done_by_the_next_look(world: World) -> None:
    """The request is there, no command is: as if the API had died in between."""
    await world.tell(captured(world, "ann", **{"$set": {"ssn": "SECRET"}}))
    await world.tell(purge_of(world, "ann")[-1])
    await world.settle()
    assert await world.sweep().run(projected=True) == []
    assert [one.state for one in await window(world)] == ["verified"]
    assert "SECRET" not in str(await everything(world))


async def test_a_purge_of_a_name_that_nobody_has_is_verified_with_no_row(world: World) -> None:
    await world.tell(captured(world, "ann", **{"$set": {"a": 1}}))
    await world.tell(*purge_of(world, None, "nobody has it"), *purge_of(world, "ann", "nor this"))
    ended = await window(world)
    assert [one.state for one in ended] == ["verified"] * 2
    assert {
        rows for one in ended for target, rows in one.hidden.items() if target in ("purged_events", "purged_timeline")
    } == {0}


async def test_a_set_once_that_a_purge_left_goes_with_a_later_one_and_a_rebuild_is_the_same_throughout(
    world: World,
) -> None:
    """What it had taken the place of, imports around it: the live fold and a rebuild told two values."""

    def sends(stamp: int, **properties: Any) -> Capture:
        return captured(world, "ann", JANUARY + stamp, **properties)

    def imports(stamp: int) -> Capture:
        sent = sends(0, **{"$set_once": {"ssn": "SECRET imported"}})
        return msgspec.structs.replace(sent, historical=True, timestamp=JANUARY + stamp)

    unset = Write(
        id=uuid4(), project=1, at=JANUARY + 35, fragment=fragment_id(1, "ann"), distinct_id="ann", unset=("ssn",),
        since=JANUARY + 15, reason="import",
    )  # fmt: skip
    world.at = JANUARY + 19
    first = purge_of(world, "ann")
    await world.tell(sends(30, **{"$set_once": {"ssn": "LATER 1", "a": 1}}), imports(10), unset)
    await world.tell(sends(40, **{"$set_once": {"ssn": "LATER 2"}}), *first)
    for swept in (False, True):
        found = await everything(world)
        assert ("SECRET" in found["timeline"]) is not swept
        assert f'[{JANUARY + 41},\\"LATER 2\\"]' in found["timeline"]
        (*_, (row, _, _)) = await world.rows("fragments", "ann")
        assert orjson.loads(row) == {"a": 1, "ssn": "LATER 2"}
        assert await readers(world, "ann") == {"history": ["LATER 1", "LATER 2"], "views": ["LATER 1", "LATER 2"]}
        await verified(world)
        if not swept:
            assert [one.state for one in await window(world)] == ["verified"]
    await world.tell(*purge_of(world, "ann"))
    await world.settle()
    assert await readers(world, "ann") == {"history": [], "views": []}
    await verified(world)
    (ended,) = await window(world)
    assert (ended.state, ended.hidden["purged_timeline"]) == ("verified", 3), ended.reason
    assert "LATER" not in str(await everything(world))
    await verified(world)


async def readers(world: World, who: str) -> dict[str, list[str]]:
    """The values of `ssn` that provenance and the analysts' views tell of."""
    queries = load_with_lives(Path(reads.__file__).with_suffix(".sql"))
    history = await world.store.rows(
        queries["property_history"], project=1, fragments=[fragment_id(1, who)], key="ssn", until=FOREVER, limit=99,
        offset=0,
    )  # fmt: skip
    views = [
        await world.store.rows(Query(name="view", sql=f"SELECT toString(after) FROM {view} ORDER BY stamp"))
        for view in ("property_changes WHERE key = 'ssn'", "changes_of(key = 'ssn')")
    ]
    assert views[0] == views[1]
    values = [row[9] for row in reversed(history) if not row[11]]
    assert all(row[9] == "" for row in history if row[11])
    told = {"history": values, "views": [text for (text,) in views[0]]}
    return {reader: [orjson.loads(text) for text in texts if text] for reader, texts in told.items()}


INNER = st.sampled_from(("a", "$set", "ssn", '"', "b,c", "ü/"))
NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(("a", "ssn", "$browser", "$initial_browser", 'q"', "a/b", "b,c", "\\", "ü\u2028\n", "$set"))
EVENTS = st.dictionaries(NAMES | st.just("$set_once"), JSON, max_size=4) | st.fixed_dictionaries(
    {"$set": st.dictionaries(NAMES, JSON, max_size=4)},
    optional={"$set_once": st.dictionaries(NAMES, JSON, max_size=4) | JSON, "$browser": JSON, "z": JSON},
)


@pytest.fixture
async def events_store(engine_url: str) -> Any:
    store = await Store.connect(engine_url)
    await store.create_database()
    yield store
    await store.close()


async def test_sql_and_python_leave_the_same_of_an_event(events_store: Store) -> None:
    text = purged.stripped("names", "sent")
    query = Query(name="strip", sql=f"""SELECT {text} FROM (SELECT arrayJoin({{sent:Array(String)}}) AS sent,
        {{names:Array(String)}} AS names)""")  # fmt: skip
    found: list[tuple[dict[str, Any], list[str]]] = []

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(EVENTS, st.lists(NAMES, max_size=3))
    def collect(event: dict[str, Any], names: list[str]) -> None:
        found.append((event, names))

    collect()
    by_names: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for event, names in found:
        by_names.setdefault(tuple(sorted(set(names))), []).append(event)
    assert len(by_names) > 20
    for names, events in by_names.items():
        told = await events_store.rows(
            query, sent=[orjson.dumps(event).decode() for event in events], names=list(names)
        )
        assert [row[0] for row in told] == [orjson.dumps(stripped(event, names)).decode() for event in events], names


STAMPS = st.integers(1, 6)
KEYS = st.sampled_from(("a", 'q"'))
OPERATIONS = st.lists(
    st.tuples(KEYS, st.sampled_from((SET, UNSET, ONCE)), st.sampled_from((1, "x", [1, "[9]"])), st.booleans()),
    min_size=1, max_size=2, unique_by=lambda operation: operation[0],
)  # fmt: skip


@st.composite
def facts(draw: Any) -> FragmentEvent:
    """A change, or a purge that left set_onces."""
    head: dict[str, Any] = {
        "originator_id": NOBODY, "originator_version": draw(STAMPS), "timestamp": draw(STAMPS),
    }  # fmt: skip
    operations = draw(OPERATIONS)
    names, kinds = tuple(one[0] for one in operations), tuple(one[1] for one in operations)
    if draw(st.booleans()):
        left = tuple((draw(STAMPS), one[2]) if one[1] == ONCE and one[3] else None for one in operations)
        return FragmentPurged(**head, names=names, kinds=kinds, remains=left, request=NOBODY)
    values = tuple(None if one[1] == UNSET else one[2] for one in operations)
    before = tuple("before" if one[3] else msgspec.UNSET for one in operations)
    return FragmentChanged(**head, names=names, kinds=kinds, values=values, before=before)


async def test_sql_and_python_leave_the_same_of_a_fact(events_store: Store) -> None:
    types = {
        "topic": "String", "version": "UInt64", "stamp": "Int64", "keys": "Array(String)", "kinds": "Array(UInt8)",
        "before": "Array(String)", "after": "Array(String)", "cuts": "Array(Tuple(String, Int64, UInt64))",
    }  # fmt: skip
    row_type = ", ".join(f"{name} {kind}" for name, kind in types.items())
    columns_of = ", ".join(f"tupleElement(one, '{name}') AS {name}" for name in types)
    texts = [purged.elements("cuts")[column] for column in purged.COLUMNS]
    query = Query(name="left", sql=f"""SELECT {", ".join(texts)}, {purged.touched("cuts")} FROM (SELECT {columns_of}
        FROM (SELECT JSONExtract(arrayJoin({{rows:Array(String)}}), 'Tuple({row_type})') AS one))""")  # fmt: skip
    found: list[tuple[FragmentEvent, list[Cut]]] = []

    @settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(facts(), st.lists(st.builds(Cut, KEYS, STAMPS, st.integers(3, 12)), max_size=4))
    def collect(event: FragmentEvent, cuts: list[Cut]) -> None:
        found.append((event, cuts))

    collect()
    cause = Write(id=NOBODY, project=1, at=0, fragment=NOBODY)
    columns = ("topic", "version", "stamp", *purged.COLUMNS)
    rows = []
    for event, cuts in found:
        row = timeline_row(event, cause)
        named = dict(zip(columns, (row[3], row[2], row[5], *row[12:16]), strict=True))
        rows.append(orjson.dumps(named | {"cuts": [tuple(cut) for cut in cuts]}).decode())
    told = await events_store.rows(query, rows=rows)
    taken = 0
    for (event, cuts), (*arrays, touched) in zip(found, told, strict=True):
        kept = without(event, cuts)
        assert [list(one) for one in arrays] == list(timeline_row(kept, cause)[12:16]), (event, cuts)
        assert bool(touched) == (kept != event), (event, cuts)
        taken += isinstance(event, FragmentPurged) and bool(touched)
    assert taken > 5
