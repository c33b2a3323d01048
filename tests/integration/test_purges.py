"""Purges on a real engine: what a sweep takes from every table, what it leaves, and that a rebuild finds the same."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.deleter.purges import Purges
from services.projector.rebuild import Rebuild
from services.projector.search import Feeder
from shared.domain.commands import Capture, Merge, Purge, Request, Scope, Split
from shared.domain.ids import fragment_id
from shared.domain.lifted import copies
from shared.domain.purged import stripped
from shared.store import purged
from shared.store.client import Store
from shared.store.queries import Query
from shared.store.targets import TABLES
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
    return [*purges, Request(id=uuid4(), person=person, members=members, scope=Scope(purge=key), **common)]


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
    assert await purges.passed()
    return await sweep.run(projected=True, purged=ready)


async def verified(world: World) -> None:
    report = await Rebuild(world.store, world.log.partitions(), world.clock.now_us, lambda report: None).run(
        verify=True
    )
    assert (report.state, report.differences, report.corrupt) == ("swapped", 0, 0), report.named


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
        Merge(id=uuid4(), into=ann, source=bob, mode="operator", **common),
        Split(id=uuid4(), person=ann, keep=ann, **common),
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
