"""If-Match: a write that goes ahead only while the person is the one that the client has read."""

from __future__ import annotations

from services.api.http.messages import Request
from shared.domain.errors import PreconditionFailed
from shared.store.person import Person


def check_if_match(request: Request, person: Person) -> bool:
    """Whether the write depends on the person's entity tag; PreconditionFailed when `If-Match` does
    not name it. Without the header, or with `*`, any person will do."""
    tags = {tag.strip() for tag in request.headers.get("If-Match", "*").split(",")}
    if not tags & {"*", person.etag}:
        raise PreconditionFailed
    return "*" not in tags
