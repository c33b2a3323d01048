"""The API that rows are imported into: batches of events, and merges that mark nobody. Never mints an id of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from clients.importing.client import Answer, Client, usable
from shared.domain.ids import Position, format_positions, parse_positions
from shared.runtime.settings import SettingsError

ASKED_MAX = 200
"""Persons looked up at once: as many as the API takes."""

_COUNTS = re.compile(r" \d+ stored, \d+ refused\.$")
_BAD_EVENT = re.compile(r"batch\[(\d+)\]")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why something of a row is not in."""

    row: int
    reason: str
    attr: str | None = None


class Merge(NamedTuple):
    """A merge for REST, of a row; `when` it is of."""

    row: int
    into: str
    source: str
    when: str


Sent = tuple[int, bytes]
"""The number of a row, and one of its events."""


class Target:
    """A project of an API, by its token; merges need a personal key too."""

    def __init__(self, client: Client, url: str, token: str, key: str) -> None:
        self._client, self._url, self._token, self._key = client, url.rstrip("/"), token, key
        self._positions: list[Position] = []  # the highest of each partition

    async def send(self, events: Sequence[Sent]) -> list[Refusal]:
        """Append events of the past; when this returns, all but the refused ones are durable.

        A refused batch names its first bad event only, and has stored the good ones. What is behind it is sent again,
        the same by its uuids: in halves, because all of it may be bad.
        """
        refused: list[Refusal] = []
        waiting = [events]
        while waiting:
            part = waiting.pop()
            answer, said = await self._batch(part)
            if answer.status == 200:
                continue
            attr = str(said.get("attr") or "")
            named = _BAD_EVENT.match(attr)
            if named is not None or len(part) == 1:
                bad = int(named[1]) if named is not None else 0
                refused.append(Refusal(row=part[bad][0], reason=_reason(answer), attr=attr.partition("].")[2] or None))
                part = part[bad + 1 :]
            middle = len(part) // 2
            waiting += [half for half in (part[middle:], part[:middle]) if half]
        return refused

    async def merge(self, wanted: Sequence[Merge]) -> list[Refusal]:
        """Merge as an operator does it. Whoever is named has been sent before."""
        uuids: dict[str, str] = {}
        names = list(dict.fromkeys(one.into for one in wanted))
        for start in range(0, len(names), ASKED_MAX):
            asked = msgspec.json.encode({"distinct_ids": names[start : start + ASKED_MAX]})
            answer = usable(await self._rest("batch_by_distinct_ids/", asked), self._url)
            found = (answer.json() or {}).get("results", {})
            uuids |= {name: person["uuid"] for name, person in found.items()}
        refused = []
        for row, into, source, when in wanted:
            if into not in uuids:
                refused.append(Refusal(row=row, reason="Nobody to merge into: erased since, or refused.", attr=None))
                continue
            asked = msgspec.json.encode({"distinct_id": source, "timestamp": when})
            answer = await self._rest(f"{uuids[into]}/merge/", asked)
            if answer.status not in (200, 202, 404):
                usable(answer, self._url)
            if answer.status not in (200, 202):
                refused.append(Refusal(row=row, reason=f"Not merged: {_reason(answer)}", attr="distinct_ids"))
        return refused

    async def _batch(self, events: Sequence[Sent]) -> tuple[Answer, dict[str, Any]]:
        head = msgspec.json.encode({"api_key": self._token, "historical_migration": True})
        body = head[:-1] + b',"batch":[' + b",".join(event for _, event in events) + b"]}"
        url = f"{self._url}/batch/"
        answer = usable(await self._client.ask("POST", url, body), url)
        said = answer.json()
        if not isinstance(said, dict) or ("status" if answer.status == 200 else "detail") not in said:
            raise SettingsError(f"{url}: this is no personlog; it answers {answer.status} with something else")
        if position := answer.headers.get("Position"):
            self._positions = parse_positions(format_positions([*self._positions, *parse_positions(position)]))
        return answer, said

    async def _rest(self, path: str, body: bytes) -> Answer:
        return await self._client.ask(
            "POST", f"{self._url}/api/person/{path}?token={quote(self._token, safe='')}", body,
            Authorization=f"Bearer {self._key}", Min_Position=format_positions(self._positions), Prefer="respond-async",
        )  # fmt: skip


def _reason(answer: Answer) -> str:
    said = answer.json()
    detail = said.get("detail") if isinstance(said, dict) else None
    return _COUNTS.sub("", str(detail or f"The server answers {answer.status}."))[:500]
