"""Session recordings in the shape in which posthog-js 1.449 sent them. Never knows what becomes of them."""

from __future__ import annotations

import gzip
import json
from typing import Any
from uuid import uuid4

from tests.support.processes import TOKEN

SESSION, WINDOW = "01a207ca-9815-7000-8000-00000000a001", "01a207ca-9815-7000-8000-00000000b001"
BEGAN_MS = 1_795_426_687_489
"""2026-11-23, some seconds before `api.NOW`."""


def packed(value: Any) -> str:
    """As the SDK packs large parts: gzip bytes as a text of code points 0 to 255, NUL among them."""
    return gzip.compress(json.dumps(value).encode(), mtime=0).decode("latin-1")


def snapshots(began: int = BEGAN_MS, text: str = "hello") -> list[dict[str, Any]]:
    """A meta event, a full snapshot and a mutation."""
    return [
        {"type": 4, "timestamp": began, "data": {"href": "https://example.com/ü", "width": 1024, "height": 768}},
        {"type": 2, "timestamp": began + 28, "cv": "2024-10", "data": packed({"node": {"text": text}})},
        {
            "type": 3, "timestamp": began + 1_077, "cv": "2024-10",
            "data": {"source": 0, "texts": packed([text]), "attributes": packed([]), "removes": packed([])},
        },
    ]  # fmt: skip


def event(name: str, session: str = SESSION, token: str = TOKEN, **properties: Any) -> dict[str, Any]:
    """One `$snapshot` event; properties of None are left out."""
    sent = {
        "$session_id": session, "$window_id": WINDOW, "distinct_id": name, "token": token, "$lib": "web",
        "$lib_version": "1.449.2", "$snapshot_host": "127.0.0.1", "$snapshot_bytes": 6_630,
        "$snapshot_data": snapshots(),
    } | properties  # fmt: skip
    return {
        "uuid": str(uuid4()), "event": "$snapshot", "timestamp": "2026-11-23T09:38:10.564Z",
        "properties": {key: value for key, value in sent.items() if value is not None},
    }  # fmt: skip


def body(*events: Any) -> bytes:
    """A bare array in gzip, as `text/plain` and without any hint."""
    return gzip.compress(json.dumps(events, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0)


def lines(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reader gets of them."""
    return [
        one | {"windowId": sent["properties"].get("$window_id", sent["properties"]["$session_id"])}
        for sent in events
        for one in sent["properties"]["$snapshot_data"]
    ]
