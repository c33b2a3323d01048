"""What an endpoint is called with: the request, who it is of, and the parts of the process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from services.api.context import Context
from services.api.http.decoding import object_of, struct_of
from services.api.http.guards.access import Key, Project
from services.api.http.messages import Request
from services.api.http.parameters import AS_OF, Parameter
from services.api.http.routing import Route
from services.api.reads.as_of import moment, persons_at
from services.api.reads.watermarks import WAIT_SECONDS_MAX
from shared.domain.commands import Command
from shared.domain.errors import (
    BadInput,
    NotFound,
    NotYet,
    PreconditionFailed,
    Transient,
)
from shared.domain.ids import DELETIONS, Position
from shared.store.person import Person

ANSWER_SECONDS_MAX = 9.0
"""A write is answered by then, visible or not: what the log took is not waited for again."""

NUMBER_MAX = 2**53
"""Integer ids end below, where JavaScript's integers do."""

_OTHER_FORMAT = re.compile(r"(\d+|[0-9a-fA-F-]{36})\.[a-zA-Z]\w*")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WAIT = re.compile(r"\bwait\s*=\s*\"?(\d{1,4})\b")

B = TypeVar("B")
V = TypeVar("V")


def uuid_in(text: str) -> UUID | None:
    """The uuid that a path names as it is written everywhere; None for any other id."""
    if _UUID.fullmatch(text) is None:
        return None
    return UUID(text)


class CaptureCall(msgspec.Struct, kw_only=True):
    """A call of an endpoint that needs no personal key."""

    request: Request
    context: Context

    @property
    def project(self) -> Project:
        """The project whose token is in the head, of a route that requires one there."""
        assert self.request.caller is not None
        return self.request.caller.project


class Call(msgspec.Struct, kw_only=True):
    """A call of a REST endpoint: an authorised request for one project."""

    request: Request
    context: Context
    project: Project
    key: Key
    cut: int | None = None

    @property
    def route(self) -> Route:
        assert self.request.route is not None
        return self.request.route

    @property
    def actor(self) -> str:
        return self.key.actor

    def body(self) -> dict[str, Any]:
        """The JSON object that was sent."""
        return object_of(self.request)

    def read(self, kind: type[B]) -> B:
        """The body as this struct. BadInput names the field that is missing or wrong."""
        return struct_of(self.body(), kind)

    def converted(self, body: dict[str, Any], kind: type[B]) -> B:
        """The same of a body that was read before."""
        return struct_of(body, kind)

    def asked(self, parameter: Parameter[V]) -> V:
        """A parameter of the query, or its default. BadInput names it when it is wrong."""
        assert parameter in self.route.query, parameter.name
        return parameter.of(self.request.query)

    async def fragment(self, text: str = "") -> UUID:
        """The fragment that the path (or `text`) names by integer id or uuid, whether it lives or
        not."""
        text = text or self.request.parameters["id"]
        if _OTHER_FORMAT.fullmatch(text):
            raise NotFound("Not found.")
        if not (text.isascii() and text.isdigit()):
            return self._uuid(text)
        found = None
        if len(text) < 17 and int(text) < NUMBER_MAX:
            found = await self.context.reads.fragment_of(self.project.id, int(text))
        if found is None:
            raise NotFound("Not found.")
        return found

    async def person(self) -> Person:
        """The living person that the path names; BadInput for a malformed id, NotFound for
        nobody."""
        return await self.holder(await self.fragment())

    async def holder(self, fragment: UUID) -> Person:
        """The living person that holds a fragment, or NotFound."""
        return await self.context.reads.holder(self.project.id, fragment)

    def tags(self, person: Person) -> set[str]:
        """The entity tags of `If-Match`, "*" without one. PreconditionFailed when the person's is
        not among them."""
        tags = {
            tag.strip() for tag in self.request.headers.get("If-Match", "*").split(",")
        }
        if not tags & {"*", person.etag}:
            raise PreconditionFailed
        return tags

    async def as_of(self) -> int | None:
        """The moment that a read asks for with `as_of`, as a stamp; None for now."""
        text = self.asked(AS_OF)
        if text and self.cut is None:
            self.cut = await moment(self.context, self.project.id, text)
        return self.cut

    async def seen(self, fragments: Sequence[UUID]) -> list[Person | None]:
        """The persons that hold these fragments, now or at the moment asked for; None for
        nobody."""
        until = await self.as_of()
        if until is None:
            return await self.context.reads.by_fragments(self.project.id, fragments)
        return await persons_at(self.context, self.project.id, fragments, until)

    async def person_seen(self) -> Person:
        """The person that the path names, now or at the moment asked for; NotFound if there is
        none, or none now."""
        fragment = await self.fragment()
        person = (await self.seen([fragment]))[0]
        if person is None:
            raise NotFound("Not found.")
        return person

    async def write(self, commands: Sequence[Command]) -> tuple[list[Position], bool]:
        """Append; wait until reads see it. False when the client prefers not to wait, or the
        projection lags."""
        time = asyncio.get_running_loop().time
        began = time()
        positions = await self.context.append(commands)
        return positions, await self.visible(
            positions, ANSWER_SECONDS_MAX - (time() - began)
        )

    async def visible(self, positions: Sequence[Position], most: float) -> bool:
        """Wait until reads see these positions, as long as the client prefers."""
        patience = self.patience(most)
        if patience is None:
            return False
        try:
            await self.context.watermarks.wait(
                positions, min(patience, WAIT_SECONDS_MAX)
            )
        except (
            NotYet,
            Transient,
        ):  # the command is durable: the client is told that much
            return False
        return True

    async def until_recorded(self) -> None:
        """Wait until the ledger has every request: the deleter writes it, some tens of milliseconds
        later."""
        heads = await self.context.log.heads(DELETIONS)
        await self.context.watermarks.wait([head for head in heads if head.offset >= 0])

    def patience(self, most: float) -> float | None:
        """How many seconds the client prefers to wait (RFC 7240: respond-async, wait=3); None for
        not at all."""
        preferences = self.request.headers.get("Prefer", "").lower()
        waiting = _WAIT.search(preferences)
        if "respond-async" in preferences and waiting is None:
            return None
        return min(float(waiting[1]) if waiting is not None else most, most)

    def _uuid(self, text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError:
            raise BadInput(
                "A person id is an integer or a uuid. Looking for a distinct id? "
                f"Try /persons?distinct_id={text[:400]}"
            ) from None


def call_of(context: Context, request: Request) -> Call | CaptureCall:
    """The call that a request makes, by how its route lets callers in."""
    if request.route is None or request.route.access != "key":
        return CaptureCall(request=request, context=context)
    caller = request.caller
    assert caller is not None and caller.key is not None
    return Call(
        request=request, context=context, project=caller.project, key=caller.key
    )
