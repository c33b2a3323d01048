"""Every property name works in a path: the router finds it, and nothing else of the path changes."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from services.api.app import router_of

ROUTER = router_of("", {})

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..")
)
"""Clients take dots alone for folders, and never send them."""


def key_of(name: str, prefix: str = "/api/projects/1/persons", ending: str = "/history/") -> str | None:
    """The name that the route of a property's history is called with, by the path as both transports decode it."""
    path = URL.build(path=f"{prefix}/7/properties/{quote(name, safe='')}{ending}", encoded=True).path_safe
    match = ROUTER.find("GET", path)
    if match is None or match.route is None or match.route.name != "get_property_history":
        return None
    assert match.parameters["id"] == "7"
    return match.parameters["key"]


@pytest.mark.parametrize(
    "name",
    [
        "{", "}", "{a}", "a{b", "}{", "{{user}}", "${name}", "{id}", "{key}", "a/b", "%2F", "%7B", "%257D", "a.json",
        "history", " ", "ü{", "\n{", "//", "a//{}//", "?", "#", "+", "a%", "%",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["/api/projects/1/persons", "/api/environments/@current/persons", "/api/person"])
@pytest.mark.parametrize("ending", ["/history", "/history/", "/history.csv"])
def test_a_name_of_odd_characters_is_found(name: str, prefix: str, ending: str) -> None:
    assert key_of(name, prefix, ending) == name


@given(NAMES)
@example("%2f")
@example("%25")
def test_any_name_is_found(name: str) -> None:
    assert key_of(name) == name
