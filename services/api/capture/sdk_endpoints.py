"""What SDKs ask beside capture: configuration, flags, surveys, and posthog-js's own files. Never reads the store.

There are no flags, surveys, tours or experiments here; an SDK that is told so is quiet, one that finds nothing is not.
No answer is refused for its token: a wrong one is told by capture, with 401, and a new one is known after a poll.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from services.api.capture.events import token_of
from services.api.capture.payload import decode
from services.api.capture.v0 import cors, preflight
from services.api.context import CONTEXT, Context
from services.api.http import errors
from services.api.http.rendering import JSON
from services.api.http.routing import read_body
from shared.domain.errors import BadInput

FLAGS_BYTES_MAX = 1_048_576
"""Of a body that asks for flags: it holds the person's properties."""

STATIC_SECONDS = 3_600
"""How long a browser may keep a file: a newer posthog-js reaches everybody within an hour, and ETag saves the rest."""

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
"""Everything optional is off: what is left out, posthog-js takes from its last visit or from its own defaults."""

RECORDING = {"endpoint": "/s/", "recorderVersion": "v2", "consoleLogRecordingEnabled": False}

NO_FLAGS: dict[str, Any] = {
    "flags": {}, "featureFlags": {}, "featureFlagPayloads": {}, "errorsWhileComputingFlags": False,
}  # fmt: skip
"""`flags` is what SDKs of today read, the next two what older ones do."""

_SCRIPT = b"(window._POSTHOG_REMOTE_CONFIG=window._POSTHOG_REMOTE_CONFIG||{})[%b]={config:%b,siteApps:[]};"
_KINDS = {".js": "text/javascript", ".map": JSON}
_FILE = r"/static/{file:(\d[\w.-]*/)?[\w.-]+\.js(\.map)?}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Stub(NamedTuple):
    """One thing that SDKs ask for."""

    path: str
    methods: tuple[str, ...]
    says: str
    handler: Handler


def register(app: web.Application, static: str = "") -> None:
    """Add the stubs, and the files of the folder `static`."""
    for stub in STUBS:
        resource = app.router.add_resource(stub.path + "{slash:/?}")
        for method in stub.methods:
            resource.add_route(method, stub.handler)
        resource.add_route("OPTIONS", preflight)
    app.router.add_get(_FILE, _files(Path(static) if static else None))


async def config(request: web.Request) -> web.Response:
    return _answer(request, _config(request.app[CONTEXT], request.match_info["token"]))


async def config_script(request: web.Request) -> web.Response:
    """The same for who loads posthog-js by its snippet: a script that leaves it where posthog-js looks."""
    token = request.match_info["token"]
    shown = orjson.dumps(_config(request.app[CONTEXT], token))
    script = _SCRIPT % (orjson.dumps(token), shown)
    return web.Response(body=script, headers=cors(request), content_type="text/javascript", charset="utf-8")


async def flags(request: web.Request) -> web.Response:
    """No flags; with the configuration where an SDK wants both at once."""
    context = request.app[CONTEXT]
    answer = NO_FLAGS | {"requestId": str(context.mint()), "evaluatedAt": context.clock.now_us() // 1_000}
    if request.path.startswith("/decide") or request.query.get("config") == "true":
        answer |= _config(context, await _token(request))
    return _answer(request, answer)


def _fixed(answer: Any) -> Handler:
    async def fixed(request: web.Request) -> web.Response:
        return _answer(request, answer)

    return fixed


def _answer(request: web.Request, answer: Any) -> web.Response:
    return web.Response(body=orjson.dumps(answer), headers=cors(request), content_type=JSON)


def _config(context: Context, token: str) -> dict[str, Any]:
    project = context.access.by_token(token)
    records = project is not None and project.recordings
    return {"token": token, **CONFIG, "sessionRecording": RECORDING if records else False}


async def _token(request: web.Request) -> str:
    """The token that a body names, in any form that capture takes; none is no error here."""
    body = await read_body(request, FLAGS_BYTES_MAX)
    try:
        asked = decode(body, request.content_type, request.query, request.headers.get("Content-Encoding", ""))
    except (errors.ApiError, BadInput):
        return ""
    return asked.token or token_of(asked.events[0]) or ""


def _files(folder: Path | None) -> Handler:
    """The scripts of the folder and of its folders by version, as they are when the process starts.

    A version without a folder of its own gets the files beside: an unpacked posthog-js has no such folder.
    """
    files: dict[str, Path] = {}
    if folder is not None:
        found = [path for depth in ("*.js*", "*/*.js*") for path in folder.glob(depth)]
        files = {path.relative_to(folder).as_posix(): path for path in found}

    async def file(request: web.Request) -> web.StreamResponse:
        anyone = {"Access-Control-Allow-Origin": "*"}
        named = request.match_info["file"]
        path = files.get(named) or files.get(named.rpartition("/")[2])
        if path is None:
            missing = errors.not_found("No such file: PERSONLOG_STATIC names the folder with posthog-js's files.")
            missing.headers |= anyone
            raise missing
        kind = f"{_KINDS[path.suffix]}; charset=utf-8"
        kept = {"Content-Type": kind, "Cache-Control": f"public, max-age={STATIC_SECONDS}"}
        return web.FileResponse(path, headers=anyone | kept)

    return file


STUBS = (
    Stub("/array/{token}/config", ("GET",), "The configuration of posthog-js: everything optional is off.", config),
    Stub("/array/{token}/config.js", ("GET",), "The same as a script.", config_script),
    Stub("/flags", ("GET", "POST"), "There are no flags.", flags),
    Stub("/decide", ("GET", "POST"), "What older SDKs ask: the configuration, and no flags.", flags),
    *(
        Stub(path, ("GET",), says, _fixed(answer))
        for path, says, answer in (
            ("/flags/definitions", "No flags to evaluate.", {"flags": [], "group_type_mapping": {}, "cohorts": {}}),
            ("/api/feature_flag/local_evaluation", "The same for older SDKs.",
             {"flags": [], "group_type_mapping": {}, "cohorts": {}}),
            ("/api/surveys", "There are no surveys.", {"surveys": [], "survey_config": None}),
            ("/api/early_access_features", "There are none.", {"earlyAccessFeatures": []}),
            ("/api/web_experiments", "There are none.", {"experiments": []}),
            ("/api/product_tours", "There are none.", {"product_tours": []}),
        )
    ),
)  # fmt: skip
