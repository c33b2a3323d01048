"""A call of the REST API: who calls, for which project, in which format, from which position on. No route's business.

`endpoint` turns a handler `(Call) -> Answer` into an aiohttp handler; `mount` hangs a table of routes under the three
prefixes. The error middleware maps what is raised.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from services.api.context import CONTEXT, POSITION_HEADER, Context
from services.api.http import errors
from services.api.http.decompression import GZIP, inflate
from services.api.http.guards.access import Key, Project
from services.api.http.guards.costly import Costly, never, step, while_connected
from services.api.http.guards.load import BODY, unfolded
from services.api.http.negotiation import Format, format_of
from services.api.http.parameters import AS_OF, Parameter
from services.api.http.rendering import CSV, JSON, Archive, Lines, Rows, csv_body, json_body, stream
from services.api.reads.as_of import moment, persons_at
from services.api.reads.watermarks import WAIT_SECONDS_MAX
from shared.domain.commands import Command
from shared.domain.errors import BadInput, NotFound, NotYet, PreconditionFailed, Transient
from shared.domain.ids import Position, format_positions, parse_positions
from shared.store.person import Person

PREFIXES = ("/api/environments/{project}/persons", "/api/projects/{project}/persons", "/api/person")

BODY_BYTES_MAX = 1_048_576
"""A REST body: the largest person fits twice."""

ANSWER_SECONDS_MAX = 9.0
"""A write is answered by then, visible or not: what the log took is not waited for again."""

BODY_SECONDS_MAX = 10.0
"""A body must have arrived by then: half a body held a connection open for over 40 s."""

NUMBER_MAX = 2**53
"""Integer ids end below, where JavaScript's integers do."""

KEY_CHARS_MAX = 255
"""An Idempotency-Key: a uuid has 36."""

KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII, as headers have it."""

_FIELD = re.compile(r"`\$\.([^`.\[]+)")
_OTHER_FORMAT = re.compile(r"(\d+|[0-9a-fA-F-]{36})\.[a-zA-Z]\w*")
_TAGS = re.compile(r'\*|(W/)?"[!#-~]*"(\s*,\s*(W/)?"[!#-~]*")*')
_WAIT = re.compile(r"\bwait\s*=\s*\"?(\d{1,4})\b")
_MISSING = re.compile(r"missing required field `([^`]+)`")

B = TypeVar("B")
V = TypeVar("V")

LIMITS = web.RequestKey("ratelimit", dict)
"""Where a request keeps the RateLimit headers of its answer, whatever that will be."""


class Answer(msgspec.Struct, kw_only=True):
    """What a handler says. `body` None: no body. `positions` None: nothing was written; it tells what it reflects."""

    status: int = 200
    body: Any = None
    positions: Sequence[Position] | None = None
    headers: dict[str, str] = {}


class Call(msgspec.Struct, kw_only=True):
    """One authenticated request for one project."""

    request: web.Request
    context: Context
    project: Project
    key: Key
    format: Format
    route: Route
    cut: int | None = None

    @property
    def actor(self) -> str:
        return self.key.actor

    async def body(self) -> dict[str, Any]:
        """The JSON object sent."""
        value = await _json_of(self.request)
        if not isinstance(value, dict):
            raise errors.parse_error("The body must be a JSON object.")
        return value

    async def read(self, kind: type[B]) -> B:
        """The body as this struct. BadInput names the field that is missing or wrong."""
        sent = await self.body()
        try:
            return msgspec.convert(sent, kind)
        except msgspec.ValidationError as error:
            raise _wrong_field(str(error)) from None

    def asked(self, parameter: Parameter[V]) -> V:
        """A parameter of the query, or its default. BadInput names it when it is wrong."""
        assert parameter in self.route.query, parameter.name
        return parameter.of(self.request.query)

    async def fragment(self, text: str = "") -> UUID:
        """The fragment that the path (or `text`) names by integer id or uuid, whether it lives or not."""
        text = text or self.request.match_info["id"]
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
        """The living person that the path names; BadInput for a malformed id, NotFound for nobody."""
        return await self.holder(await self.fragment())

    async def holder(self, fragment: UUID) -> Person:
        """The living person that holds a fragment, or NotFound."""
        return await self.context.reads.holder(self.project.id, fragment)

    def tags(self, person: Person) -> set[str]:
        """The entity tags of `If-Match`, "*" without one. PreconditionFailed when the person's is not among them."""
        tags = {tag.strip() for tag in self.request.headers.get("If-Match", "*").split(",")}
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
        """The persons that hold these fragments, now or at the moment asked for; None for nobody."""
        until = await self.as_of()
        if until is None:
            return await self.context.reads.by_fragments(self.project.id, fragments)
        return await persons_at(self.context, self.project.id, fragments, until)

    async def person_seen(self) -> Person:
        """The person that the path names, now or at the moment asked for; NotFound if there is none, or none now."""
        fragment = await self.fragment()
        person = (await self.seen([fragment]))[0]
        if person is None:
            raise NotFound("Not found.")
        return person

    async def write(self, commands: Sequence[Command]) -> tuple[list[Position], bool]:
        """Append; wait until reads see it. False when the client prefers not to wait, or the projection lags."""
        time = asyncio.get_running_loop().time
        began = time()
        positions = await self.context.append(commands)
        return positions, await self.visible(positions, ANSWER_SECONDS_MAX - (time() - began))

    async def visible(self, positions: Sequence[Position], most: float) -> bool:
        """Wait until reads see these positions, as long as the client prefers."""
        patience = self.patience(most)
        if patience is None:
            return False
        try:
            await self.context.watermarks.wait(positions, min(patience, WAIT_SECONDS_MAX))
        except (NotYet, Transient):  # the command is durable: the client is told that much
            return False
        return True

    def patience(self, most: float) -> float | None:
        """How many seconds the client prefers to wait (RFC 7240: respond-async, wait=3); None for not at all."""
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
                f"A person id is an integer or a uuid. Looking for a distinct id? Try /persons?distinct_id={text[:400]}"
            ) from None


