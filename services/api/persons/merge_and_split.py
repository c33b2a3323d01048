"""Merge and split over REST. Both change memberships only, never a property.

A dry run folds the command on a copy of the rows that were read, with the fold of the real run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.api.calls import RestCall
from services.api.http.parameters import DRY_RUN
from services.api.http.routing import EndpointResult, Route
from services.api.reads.as_of import persons_at, stamp_of
from services.api.reads.lookup import (
    addressed_by,
    fragment_of,
    fragments_named,
    holder_of,
    named_until,
)
from services.api.writes.idempotency import (
    WriteOutcome,
    carry_out,
    earlier,
    envelope,
    keyed,
    person_after,
    raise_refusal,
)
from services.api.writes.preconditions import check_if_match
from services.api.writes.schemas import (
    MergeBody,
    MergePreview,
    PersonBody,
    ResetDistinctId,
    SplitBody,
    SplitDone,
)
from shared.domain.commands import IdentityCommand, MergePersons, SplitPerson
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import IDENTITY
from shared.domain.person.identity import Decision, Membership, handle
from shared.domain.person.identity_events import MergeRefused, SplitRefused
from shared.inputs.ids import id_spellings
from shared.store.person import Person, assemble

Deletes = Mapping[UUID, tuple[int, int]]
"""By fragment, the identity version of its last delete, and when that was asked for in
microseconds."""

_NO_DELETES: Deletes = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def split(call: RestCall) -> EndpointResult:
    """Move distinct ids out of a person. Each gets back the properties that were set through it."""
    body = call.read(SplitBody)
    dry = call.parameter(DRY_RUN)
    choice = _choice_of(body)
    addressed = await addressed_by(call)
    keyed_write = keyed(call, addressed.fragment, "split", choice)
    outcome = None if dry else await earlier(call, IDENTITY, keyed_write)
    if outcome is None:
        person = addressed.person
        check_if_match(call.request, person)
    else:
        person = await _before(call, addressed.fragment, outcome)
    keep, leave = _split_of(choice, person)
    command = SplitPerson(
        **envelope(call, keyed_write),
        person=keyed_write.fragment,
        keep=keep,
        leave=leave,
    )
    stays = keep or next(
        member.fragment for member in person.members if member.fragment not in leave
    )
    if dry:
        return EndpointResult(
            body={
                "success": True,
                "persons": _summaries(_trial_of(command, [person]), stays),
            }
        )
    outcome = outcome or await carry_out(call, keyed_write, [command], [person.uuid])
    return await _split_answer(
        call, outcome, [member.fragment for member in person.members], stays
    )


async def merge(call: RestCall) -> EndpointResult:
    """Merge another person into this one, including identified persons."""
    body = call.read(MergeBody)
    dry = call.parameter(DRY_RUN)
    into = await fragment_of(call)
    source = await _source(call, body)
    since = _since(body)
    keyed_write = keyed(call, into, "merge", str(source), *([since] if since else []))
    outcome = None if dry else await earlier(call, IDENTITY, keyed_write)
    if outcome is None:
        (survivor, into_erase), (absorbed, source_erase) = (
            await _person_and_erase(call, into),
            await _person_and_erase(call, source),
        )
        check_if_match(call.request, survivor)
        command = MergePersons(
            **envelope(call, keyed_write),
            into=into,
            source=source,
            mode="operator",
            since=since,
            into_erase=into_erase,
            source_erase=source_erase,
        )
        if dry:
            deletes = await _deletes_of(call, [into, source]) if since else {}
            return _merge_preview(command, survivor, absorbed, deletes)
        outcome = await carry_out(
            call, keyed_write, [command], [survivor.uuid, source, absorbed.uuid]
        )
    if not outcome.visible:
        return EndpointResult(status=202, positions=outcome.positions)
    after = await person_after(call, into, outcome)
    return EndpointResult(
        body=after.to_json(), positions=outcome.positions, headers=outcome.headers
    )


async def reset_person_distinct_id(call: RestCall) -> EndpointResult:
    """Always answers 202. Distinct ids need no reset here."""
    call.read(ResetDistinctId)
    return EndpointResult(status=202)


COLLECTION_ROUTES = (
    Route(
        "POST",
        "/reset_person_distinct_id",
        "person:write",
        reset_person_distinct_id,
        body=ResetDistinctId,
        status=202,
        name="reset_person_distinct_id",
    ),
)
ROUTES = (
    Route(
        "POST",
        "/{id}/split",
        "person:write",
        split,
        (DRY_RUN,),
        SplitBody,
        SplitDone,
        errors=(412,),
        name="split_person",
    ),
    Route(
        "POST",
        "/{id}/merge",
        "person:write",
        merge,
        (DRY_RUN,),
        MergeBody,
        (PersonBody, MergePreview),
        errors=(412,),
        name="merge_person",
    ),
)


def _choice_of(body: SplitBody) -> tuple[str | None, list[str] | None]:
    """(main_distinct_id, distinct_ids_to_split) of the body, at most one of them."""
    if body.distinct_ids_to_split is not None and body.main_distinct_id is not None:
        raise BadInput(
            "Not together with main_distinct_id.", attr="distinct_ids_to_split"
        )
    return body.main_distinct_id, body.distinct_ids_to_split


def _split_of(
    choice: tuple[str | None, list[str] | None], person: Person
) -> tuple[UUID | None, tuple[UUID, ...]]:
    """(the fragment that stays alone or None, the fragments that leave)."""
    main, to_leave = choice
    members = {member.distinct_id: member.fragment for member in person.members}
    if to_leave is not None:
        leave: dict[UUID, None] = {}
        for distinct_id in to_leave:
            fragment = _member_called(members, distinct_id)
            if fragment is None:
                raise BadInput(
                    f"Not of this person: {distinct_id[:400]}",
                    attr="distinct_ids_to_split",
                )
            leave[fragment] = None
        if len(leave) == len(person.members):
            raise BadInput(
                "At least one distinct id must stay.", attr="distinct_ids_to_split"
            )
        return None, tuple(leave)
    keep = _member_called(members, person.distinct_ids[0] if main is None else main)
    if keep is None:
        raise BadInput("Not a distinct id of this person.", attr="main_distinct_id")
    return keep, ()


def _member_called(members: Mapping[str, UUID], distinct_id: str) -> UUID | None:
    """The fragment that a distinct id means, of a person's by their distinct ids."""
    return next(
        (
            members[spelling]
            for spelling in id_spellings(distinct_id)
            if spelling in members
        ),
        None,
    )


