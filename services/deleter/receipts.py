"""Receipts: what was erased, counted through the mask, signed (Ed25519) and chained, for who trusts
nobody here.

A receipt holds no personal data: uuids, counts, times, and of a purge the name. Whoever has the
public key can check it offline; whoever has two neighbours of a project's chain sees that none is
missing between them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from shared.domain.deletion import DeletionRequest
from shared.domain.errors import Corrupt, Transient
from shared.log.port import RETENTION_SECONDS
from shared.runtime.files import write_whole
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.queries import load as load_queries
from shared.store.person import iso
from shared.store.purging import targets_of
from shared.store.targets import OBJECTS

FORMAT = 1

COLUMNS = ("project", "sequence", "request", "hash", "body")

FIRST = "0" * 64
"""What the first receipt of a project names as its previous one."""

SEGMENT_SECONDS = 86_400
"""The log drops whole segments, of a day: what is past its retention may lie there so much
longer."""

RECEIPT_BYTES_MAX = 4 * 1_048_576
"""A file that claims to be a receipt: the largest names 2,500 members in 100 KB."""


class Receipts:
    """Signs and keeps receipts: rows of the table `receipts`, and a file each in `folder`, where
    the key lies too."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._queries = load_queries(Path(__file__).with_suffix(".sql"))

    async def issue(self, requests: Sequence[DeletionRequest], now_us: int) -> None:
        """A receipt for each request, before the ledger says verified. Again is harmless: each
        request has one.

        The caller holds the sweep's lock: nobody else lengthens a chain meanwhile.
        """
        if not requests:
            return
        await self._adopt()
        projects = sorted({request.project for request in requests})
        present: dict[UUID, str] = dict(
            await self._store.rows(
                self._queries["of_requests"],
                projects=projects,
                requests=[request.id for request in requests],
            )
        )
        chains = await self._store.rows(self._queries["ends"], projects=projects)
        ends = {project: (sequence, previous) for project, sequence, previous in chains}
        try:
            key = signing_key(self._folder)
        except OSError as error:
            raise Transient(f"The signing key cannot be read: {error}") from error
        rows: list[tuple[Any, ...]] = []
        bodies = {request: body.encode() for request, body in present.items()}
        for request in requests:
            if request.id in present:
                continue
            sequence, previous = ends.get(request.project, (0, FIRST))
            content = statement(request, now_us) | {
                "sequence": sequence + 1,
                "previous": previous,
            }
            bodies[request.id] = sign(content, key)
            ends[request.project] = (sequence + 1, digest(content))
            rows.append(_row_of(content, bodies[request.id]))
        await self._insert(rows)
        try:
            for request_id, body in bodies.items():
                write_whole(self._folder / f"{request_id}.json", body, 0o600)
        except OSError as error:
            raise Transient(f"A receipt cannot be written: {error}") from error

    async def _adopt(self) -> None:
        """Files that the table does not have: it was restored from an older copy. The chain goes on
        behind them, and what is erased once more keeps the receipt that it has."""
        names = {path.stem: path for path in self._folder.glob("*.json")}
        present = (
            {
                str(request)
                for (request,) in await self._store.rows(self._queries["all"])
            }
            if names
            else set()
        )
        rows = []
        key = signing_key(self._folder).public_key()
        for name in sorted(names.keys() - present):
            body = names[name].read_bytes()
            try:
                content = check(body, key)
            except Corrupt as error:  # somebody's file: erasing goes on without it
                structlog.get_logger(service="deleter").warning(
                    "no receipt", file=names[name].name, why=error.detail
                )
                continue
            rows.append(_row_of(content, body))
        await self._insert(rows)

    async def _insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        columns = {
            name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)
        }
        await self._store.insert("receipts", columns)


def statement(request: DeletionRequest, now_us: int) -> dict[str, Any]:
    """What a receipt says of a request whose rows were all counted as zero. Pure."""
    log_seconds = RETENTION_SECONDS + SEGMENT_SECONDS
    return {
        "format": FORMAT,
        "request": str(request.id),
        "project": request.project,
        "person": str(request.person),
        "members": [str(member) for member in request.members],
        "scope": {
            "profile": request.scope.profile,
            "events": request.scope.events,
            "recordings": request.scope.recordings,
            **({"purge": request.scope.purge} if request.scope.purge else {}),
        },
        "stays": request.scope.stays,
        "requested_at": iso(request.cutoff),
        "verified_at": iso(now_us),
        "plan": str(request.plan),
        "erased": {
            target.name: {
                "rows_hidden": request.hidden.get(target.name, 0),
                "rows_left": 0,
                "partitions": request.partitions.get(target.name, {}),
            }
            for target in targets_of(request.scope)
        },
        "objects": {"erased": request.hidden.get(OBJECTS, 0), "left": 0},
        "log": {
            "how": "retention",
            "until": iso(request.cutoff + log_seconds * 1_000_000),
        },
    }


def _row_of(content: Mapping[str, Any], body: bytes) -> tuple[Any, ...]:
    """A row of `receipts`, as COLUMNS."""
    request = UUID(content["request"])
    return (
        content["project"],
        content["sequence"],
        request,
        digest(content),
        body.decode(),
    )


def canonical(content: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: JSON with sorted keys and no spaces."""
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def sign(content: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The whole receipt: what is said, its hash, the signature and the public key it is made
    with."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    whole = {
        "said": content,
        "sha256": digest(content),
        "ed25519": base64.b64encode(key.sign(canonical(content))).decode(),
        "public_key": base64.b64encode(public).decode(),
    }
    return (
        orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    )


def check(raw: bytes, key: Ed25519PublicKey) -> dict[str, Any]:
    """What a receipt says, once its signature is found to be by this key. Corrupt, with the reason,
    otherwise."""
    if len(raw) > RECEIPT_BYTES_MAX:
        raise Corrupt("It is no receipt: too large.")
    try:
        whole = orjson.loads(raw)
        content, signature = (
            whole["said"],
            base64.b64decode(whole["ed25519"], validate=True),
        )
        if whole["sha256"] != digest(content) or content["format"] != FORMAT:
            raise Corrupt("It was changed: its hash is another one.")
        key.verify(signature, canonical(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"It is no receipt: {type(error).__name__}.") from None
    except InvalidSignature:
        raise Corrupt("Its signature is not by this key.") from None
    return dict(content)


def broken_links(receipts: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong between neighbours of the chains that these receipts belong to; gaps are no
    fault of a receipt."""
    by_place = {
        (content["project"], content["sequence"]): content for content in receipts
    }
    wrong = []
    for (project, sequence), content in sorted(by_place.items()):
        before = by_place.get((project, sequence - 1))
        expected = (
            FIRST
            if sequence == 1
            else digest(before)
            if before is not None
            else content["previous"]
        )
        if content["previous"] != expected:
            wrong.append(
                f"project {project}: receipt {sequence} does not follow receipt {sequence - 1}"
            )
    return wrong


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key in the folder, made at its first use; the public half lies beside it for who
    checks."""
    path = folder / "signing-key.pem"
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(
            path,
            fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            0o600,
        )
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise Corrupt(f"{path} is no Ed25519 key.")
    public = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    if not (folder / "public-key.pem").exists():
        write_whole(folder / "public-key.pem", public, 0o644)
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key of a PEM file. Corrupt when there is none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} is no public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Corrupt(f"{path} is no Ed25519 key.")
    return key
