"""Read the rows of a Parquet file, by row groups. Needs pyarrow: the extra `parquet`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from shared.domain.errors import BadInput
from shared.runtime.settings import SettingsError

MAGIC = b"PAR1"

ROWS_AT_ONCE = 1_000

COLUMNS = frozenset(
    "uuid event distinct_id distinct_ids person_id properties person_properties set"
    " set_once $set $set_once timestamp created_at last_seen_at is_identified"
    " person_version person_distinct_id_version is_deleted deleted".split()
)
"""Documented columns; others are not read."""


def rows_of(file: io.BufferedReader[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows; a SettingsError where pyarrow is absent, BadInput for a broken file."""
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise SettingsError(
            "Parquet needs pyarrow: install personlog with its extra `parquet`,"
            " or export JSONLines"
        ) from None
    try:
        source = ParquetFile(file)
        schema = source.schema_arrow
        names = [name for name in schema.names if name in COLUMNS]
        nanoseconds = [
            name
            for name in names
            if types.is_timestamp(schema.field(name).type)
            and schema.field(name).type.unit == "ns"
        ]
        for batch in source.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
            for name in nanoseconds:
                place = batch.schema.get_field_index(name)
                column = batch.column(place).cast("timestamp[us]", safe=False)
                batch = batch.set_column(place, name, column)
            for row in batch.to_pylist():
                yield {name: _plain(value) for name, value in row.items()}
    except (ArrowException, OSError, OverflowError, ValueError) as error:
        text = str(error).partition("\n")[0][:300]
        raise BadInput(f"The Parquet file is broken: {text}.") from None


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.decode(errors="replace") if isinstance(value, bytes) else value
