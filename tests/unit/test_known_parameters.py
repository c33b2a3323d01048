"""Which parameters a REST route knows: its own and the common ones. Never a server."""

from __future__ import annotations

from urllib.parse import quote

import orjson
import pytest

from services.api.app import ROUTES, router_of
from services.api.http.guards.head import COMMON_PARAMETERS, UNKNOWN_NAME_CHARS_MAX, judge_head
from services.api.http.messages import Request
from services.api.http.routing import Route
from shared.domain.errors import BadInput

LIST = next(route for route in ROUTES if route.name == "list_persons")
TIMELINE = next(route for route in ROUTES if route.name == "get_properties_timeline")

JUDGED = [route for route in ROUTES if not route.plain_errors]


def judge(route: Route, query: str) -> BadInput | None:
    """The refusal of a request with this query."""
    request = Request(method=route.method, path=route.path, headers={}, query_string=query)
    try:
        judge_head(request, route)
    except BadInput as error:
        return error
    return None


@pytest.mark.parametrize(
    "query",
    [
        "cohort=5", "is_identified=true", "created_at_from=2026-01-01", "order=-created_at",  # of the reports
        "Email=a@b.c", "distinct_ids=a", "search[]=x", "limit=5&emial=", "_=1", "%24unset=a", "q=%F0%9F%A6%8A",
    ],
)  # fmt: skip
def test_a_list_refuses_a_parameter_that_it_does_not_know_and_names_it(query: str) -> None:
    error = judge(LIST, query)
    name = Request(method="GET", path="/", headers={}, query_string=query.rpartition("&")[2]).query
    assert error is not None and [error.attr] == list(name)
    assert error.slug == "invalid_input" and str(error.attr) in error.detail


@pytest.mark.parametrize("route", JUDGED, ids=lambda route: f"{route.method} {route.path}")
def test_every_rest_route_does_and_knows_the_common_ones(route: Route) -> None:
    error = judge(route, "format=&token=phc_x&personal_api_key=phx_x")
    assert error is None
    error = judge(route, "token=x&nonsense=1")
    assert error is not None and error.attr == "nonsense"


def test_the_common_ones_are_three() -> None:
    assert {"format", "token", "personal_api_key"} == COMMON_PARAMETERS


def test_a_long_name_is_named_by_its_beginning() -> None:
    error = judge(LIST, f"{'x' * 5_000}=1")
    assert error is not None and error.attr == "x" * UNKNOWN_NAME_CHARS_MAX


def test_no_route_of_capture_has_its_parameters_judged() -> None:
    """SDKs send `_`, `ver`, `ip`, `compression` and whatever comes: the head is judged of key routes alone."""
    captures = {"/batch/", "/capture/", "/e/", "/i/v0/e/", "/track/", "/engage/", "/s/", "/i/v1/analytics/events"}
    routes = {
        path: match.route for path in captures if (match := router_of("", {}).find("POST", path)) is not None
    }
    assert routes.keys() == captures
    assert all(route is not None and route.access != "key" for route in routes.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("events", "["), ("events", "5"), ("events", "[1]"), ("events", '[{"id":"a","properties":7}]'),
        ("actions", "{"), ("actions", '"a"'), ("actions", "[[]]"), ("actions", '[{"id":1,"properties":["x"]}]'),
        ("properties", "nonsense"), ("properties", "5"), ("properties", '["plan"]'),
        ("properties", "[" * 50 + "]" * 50),
        ("breakdown", "["), ("breakdown", '[{"a":1}]'), ("breakdown", "[null]"),
        ("breakdown_type", "persons"), ("interval", "fortnight"), ("interval", "Day"),
        ("display", "x" * 401), ("source", "change"), ("cursor", "next"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["", "source=changes&"])
def test_every_parameter_of_a_timeline_is_judged_whatever_its_source(name: str, text: str, source: str) -> None:
    error = judge(TIMELINE, ("" if name == "source" else source) + f"{name}={quote(text)}")
    assert error is not None and error.attr == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("events", []), ("events", [{"id": "a"}, {"id": None, "properties": [{"key": "a", "type": "person"}]}]),
        ("events", [{"id": "a", "properties": None}]),
        ("actions", [{"id": 7, "properties": {"type": "AND", "values": []}}]),
        ("properties", []), ("properties", {}), ("properties", {"type": "AND", "values": [{"key": "a"}]}),
        ("properties", {"plan": "pro"}), ("breakdown", ["a", 5]),
    ],
)  # fmt: skip
def test_what_the_original_sends_to_a_timeline_is_taken(name: str, value: object) -> None:
    assert judge(TIMELINE, f"{name}={quote(orjson.dumps(value))}") is None


@pytest.mark.parametrize(
    "query", ["interval=week", "breakdown_type=", "breakdown_type=hogql", "breakdown=a%5Bb", "interval="]
)
def test_words_of_the_original_are_taken(query: str) -> None:
    assert judge(TIMELINE, query) is None
