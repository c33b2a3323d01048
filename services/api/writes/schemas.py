"""What REST requests and answers look like. Requests are judged by these; the OpenAPI document
shows both."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from shared.inputs.ids import SENT_ID_CHARS_MAX
from shared.inputs.names import NAME_CHARS_MAX, PROPERTIES_MAX

BATCH_MAX = 200
"""Persons of one batch read; more is refused, never cut."""

PropertyName = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
PropertiesBody = Annotated[dict[PropertyName, Any], Meta(max_length=PROPERTIES_MAX)]
DistinctId = Annotated[str, Meta(max_length=SENT_ID_CHARS_MAX)]
UuidText = Annotated[str, Meta(max_length=100, extra_json_schema={"format": "uuid"})]
PersonId = (
    Annotated[int, Meta(ge=0, le=2**63 - 1)]
    | Annotated[str, Meta(min_length=1, max_length=100)]
)


class Update(Struct):
    """Properties to set."""

    properties: Annotated[PropertiesBody, Meta(examples=[{"plan": "pro"}])]


class UpdateProperty(Struct):
    """One property to set; null is a value."""

    value: Annotated[Any, Meta(examples=["pro"])]
    key: Annotated[PropertyName, Meta(examples=["plan"])]


class DeleteProperty(Struct, rename={"unset": "$unset"}):
    """The names to unset. Without a body, the name in the query."""

    unset: (
        PropertyName
        | Annotated[
            list[PropertyName],
            Meta(min_length=1, max_length=PROPERTIES_MAX, examples=[["plan"]]),
        ]
        | UnsetType
    ) = UNSET


class SplitBody(Struct):
    """At most one of both fields. Without either, the first distinct id stays alone."""

    main_distinct_id: DistinctId | None = None
    distinct_ids_to_split: (
        Annotated[list[DistinctId], Meta(min_length=1, examples=[["device-1"]])] | None
    ) = None


class MergeBody(Struct):
    """Exactly one of `source` and `distinct_id`, the person to absorb. `timestamp` is for imports:
    since when both are one person. If one of the two ids was deleted after it, nothing is merged
    (404)."""

    source: PersonId | None = None
    distinct_id: (
        Annotated[DistinctId, Meta(min_length=1, examples=["device-1"])] | None
    ) = None
    timestamp: Annotated[datetime, Meta(examples=["2026-11-23T10:00:00Z"])] | None = (
        None
    )


class DistinctIds(Struct):
    distinct_ids: Annotated[
        list[DistinctId], Meta(max_length=BATCH_MAX, examples=[["ada@example.com"]])
    ]


class Uuids(Struct):
    uuids: Annotated[
        list[UuidText],
        Meta(max_length=BATCH_MAX, examples=[["55379864-2afb-5e1c-adf7-decb022461c5"]]),
    ]


class ResetDistinctId(Struct):
    distinct_id: Annotated[DistinctId, Meta(min_length=1, examples=["ada@example.com"])]


class Distinct(Struct):
    """The number of distinct ids whose properties are left out."""

    distinct_ids: int


class PersonBody(Struct):
    """A person, now or at a past moment. `properties_left_out` is there when it holds more than one
    person can show."""

    id: int
    name: str
    distinct_ids: list[str]
    properties: dict[str, Any]
    created_at: datetime
    uuid: UUID
    last_seen_at: datetime | None
    is_identified: bool
    properties_left_out: Distinct | UnsetType = UNSET


class LeftOutBody(Struct):
    """Properties beyond the limits: the number of names, their bytes with the values, the first few
    names."""

    names: int
    bytes: int
    first: list[str]


class Warned(LeftOutBody):
    field: Literal["properties"]
    why: str


class Updated(PersonBody, kw_only=True):
    """The person after a write, with `warnings` when part of it was left out."""

    warnings: list[Warned] | UnsetType = UNSET


class PersonRow(PersonBody, kw_only=True):
    """A person in a list."""

    type: Literal["person"]
    matched_recordings: list[Any]
    value_at_data_point: None


class PersonPage(Struct):
    """A page; `count` with include_total."""

    results: list[PersonRow]
    next: str | None
    previous: str | None
    count: int | UnsetType = UNSET


class Success(Struct):
    success: Literal[True]


class UpdatedProperty(Success):
    """Success, with `warnings` when the value was left out."""

    warnings: list[Warned] | UnsetType = UNSET


class Involved(Struct):
    uuid: UUID
    id: int
    distinct_ids: list[str]


class SplitDone(Struct):
    """All persons involved, the remaining one first."""

    success: Literal[True]
    persons: list[Involved]


class Conflict(Struct):
    """A property with different values on both persons."""

    key: str
    survivor: Any
    absorbed: Any
    result: Any


class MergePreview(Struct):
    """The result of a merge that was not carried out."""

    survivor: PersonBody
    absorbed: PersonBody
    result: PersonBody
    conflicts: list[Conflict]


class PersonBatch(Struct):
    """Persons by the ids of the request. Unknown ids are omitted."""

    results: dict[str, PersonBody]


class Value(Struct):
    name: str
    count: int


class Values(Struct):
    results: list[Value]
    refreshing: Literal[False]


class PointInTime(Struct):
    queried_timestamp: datetime
    include_set_once: bool
    distinct_id_used: str | None
    person_id_used: str | None
    query_mode: Literal["distinct_id", "person_id"]
    distinct_ids_queried: list[str]
    distinct_ids_count: int


class PersonAtTime(PersonBody, kw_only=True):
    point_in_time_metadata: PointInTime


class Cause(Struct):
    """The record behind a change: `event` for captured ones."""

    command: UUID
    kind: str
    event: str | None


class Point(Struct):
    """A moment from which on the person looked like this. Fields after the first three appear with
    `source=changes`."""

    timestamp: datetime
    properties: dict[str, Any]
    relevant_event_count: int
    distinct_ids: list[str] | UnsetType = UNSET
    position: str | UnsetType = UNSET
    actor: str | UnsetType = UNSET
    cause: Cause | UnsetType = UNSET
    keys: list[str] | UnsetType = UNSET
    before: dict[str, Any] | UnsetType = UNSET
    after: dict[str, Any] | UnsetType = UNSET
    left_out: LeftOutBody | UnsetType = UNSET


class Timeline(Struct):
    """`next` with source=changes."""

    points: list[Point]
    crucial_property_keys: list[str]
    effective_date_from: datetime
    effective_date_to: datetime
    next: str | UnsetType | None = UNSET


class MergeStep(Struct, rename={"absorbed": "from"}):
    """A merge that brought a distinct id to its person."""

    how: Literal["merged", "root_left"]
    absorbed: UUID
    into: UUID
    at: datetime
    position: str
    command: UUID
    actor: str


class PropertyValue(Struct):
    """One operation on a property."""

    operation: Literal["set", "set_once", "unset", "purge"]
    value: Any
    before: Any
    distinct_id: str
    timestamp: datetime
    received_at: datetime
    position: str
    command: UUID
    actor: str
    source: str
    wins: bool
    merge_path: list[MergeStep]


class PropertyHistory(Struct):
    """All values of a property, and the reason why one is shown."""

    key: str
    shows: bool
    value: Any
    why: str | None
    count: int
    next: str | None
    results: list[PropertyValue]


class User(Struct):
    first_name: str
    email: str


class ActivityChange(Struct):
    type: Literal["Person"]
    action: str
    field: Literal["properties"]
    before: Any
    after: Any


class ActivityDetail(Struct):
    name: str
    changes: list[ActivityChange]


class ActivityItem(Struct):
    id: str
    user: User
    activity: str
    scope: Literal["Person"]
    item_id: str
    detail: ActivityDetail
    created_at: datetime


class ActivityPage(Struct):
    results: list[ActivityItem]
    next: str | None
    previous: str | None
    total_count: int


class Recording(Struct):
    """A recorded session; `bytes` are those of its blocks as they are kept."""

    session_id: str
    started_at: datetime
    ended_at: datetime
    distinct_ids: list[str]
    window_ids: list[str]
    blocks: int
    bytes: int


class RecordingPage(Struct):
    results: list[Recording]
    next: str | None
    previous: str | None
