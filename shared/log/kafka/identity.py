"""What a Kafka cluster and its topics are known by: a request of our own, for aiokafka's own knows
no topic ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from shared.log.identity import LogIdentity

UNKNOWN_TOPIC = 3


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka ships no types
    """Sixteen bytes (KIP-516)."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(16))

    @classmethod
    def repr(cls, value: bytes) -> str:
        return value.hex()


class _MetadataResponse_v12(Response):  # type: ignore[misc]  # noqa: N801  # named as aiokafka names its own
    API_KEY, API_VERSION = 3, 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v12(RequestStruct):  # type: ignore[misc]  # noqa: N801  # as the answer
    API_KEY, API_VERSION, FLEXIBLE_VERSION = 3, 12, True
    RESPONSE_TYPE = _MetadataResponse_v12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid),
                ("name", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class IdentityRequest(Request[MetadataRequest_v5 | _MetadataRequest_v12]):  # type: ignore[misc]  # as above
    """Metadata of these topics, with their ids where the broker gives them."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)
        return _MetadataRequest_v12(
            [(bytes(16), name, {}) for name in self._topics], False, False, {}
        )


def identity_in(response: Any, names: Mapping[str, str]) -> LogIdentity:
    """What the answer says of the topics; `names` are ours by the cluster's."""
    answer = response.to_object()
    there = [
        topic
        for topic in answer["topics"]
        if topic["error_code"] != UNKNOWN_TOPIC and topic["partitions"]
    ]
    return LogIdentity(
        id=answer["cluster_id"] or "",
        topics={
            names[one["topic"]]: one["topic_id"].hex()
            for one in there
            if "topic_id" in one
        },
        partitions={names[one["topic"]]: len(one["partitions"]) for one in there},
    )
