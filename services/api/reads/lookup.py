"""Looking up the fragment that a request names, and the person that holds it, now or at the moment
of `as_of`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from services.api.calls import RestCall
from services.api.http.parameters import AS_OF
from services.api.reads.as_of import moment, persons_at
from shared.domain.errors import BadInput, NotFound
from shared.domain.ids import fragment_id
from shared.inputs.ids import id_spellings
from shared.store.person import Person

NUMBER_MAX = 2**53
"""Integer ids end below, where JavaScript's integers do."""

_OTHER_FORMAT = re.compile(r"(\d+|[0-9a-fA-F-]{36})\.[a-zA-Z]\w*")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Addressed(NamedTuple):
    """The fragment that a path names, and the living person that holds it; None for nobody."""

    fragment: UUID
    holder: Person | None

    @property
    def person(self) -> Person:
        """The holder, or NotFound."""
        if self.holder is None:
            raise NotFound("Not found.")
        return self.holder


def uuid_in(text: str) -> UUID | None:
    """The uuid of a path in its canonical form; None for any other id."""
    if _UUID.fullmatch(text) is None:
        return None
    return UUID(text)


async def fragment_of(call: RestCall, text: str = "") -> UUID:
    """The fragment that the path (or `text`) names by integer id or uuid, whether it lives or not.
    BadInput for a malformed id, NotFound for an integer that is nobody's."""
    text = text or call.request.parameters["id"]
    if _OTHER_FORMAT.fullmatch(text):
        raise NotFound("Not found.")
    if not (text.isascii() and text.isdigit()):
        return _uuid(text)
    fragment = None
    if len(text) < 17 and int(text) < NUMBER_MAX:
        fragment = await call.context.reads.fragment_of(call.project.id, int(text))
    if fragment is None:
        raise NotFound("Not found.")
    return fragment


def fragments_named(project: int, distinct_id: str) -> tuple[UUID, ...]:
    """The fragments that a distinct id may mean, the one to prefer first."""
    return tuple(
        fragment_id(project, spelling) for spelling in id_spellings(distinct_id)
    )


async def named_until(
    call: RestCall, distinct_ids: Sequence[str], until: int | None
) -> list[list[Person]]:
    """For each distinct id the persons that it means, now or at a moment, the one to prefer first;
    none for nobody's."""
    named = [
        fragments_named(call.project.id, distinct_id) for distinct_id in distinct_ids
    ]
    fragments = list(dict.fromkeys(chain.from_iterable(named)))
    holders = await persons_until(call, fragments, until) if fragments else []
    by_fragment = dict(zip(fragments, holders, strict=True))
    return [
        list(
            {
                person.uuid: person
                for fragment in alternatives
                if (person := by_fragment[fragment]) is not None
            }.values()
        )
        for alternatives in named
    ]


async def addressed_by(call: RestCall) -> Addressed:
    """The fragment that the path names and its holder. Raises as `fragment_of` does."""
    fragment = await fragment_of(call)
    holder = await call.context.reads.by_fragment(call.project.id, fragment)
    return Addressed(fragment, holder)


async def person_of(call: RestCall) -> Person:
    """The living person that the path names; BadInput for a malformed id, NotFound for nobody."""
    return await holder_of(call, await fragment_of(call))


async def holder_of(call: RestCall, fragment: UUID) -> Person:
    """The living person that holds a fragment, or NotFound."""
    return await call.context.reads.holder(call.project.id, fragment)


async def until_of(call: RestCall) -> int | None:
    """The moment that a read asks for with `as_of`, as a stamp; None for now."""
    text = call.parameter(AS_OF)
    return await moment(call.context, call.project.id, text) if text else None


async def persons_until(
    call: RestCall, fragments: Sequence[UUID], until: int | None
) -> list[Person | None]:
    """The persons that hold these fragments, now or at a moment; None for nobody."""
    if until is None:
        return await call.context.reads.by_fragments(call.project.id, fragments)
    return await persons_at(call.context, call.project.id, fragments, until)


async def person_until(call: RestCall) -> tuple[Person, int | None]:
    """The person that the path names, now or at the moment of `as_of`, and that moment. NotFound
    for nobody."""
    fragment = await fragment_of(call)
    until = await until_of(call)
    (person,) = await persons_until(call, [fragment], until)
    return Addressed(fragment, person).person, until


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadInput(
            "A person id is an integer or a uuid. Looking for a distinct id? "
            f"Try /persons?distinct_id={text[:400]}"
        ) from None
