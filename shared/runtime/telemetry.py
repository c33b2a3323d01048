"""Metrics and logs: closed lists, documented in docs/operations.md; no property values, no keys."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

import structlog
from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from shared.domain.ids import Position, format_positions

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types only part of itself

HTTP_SECONDS = Histogram(
    "personlog_http_seconds",
    "Time to answer a request.",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
CAPTURED = Counter(
    "personlog_captured_events", "Captured events by outcome at the API.", ["outcome"]
)
REPAIRED = Counter(
    "personlog_repaired_events",
    "Captured events that were repaired, by kind of repair.",
    ["kind"],
)
RECORDED = Counter(
    "personlog_recorded_blocks",
    "Blocks of recordings by outcome at the API.",
    ["outcome"],
)
REFUSED = Counter(
    "personlog_refused_requests",
    "Requests refused for load, by what was full.",
    ["reason"],
)
KNOWN = Counter(
    "personlog_known_persons",
    "Persons answered from rows that were known to be the newest.",
)
PROJECTED = Counter(
    "personlog_projected_records",
    "Records folded, by topic and outcome.",
    ["topic", "outcome"],
)
FLUSHED_ROWS = Counter(
    "personlog_flushed_rows", "State rows written, by topic.", ["topic"]
)
DEAD_LETTERS = Counter(
    "personlog_dead_letters", "Records set aside, by topic.", ["topic"]
)
LEFT_OUT = Counter(
    "personlog_left_out_properties",
    "Operations on properties that a distinct id had no room for.",
)
STOPPED = Gauge(
    "personlog_stopped_partitions",
    "Partitions of which nothing more is folded, by topic.",
    ["topic"],
)
LAG = Gauge(
    "personlog_lag_records",
    "Records between the head and the position, by topic and partition.",
    ["topic", "partition"],
)
CLOCK_AHEAD = Gauge(
    "personlog_clock_ahead_seconds",
    "How far ahead the machine's clock is while it is not followed.",
)
DELETIONS = Gauge(
    "personlog_deletion_requests", "Deletion requests by state.", ["state"]
)
OLDEST_DELETION = Gauge(
    "personlog_deletion_oldest_seconds",
    "Age of the oldest deletion request that is not ended.",
)
ERASED_ROWS = Counter(
    "personlog_erased_rows", "Rows verified as physically gone, by target.", ["target"]
)
ERASED_OBJECTS = Counter(
    "personlog_erased_objects",
    "Objects erased in: deleted, or rewritten for others.",
    ["how"],
)
REWRITTEN_BYTES = Counter(
    "personlog_rewritten_bytes",
    "Bytes that erasing rewrote, by table, and objects.",
    ["table"],
)
DELETION_PARTITIONS = Gauge(
    "personlog_deletion_partitions",
    "Partitions of the current run: done, and in all.",
    ["of"],
)
DELETION_PAUSES = Counter(
    "personlog_deletion_pauses",
    "Times that the load guard held a step back.",
    ["reason"],
)

NAMES = tuple(
    sorted(
        {
            metric.name
            for metric in REGISTRY.collect()
            if metric.name.startswith("personlog_")
        }
    )
)


def dead_letters(letters: Iterable[tuple[Position, str]]) -> None:
    """Count and log new dead letters, each with its position and its kind of reason."""
    for position, kind in letters:
        DEAD_LETTERS.labels(position.topic).inc()
        place = format_positions([position])
        hint = f"personlog dead show {place}"
        structlog.get_logger().error(
            "dead letter", position=place, reason=kind, see=hint
        )


def setup_logs(service: str) -> structlog.stdlib.BoundLogger:
    """Log JSON lines to stderr, or readable lines to a terminal; return the process's logger."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s"
    )
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(service=service)
    return logger
