"""Requests as the real SDKs sent them, recorded and trimmed. Never edited to suit a test."""

from __future__ import annotations

from typing import Any

from tests.support.api import TOKEN

ANON = "01a207c7-3713-7000-8000-0000000000aa"
"""What the browser's SDK made up for its device."""

PYTHON_SDK: dict[str, Any] = {
    "batch": [
        {
            "event": "order placed", "distinct_id": "u1", "uuid": "6a86395a-0000-4000-8000-000000000001",
            "timestamp": "2026-11-20T08:00:00+00:00",
            "properties": {
                "amount": 12.5, "$set": {"plan": "pro"}, "$set_once": {"first_seen": "2026-01-01"},
                "$unset": ["old_prop"], "$python_runtime": "CPython", "$os": "Linux", "$lib": "posthog-python",
                "$lib_version": "7.91.1", "$geoip_disable": True, "$is_server": True,
            },
        },
        {
            "event": "$set", "distinct_id": "u1", "$set": {"email": "a@b.c"}, "timestamp": "2026-11-23T09:37:24+00:00",
            "properties": {"$lib": "posthog-python", "$is_server": True},
            "uuid": "6a86395a-0000-4000-8000-000000000002",
        },
        {
            "event": "$set_once", "distinct_id": "u1", "$set_once": {"signup": "2026-01-01"},
            "properties": {"$lib": "posthog-python"}, "uuid": "6a86395a-0000-4000-8000-000000000003",
        },
        {
            "event": "$create_alias", "distinct_id": "anon-1", "properties": {"distinct_id": "anon-1", "alias": "u1"},
            "uuid": "6a86395a-0000-4000-8000-000000000004",
        },
        {
            "event": "$groupidentify", "distinct_id": "d21e49c7-0000-4000-8000-000000000000",
            "properties": {"$group_type": "company", "$group_key": "acme", "$group_set": {"name": "Acme"}},
            "uuid": "6a86395a-0000-4000-8000-000000000005",
        },
        {
            "event": "personless ev", "distinct_id": "fb7b830d-0000-4000-8000-000000000000",
            "properties": {"$process_person_profile": False}, "uuid": "6a86395a-0000-4000-8000-000000000006",
        },
    ],
    "historical_migration": False,
    "sent_at": "2026-11-23T09:37:24.697091+00:00",
    "api_key": TOKEN,
}  # fmt: skip
NODE_SDK: dict[str, Any] = {
    "api_key": TOKEN,
    "batch": [
        {
            "event": "$identify", "distinct_id": "u1", "uuid": "01a207c5-0000-7000-8000-000000000001",
            "timestamp": "2026-11-23T09:38:09.424Z",
            "properties": {
                "$set": {"email": "a@b.c"}, "$set_once": {"signup": "2026-01-01"}, "$lib": "posthog-node",
                "$is_server": True, "$geoip_disable": True,
            },
        },
        {
            "event": "$create_alias", "distinct_id": "u1", "properties": {"distinct_id": "u1", "alias": "anon-1"},
            "uuid": "01a207c5-0000-7000-8000-000000000002",
        },
    ],
    "sent_at": "2026-11-23T09:38:09.446Z",
}  # fmt: skip
BROWSER_SDK: dict[str, Any] = {
    "api_key": TOKEN,
    "batch": [
        {
            "uuid": "01a207c7-480a-7000-8000-000000000001", "event": "$identify",
            "timestamp": "2026-11-23T09:40:30.346Z",
            "properties": {
                "distinct_id": "u1", "$anon_distinct_id": ANON, "$device_id": ANON, "$user_id": "u1", "token": TOKEN,
                "$insert_id": "blmu", "$time": 1_795_426_830.346, "$is_identified": True,
                "$process_person_profile": True, "utm_source": "news", "utm_medium": None,
            },
            "$set": {"email": "a@b.c"},
            "$set_once": {"$initial_utm_source": "news", "$initial_utm_medium": None, "first": "x"},
        }
    ],
    "sent_at": "2026-11-23T09:40:30.349Z",
}  # fmt: skip
