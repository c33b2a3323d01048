"""A burst of writes that is cut off, and what must be complete some time after it though nobody writes again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson

from tests.support import snapshots
from tests.support.chaos import UNANSWERED
from tests.support.processes import Answer, Stack, wait_for

BATCH_EVENTS = 50
PERSONS_SHARE = 10
"""Events of a burst for each of its persons."""

PURGED_PERSONS = 40
PREPARED_SECONDS_MAX = 180.0
GIVE_UP_SECONDS = 90.0
"""What is asked of a process that was killed is answered, or breaks, within a few."""


class Burst:
    """Writes of one round: batches in a row, and beside them a deletion, a cancelled one, and a purge."""

    def __init__(self, stack: Stack, number: int, events: int) -> None:
        self.stack, self.number, self.events = stack, number, events
        self.mark = f"b{number}-{uuid4().hex[:8]}"
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.batches = 0
        self.gone, self.back, self.secret = f"{self.mark}-gone", f"{self.mark}-back", f"secret-{self.mark}"
        self.deleted = self.cancelled = self.purged = False
        self.harm = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._send, self._delete, self._purge)]

    @property
    def names(self) -> dict[str, str]:
        """What is filled into routes: a person of before the burst who stays, and what is known of it."""
        return {
            "name": self.own, "second": self.own, "uuid": self.stack.uuid(self.own), "other": self.stack.uuid(self.own),
            "session": self.session, "request": self.request, "mark": self.mark, "during": quote(self.position),
            "after": quote(self.position), "bystander": self.back,
        }  # fmt: skip

    def prepare(self) -> None:
        """The persons of before the burst, visible."""
        self.own, self.session = f"{self.mark}-own", str(uuid4())
        told = {"$set": {"round": self.mark, "email": f"{self.mark}@example.com", "diagnosis": self.mark}}
        holding = {"$set": {self.secret: "what should not have been sent"}}
        persons = [self.own, self.gone, self.back, second := f"{self.mark}-second"]
        batch = [_event(name, told) for name in persons]
        batch += [_event(f"holder{self.number}-{one}-{uuid4().hex[:8]}", holding) for one in range(PURGED_PERSONS)]
        answer = self._capture(batch)
        assert answer.status == 200, answer.body
        self.position = answer.headers["Position"]
        visible = partial(self.stack.persons, "/?limit=1", Min_Position=self.position)
        wait_for(lambda: visible().status == 200, PREPARED_SECONDS_MAX, "the persons of before the burst")
        one = snapshots.event(self.own, self.session, self.stack.token)
        sent = self.stack.ask("POST", "/s/", snapshots.body(one), key=None, Content_Type="text/plain")
        assert sent.status == 200, sent.body
        early = self.stack.persons(f"/{self.stack.uuid(second)}/", "DELETE")
        assert early.status in (202, 204), early.body
        self.request = early.headers["Location"].rstrip("/").rpartition("/")[2]
        self.acknowledged |= {self.own, self.gone, self.back}
        self.sent |= self.acknowledged

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Nothing more is sent; what is on its way is answered or breaks."""
        self.harm.set()
        for thread in self._threads:
            thread.join(timeout=GIVE_UP_SECONDS)
            assert not thread.is_alive(), "a request is neither answered nor broken"

    @property
    def whole(self) -> bool:
        """Whether all of the burst was sent."""
        return not self._threads[0].is_alive()

    def _send(self) -> None:
        persons = max(1, self.events // PERSONS_SHARE)
        for start in range(0, self.events, BATCH_EVENTS):
            if self.harm.is_set():
                return
            names = [f"{self.mark}-{number % persons}" for number in range(start, start + BATCH_EVENTS)]
            batch = [_event(name, {"$set": {"round": self.mark, "n": start}}) for name in names]
            if start % (4 * BATCH_EVENTS) == 0:
                batch.append(_event(names[0], {"$anon_distinct_id": f"{names[0]}-anonymous"}, "$identify"))
                names.append(f"{names[0]}-anonymous")
            self.sent |= set(names)
            answer = _answer(lambda: self._capture(batch))  # noqa: B023
            if answer is None or answer.status != 200:
                return
            self.acknowledged |= set(names)
            self.batches += 1

    def _capture(self, batch: list[dict[str, Any]]) -> Answer:
        return self.stack.ask("POST", "/batch/", {"api_key": self.stack.token, "batch": batch}, key=None)

    def _delete(self) -> None:
        answer = self._rest(f"/{self.stack.uuid(self.gone)}/", "DELETE")
        self.deleted = answer is not None and answer.status in (202, 204)
        answer = self._rest(f"/{self.stack.uuid(self.back)}/", "DELETE")
        if answer is not None and answer.status in (202, 204):
            request = answer.headers["Location"].rstrip("/").rpartition("/")[2]
            answer = self._rest(f"/deletion_requests/{request}/", "DELETE")
            self.cancelled = answer is not None and answer.status == 204

    def _purge(self) -> None:
        answer = self._rest("/purge_property/", "POST", {"key": self.secret})
        self.purged = answer is not None and answer.status in (200, 201, 202)

    def _rest(self, path: str, method: str, body: Any = None) -> Answer | None:
        return None if self.harm.is_set() else _answer(lambda: self.stack.persons(path, method, body))


def missing(burst: Burst) -> str:
    """What is not complete yet of lists, totals, search and deletions; empty when all is."""
    stack = burst.stack
    try:
        return next(_incomplete(burst, stack), "")
    except UNANSWERED as error:
        return f"no answer: {type(error).__name__}"


def _incomplete(burst: Burst, stack: Stack) -> Iterator[str]:
    """What is wrong, the first thing first."""
    touched = {burst.gone, burst.back}  # of these nobody knows how far the burst came
    acknowledged, sent = burst.acknowledged - touched, burst.sent
    everybody = _ids(stack, "/?limit=1000", lambda name: name.startswith(burst.mark))
    yield from _compared("list", everybody, acknowledged, sent)
    by_filter = quote(orjson.dumps([{"key": "round", "value": burst.mark, "operator": "exact"}]).decode())
    found = _ids(stack, f"/?limit=1000&include_total=true&properties={by_filter}")
    yield from _compared("filtered list", found, acknowledged, sent)
    yield from _compared("search", _ids(stack, f"/?limit=1000&search={burst.mark}-"), acknowledged, sent)
    if found != everybody:
        yield f"the filtered list and the list differ by {sorted(found ^ everybody)[:5]}"
    total = _page(stack, f"/?limit=1&include_total=true&properties={by_filter}")["count"]
    rows = _rows(stack, f"/?limit=1000&properties={by_filter}")
    if total != len(rows):
        yield f"the total is {total} of {len(rows)}"
    if burst.deleted and burst.gone in everybody | found:
        yield "who was deleted is there"
    if burst.cancelled and burst.back not in everybody & found:
        yield "who was given back is not there"
    requests = _page(stack, "/deletion_requests/?limit=1000")["results"]
    if cancelling := [one for one in requests if one["state"] == "cancelling"]:
        yield f"{len(cancelling)} requests are being cancelled"
    if burst.purged:
        holds = quote(orjson.dumps([{"key": burst.secret, "operator": "is_set"}]).decode())
        if left := _page(stack, f"/?limit=1&include_total=true&properties={holds}")["count"]:
            yield f"{left} persons show what was purged"


def _compared(what: str, found: set[str], acknowledged: set[str], sent: set[str]) -> Iterator[str]:
    if lacking := acknowledged - found:
        yield f"the {what} lacks {len(lacking)} of {len(acknowledged)}, as {sorted(lacking)[0]}"
    if more := found - sent:
        yield f"the {what} has {sorted(more)[:5]}, whom nobody sent"


def _ids(stack: Stack, path: str, wanted: Callable[[str], bool] = lambda name: True) -> set[str]:
    return {name for row in _rows(stack, path) for name in row["distinct_ids"] if wanted(name)}


def _rows(stack: Stack, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while path:
        page = _page(stack, path)
        found += page["results"]
        following = page["next"] or ""
        path = f"/?{following.partition('?')[2]}" if following else ""
    return found


def _page(stack: Stack, path: str) -> Any:
    answer = stack.persons(path)
    if answer.status != 200:
        raise OSError(f"{path} answered {answer.status}")
    return answer.json


def _event(name: str, properties: dict[str, Any], event: str = "tick") -> dict[str, Any]:
    return {"event": event, "distinct_id": name, "uuid": str(uuid4()), "properties": properties}


def _answer(send: Callable[[], Answer]) -> Answer | None:
    """None when the process was gone before it answered."""
    with suppress(*UNANSWERED):
        return send()
    return None
