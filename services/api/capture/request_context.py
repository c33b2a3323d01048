"""What all events of a captured request share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import msgspec


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all events of a request share. Times in microseconds: `received_at` when it was whole,
    `arrived_at` when it began; `skew` is sender's clock minus ours. `unnamed` is what an
    event without a name is called; `lenient` when the body holds numbers beyond every
    float.
    """

    project: int
    received_at: int
    arrived_at: int
    skew: int
    historical: bool
    mint: Callable[[], UUID]
    merge_dangerously: bool = True
    server_only: frozenset[str] = frozenset()
    unnamed: str | None = None
    lenient: bool = False
    contents: Counter[bytes] = msgspec.field(default_factory=Counter)
    """How often each content of an event without a uuid came in this request."""

    def derive(self, content: bytes) -> UUID:
        """A uuid of an event's content; equal events of one request are told apart by their
        order."""
        digest = hashlib.sha256(b"%d:" % self.project + content).digest()
        self.contents[digest] += 1
        if self.contents[digest] > 1:
            digest = hashlib.sha256(digest + b"%d" % self.contents[digest]).digest()
        return UUID(bytes=digest[:16], version=5)
