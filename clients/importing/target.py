"""The API that an import writes to: batches of events, and merges that mark no person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from clients.importing.client import Client, HttpAnswer, usable
from shared.domain.ids import Position, format_positions, parse_positions
from shared.inputs.repairs import REASONS
from shared.runtime.settings import SettingsError

LOOKUP_IDS_MAX = 200
"""Persons looked up in one request: the API's own limit."""

WARNINGS_MAX = 100
"""Warnings of one answer at most; with so many, others may be left out."""

LOSSES = frozenset(
    "id_missing merge_not_allowed name_left_out names_left_out not_a_list not_an_object"
    " server_only".split()
)
"""Repairs that leave something out: of a file they are refusals in part."""

_REPAIRED = frozenset(why for kind, why in REASONS.items() if kind not in LOSSES)
_COUNTS = re.compile(r" \d+ stored, \d+ refused\.$")
_BAD_EVENT = re.compile(r"batch\[\d+\]\.?")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a row, or a part of it, was not imported."""

    row: int
    reason: str
    attr: str | None = None


class RowMerge(NamedTuple):
    """A merge by REST of a row's persons, at the time `when`."""

    row: int
    into: str
    source: str
    when: str


RowEvent = tuple[int, bytes]
"""The number of a row, and one of its events."""


class ImportTarget:
    """A project of an API, named by its token; merges need a personal key too."""

    def __init__(self, client: Client, url: str, token: str, key: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._token = token
        self._key = key
        self._positions: list[Position] = []  # the highest of each partition

    @property
    def has_key(self) -> bool:
        """Whether merges may go by REST."""
        return bool(self._key)

    async def send(self, events: Sequence[RowEvent]) -> list[Refusal]:
        """Append events of the past; on return all but the refused ones are durable.

        An answer has room for a hundred warnings, and a refused request names its first bad event
        only: what it may have left out is sent again in halves, the same events by their uuids.
        """
        refusals: list[Refusal] = []
        waiting = [events]
        while waiting:
            batch = waiting.pop()
            answer, outcome = await self._batch(batch)
            warnings = outcome.get("warnings") or []
            if answer.status == 200 and len(warnings) < WARNINGS_MAX:
                refusals += _refusals(batch, warnings)
            elif len(batch) == 1:
                refusals += _refusals(batch, warnings) or [_refusal(batch, answer)]
            else:
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
        return refusals

    async def merge(self, merges: Sequence[RowMerge]) -> list[Refusal]:
        """Merge persons as an operator does; events of all of them have been sent before."""
        uuids: dict[str, str] = {}
        names = list(dict.fromkeys(merge.into for merge in merges))
        for start in range(0, len(names), LOOKUP_IDS_MAX):
            body = msgspec.json.encode(
                {"distinct_ids": names[start : start + LOOKUP_IDS_MAX]}
            )
            answer = usable(await self._post("batch_by_distinct_ids/", body), self._url)
            persons = (answer.json() or {}).get("results", {})
            uuids |= {name: person["uuid"] for name, person in persons.items()}
        refusals = []
        for row, into, source, when in merges:
            if into not in uuids:
                reason = "Nobody to merge into: erased since, or refused."
                refusals.append(Refusal(row=row, reason=reason, attr=None))
                continue
            body = msgspec.json.encode({"distinct_id": source, "timestamp": when})
            answer = await self._post(f"{uuids[into]}/merge/", body)
            if answer.status not in (200, 202, 404):
                usable(answer, self._url)
            if answer.status not in (200, 202):
                reason = f"Not merged: {_reason(answer)}"
                refusals.append(Refusal(row=row, reason=reason, attr="distinct_ids"))
        return refusals

    async def _batch(
        self, events: Sequence[RowEvent]
    ) -> tuple[HttpAnswer, dict[str, Any]]:
        head = msgspec.json.encode(
            {"api_key": self._token, "historical_migration": True}
        )
        body = (
            head[:-1] + b',"batch":[' + b",".join(event for _, event in events) + b"]}"
        )
        url = f"{self._url}/batch/"
        answer = usable(await self._client.ask("POST", url, body), url)
        outcome = answer.json()
        field = "status" if answer.status == 200 else "detail"
        if not isinstance(outcome, dict) or field not in outcome:
            raise SettingsError(
                f"{url}: this is no personlog; it answers {answer.status} with something else"
            )
        if position := answer.headers.get("Position"):
            positions = [*self._positions, *parse_positions(position)]
            self._positions = parse_positions(format_positions(positions))
        return answer, outcome

    async def _post(self, path: str, body: bytes) -> HttpAnswer:
        return await self._client.ask(
            "POST",
            f"{self._url}/api/person/{path}?token={quote(self._token, safe='')}",
            body,
            Authorization=f"Bearer {self._key}",
            Min_Position=format_positions(self._positions),
            Prefer="respond-async",
        )


def _refusals(
    batch: Sequence[RowEvent], warnings: Sequence[Mapping[str, Any]]
) -> list[Refusal]:
    """What a stored batch left out, events or parts of one; what it repaired is stored."""
    return [
        Refusal(
            row=batch[warning["index"]][0],
            reason=warning["why"],
            attr=warning["field"] or None,
        )
        for warning in warnings
        if warning["why"] not in _REPAIRED
    ]


def _refusal(batch: Sequence[RowEvent], answer: HttpAnswer) -> Refusal:
    """Why the one event of a request was refused."""
    ((row, _),) = batch
    error = answer.json()
    attr = str((error or {}).get("attr") or "")
    field = _BAD_EVENT.sub("", attr, count=1) or None
    return Refusal(row=row, reason=_reason(answer), attr=field)


def _reason(answer: HttpAnswer) -> str:
    error = answer.json()
    detail = error.get("detail") if isinstance(error, dict) else None
    return _COUNTS.sub("", str(detail or f"The server answers {answer.status}."))[:500]
