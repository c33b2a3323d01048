"""What SDKs ask beside capture: configuration, flags, surveys, and posthog-js's own files. Never
reads the store.

There are no flags, surveys, tours or experiments here; an SDK that is told so is quiet, one that
finds nothing is not. No answer is refused for its token: a wrong one is told by capture, with 401,
and a new one is known after a poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from services.api.calls import CaptureCall
from services.api.capture import operations
from services.api.capture.events import token_of
from services.api.capture.payload import decode
from services.api.capture.v0 import capture_route, preflight
from services.api.context import Context
from services.api.http import errors
from services.api.http.messages import Request, Response
from services.api.http.rendering import JSON
from services.api.http.routing import Route
from shared.domain.errors import BadInput

FLAGS_BYTES_MAX = 1_048_576
"""Of a body that asks for flags: it holds the person's properties."""

STATIC_SECONDS = 3_600
"""How long a browser may keep a file: a newer posthog-js reaches everybody within an hour, and ETag
saves the rest."""

CONFIG: dict[str, Any] = {
    "supportedCompression": ["gzip-js"],
    "analytics": {"endpoint": "/i/v0/e/"},
    "elementsChainAsString": True,
    "defaultIdentifiedOnly": True,
    "hasFeatureFlags": False,
    "autocapture_opt_out": True,
    "autocaptureExceptions": False,
    "captureDeadClicks": False,
    "capturePerformance": False,
    "conversations": False,
    "errorTracking": {"autocaptureExceptions": False, "suppressionRules": []},
    "heatmaps": False,
    "logs": {"captureConsoleLogs": False},
    "productTours": False,
    "surveys": False,
    "isAuthenticated": False,
    "toolbarParams": {},
    "siteApps": [],
}
"""Everything optional is off: what is left out, posthog-js takes from its last visit or from its
own defaults."""

RECORDING = {
    "endpoint": "/s/",
    "recorderVersion": "v2",
    "consoleLogRecordingEnabled": False,
}

NO_FLAGS: dict[str, Any] = {
    "flags": {},
    "featureFlags": {},
    "featureFlagPayloads": {},
    "errorsWhileComputingFlags": False,
}
"""`flags` is what SDKs of today read, the next two what older ones do."""

_SCRIPT = (
    b"(window._POSTHOG_REMOTE_CONFIG=window._POSTHOG_REMOTE_CONFIG||{})[%b]"
    b"={config:%b,siteApps:[]};"
)
PACKED = {"br": ".br", "gzip": ".gz"}
"""How a file may lie packed beside itself, the smallest first."""

VERBS = {"GET": "get", "POST": "evaluate"}
"""How the operations of a stub begin."""

_KINDS = {".js": "text/javascript", ".map": JSON}
STATIC = "/static/{file}"

StubEndpoint = Callable[[CaptureCall], Response | Awaitable[Response]]


class Stub(NamedTuple):
    """One thing that SDKs look for. `name` is the noun of its operations."""

    name: str
    path: str
    methods: tuple[str, ...]
    summary: str
    endpoint: StubEndpoint


def config(call: CaptureCall) -> Response:
    """The configuration of posthog-js."""
    return _json(_config(call.context, call.request.parameters["token"]))


def config_script(call: CaptureCall) -> Response:
    """The same for pages that load posthog-js by its snippet: a script that leaves it where
    posthog-js looks."""
    token = call.request.parameters["token"]
    script = _SCRIPT % (orjson.dumps(token), orjson.dumps(_config(call.context, token)))
    return Response(
        headers={"Content-Type": "text/javascript; charset=utf-8"}, body=script
    )


def flags(call: CaptureCall) -> Response:
    """No flags; with the configuration where an SDK wants both at once."""
    context, request = call.context, call.request
    answer = NO_FLAGS | {
        "requestId": str(context.mint()),
        "evaluatedAt": context.clock.now_us() // 1_000,
    }
    if request.path.startswith("/decide") or request.query.get("config") == "true":
        answer |= _config(context, _token(request))
    return _json(answer)


def _fixed(answer: Any) -> StubEndpoint:
    return lambda call: _json(answer)


def _json(answer: Any) -> Response:
    return Response(headers={"Content-Type": JSON}, body=orjson.dumps(answer))


def _config(context: Context, token: str) -> dict[str, Any]:
    project = context.access.by_token(token)
    records = project is not None and project.recordings
    return {
        "token": token,
        **CONFIG,
        "sessionRecording": RECORDING if records else False,
    }


def _token(request: Request) -> str:
    """The token that a body names, in any form that capture takes; none is no error here."""
    encoding = request.headers.get("Content-Encoding", "")
    try:
        batch = decode(request.body, request.content_type, request.query, encoding)
    except (errors.ApiError, BadInput):
        return ""
    return batch.token or token_of(batch.events[0]) or ""


