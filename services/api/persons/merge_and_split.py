"""Who is one person: split and merge by REST. Never moves a property: membership changes, and
nothing else.

A dry run folds the command on a copy of what was read, with the very fold that would do it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.api.calls import Call
from services.api.http.parameters import DRY_RUN
from services.api.http.routing import Answer, Route
from services.api.reads.as_of import persons_at, stamp_of
from services.api.writes.idempotency import (
    Outcome,
    carry_out,
    earlier,
    envelope,
    keyed,
    person_after,
    raise_refusal,
)
from services.api.writes.schemas import Merge as MergeBody
from services.api.writes.schemas import MergePreview, ResetDistinctId, SplitDone
from services.api.writes.schemas import Person as PersonBody
from services.api.writes.schemas import Split as SplitBody
from shared.domain.commands import IdentityCommand, MergePersons, SplitPerson
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import IDENTITY, fragment_id
from shared.domain.person.identity import Decision, Membership, handle
from shared.domain.person.identity_events import MergeRefused, SplitRefused
from shared.store.person import Person, assemble

Deletes = Mapping[UUID, tuple[int, int]]
"""By fragment, the identity version of its last delete, and when that was asked for in
microseconds."""

_NO_DELETES: Deletes = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def split(call: Call) -> Answer:
    """Move distinct ids out of a person. Each gets back the properties that were set through it."""
    body = call.read(SplitBody)
    dry = call.asked(DRY_RUN)
    chosen = _chosen(body)
    sent = keyed(call, await call.fragment(), "split", chosen)
    outcome = None if dry else await earlier(call, IDENTITY, sent)
    person = await (
        call.holder(sent.fragment)
        if outcome is None
        else _before(call, sent.fragment, outcome)
    )
    if outcome is None:
        call.tags(person)
    keep, leave = _split_of(chosen, person)
    command = SplitPerson(
        **envelope(call, sent),
        person=sent.fragment,
        keep=keep,
        leave=leave,
    )
    stays = keep or next(
        member.fragment for member in person.members if member.fragment not in leave
    )
    if dry:
        return Answer(
            body={"success": True, "persons": _shown(_tried(command, [person]), stays)}
        )
    outcome = outcome or await carry_out(call, sent, [command], [person.uuid])
    return await _split_answer(
        call, outcome, [member.fragment for member in person.members], stays
    )


async def merge(call: Call) -> Answer:
    """Merge another person into this one, including identified persons."""
    body = call.read(MergeBody)
    dry = call.asked(DRY_RUN)
    into = await call.fragment()
    source = await _source(call, body)
    since = _since(body)
    sent = keyed(call, into, "merge", str(source), *([since] if since else []))
    outcome = None if dry else await earlier(call, IDENTITY, sent)
    if outcome is None:
        (survivor, into_erase), (absorbed, source_erase) = (
            await _found(call, into),
            await _found(call, source),
        )
        call.tags(survivor)
        command = MergePersons(
            **envelope(call, sent),
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
            call, sent, [command], [survivor.uuid, source, absorbed.uuid]
        )
    if not outcome.visible:
        return Answer(status=202, positions=outcome.positions)
    after = await person_after(call, into, outcome)
    return Answer(
        body=after.to_json(), positions=outcome.positions, headers=outcome.headers
    )


async def reset_person_distinct_id(call: Call) -> Answer:
    """Always answers 202. Distinct ids need no reset here."""
    call.read(ResetDistinctId)
    return Answer(status=202)


COLLECTION_ROUTES = (
    Route(
        "POST",
        "/reset_person_distinct_id",
        "person:write",
        reset_person_distinct_id,
        body=ResetDistinctId,
        status=202,
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
    ),
)


def _chosen(body: SplitBody) -> tuple[str | None, list[str] | None]:
    """What the body asks for: (main_distinct_id, distinct_ids_to_split), at most one of them."""
    if body.distinct_ids_to_split is not None and body.main_distinct_id is not None:
        raise BadInput(
            "Not together with main_distinct_id.", attr="distinct_ids_to_split"
        )
    return body.main_distinct_id, body.distinct_ids_to_split


def _split_of(
    chosen: tuple[str | None, list[str] | None], person: Person
) -> tuple[UUID | None, tuple[UUID, ...]]:
    """(the fragment that stays alone or None, the fragments that leave)."""
    fragments = {member.distinct_id: member.fragment for member in person.members}
    main, leaving = chosen
    if leaving is not None:
        if unknown := [one for one in leaving if one not in fragments]:
            raise BadInput(
                f"Not of this person: {unknown[0][:400]}", attr="distinct_ids_to_split"
            )
        if len(set(leaving)) == len(fragments):
            raise BadInput(
                "At least one distinct id must stay.", attr="distinct_ids_to_split"
            )
        return None, tuple(fragments[one] for one in dict.fromkeys(leaving))
    main = person.distinct_ids[0] if main is None else main
    if main not in fragments:
        raise BadInput("Not a distinct id of this person.", attr="main_distinct_id")
    return fragments[main], ()


async def _source(call: Call, body: MergeBody) -> UUID:
    if (body.source is None) == (body.distinct_id is None):
        raise BadInput("Either source (an id or uuid) or distinct_id.", attr="source")
    if body.distinct_id is not None:
        return fragment_id(call.project.id, body.distinct_id)
    try:
        return await call.fragment(str(body.source))
    except BadInput:
        raise BadInput(
            "source must be an integer id or a uuid.", attr="source"
        ) from None


def _since(body: MergeBody) -> int:
    """The time of an imported merge in microseconds, at least 1; 0 for one of now. Without a zone
    it is UTC."""
    if body.timestamp is None:
        return 0
    moment = (
        body.timestamp
        if body.timestamp.tzinfo is not None
        else body.timestamp.replace(tzinfo=UTC)
    )
    return max((moment - _EPOCH) // timedelta(microseconds=1), 1)


async def _found(call: Call, fragment: UUID) -> tuple[Person, int]:
    """The living person that holds a fragment, and the delete behind the life that was found;
    NotFound."""
    person = await call.holder(fragment)
    for member in person.members:
        if member.fragment == fragment:
            return person, member.erased
    erase, _ = (await _deletes_of(call, [fragment])).get(fragment, (0, 0))
    return await call.holder(
        fragment
    ), erase  # a delete between the two leaves nobody here, a later one is seen


async def _before(call: Call, fragment: UUID, outcome: Outcome) -> Person:
    """The person that an earlier split dissolved, as it was."""
    until = await stamp_of(call.context, call.project.id, outcome.positions)
    before = (await persons_at(call.context, call.project.id, [fragment], until - 1))[0]
    if before is None:
        raise NotFound("Not found.")
    return before


async def _split_answer(
    call: Call, outcome: Outcome, members: Sequence[UUID], stays: UUID
) -> Answer:
    """All persons involved, the remaining one first: as they are now, or as they were after the
    first request."""
    if not outcome.visible:
        return Answer(status=202, positions=outcome.positions)
    if outcome.first is None:
        after = await call.context.reads.by_fragments(call.project.id, members)
    else:
        until = await stamp_of(call.context, call.project.id, [outcome.first])
        after = await persons_at(call.context, call.project.id, members, until)
    shown = _shown([one for one in after if one is not None], stays)
    return Answer(
        body={"success": True, "persons": shown},
        positions=outcome.positions,
        headers=outcome.headers,
    )


def _shown(persons: Iterable[Person], stays: UUID) -> list[dict[str, Any]]:
    involved = list({one.uuid: one for one in persons}.values())
    involved.sort(
        key=lambda one: all(member.fragment != stays for member in one.members)
    )
    return [
        {"uuid": str(one.uuid), "id": one.number, "distinct_ids": one.distinct_ids}
        for one in involved
    ]


async def _deletes_of(call: Call, fragments: Sequence[UUID]) -> Deletes:
    rows = await call.context.store.rows(
        call.context.reads.queries["deletes_of"],
        project=call.project.id,
        fragments=list(fragments),
    )
    return {fragment: (erase, erased_at) for fragment, erase, erased_at in rows}


def _merge_preview(
    command: MergePersons, survivor: Person, absorbed: Person, deletes: Deletes
) -> Answer:
    """Who would survive, who would be absorbed, and the properties on which they differ."""
    (result, *_) = _tried(command, [survivor, absorbed], deletes)
    ours, theirs, both = survivor.document(), absorbed.document(), result.document()
    conflicts = [
        {
            "key": key,
            "survivor": ours[key],
            "absorbed": theirs[key],
            "result": both.get(key),
        }
        for key in sorted(ours.keys() & theirs.keys())
        if ours[key] != theirs[key] and survivor.uuid != absorbed.uuid
    ]
    shown = {
        "survivor": survivor.to_json(),
        "absorbed": absorbed.to_json(),
        "result": result.to_json(),
    }
    return Answer(body=shown | {"conflicts": conflicts})


def _tried(
    command: IdentityCommand, persons: Sequence[Person], deletes: Deletes = _NO_DELETES
) -> list[Person]:
    """The persons that the command would leave, folded on copies. Raises what it would be refused
    for."""
    book: dict[UUID, Membership] = {}
    for person in persons:
        for member in person.members:
            book[member.fragment] = membership = Membership(
                command.project, member.fragment
            )
            membership.root, membership.identified, membership.members = (
                person.uuid,
                member.identified,
                (),
            )
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
    roots = [one for one in book.values() if one.root == one.id]
    found = [
        assemble(command.project, root.id, [members[one] for one in root.members])
        for root in roots
    ]
    return [person for person in found if person is not None]
