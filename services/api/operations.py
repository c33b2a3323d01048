"""Endpoints for operators: /livez, /readyz, /metrics, /version."""

from __future__ import annotations

from collections.abc import Mapping

from services.api.calls import CaptureCall
from services.api.http.documents.openapi import plain
from services.api.http.messages import Response
from services.api.http.routing import Route
from shared.runtime.process.ops import Check, Operations, Reply


def routes(checks: Mapping[str, Check]) -> tuple[Route, ...]:
    """Rows of the route table; `checks` are the conditions of `ready`."""
    operations = Operations(checks)

    def livez(call: CaptureCall) -> Response:
        return _response(operations.livez())

    async def readyz(call: CaptureCall) -> Response:
        return _response(
            await operations.readyz(verbose="verbose" in call.request.query)
        )

    def metrics(call: CaptureCall) -> Response:
        return _response(operations.metrics(call.request.remote))

    def version(call: CaptureCall) -> Response:
        return _response(operations.version())

    return (
        *plain("liveness", "/livez", "The process runs.", livez),
        *plain(
            "readiness", "/readyz", "Writes are accepted and reads answered.", readyz
        ),
        *plain("metrics", "/metrics", "Prometheus; from this machine only.", metrics),
        *plain("version", "/version", "The version.", version),
    )


def _response(reply: Reply) -> Response:
    return Response(
        status=reply.status,
        headers={"Content-Type": reply.content_type},
        body=reply.body,
    )
