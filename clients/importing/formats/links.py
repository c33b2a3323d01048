"""Links of a user's id to the device's, where each row of an export names both. Pure, but for the
index of the file."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.importing.index import SourceIndex


def link_of(
    user: str | None, anonymous: str | None, when: datetime, index: SourceIndex
) -> list[dict[str, Any]]:
    """Build the `$identify` that joins the two, at the first row that names a user of the device.

    A device of several users is the first one's, as it would be had they sent it.
    """
    if user is None or anonymous is None or user == anonymous:
        return []
    if not index.is_new_link(anonymous):
        return []
    return [
        {
            "event": "$identify",
            "distinct_id": user,
            "timestamp": when.isoformat(),
            "properties": {"$anon_distinct_id": anonymous},
        }
    ]
