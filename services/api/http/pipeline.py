"""What every request passes, whichever transport carries it.

In this order: the gate of a wrong log, authorisation, the key's limit, the judgement of head and
parameters, the body's turn, the endpoint, errors as the wire has them, headers, metrics. An
endpoint answers at once or with an awaitable; no task is made where nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec
from prometheus_client import Histogram

from services.api.http import errors
from services.api.http.guards import authorisation
from services.api.http.guards.access import Access
from services.api.http.guards.admission import AdmissionControl, unfolded
from services.api.http.guards.authorisation import Caller
from services.api.http.guards.cors import cors
from services.api.http.guards.costly import Gate, step, while_connected
from services.api.http.guards.head import has_body, judge_head, judge_parameters
from services.api.http.guards.rate_limit import RateLimiter
from services.api.http.messages import Deferred, Request, Response
from services.api.http.rendering import (
    BODIES,
    JSON,
    Archive,
    Lines,
    RowStream,
    streamed,
)
from services.api.http.routing import BODY_BYTES_MAX, EndpointResult, Route, Router
from services.api.http.spool import Spools
from shared.domain.errors import BadInput, LogMismatch, NotFound
from shared.domain.ids import Position, format_positions, parse_positions
from shared.runtime import telemetry
from shared.runtime.clock import Clock

POSITION_HEADER = "Position"

METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"))
"""Methods that metrics tell apart: a client may send any word, and every word would be a series."""


class Positions(Protocol):
    """How far the log and the reads are."""

    def mismatch(self) -> bool:
        """Whether the log is not the tables' own."""

    def reflected(self) -> str:
        """The token of the positions that an answer reflects at least."""

    async def wait_for(self, positions: Sequence[Position]) -> None:
        """Return once reads see these positions; NotYet after the usual time."""


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """What requests of one API process share."""

    access: Access
    limits: RateLimiter
    gate: Gate
    admission: AdmissionControl
    spools: Spools
    clock: Clock


class EndpointCall(Protocol):
    """A call of a REST endpoint, as far as the pipeline knows it."""

    request: Request


CallFactory = Callable[[Request], Any]
"""Makes the object that an endpoint is called with."""


