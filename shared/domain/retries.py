"""Recent Idempotency-Keys: how a command that was sent again is known. Pure; never keeps a key's
text."""

from __future__ import annotations

from shared.domain.commands import Envelope

KEYS_MAX = 32
"""Recent Idempotency-Keys of a fragment: the documented window in which a retried write is
recognised."""

KEY_REUSED = "idempotency_key_reused"
"""Why a command is refused whose Idempotency-Key came before with another request."""

Remembered = tuple[int, int, int]
"""(Idempotency-Key, digest of the request, version of the record that came with them first);
hashes, never text."""


def recall(keys: list[Remembered], command: Envelope) -> Remembered | None:
    """What is remembered of a command's Idempotency-Key."""
    return (
        next((entry for entry in keys if entry[0] == command.key), None)
        if command.key
        else None
    )


def remember(keys: list[Remembered], command: Envelope, version: int) -> None:
    """Keep a command's Idempotency-Key among the recent ones."""
    keys.append((command.key, command.digest, version))
    del keys[:-KEYS_MAX]
