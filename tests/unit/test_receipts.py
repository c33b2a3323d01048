"""Receipts: what is signed, what changes break it, and what a chain shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.deleter.receipts import (
    FIRST,
    RECEIPT_BYTES_MAX,
    broken_links,
    check,
    digest,
    public_key,
    sign,
    signing_key,
    statement,
)
from shared.domain.commands import RequestDeletion, Scope
from shared.domain.deletion import DeletionRequest
from shared.domain.errors import Corrupt
from shared.store.targets import TARGETS

NOW = 1_795_000_000_000_000
KEY = Ed25519PrivateKey.generate()


def said(sequence: int = 1, previous: str = FIRST) -> dict[str, Any]:
    command = RequestDeletion(
        id=uuid4(), project=1, at=NOW, actor="test", request=UUID(int=7), person=UUID(int=8), members=(UUID(int=8),),
        scope=Scope(profile=True, events=True),
    )  # fmt: skip
    request = DeletionRequest.of(command)
    request.begin(UUID(int=9), NOW)
    request.hide({"timeline": 5, "objects": 2}, {"timeline": {"202501": 5}}, NOW)
    return statement(request, NOW + 1_000_000) | {
        "sequence": sequence,
        "previous": previous,
    }


def test_a_receipt_says_what_was_asked_hidden_and_left() -> None:
    one = check(sign(said(), KEY), KEY.public_key())
    assert one["members"] == [str(UUID(int=8))]
    assert one["scope"] == {"profile": True, "events": True, "recordings": False}
    assert one["stays"] == ["recordings"]
    assert set(one["erased"]) == {target.name for target in TARGETS}
    assert one["erased"]["timeline"] == {"rows_hidden": 5, "rows_left": 0, "partitions": {"202501": 5}}
    assert one["objects"] == {"erased": 2, "left": 0}
    assert one["requested_at"] < one["verified_at"] < one["log"]["until"]


def test_a_receipt_of_before_it_said_what_stays_is_still_checked() -> None:
    older = said()
    del older["stays"]
    assert "stays" not in check(sign(older, KEY), KEY.public_key())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in leaves(item, (*path, key))]
    if isinstance(value, list) and value:
        return [found for index, item in enumerate(value) for found in leaves(item, (*path, index))]
    return [path]


@pytest.mark.parametrize("path", leaves(said()), ids=str)
def test_no_leaf_can_be_changed(path: tuple[Any, ...]) -> None:
    whole = orjson.loads(sign(said(), KEY))
    place = whole["said"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "changed"
    with pytest.raises(Corrupt):
        check(orjson.dumps(whole), KEY.public_key())
    whole["sha256"] = digest(whole["said"])  # and with the hash made to fit
    with pytest.raises(Corrupt):
        check(orjson.dumps(whole), KEY.public_key())


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"said":{}}', b"\xff", b" " * (RECEIPT_BYTES_MAX + 1), b'{"said":1,"ed25519":"!"}'],
)
def test_what_is_no_receipt_is_told_so(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        check(raw, KEY.public_key())


def test_another_key_does_not_do_even_when_the_receipt_names_it() -> None:
    forged = sign(said(), Ed25519PrivateKey.generate())
    with pytest.raises(Corrupt, match="not by this key"):
        check(forged, KEY.public_key())


def test_a_chain_shows_what_was_exchanged_and_not_what_was_left_out() -> None:
    first = said()
    second = said(2, digest(first))
    third = said(3, digest(second))
    assert broken_links([third, first, second]) == []
    assert broken_links([first, third]) == []
    assert broken_links([first, said(2, digest(third)), third]) == [
        "project 1: receipt 2 does not follow receipt 1",
        "project 1: receipt 3 does not follow receipt 2",
    ]
    assert broken_links([said(1, digest(third))]) == ["project 1: receipt 1 does not follow receipt 0"]


def test_the_key_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    made = signing_key(folder)
    again = signing_key(folder)
    assert made.private_bytes_raw() == again.private_bytes_raw()
    assert (folder / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert check(sign(said(), again), public_key(folder / "public-key.pem"))["sequence"] == 1
    (folder / "public-key.pem").write_text("no key")
    with pytest.raises(Corrupt):
        public_key(folder / "public-key.pem")
