"""Events to commands as capture makes them, at a fixed time, with ids that count."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID

import pytest

from services.api.capture.events import commands_of
from services.api.capture.request_context import RequestContext
from shared.domain.commands import Capture, Command
from shared.domain.errors import BadInput
from shared.inputs.repairs import Repairs

NOW = 1_795_426_700_000_000
SECOND, HOUR = 1_000_000, 3_600_000_000
UUID_TEXT = "01a207c7-480a-7000-8000-000000000001"


def scene(**changed: Any) -> RequestContext:
    numbers = count(1)
    fields: dict[str, Any] = {"project": 1, "received_at": NOW, "arrived_at": NOW, "skew": 0, "historical": False}
    return RequestContext(mint=lambda: UUID(int=next(numbers)), **fields | changed)


def commands(
    event: Any = None, /, at: int = NOW, scenery: RequestContext | None = None, **fields: Any
) -> list[Command]:
    sent = {"event": "e", "distinct_id": "d"} | fields if event is None else event
    return commands_of(sent, at, scenery or scene(), Repairs())


def repaired(scenery: RequestContext | None = None, /, **fields: Any) -> tuple[Capture, list[tuple[str, str]]]:
    """The event, and what was repaired of it: kinds and fields."""
    repairs = Repairs()
    command = commands_of({"event": "e", "distinct_id": "d"} | fields, NOW, scenery or scene(), repairs)[0]
    assert isinstance(command, Capture)
    return command, [tuple(repair) for repair in repairs]


def captured(**fields: Any) -> Capture:
    command = commands(**fields)[0]
    assert isinstance(command, Capture)
    return command


def refusal(**fields: Any) -> str | None:
    with pytest.raises(BadInput) as caught:
        commands(**fields)
    return caught.value.attr
