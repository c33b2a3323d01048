"""Files of an import: every form gives the same rows, from anywhere on, and a broken one says where."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from clients.importing.sources import files, lines
from clients.importing.sources.files import File, SourceRow
from shared.domain.errors import BadInput
from shared.runtime.settings import SettingsError

ROWS: list[Any] = [{"distinct_ids": [f"n{number}"], "properties": {"t": 'ü,"\n]'}} for number in range(300)]
NDJSON = b"\n".join(map(orjson.dumps, ROWS))
PAGE = b'{"next": "https://x/?a=\\"", "previous": null, "count": 3, "results": ' + orjson.dumps(ROWS) + b', "x": [1]}'
CSV = b"distinct_ids.0,properties.t\r\n" + b"".join(
    f'{row["distinct_ids"][0]},"ü,""\n]"\r\n'.encode() for row in ROWS
)  # fmt: skip
FORMS = {
    "ndjson": NDJSON,
    "ndjson with a mark and CRLF": b"\xef\xbb\xbf" + NDJSON.replace(b"\n", b"\r\n"),
    "list": orjson.dumps(ROWS, option=orjson.OPT_INDENT_2),
    "page": PAGE,
    "page with a mark": b"\xef\xbb\xbf\n" + PAGE,
    "csv": CSV,
    "csv with a mark": b"\xef\xbb\xbf" + CSV,
    "gzip": gzip.compress(NDJSON),
    "gzip of a page": gzip.compress(PAGE),
}


def read(path: Path, skip: int = 0) -> list[SourceRow]:
    async def go() -> list[SourceRow]:
        file = File(path)
        try:
            return [row async for row in file.rows(skip)]
        finally:
            await file.close()

    return asyncio.run(go())


def rows(tmp_path: Path, content: bytes, skip: int = 0) -> list[SourceRow]:
    (tmp_path / "source").write_bytes(content)
    return read(tmp_path / "source", skip)


def values(found: list[SourceRow]) -> list[Any]:
    return [(row.number, "refused" if isinstance(row.value, BadInput) else row.value) for row in found]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_from_anywhere_on(tmp_path: Path, form: str) -> None:
    assert values(rows(tmp_path, FORMS[form])) == list(enumerate(ROWS, 1))
    assert values(read(tmp_path / "source", 290)) == list(enumerate(ROWS, 1))[290:]


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_list_is_the_same_whatever_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(files, "CHUNK_BYTES", chunk)
    values_given = [{"ü": [1, 2.5]}, 1234567, "x]", None, [[]], True, {}]
    assert [value for _, value in values(rows(tmp_path, orjson.dumps(values_given)))] == values_given


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"[]", b'{"results": []}', b"distinct_id\n", gzip.compress(b"")])
def test_an_empty_file_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert rows(tmp_path, content) == []


def test_a_line_that_is_no_json_costs_itself_only_and_numbers_are_lines(tmp_path: Path) -> None:
    found = rows(tmp_path, b'{"a":1}\n\n{"a":\n\xff{}\n{"a":"\xff"}\n{"a":NaN}\n{"a":2}')
    assert [number for number, value in values(found) if value == "refused"] == [3, 4, 5]
    assert values(found)[-2:] == [(6, {"a": "NaN"}), (7, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e400", "1e400"), ("-1e999", "-1e999"), ("NaN", "NaN"), ("1e22", 1e22), ("1.5", 1.5)],
)
def test_a_number_is_read_as_capture_reads_it_in_lines_and_lists(tmp_path: Path, text: str, value: Any) -> None:
    for content in (f'{{"a": {text}}}', f'[{{"a": {text}}}]'):
        assert values(rows(tmp_path, content.encode())) == [(1, {"a": value})]


def test_a_line_beyond_the_limit_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "ROW_BYTES_MAX", 50)
    assert values(rows(tmp_path, b'{"a":1}\n{"a":"' + b"x" * 200 + b'"}\n{"a":2}\n')) == [
        (1, {"a": 1}), (2, "refused"), (3, {"a": 2}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b'[{"a":1},{"a":', b'[{"a":1} {"a":2}', b'[{"a":1},oops,{"a":2}]', gzip.compress(b'{"a":1}\n' * 9)[:-12]],
)
def test_a_broken_list_or_archive_says_where_and_ends_there(tmp_path: Path, content: bytes) -> None:
    found = rows(tmp_path, content)
    assert isinstance(found[-1].value, BadInput) and "Nothing behind it" in found[-1].value.detail
    assert not any(isinstance(row.value, BadInput) for row in found[:-1])


def test_a_broken_record_of_csv_costs_itself_and_a_quote_left_open_says_which_lines_are_lost(tmp_path: Path) -> None:
    found = rows(tmp_path, b'distinct_id\n"a"b\nc\nd,e\nf\n"g\nh\ni\n')
    assert values(found) == [
        (1, "refused"), (2, {"distinct_ids": ["c"]}), (3, "refused"), (4, {"distinct_ids": ["f"]}), (5, "refused"),
    ]  # fmt: skip
    assert found[-1].value.detail.startswith("Lines 6 to 8:")


def test_what_is_no_source_is_a_wrong_use(tmp_path: Path) -> None:
    for content in (b"<html><body>Sign in</body></html>", b"name,mail\nada,x\n"):
        with pytest.raises(SettingsError):
            rows(tmp_path, content)
    with pytest.raises(SettingsError):
        File(tmp_path / "nowhere")
    with pytest.raises(SettingsError):
        File(tmp_path)


def test_a_list_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    path, one = tmp_path / "source", b'{"distinct_ids":["a"],"properties":{"fat":"' + b"x" * 10_000 + b'"}}'
    with path.open("wb") as file:
        file.write(b"[" + b",".join([one] * 3_000) + b"]")
    tracemalloc.start()
    try:
        count = asyncio.run(_count(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3_000
    assert peak < path.stat().st_size / 3


async def _count(path: Path) -> int:
    file = File(path)
    count = 0
    async for _ in file.rows():
        count += 1
    await file.close()
    return count