STUBS = (
    Stub(
        "config",
        "/array/{token}/config",
        ("GET",),
        "The configuration of posthog-js: everything optional is off.",
        config,
    ),
    Stub(
        "config_script",
        "/array/{token}/config.js",
        ("GET",),
        "The same as a script.",
        config_script,
    ),
    Stub("flags", "/flags", ("GET", "POST"), "There are no flags.", flags),
    Stub(
        "flags_decide",
        "/decide",
        ("GET", "POST"),
        "What older SDKs ask: the configuration, and no flags.",
        flags,
    ),
    *(
        Stub(name, path, ("GET",), says, _fixed(answer))
        for name, path, says, answer in (
            (
                "flag_definitions",
                "/flags/definitions",
                "No flags to evaluate.",
                {"flags": [], "group_type_mapping": {}, "cohorts": {}},
            ),
            (
                "flag_definitions_legacy",
                "/api/feature_flag/local_evaluation",
                "The same for older SDKs.",
                {"flags": [], "group_type_mapping": {}, "cohorts": {}},
            ),
            (
                "surveys",
                "/api/surveys",
                "There are no surveys.",
                {"surveys": [], "survey_config": None},
            ),
            (
                "early_access_features",
                "/api/early_access_features",
                "There are none.",
                {"earlyAccessFeatures": []},
            ),
            (
                "web_experiments",
                "/api/web_experiments",
                "There are none.",
                {"experiments": []},
            ),
            (
                "product_tours",
                "/api/product_tours",
                "There are none.",
                {"product_tours": []},
            ),
        )
    ),
)


class StaticFiles:
    """The scripts of a folder and of its folders by version, as they are when the process starts.

    A version without a folder of its own gets the files beside: an unpacked posthog-js has no such
    folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self._files: dict[str, Path] = {}
        if folder is not None:
            paths = [
                path for depth in ("*.js*", "*/*.js*") for path in folder.glob(depth)
            ]
            self._files = {path.relative_to(folder).as_posix(): path for path in paths}

    async def find(self, call: CaptureCall) -> Response:
        """A file; 304 for a client that has it."""
        anyone = {"Access-Control-Allow-Origin": "*"}
        name = call.request.parameters["file"]
        path = self._files.get(name) or self._files.get(name.rpartition("/")[2])
        if path is None:
            refusal = errors.not_found(
                "No such file: PERSONLOG_STATIC names the folder with posthog-js's files."
            )
            refusal.headers |= anyone
            raise refusal
        return await asyncio.to_thread(_file, path, call.request.headers, anyone)


def _file(
    path: Path, request_headers: Mapping[str, str], headers: dict[str, str]
) -> Response:
    """A file as it is now, packed where that lies beside it and the client takes it."""
    kind = f"{_KINDS[path.suffix]}; charset=utf-8"
    accepted = request_headers.get("Accept-Encoding", "").lower()
    for encoding, ending in PACKED.items():
        packed = path.with_name(path.name + ending)
        if encoding in accepted and packed.is_file():
            path = packed
            headers = headers | {
                "Content-Encoding": encoding,
                "Vary": "Accept-Encoding",
            }
            break
    status = path.stat()
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    caching = {"Cache-Control": f"public, max-age={STATIC_SECONDS}", "ETag": etag}
    headers = (
        headers | caching | {"Last-Modified": formatdate(status.st_mtime, usegmt=True)}
    )
    client_tags = [
        text.strip().removeprefix("W/")
        for text in request_headers.get("If-None-Match", "").split(",")
    ]
    if "*" in client_tags or etag in client_tags:
        return Response(status=304, headers=headers)
    return Response(headers=headers | {"Content-Type": kind}, body=path.read_bytes())


def routes(static: str = "") -> tuple[Route, ...]:
    """The rows of all stubs, and of the files of the folder `static`."""
    files = StaticFiles(Path(static) if static else None)
    return (
        *(route for stub in STUBS for route in _rows(stub)),
        Route(
            "GET",
            STATIC,
            "",
            files.find,
            access="open",
            gated=False,
            operation=operations.static(),
            name="get_static_file",
        ),
        Route(
            "HEAD",
            STATIC,
            "",
            files.find,
            access="open",
            gated=False,
            name="head_static_file",
        ),
    )


def _rows(stub: Stub) -> tuple[Route, ...]:
    path = stub.path + "/"
    return (
        *(
            capture_route(
                method,
                stub.path + "{slash}",
                stub.endpoint,
                gated=False,
                body_bytes_max=FLAGS_BYTES_MAX if method == "POST" else None,
                operation=operations.stub(path, stub.summary),
                name=f"{VERBS[method]}_{stub.name}",
            )
            for method in stub.methods
        ),
        capture_route(
            "OPTIONS",
            stub.path + "{slash}",
            preflight,
            gated=False,
            operation=operations.preflight(path),
            name=f"preflight_{stub.name}",
        ),
    )
