"""The store: ClickHouse, a server or the embedded engine, over HTTP. Never knows what a row means.

Values: a UUID column takes `uuid.UUID` or int (one kind in a column) and gives `uuid.UUID`; a
DateTime64 column takes and gives integers, counted in its own unit (DateTime64(6):
microseconds).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver import options
from clickhouse_connect.driver.asyncclient import AsyncClient, BytesSource
from clickhouse_connect.driver.ctypes import RespBuffCls
from clickhouse_connect.driver.exceptions import ClickHouseError, StreamFailureError
from clickhouse_connect.driver.insert import InsertContext
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform

from shared.store.clickhouse.failures import (
    StoreAway,
    StoreError,
    exception_in,
    failure,
)
from shared.store.clickhouse.parameters import bind
from shared.store.clickhouse.queries import Query

CONNECT_SECONDS_MAX = 5.0
READ_SECONDS_MAX = 10.0
"""A read behind a request; the engine stops the query at the same limit."""

INSERT_SECONDS_MAX = 30.0
"""A batch takes 32 ms; a server that merges hard or syncs slowly gets a thousand times that."""

COMMAND_SECONDS_MAX = 300.0
"""DDL and mutations; what takes longer is started and then polled in system.mutations."""

CONNECTIONS_MAX = 32
"""Reads are coalesced before they come here, so few are in flight."""

SCANS_MAX = 16
"""Queries of many rows at once; the other half of the connections is for reads by key, whatever is
listed. Further ones wait, for as long as a read may take."""

READ_BYTES_MAX = 1 << 30
"""Memory of one read in the engine."""

INLINE_BYTES_MAX, INLINE_ROWS_MAX = 65_536, 256
"""Smaller answers and inserts are coded on the event loop (under a millisecond); larger ones in a
thread."""

IN_MEMORY = {"buffer_size": str(READ_BYTES_MAX)}
"""The client asks for answers that begin when they are whole, so that failures are told by their
code. What a server has no room for in memory it puts on its disk then, and when that is full, it
answers with less, or nothing, and 200."""

AS_SENT = {"input_format_try_infer_dates": "0", "input_format_try_infer_datetimes": "0"}
"""Texts that look like dates stay texts in JSON, whether it is inserted or read."""

READ_SETTINGS = AS_SENT | {
    # who gives up frees what the query holds
    "cancel_http_readonly_queries_on_client_close": "1",
    "readonly": "1",  # refuses writes, file() and url(), whatever got into a query
    "max_execution_time": str(int(READ_SECONDS_MAX)),
    "max_memory_usage": str(READ_BYTES_MAX),
}

SCAN_SETTINGS = (
    READ_SETTINGS
    | {
        "os_threads_nice_value_query": "5",  # reads by key come first where both cores are taken
        # a query hears of its end between two blocks, and a regular expression takes its time
        "max_block_size": "1024",
    }
)

HIDDEN_SETTINGS = READ_SETTINGS | {
    "apply_deleted_mask": "0",  # within the query, readonly=1 would refuse it
    "max_execution_time": str(int(COMMAND_SECONDS_MAX)),
    "max_threads": "1",
}
"""The deleter counts with them, beside readers: it takes one core, and its time."""

INSERT_SETTINGS = {
    "min_insert_block_size_rows": "1048449",
    "min_insert_block_size_bytes": "268402944",
    "max_insert_threads": "1",
    "async_insert": "0",
    "max_partitions_per_insert_block": "0",
}
"""One INSERT becomes one part, all or nothing; a server's profile may say otherwise, so they go
with each one."""


class Store:
    """One database. Calls may run at the same time; each has a time limit. Made by `connect`."""

    def __init__(self, client: AsyncClient, database: str) -> None:
        self.database = database
        self._client = client
        self._scans = asyncio.Semaphore(SCANS_MAX)
        self._types: Mapping[tuple[str, str], Any] = {}

    @classmethod
    async def connect(cls, url: str) -> Store:
        """The store at `http://user:password@host:port/database` (or https); the database need not
        exist yet."""
        # Otherwise the first insert imports pandas on the event loop: over a second, and 60 MB.
        # They count as absent.
        for name in ("np", "pd", "pd_time_test", "arrow", "pl"):
            setattr(options, name, None)
        # It logs tracebacks with the values that it cannot encode; everything it says is raised
        # here as well.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        parts = urlsplit(url)
        database = parts.path.strip("/") or "default"
        async with _failures("connect", CONNECT_SECONDS_MAX):
            client = await clickhouse_connect.get_async_client(
                interface=parts.scheme,
                host=parts.hostname,
                port=parts.port or (8443 if parts.scheme == "https" else 8123),
                username=unquote(parts.username or "default"),
                password=unquote(parts.password or ""),
                compress=False,
                autogenerate_session_id=False,
                connect_timeout=CONNECT_SECONDS_MAX,
                send_receive_timeout=COMMAND_SECONDS_MAX,
                query_retries=0,
                connector_limit=CONNECTIONS_MAX,
                connector_limit_per_host=CONNECTIONS_MAX,
                settings=IN_MEMORY,
            )
        client.database = database
        store = cls(client, database)
        try:
            await store.learn_columns()
        except BaseException:
            await store.close()
            raise
        return store

    async def rows(self, query: Query, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query that only reads."""
        async with _failures(query.name, READ_SECONDS_MAX):
            if query.workload:
                async with self._scans:
                    body = await self._read(
                        query, parameters, SCAN_SETTINGS | {"workload": query.workload}
                    )
            else:
                body = await self._read(query, parameters, READ_SETTINGS)
            return (
                _decode(body)
                if len(body) <= INLINE_BYTES_MAX
                else await asyncio.to_thread(_decode, body)
            )

    async def rows_with_hidden(
        self, query: Query, **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """The same, and it also sees rows that a lightweight delete has hidden and nothing has
        erased yet."""
        async with _failures(query.name, COMMAND_SECONDS_MAX):
            body = await self._read(query, parameters, HIDDEN_SETTINGS)
            return await asyncio.to_thread(_decode, body)

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Insert column-wise, in one INSERT of one block; nothing if there are no rows."""
        count = len(next(iter(columns.values()), ()))
        if count == 0:
            return
        async with _failures(f"insert into {table}", INSERT_SECONDS_MAX):
            inline = count <= INLINE_ROWS_MAX
            block = (
                self._encode(table, columns)
                if inline
                else await asyncio.to_thread(self._encode, table, columns)
            )
            await self._client.raw_insert(insert_block=block, settings=INSERT_SETTINGS)

    async def insert_json(self, table: str, lines: Sequence[bytes]) -> None:
        """Insert rows that are JSON objects, in one INSERT; columns left out have their
        defaults."""
        if lines:
            async with _failures(f"insert into {table}", INSERT_SECONDS_MAX):
                await self._client.raw_insert(
                    table,
                    insert_block=b"\n".join(lines),
                    fmt="JSONEachRow",
                    settings=INSERT_SETTINGS | AS_SENT,
                )

    async def command(self, query: Query | str, **parameters: Any) -> None:
        """Run a statement that returns no rows: DDL, a mutation, a lightweight delete."""
        statement = (
            query
            if isinstance(query, Query)
            else Query(name=query.partition("\n")[0][:80], sql=query)
        )
        async with _failures(statement.name, COMMAND_SECONDS_MAX):
            # Not `command`: that puts parameters into the URL, which ends at 8 KB.
            await self._client.raw_query(*bind(statement.sql, parameters))

    async def create_database(self) -> None:
        async with _failures("create database", COMMAND_SECONDS_MAX):
            await self._client.command(
                "CREATE DATABASE IF NOT EXISTS {database:Identifier}",
                {"database": self.database},
                use_database=False,
            )

    async def learn_columns(self) -> None:
        """Read the tables' column types, so that no insert has to ask; again after a migration."""
        async with _failures("columns", READ_SECONDS_MAX):
            body = await self._client.raw_query(
                "SELECT table, name, type FROM system.columns WHERE database = {database:String}",
                {"database": self.database},
                settings=READ_SETTINGS,
                fmt="Native",
                use_database=False,
            )
        self._types = {
            (table, column): get_from_name(type_)
            for table, column, type_ in _decode(body)
        }

    def has_table(self, table: str) -> bool:
        """Whether the table was there when the columns were last learned."""
        return any(name == table for name, _ in self._types)

    async def close(self) -> None:
        await self._client.close()

    async def _read(
        self, query: Query, parameters: Mapping[str, Any], settings: Mapping[str, str]
    ) -> bytes:
        sql, fields = bind(query.sql, parameters)
        return await self._client.raw_query(
            sql, fields, settings=dict(settings), fmt="Native"
        )

    def _encode(self, table: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
        """The statement with its rows in one Native block."""
        count = len(next(iter(columns.values())))
        if any(len(values) != count for values in columns.values()):
            raise StoreError("columns differ in length")
        try:
            types = [self._types[table, column] for column in columns]
        except KeyError as error:
            raise StoreError(f"unknown column {error}") from error
        context = InsertContext(
            table, list(columns), types, column_oriented=True, block_size=count
        )
        context.data = list(columns.values())
        block = b"".join(NativeTransform.build_insert(context))
        if context.insert_exception is not None:
            kind = type(
                context.insert_exception
            ).__name__  # its text would carry the value
            raise StoreError(f"{kind} in column {context.column_name}") from None
        vars(
            context
        ).clear()  # it holds itself by a method, and so all rows until the collector comes: 300 MB
        return block


def _decode(body: bytes) -> list[tuple[Any, ...]]:
    if not body:
        return []
    source: Any = RespBuffCls(BytesSource(body))  # type: ignore[no-untyped-call]  # as its author left it
    try:
        result: Any = NativeTransform.parse_response(
            source, QueryContext(query_formats={"DateTime64*": "int"})
        )
        return list(result.result_rows)  # reads all blocks but the first
    except StreamFailureError:
        raise exception_in(body) or StreamFailureError() from None
    except Exception as error:  # noqa: BLE001  # of bytes that are no block the decoder may make anything
        raise exception_in(body) or StoreError(
            f"{type(error).__name__} in the answer"
        ) from None


@asynccontextmanager
async def _failures(name: str, seconds: float) -> AsyncIterator[None]:
    """Bound a call in time and tell what may work later from what will not."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreAway(f"{name}: no answer within {seconds:g} s") from error
    except ClickHouseError as error:
        raise failure(name, error) from None  # the texts of its causes carry values
    except StoreError as error:
        raise StoreError(f"{name}: {error}", error.code) from None
