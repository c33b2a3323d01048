"""Reading a REST list that misbehaves: what is waited for, what ends it, and where its key never goes."""

from __future__ import annotations

from typing import Any

import pytest

from clients.importing.client import Client, Later
from clients.importing.sources.files import SourceRow
from clients.importing.sources.pages import Pages
from clients.importing.target import ImportTarget
from shared.domain.errors import Corrupt
from shared.runtime.settings import SettingsError
from tests.support.lists import Listing, Reply, listing

KEY = "phx_source"


async def read(url: str, *, attempts: int = 5, **start: Any) -> list[SourceRow]:
    client = Client(attempts)
    try:
        return [row async for row in Pages(client, url, KEY).rows(**start)]
    finally:
        await client.close()


def page(rows: list[int], following: str | None = None) -> Reply:
    return 200, {"results": rows, "next": following}, {}


def three(served: list[Listing]) -> Any:
    """Three pages of two rows; `next` is absolute, as PostHog writes it."""

    def answer(number: int, path: str) -> Reply:
        at = int(path.partition("offset=")[2] or 0)
        return page([at, at + 1], f"{served[0].url}/persons/?limit=2&offset={at + 2}" if at < 4 else None)

    return answer


async def test_all_pages_are_followed_and_the_key_is_sent_with_each() -> None:
    served: list[Listing] = []
    with listing(three(served)) as one:
        served.append(one)
        found = await read(f"{one.url}/persons/?limit=2")
    assert [(row.number, row.value) for row in found] == [(n + 1, n) for n in range(6)]
    assert [key for _, key in one.asked] == [f"Bearer {KEY}"] * 3


async def test_it_goes_on_in_the_middle_of_a_page() -> None:
    served: list[Listing] = []
    with listing(three(served)) as one:
        served.append(one)
        found = await read(f"{one.url}/persons/?limit=2")
        later = await read(f"{one.url}/persons/?limit=2", skip=3, page=found[2].page, index=found[2].index)
    assert later == found[3:]


async def test_a_limit_is_asked_for_where_the_address_has_none() -> None:
    with listing(lambda number, path: page([])) as one:
        await read(f"{one.url}/persons/?search=ada")
    assert one.asked[0][0] == "/persons/?search=ada&limit=1000"


@pytest.mark.parametrize("status", [429, 503])
async def test_who_asks_to_wait_is_waited_for(status: int) -> None:
    later: Reply = (status, b"", {"Retry-After": "0"})
    with listing(lambda number, path: later if number < 3 else page([7])) as one:
        assert [row.value for row in await read(one.url + "/")] == [7]
    assert len(one.asked) == 3


async def test_who_never_answers_is_given_up() -> None:
    with listing(lambda number, path: (503, b"", {"Retry-After": "0"})) as one, pytest.raises(Later, match="503"):
        await read(one.url + "/", attempts=3)
    assert len(one.asked) == 3
    with pytest.raises(Later, match="does not answer"):
        await read(one.url + "/", attempts=1)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((401, {}, {}), "refused"),
        ((403, {}, {}), "may not"),
        ((404, {}, {}), "nothing at this address"),
        ((302, b"", {"Location": "https://elsewhere.example/?secret=1"}), "leads elsewhere"),
        ((200, b"<html>Sign in</html>", {}), "no page of a list"),
        ((200, [1], {}), "no page of a list"),
        ((200, {"results": {}}, {}), "no page of a list"),
        ((400, {"detail": "no"}, {}), "no page of a list"),
        ((200, {"results": [], "next": 7}, {}), "leads elsewhere"),
        ((200, {"results": [], "next": "http://elsewhere.example/persons/"}, {}), "another host|leads elsewhere"),
    ],
)
async def test_what_no_retry_changes_ends_it_at_once(reply: Reply, says: str) -> None:
    with listing(lambda number, path: reply) as one, pytest.raises(SettingsError, match=says) as caught:
        await read(one.url + "/")
    assert len(one.asked) == 1
    assert KEY not in caught.value.detail and "secret" not in caught.value.detail


async def test_a_next_that_leads_back_ends_it() -> None:
    again = page([1], "/persons/?limit=1")
    with listing(lambda number, path: again) as one, pytest.raises(Corrupt, match="leads back"):
        await read(f"{one.url}/persons/?limit=1")


async def test_a_next_of_the_same_host_is_asked_at_the_address_of_the_source() -> None:
    """A proxy in front speaks https, or on another port; what is behind it does not know."""
    with listing(lambda number, path: page([number], "https://127.0.0.1:1/b?limit=1" if number == 1 else None)) as one:
        assert [row.value for row in await read(one.url + "/a?limit=1")] == [1, 2]
    assert [path for path, _ in one.asked] == ["/a?limit=1", "/b?limit=1"]


@pytest.mark.parametrize("url", ["http://u:p@127.0.0.1:1/", "http://127.0.0.1:1/?personal_api_key=phx_x"])
async def test_a_key_in_the_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="--key"):
        await read(url)


@pytest.mark.parametrize(
    "reply", [(200, b"<html></html>", {}), (200, {}, {}), (400, b"", {}), (401, {}, {}), (404, {}, {})]
)
async def test_a_target_that_is_no_personlog_or_knows_no_token_takes_nothing(reply: Reply) -> None:
    client = Client()
    with listing(lambda number, path: reply) as one, pytest.raises(SettingsError):
        try:
            await ImportTarget(client, one.url, "phc_x", "").send([(1, b"{}"), (2, b"{}")])
        finally:
            await client.close()
    assert [path for path, _ in one.asked] == ["/batch/"]