Handler = Callable[[Call], Awaitable[Answer]]


class Route(msgspec.Struct, frozen=True):
    """One row of the route table: `path` is what follows the prefix, `handler`'s docstring says what it does.

    `query`, `body` and `answers` are what the OpenAPI document shows, and what requests are judged by. `errors` are the
    statuses beyond those that every route may answer; `produces` is the type of an answer that is neither JSON nor CSV;
    with `plain_errors` they are `{"error": text}`, as the original has them there; `preview` is what dry_run answers,
    with 200, where success has another status; `headers` are those of success beside the Position, and what they say;
    `costly` says which calls pass the gate.
    """

    method: str
    path: str
    scope: str
    handler: Handler
    query: tuple[Parameter[Any], ...] = ()
    body: type | None = None
    answers: type | tuple[type, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    produces: str = ""
    plain_errors: bool = False
    preview: type | None = None
    headers: tuple[tuple[str, str], ...] = ()
    costly: Costly = never


def mount(app: web.Application, routes: Sequence[Route]) -> None:
    """Hang the routes under every prefix, with an optional slash and an optional .json or .csv."""
    names = {route.path.split("/")[1] for route in routes if route.path and "{" not in route.path.split("/")[1]}
    person = rf"{{id:(?!(?:{'|'.join(sorted(names))})(?:\.\w+)?/?$)[^/]+?}}"  # a name is no id, for any method
    for prefix in PREFIXES:
        for path in dict.fromkeys(route.path for route in routes):
            pattern = prefix + path.replace("{id}", person) + r"{suffix:(?:\.json|\.csv)?}{slash:/?}"
            resource = app.router.add_resource(pattern)
            for route in routes:
                if route.path == path:
                    for method in (route.method, "PUT") if route.method == "PATCH" else (route.method,):
                        resource.add_route(method, endpoint(route))


def endpoint(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of a route: authenticate, find the project, negotiate, wait for the position, answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        key = await _authenticate(request, context)
        request[LIMITS] = context.limits.take(key.id, context.clock.elapsed_us())
        project = _project(request, context, key)
        if not key.may(route.scope):
            raise errors.permission_denied(route.scope)
        kind = format_of(request, route.produces)
        call = Call(request=request, context=context, project=project, key=key, format=kind, route=route)
        asked = request.headers.get("Min-Position")
        if asked is not None:
            await context.reached(parse_positions(asked))
        _judge_key(request, route)
        if 412 in route.errors and not _TAGS.fullmatch(request.headers.get("If-Match", "*")):
            raise BadInput('If-Match must be * or entity tags: "3-1f".')
        if route.costly(request.query):
            return await while_connected(request, _admitted(call))
        return await _respond(call, await _answered(call))

    return handle


async def _admitted(call: Call) -> web.StreamResponse:
    """A costly call: its rows are made while it holds a place, and sent while it holds none."""
    gate, project = call.context.gate, call.project.id
    async with gate.place(project):
        answer = await _answered(call)
    if isinstance(answer.body, Archive | Lines | Rows):
        answer.body.step_by(step(gate, project))
    return await _respond(call, answer)


async def _answered(call: Call) -> Answer:
    """What the handler says, begun if it is made while it is sent."""
    route = call.route
    try:
        for parameter in route.query:  # each is judged, whether this call has a use for it or not
            parameter.of(call.request.query)
        answer = await route.handler(call)
    except (BadInput, NotFound) as error:
        if not route.plain_errors:
            raise
        answer = Answer(status=errors.of(error).status, body={"error": error.detail})
    if isinstance(answer.body, Rows | Lines):  # before the position is told: it must not be newer than what is read
        await answer.body.start()
    return answer


def _judge_key(request: web.Request, route: Route) -> None:
    """BadInput for a write whose Idempotency-Key is none, whether the route has a use for it or not."""
    sent = request.headers.get("Idempotency-Key")
    if sent is None or not route.scope.endswith(":write"):
        return
    if len(sent) > KEY_CHARS_MAX or not re.fullmatch(KEY_PATTERN, sent):
        raise BadInput(f"An Idempotency-Key has 1 to {KEY_CHARS_MAX} printable characters.")


async def _respond(call: Call, answer: Answer) -> web.StreamResponse:
    token = call.context.reflected() if answer.positions is None else format_positions(list(answer.positions))
    headers = answer.headers | ({POSITION_HEADER: token} if token else {})
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    if call.format == "csv":
        headers |= {"Content-Disposition": 'attachment; filename="persons.csv"'}
    if isinstance(answer.body, Archive | Lines | Rows):
        return await stream(call.request, answer.body, headers, call.context.spools, as_csv=call.format == "csv")
    headers |= {"Content-Type": CSV if call.format == "csv" else JSON}
    body = csv_body(answer.body) if call.format == "csv" else json_body(answer.body)
    return web.Response(status=answer.status, body=body, headers=headers)


def _wrong_field(text: str) -> BadInput:
    """msgspec's words as ours: the field is in the path that they end with."""
    missing = _MISSING.search(text)
    if missing is not None:
        return BadInput("This field is required.", attr=missing[1], slug="required")
    said, _, path = text.partition(" - at ")
    field = _FIELD.search(path)
    return BadInput(f"{said}.".replace("`", ""), attr=field[1] if field is not None else None)


async def _json_of(request: web.Request) -> Any:
    content_type = request.content_type
    if content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise errors.unsupported_media_type(content_type)
    raw = await read_body(request, BODY_BYTES_MAX)
    if not raw:
        return {}
    if raw.startswith(GZIP):
        raw = inflate(raw, BODY_BYTES_MAX)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.parse_error(f"The body is not JSON: {error}") from None


async def read_body(request: web.Request, most: int) -> bytes:
    """The body, at most `most` bytes, within BODY_SECONDS_MAX, when there is room for it and it is its turn."""
    if request.content_length is not None and request.content_length > most:
        raise errors.too_large(most)
    if BODY not in request:
        load = request.app[CONTEXT].load
        try:
            if request.content.is_eof():  # it is all here: no timer is needed, and one costs 6 % of a capture
                await load.receive(request, most)
            else:
                async with asyncio.timeout(BODY_SECONDS_MAX):
                    await load.receive(request, most)
        except TimeoutError:
            raise errors.timeout() from None
        await load.turn(unfolded(request[BODY]))
    return request[BODY]


async def _authenticate(request: web.Request, context: Context) -> Key:
    """In this order: Bearer, `personal_api_key` in the body, `personal_api_key` in the query."""
    scheme, _, plain = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not plain.strip():
        plain = ""
        if request.can_read_body and request.content_type == "application/json":
            try:
                body = await _json_of(request)
            except errors.ApiError:
                body = None  # whatever is wrong with the body is said after the key was seen
            sent = body.get("personal_api_key") if isinstance(body, dict) else None
            plain = sent if isinstance(sent, str) else ""
        plain = plain or request.query.get("personal_api_key", "")
    if not plain:
        raise errors.not_authenticated()
    key = context.access.key(plain.strip())
    if key is None:
        raise errors.authentication_failed()
    return key


def _project(request: web.Request, context: Context, key: Key) -> Project:
    text = request.match_info.get("project")
    token = request.query.get("token")
    if text is None and token:
        project = context.access.by_token(token)
    elif text is None or text == "@current":
        project = context.access.first_project(key)
    else:
        project = context.access.project(int(text)) if text.isascii() and text.isdigit() and len(text) < 11 else None
    if project is None:
        raise errors.not_found("Project not found.")
    if not key.covers(project.id):
        raise errors.permission_denied(None)
    return project
