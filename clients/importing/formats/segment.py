"""Segment's calls, as its archives hold them: identify, track, page, screen and alias. Pure, but
for the index of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clients.importing.formats.fields import id_of, object_of, time_of, uuid_of
from clients.importing.formats.links import link_of
from shared.domain.errors import BadInput

if TYPE_CHECKING:
    from clients.importing.index import SourceIndex

_NAMES = {"page": "$pageview", "screen": "$screen"}
_TYPES = frozenset(("identify", "track", "page", "screen", "alias", "group"))


def is_call(row: Mapping[str, Any]) -> bool:
    """Whether a row is a call of Segment's libraries."""
    kind = row.get("type")
    ids = row.keys() & {"userId", "anonymousId", "previousId"}
    return isinstance(kind, str) and kind in _TYPES and bool(ids)


def events_of(row: Mapping[str, Any], index: SourceIndex) -> list[dict[str, Any]]:
    """Build the events of a call; none of a group, which personlog does not have."""
    if row["type"] == "group":
        return []
    user, anonymous = id_of(row, "userId"), id_of(row, "anonymousId")
    when = time_of(row, "timestamp", "originalTimestamp", "sentAt", "receivedAt")
    event = {
        "distinct_id": user or anonymous,
        "timestamp": when.isoformat(),
        "uuid": uuid_of(row.get("messageId"), "segment"),
        **_content(row, user, anonymous),
    }
    if row["type"] in ("identify", "alias"):
        return [event]
    return [event, *link_of(user, anonymous, when, index)]


def _content(
    row: Mapping[str, Any], user: str | None, anonymous: str | None
) -> dict[str, Any]:
    if row["type"] == "alias":
        previous = id_of(row, "previousId", "anonymousId")
        if user is None or previous is None:
            raise BadInput("An alias needs a userId and a previousId.", attr="userId")
        return {"event": "$create_alias", "properties": {"alias": previous}}
    if row["type"] == "identify":
        is_link = user is not None and anonymous is not None and user != anonymous
        return {
            "event": "$identify" if is_link else "$set",
            "properties": {"$anon_distinct_id": anonymous} if is_link else {},
            "$set": object_of(row, "traits"),
        }
    properties = object_of(row, "properties")
    if row["type"] == "track":
        return {"event": row.get("event"), "properties": properties}
    title = {} if row.get("name") in (None, "") else {"$screen_name": row["name"]}
    if row["type"] == "page" and "url" in properties:
        title = {"$current_url": properties["url"]}
    return {"event": _NAMES[row["type"]], "properties": title | properties}
