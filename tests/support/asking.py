"""What end-to-end tests ask of a running stack again and again."""

from __future__ import annotations

from typing import Any

from shared.domain.ids import fragment_id
from tests.support.processes import TOKEN, Stack


def sent(stack: Stack, name: str, event: str = "e", /, **properties: Any) -> str:
    """Capture one event, wait until reads see it; its Position."""
    answer = stack.capture(event=event, distinct_id=name, properties=properties)
    assert answer.status == 200
    position = answer.headers["Position"]
    assert stack.persons("/?limit=1", Min_Position=position).status == 200
    return position


def imported(stack: Stack, name: str, timestamp: str, **properties: Any) -> dict[str, Any]:
    """The person with this distinct id after an imported event, which counts at its own time."""
    event = {"event": "e", "distinct_id": name, "timestamp": timestamp, "properties": {"$set": properties}}
    answer = stack.ask("POST", "/batch/", {"api_key": TOKEN, "historical_migration": True, "batch": [event]}, key=None)
    found: dict[str, Any] = stack.persons(f"/{uuid(name)}/", Min_Position=answer.headers["Position"]).json
    return found


def shown(stack: Stack, name: str, as_of: str = "", **query: str) -> dict[str, Any] | None:
    """The person with this distinct id, now or then."""
    extra = "".join(f"&{key}={value}" for key, value in ({"as_of": as_of} if as_of else {} | query).items())
    answer = stack.persons(f"/?distinct_id={name}{extra}")
    assert answer.status == 200, answer.body
    rows = answer.json["results"]
    return rows[0] if rows else None


def uuid(name: str) -> str:
    return str(fragment_id(1, name))