async def _source(call: RestCall, body: MergeBody) -> UUID:
    if (body.source is None) == (body.distinct_id is None):
        raise BadInput("Either source (an id or uuid) or distinct_id.", attr="source")
    if body.distinct_id is not None:
        (persons,) = await named_until(call, [body.distinct_id], None)
        fragments = fragments_named(call.project.id, body.distinct_id)
        return next(
            (
                fragment
                for fragment in fragments
                for person in persons
                if fragment in (member.fragment for member in person.members)
            ),
            fragments[0],
        )
    try:
        return await fragment_of(call, str(body.source))
    except BadInput:
        raise BadInput(
            "source must be an integer id or a uuid.", attr="source"
        ) from None


def _since(body: MergeBody) -> int:
    """The time of an imported merge in microseconds, at least 1; 0 for a merge of now. A time
    without a zone is UTC."""
    if body.timestamp is None:
        return 0
    moment = (
        body.timestamp
        if body.timestamp.tzinfo is not None
        else body.timestamp.replace(tzinfo=UTC)
    )
    return max((moment - _EPOCH) // timedelta(microseconds=1), 1)


async def _person_and_erase(call: RestCall, fragment: UUID) -> tuple[Person, int]:
    """The living person that holds a fragment, and the version of the delete before its present
    life. NotFound when there is none."""
    person = await holder_of(call, fragment)
    for member in person.members:
        if member.fragment == fragment:
            return person, member.erased
    erase, _ = (await _deletes_of(call, [fragment])).get(fragment, (0, 0))
    return await holder_of(
        call, fragment
    ), erase  # a delete between the two leaves nobody here, a later one is seen


async def _before(call: RestCall, fragment: UUID, outcome: WriteOutcome) -> Person:
    """The person as it was before an earlier split dissolved it."""
    until = await stamp_of(call.context, call.project.id, outcome.positions)
    before = (await persons_at(call.context, call.project.id, [fragment], until - 1))[0]
    if before is None:
        raise NotFound("Not found.")
    return before


async def _split_answer(
    call: RestCall, outcome: WriteOutcome, members: Sequence[UUID], stays: UUID
) -> EndpointResult:
    """All persons involved, the remaining one first: as they are now, or as they were after the
    first request."""
    if not outcome.visible:
        return EndpointResult(status=202, positions=outcome.positions)
    if outcome.first is None:
        after = await call.context.reads.by_fragments(call.project.id, members)
    else:
        until = await stamp_of(call.context, call.project.id, [outcome.first])
        after = await persons_at(call.context, call.project.id, members, until)
    summaries = _summaries([person for person in after if person is not None], stays)
    return EndpointResult(
        body={"success": True, "persons": summaries},
        positions=outcome.positions,
        headers=outcome.headers,
    )


def _summaries(persons: Iterable[Person], stays: UUID) -> list[dict[str, Any]]:
    involved = list({person.uuid: person for person in persons}.values())
    involved.sort(
        key=lambda person: all(member.fragment != stays for member in person.members)
    )
    return [
        {
            "uuid": str(person.uuid),
            "id": person.number,
            "distinct_ids": person.distinct_ids,
        }
        for person in involved
    ]


async def _deletes_of(call: RestCall, fragments: Sequence[UUID]) -> Deletes:
    rows = await call.context.store.rows(
        call.context.reads.queries["deletes_of"],
        project=call.project.id,
        fragments=list(fragments),
    )
    return {fragment: (erase, erased_at) for fragment, erase, erased_at in rows}


def _merge_preview(
    command: MergePersons, survivor: Person, absorbed: Person, deletes: Deletes
) -> EndpointResult:
    """The survivor, the absorbed person, and the properties on which they differ."""
    (result, *_) = _trial_of(command, [survivor, absorbed], deletes)
    survivor_properties = survivor.document()
    absorbed_properties = absorbed.document()
    merged = result.document()
    conflicts = [
        {
            "key": key,
            "survivor": survivor_properties[key],
            "absorbed": absorbed_properties[key],
            "result": merged.get(key),
        }
        for key in sorted(survivor_properties.keys() & absorbed_properties.keys())
        if survivor_properties[key] != absorbed_properties[key]
        and survivor.uuid != absorbed.uuid
    ]
    persons = {
        "survivor": survivor.to_json(),
        "absorbed": absorbed.to_json(),
        "result": result.to_json(),
    }
    return EndpointResult(body=persons | {"conflicts": conflicts})


def _trial_of(
    command: IdentityCommand, persons: Sequence[Person], deletes: Deletes = _NO_DELETES
) -> list[Person]:
    """The persons that the command would leave, folded on copies. Raises the reason of a
    refusal."""
    book: dict[UUID, Membership] = {}
    for person in persons:
        for member in person.members:
            book[member.fragment] = membership = Membership(
                command.project, member.fragment
            )
            membership.root = person.uuid
            membership.identified = member.identified
            membership.members = ()
            membership.erase, membership.erased_at = deletes.get(
                member.fragment, (0, 0)
            )
        book[person.uuid].members = tuple(member.fragment for member in person.members)
    decision: Decision = handle(command, 1, book.__getitem__)
    for membership in decision.touched:
        for event in membership.collect_events():
            if isinstance(event, MergeRefused | SplitRefused):
                raise_refusal(event.reason)
    members = {
        member.fragment: member for person in persons for member in person.members
    }
    roots = [
        membership for membership in book.values() if membership.root == membership.id
    ]
    results = [
        assemble(
            command.project, root.id, [members[fragment] for fragment in root.members]
        )
        for root in roots
    ]
    return [person for person in results if person is not None]
