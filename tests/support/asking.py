"""What end-to-end tests ask of a running stack again and again."""

from __future__ import annotations

from typing import Any

from tests.support.processes import Stack


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
    batch = {"api_key": stack.token, "historical_migration": True, "batch": [event]}
    answer = stack.ask("POST", "/batch/", batch, key=None)
    found: dict[str, Any] = stack.persons(f"/{stack.uuid(name)}/", Min_Position=answer.headers["Position"]).json
    return found


def shown(stack: Stack, name: str, as_of: str = "", **query: str) -> dict[str, Any] | None:
    """The person with this distinct id, now or then."""
    extra = "".join(f"&{key}={value}" for key, value in ({"as_of": as_of} if as_of else {} | query).items())
    answer = stack.persons(f"/?distinct_id={name}{extra}")
    assert answer.status == 200, answer.body
    rows = answer.json["results"]
    return rows[0] if rows else None
