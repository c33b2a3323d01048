"""Asking over HTTP until there is an answer, within bounds. Never follows a redirect: a key goes where it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
import stamina

from shared.domain.errors import Transient
from shared.runtime.settings import SettingsError

ATTEMPTS_MAX, RETRY_SECONDS_MAX = 30, 180.0
"""Of one request: a restart of everything takes seconds, a limit of requests a minute."""

RETRY_AFTER_SECONDS_MAX = 60.0
"""However long a server asks to wait."""

REQUEST_SECONDS_MAX = 60.0

BODY_BYTES_MAX = 64 * 1_048_576
"""Of an answer: a page of 1,000 persons with 64 kB each."""

LATER = {408, 425, 429, *range(500, 600)}
WRONG = {401: "the key or token is refused", 403: "the key may not do that", 404: "there is nothing at this address",
         405: "this is no such address"}


class Later(Transient):
    """The server did not answer, or asked to come again."""

    def __init__(self, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.wait = wait


class Answer(msgspec.Struct, frozen=True):
    """A status below 500, the headers, and the body's bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, None if it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


class Client:
    """One session; `attempts` bounds how often a request is tried."""

    def __init__(self, attempts: int = ATTEMPTS_MAX) -> None:
        self._attempts = attempts
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX, sock_connect=5.0)
        self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=BODY_BYTES_MAX)

    async def ask(self, method: str, url: str, body: bytes | None = None, **headers: str) -> Answer:
        """The answer, of whatever status below 500; Later when there is none in time."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["Content-Type"] = "application/json"
        async for attempt in stamina.retry_context(
            on=_when, attempts=self._attempts, timeout=RETRY_SECONDS_MAX, wait_initial=0.1, wait_max=10.0
        ):
            with attempt:
                answer = await self._ask(method, url, body, sent)
        return answer

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                read = bytearray()
                async for part in response.content.iter_any():
                    read += part
                    if len(read) > BODY_BYTES_MAX:
                        raise SettingsError(f"{bare(url)}: more than {BODY_BYTES_MAX} bytes; ask for a smaller limit")
                answer = Answer(response.status, response.headers, bytes(read))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Later(f"{bare(url)} does not answer: {type(error).__name__} {error}".rstrip()) from None
        if answer.status in LATER:
            raise Later(f"{bare(url)} answers {answer.status}", _seconds(answer.headers.get("Retry-After")))
        return answer


def usable(answer: Answer, url: str) -> Answer:
    """The answer, unless it is one that no retry and no other row changes."""
    if answer.status in WRONG or 300 <= answer.status < 400:
        said = WRONG.get(answer.status) or f"it leads elsewhere, to {bare(answer.headers.get('Location', ''))}"
        raise SettingsError(f"{bare(url)}: {said} ({answer.status})")
    return answer


def bare(url: str) -> str:
    """An address without what may be private in it."""
    return url.partition("?")[0]


def _when(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds the server says."""
    if not isinstance(error, Later):
        return False
    return True if error.wait is None else error.wait


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After; the form with a date counts as none."""
    return min(float(text), RETRY_AFTER_SECONDS_MAX) if text is not None and text.isdigit() else None