class Pipeline:
    """The one way from a request to its response."""

    def __init__(
        self,
        router: Router,
        guards: Guards,
        positions: Positions,
        call_factory: CallFactory,
    ) -> None:
        self.router = router
        self.admission = guards.admission
        self._guards = guards
        self._positions = positions
        self._call_of = call_factory

    def refuse(self, request: Request, error: Exception) -> Response:
        """The response to a request that failed."""
        refusal = errors.refusal_of(error, request.path)
        response = refusal.response()
        if request.route is not None and request.route.error_body is not None:
            response.body = request.route.error_body(refusal)
        return self._finish(request, response)

    def admit(self, request: Request) -> Response | None:
        """Judge what the head alone decides. A refusal, or None: then the body is read, and
        `answer` called."""
        request.began = time.perf_counter()
        try:
            route = request.route or self.router.resolve(request)
            if (
                route.gated and self._positions.mismatch()
            ):  # what is told may be of before a write
                raise LogMismatch(
                    "The service cannot answer until its log is put right."
                )
            if route.access == "key":
                self._admit_key(request, route)
            elif route.access == "token":
                project = authorisation.project_of_bearer(
                    self._guards.access, request.headers
                )
                request.caller = Caller(project=project)
            if route.judge is not None:
                route.judge(request)
        except Exception as error:  # noqa: BLE001  # ours, or the last line of defence
            return self.refuse(request, error)
        return None

    def bytes_max(self, request: Request) -> int | None:
        """How many bytes of body an admitted request may have; None where none is read."""
        route = request.route
        assert route is not None
        if route.bytes_max is None and route.access == "key" and request.caller is None:
            return BODY_BYTES_MAX
        return route.bytes_max

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """The response to a request that is here as a whole."""
        refusal = self.admit(request)
        if refusal is not None:
            return refusal
        bytes_max = self.bytes_max(request)
        if bytes_max is None:
            request.body = b""
        elif len(request.body) > bytes_max:
            return self.refuse(request, errors.too_large(bytes_max))
        return self.answer(request)

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """The response to an admitted request whose body is here."""
        try:
            size = unfolded(request.body)
            if not self.admission.spare(size):
                return self._complete(request, self._in_turn(request, size))
            outcome = self._carry_out(request)
        except Exception as error:  # noqa: BLE001  # ours, or the last line of defence
            return self.refuse(request, error)
        return self._conclude_outcome(request, outcome)

    def _conclude_outcome(
        self, request: Request, outcome: Any
    ) -> Response | Awaitable[Response]:
        if type(outcome) is Response:
            return self._finish(request, outcome)
        if type(outcome) is Deferred:
            return Deferred(
                outcome.future, lambda future: self._conclude(request, outcome, future)
            )
        return self._complete(request, outcome)

    def _conclude(
        self, request: Request, deferred: Deferred[Any, Response], future: Any
    ) -> Response:
        try:
            response = deferred.finish(future)
        except Exception as error:  # noqa: BLE001  # ours, or the last line of defence
            return self.refuse(request, error)
        return self._finish(request, response)

    async def _complete(self, request: Request, outcome: Awaitable[Any]) -> Response:
        try:
            response = await outcome
        except Exception as error:  # noqa: BLE001  # ours, or the last line of defence
            return self.refuse(request, error)
        finally:
            self.admission.release(request)
        return self._finish(request, response)

    async def _in_turn(self, request: Request, size: int) -> Response:
        await self.admission.turn(size)
        outcome = self._carry_out(request)
        return outcome if type(outcome) is Response else await outcome

    def _admit_key(self, request: Request, route: Route) -> None:
        text = authorisation.bearer_of(request.headers)
        if not text and request.content_type == JSON and has_body(request.headers):
            return  # the key may be in the body
        self._authorise(
            request, route, text or request.query.get(authorisation.BODY_KEY, "")
        )
        judge_head(request, route)

    def _authorise(self, request: Request, route: Route, text: str) -> None:
        guards = self._guards
        key = authorisation.key_of(guards.access, text)
        if guards.limits.counting:
            request.limits = guards.limits.take(key.id, guards.clock.elapsed_us())
        request.caller = authorisation.caller_of(
            guards.access, request, key, route.scope
        )

    def _carry_out(self, request: Request) -> Any:
        """The response, at once or as an awaitable of one."""
        route = request.route
        assert route is not None
        if route.access != "key":
            return route.handler(self._call_of(request))
        if request.caller is None:
            self._authorise(request, route, authorisation.key_text_of(request))
            judge_head(request, route)
        call = self._call_of(request)
        if "Min-Position" in request.headers:
            return self._at_position(
                call, route, parse_positions(request.headers["Min-Position"])
            )
        return self._call_endpoint(call, route)

    async def _at_position(
        self, call: EndpointCall, route: Route, positions: list[Position]
    ) -> Response:
        await self._positions.wait_for(positions)
        outcome = self._call_endpoint(call, route)
        return outcome if type(outcome) is Response else await outcome

    def _call_endpoint(self, call: EndpointCall, route: Route) -> Any:
        request = call.request
        if route.costly(request.query):
            return while_connected(request.is_connected, self._run_costly(call, route))
        try:
            outcome = _begin(call, route)
        except (BadInput, NotFound) as error:
            return self._respond(call, _plain(route, error))
        if type(outcome) is EndpointResult:
            return self._respond(call, outcome)
        if type(outcome) is Deferred:
            return Deferred(
                outcome.future,
                lambda future: self._respond(call, outcome.finish(future)),
            )
        return self._await_result(call, route, outcome)

    async def _await_result(
        self, call: EndpointCall, route: Route, outcome: Awaitable[EndpointResult]
    ) -> Response:
        answer = await _await_answer(route, outcome)
        return (
            await self._stream(call, answer)
            if _is_long(answer)
            else self._respond(call, answer)
        )

    async def _run_costly(self, call: EndpointCall, route: Route) -> Response:
        """A costly call: its rows are read while it holds a place, and sent while it holds none."""
        gate = self._guards.gate
        assert call.request.caller is not None
        project = call.request.caller.project.id
        async with gate.place(project):
            answer = await _run_route(call, route)
        if not _is_long(answer):
            return self._respond(call, answer)
        answer.body.step_by(step(gate, project))
        return await self._stream(call, answer)

    async def _stream(self, call: EndpointCall, answer: EndpointResult) -> Response:
        return await streamed(
            answer.body,
            self._headers(call, answer),
            self._guards.spools,
            form=call.request.format,
        )

    def _respond(self, call: EndpointCall, answer: EndpointResult) -> Response:
        headers = self._headers(call, answer)
        if answer.body is None:
            return Response(status=answer.status, headers=headers)
        if isinstance(answer.body, bytes):
            headers["Content-Type"] = JSON
            return Response(status=answer.status, headers=headers, body=answer.body)
        headers["Content-Type"], render = BODIES[call.request.format]
        body = render(answer.body)
        return Response(status=answer.status, headers=headers, body=body)

    def _headers(self, call: EndpointCall, answer: EndpointResult) -> dict[str, str]:
        positions = answer.positions
        token = (
            self._positions.reflected()
            if positions is None
            else format_positions(list(positions))
        )
        headers = dict(answer.headers)
        if token:
            headers[POSITION_HEADER] = token
        form = call.request.format
        if answer.body is not None and form != "json":
            headers["Content-Disposition"] = f'attachment; filename="persons.{form}"'
        return headers

    def _finish(self, request: Request, response: Response) -> Response:
        """The response with the headers that all have, once it is counted."""
        if request.body_bytes:
            self.admission.release(request)
        headers = response.headers
        if request.limits:
            headers |= request.limits
        if request.cross_origin or (
            request.route is not None and request.route.cross_origin
        ):
            headers |= cors(request.headers)
        headers["X-Content-Type-Options"] = "nosniff"
        headers.setdefault("Cache-Control", "no-store")
        method = request.method if request.method in METHODS else "other"
        _timer(method, request.template, response.status).observe(
            time.perf_counter() - request.began
        )
        return response


