"""Read the rows of a REST list page by page. The key goes to the source's own host only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

from clients.importing.client import Client, bare, usable
from clients.importing.sources.files import SourceRow
from shared.domain.errors import Corrupt
from shared.runtime.settings import SettingsError

PAGE_ROWS = 1_000
"""The limit of an address without one; personlog's largest page."""


class Pages:
    """A paged list of `{results, next}`, resumed at a page's address and the rows done of it."""

    total = 0  # the number of rows is unknown

    def __init__(self, client: Client, url: str, key: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        if parts.username or parts.password or "personal_api_key" in query:
            raise SettingsError(
                "The key belongs into --key or POSTHOG_PERSONAL_API_KEY, not into the address."
            )
        if not key:
            raise SettingsError(
                "A source that is an address needs its key: --key, or POSTHOG_PERSONAL_API_KEY."
            )
        more = (
            "" if "limit" in query else f"{'&' if parts.query else ''}limit={PAGE_ROWS}"
        )
        self._client = client
        self._key = key
        self._parts = parts
        self._start = urlunsplit(parts._replace(query=parts.query + more, fragment=""))
        self.fingerprint = hashlib.sha256(self._start.encode()).hexdigest()[:32]

    async def rows(
        self, skip: int = 0, page: str = "", index: int = 0
    ) -> AsyncIterator[SourceRow]:
        """Yield the rows behind the first `index` of a page; `skip` is the number of all before."""
        url = self._own(page) if page else self._start
        number = skip
        digests = set[bytes]()
        while url:
            digest = hashlib.sha256(url.encode()).digest()[:16]
            if digest in digests:
                raise Corrupt(f"{bare(url)}: next leads back to a page that was read.")
            digests.add(digest)
            answer = await self._client.ask(
                "GET", url, Authorization=f"Bearer {self._key}"
            )
            listing = usable(answer, url).json()
            results = listing.get("results") if isinstance(listing, dict) else None
            if answer.status != 200 or not isinstance(results, list):
                raise SettingsError(
                    f"{bare(url)}: this is no page of a list ({answer.status})"
                )
            for place, value in enumerate(results[index:], index + 1):
                number += 1
                yield SourceRow(number=number, value=value, page=url, index=place)
            url = self._own(listing["next"]) if listing.get("next") else ""
            index = 0

    async def close(self) -> None:
        """Do nothing: the client is the importer's."""

    def _own(self, following: Any) -> str:
        """Resolve a `next` on the source's host, with its scheme and port: proxies hide both."""
        parts = urlsplit(
            urljoin(self._start, following) if isinstance(following, str) else ""
        )
        if parts.hostname != self._parts.hostname:
            raise SettingsError(
                f"{bare(self._start)}: next leads elsewhere, to {parts.hostname};"
                " the key stays here"
            )
        return urlunsplit(
            parts._replace(scheme=self._parts.scheme, netloc=self._parts.netloc)
        )
