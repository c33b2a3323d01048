"""An HTTP client that retries a request within bounds.

It follows no redirect, so that a key reaches only the host that it was given for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
import stamina

from shared.domain.errors import Transient
from shared.runtime.settings import SettingsError

ATTEMPTS_MAX, RETRY_SECONDS_MAX = 30, 180.0
"""Tries of one request, and their time: a restart takes seconds, a rate limit a minute."""

RETRY_AFTER_SECONDS_MAX = 60.0
"""The longest wait between two tries, even when the server asks for a longer one."""

REQUEST_SECONDS_MAX = 60.0

BODY_BYTES_MAX = 64 * 1_048_576
"""Bytes of an answer: a page of 1,000 persons with 64 kB each."""

LATER = {408, 425, 429, *range(500, 600)}
WRONG = {
    401: "the key or token is refused",
    403: "the key may not do that",
    404: "there is nothing at this address",
    405: "this is no such address",
}


class Later(Transient):
    """The server did not answer, or asked for a later retry."""

    def __init__(self, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.wait = wait


class HttpAnswer(msgspec.Struct, frozen=True):
    """An HTTP response: a status below 500, headers, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body; None when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


class Client:
    """An HTTP session; `attempts` bounds the tries of each request."""

    def __init__(self, attempts: int = ATTEMPTS_MAX) -> None:
        self._attempts = attempts
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX, sock_connect=5.0)
        self._session = aiohttp.ClientSession(
            timeout=timeout, read_bufsize=BODY_BYTES_MAX
        )

    async def ask(
        self, method: str, url: str, body: bytes | None = None, **headers: str
    ) -> HttpAnswer:
        """Send a request; raise Later when it has no answer below 500 in time."""
        request_headers = {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if body is not None:
            request_headers["Content-Type"] = "application/json"
        async for attempt in stamina.retry_context(
            on=_when,
            attempts=self._attempts,
            timeout=RETRY_SECONDS_MAX,
            wait_initial=0.1,
            wait_max=10.0,
        ):
            with attempt:
                answer = await self._ask(method, url, body, request_headers)
        return answer

    async def close(self) -> None:
        await self._session.close()

    async def _ask(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> HttpAnswer:
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > BODY_BYTES_MAX:
                        raise SettingsError(
                            f"{bare(url)}: more than {BODY_BYTES_MAX} bytes;"
                            " ask for a smaller limit"
                        )
                answer = HttpAnswer(response.status, response.headers, bytes(content))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Later(
                f"{bare(url)} does not answer: {type(error).__name__} {error}".rstrip()
            ) from None
        if answer.status in LATER:
            raise Later(
                f"{bare(url)} answers {answer.status}",
                _seconds(answer.headers.get("Retry-After")),
            )
        return answer


def usable(answer: HttpAnswer, url: str) -> HttpAnswer:
    """Return the answer; raise SettingsError for one that no retry and no other row changes."""
    if answer.status in WRONG or 300 <= answer.status < 400:
        location = bare(answer.headers.get("Location", ""))
        reason = WRONG.get(answer.status) or f"it leads elsewhere, to {location}"
        raise SettingsError(f"{bare(url)}: {reason} ({answer.status})")
    return answer


def bare(url: str) -> str:
    """Strip the query of an address: it may hold private values."""
    return url.partition("?")[0]


def _when(error: Exception) -> bool | float:
    """Whether to retry, or the seconds that the server asks to wait."""
    if not isinstance(error, Later):
        return False
    return True if error.wait is None else error.wait


def _seconds(text: str | None) -> float | None:
    """Parse a Retry-After in seconds; None for none, or for a date."""
    if text is None or not text.isdigit():
        return None
    return min(float(text), RETRY_AFTER_SECONDS_MAX)