def _begin(call: EndpointCall, route: Route) -> Any:
    if route.plain_errors:
        judge_parameters(call.request, route)
    return route.handler(call)


async def _run_route(call: EndpointCall, route: Route) -> EndpointResult:
    try:
        outcome = _begin(call, route)
    except (BadInput, NotFound) as error:
        return _plain(route, error)
    return (
        outcome
        if isinstance(outcome, EndpointResult)
        else await _await_answer(route, outcome)
    )


async def _await_answer(
    route: Route, outcome: Awaitable[EndpointResult]
) -> EndpointResult:
    """The endpoint's answer, begun if its rows are read while it is sent."""
    try:
        answer = await outcome
    except (BadInput, NotFound) as error:
        answer = _plain(route, error)
    if isinstance(
        answer.body, RowStream | Lines
    ):  # before the position is read: it must not be newer than the rows
        await answer.body.start()
    return answer


def _plain(route: Route, error: BadInput | NotFound) -> EndpointResult:
    """A refusal where a route has them without a type. Raises it elsewhere."""
    if not route.plain_errors:
        raise error
    return EndpointResult(status=errors.of(error).status, body={"error": error.detail})


def _is_long(answer: EndpointResult) -> bool:
    return isinstance(answer.body, Archive | Lines | RowStream)


@cache
def _timer(method: str, template: str, status: int) -> Histogram:
    """The metric of these labels: to look it up takes as long as to observe. As many as routes
    times statuses."""
    return telemetry.HTTP_SECONDS.labels(method, template, status)
