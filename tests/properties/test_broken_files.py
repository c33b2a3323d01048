"""Files of an import that are broken anywhere, or hold anything: refused rows or one line, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.settings import SettingsError
from tests.support.imports import Imported, imported

SAMPLES = sorted((Path(__file__).parents[1] / "golden" / "imports").iterdir())
NAMES = (
    "event distinct_id $distinct_id distinct_ids person_id properties $properties $set $set_once $unset set set_once"
    " type uuid person_properties timestamp created_at last_seen_at is_identified is_deleted deleted person_version"
    " event_type user_id device_id event_time event_properties user_properties userId anonymousId previousId messageId"
    " traits name distinct_ids.total amplitude_id person_distinct_id_version"
).split()
INNER = "time distinct_id $insert_id $user_id $device_id $distinct_ids alias $set $unset".split()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from("identify track page alias $merge $identify 2023-01-01 1e400 {} [] {".split()),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER) | st.text(max_size=3), inner),
    max_leaves=6,
)
ROWS = st.one_of(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=9), VALUES)


def outcome(path: Path, content: bytes) -> Imported | None:
    """What the import makes of it; None for a wrong use, which is one line."""
    path.write_bytes(content)
    try:
        return imported(path)
    except SettingsError as error:
        assert "\n" not in str(error)
        return None


@given(rows=st.lists(ROWS, max_size=6))
def test_rows_of_anything_are_imported_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    lines = [orjson.dumps(_plain(row)) for row in rows]
    lines = [line for line in lines if line.startswith(b"{")]
    done = outcome(tmp_path_factory.getbasetemp() / "rows", b"\n".join(lines))
    assert done is not None and sum(done.kinds.values()) == len(lines)
    for event in done.events:
        assert isinstance(event["timestamp"], str) and event["uuid"]


def _plain(value: Any) -> Any:
    """With integers beyond 64 bits as floats, which orjson can write."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
@given(data=st.data())
def test_a_file_broken_anywhere_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, sample: Path, data: st.DataObject
) -> None:
    content = bytearray(sample.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    outcome(tmp_path_factory.getbasetemp() / sample.name, bytes(content))
