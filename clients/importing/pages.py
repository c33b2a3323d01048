"""The rows of a REST list, page after page. Its key goes to the source's own host only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

from clients.importing.client import Client, bare, usable
from clients.importing.files import Row
from shared.domain.errors import Corrupt
from shared.runtime.settings import SettingsError

PAGE_ROWS = 1_000
"""Asked for where the address does not say; the most that personlog gives."""


class Pages:
    """A list of `{results, next}`. Going on takes the address of a page, and how many of its rows are done."""

    total = 0  # nobody knows how many there are

    def __init__(self, client: Client, url: str, key: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        if parts.username or parts.password or "personal_api_key" in query:
            raise SettingsError("The key belongs into --key or POSTHOG_PERSONAL_API_KEY, not into the address.")
        if not key:
            raise SettingsError("A source that is an address needs its key: --key, or POSTHOG_PERSONAL_API_KEY.")
        more = "" if "limit" in query else f"{'&' if parts.query else ''}limit={PAGE_ROWS}"
        self._client, self._key, self._parts = client, key, parts
        self._start = urlunsplit(parts._replace(query=parts.query + more, fragment=""))
        self.fingerprint = hashlib.sha256(self._start.encode()).hexdigest()[:32]

    async def rows(self, skip: int = 0, page: str = "", index: int = 0) -> AsyncIterator[Row]:
        """The rows behind the first `index` of a page; `skip` is how many came before them in all."""
        url, number, seen = self._own(page) if page else self._start, skip, set[bytes]()
        while url:
            digest = hashlib.sha256(url.encode()).digest()[:16]
            if digest in seen:
                raise Corrupt(f"{bare(url)}: next leads back to a page that was read.")
            seen.add(digest)
            answer = usable(await self._client.ask("GET", url, Authorization=f"Bearer {self._key}"), url)
            said = answer.json()
            results = said.get("results") if isinstance(said, dict) else None
            if answer.status != 200 or not isinstance(results, list):
                raise SettingsError(f"{bare(url)}: this is no page of a list ({answer.status})")
            for place, value in enumerate(results[index:], index + 1):
                number += 1
                yield Row(number=number, value=value, page=url, index=place)
            url, index = self._own(said["next"]) if said.get("next") else "", 0

    async def close(self) -> None:
        """The client is the importer's."""

    def _own(self, following: Any) -> str:
        """A `next` of the source's own host, asked at the address that the source has: proxies hide https and ports."""
        parts = urlsplit(urljoin(self._start, following) if isinstance(following, str) else "")
        if parts.hostname != self._parts.hostname:
            raise SettingsError(f"{bare(self._start)}: next leads elsewhere, to {parts.hostname}; the key stays here")
        return urlunsplit(parts._replace(scheme=self._parts.scheme, netloc=self._parts.netloc))
