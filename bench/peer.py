"""A usual alternative: an aiohttp service on tuned PostgreSQL with JSONB, durable at commit.

`python -m bench.peer PORT DSN` serves it: PATCH /:id merges properties by one UPDATE, GET /:id
reads a person by one SELECT. No authentication, no history, no checks: an upper bound of that
design.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import orjson
from aiohttp import web

from shared.runtime.process.lifecycle import run, serve
from tests.support.processes import free_port

POOL = 16
"""Connections: more would only wait for each other's locks and for two cores."""

TUNED = (
    "shared_buffers=512MB",
    "effective_cache_size=4GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=15min",
    "wal_buffers=16MB",
    "synchronous_commit=on",
    "fsync=on",
    "max_connections=64",
    "random_page_cost=1.1",
    "listen_addresses=127.0.0.1",
)
"""The advice of guides for a shared machine with 24 GiB; fsync stays on, as in personlog."""

TABLE = """CREATE TABLE persons
    (id bigint PRIMARY KEY, distinct_id text NOT NULL UNIQUE, properties jsonb NOT NULL)"""
UPDATE = "UPDATE persons SET properties = properties || $2::jsonb WHERE id = $1"
EVENTS = """CREATE TABLE events (uuid uuid PRIMARY KEY, person bigint NOT NULL, event text NOT NULL,
    at timestamptz NOT NULL, properties jsonb NOT NULL)"""
HISTORY = """CREATE TABLE history (person bigint NOT NULL, at timestamptz NOT NULL, key text NOT NULL,
    before jsonb, after jsonb, cause uuid NOT NULL)"""
HISTORY_KEY = "CREATE INDEX ON history (person, at)"
PROJECT = """
WITH kept AS (
        INSERT INTO events VALUES ($3, $1, 'order placed', now(), $2::jsonb)
        ON CONFLICT (uuid) DO NOTHING RETURNING uuid),
    told AS (
        INSERT INTO history
        SELECT $1, now(), change.key, persons.properties -> change.key, change.value, $3
        FROM kept, jsonb_each($2::jsonb) AS change LEFT JOIN persons ON persons.id = $1
        WHERE persons.properties -> change.key IS DISTINCT FROM change.value)
INSERT INTO persons SELECT $1, 'person-' || $1, $2::jsonb FROM kept
ON CONFLICT (id) DO UPDATE SET properties = persons.properties || excluded.properties"""
"""What a projected command does: the event once, a row of history for each change, the state."""

SELECT = "SELECT id, distinct_id, properties FROM persons WHERE id = $1"

FILL = """INSERT INTO persons
    SELECT n, 'person-' || n, jsonb_build_object(
        'a', n, 'b', 'some text', 'c', n / 4.0, 'd', jsonb_build_array(n), 'e', 1, 'f', 2, 'g', 3)
    FROM generate_series(0, $1::bigint - 1) n"""


class Missing(RuntimeError):
    """There is no PostgreSQL server on this machine."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a server meanwhile; yield its DSN. It refuses root, so it runs as `postgres`."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise Missing("apt-get install postgresql")
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    folder.mkdir(parents=True)
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    port, data = free_port(), folder / "data"

    def command(name: str, *arguments: str) -> list[str]:
        return [str(programs[-1] / name), *arguments]

    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder}
    initdb = command(
        "initdb", "-D", str(data), "-A", "trust", "-U", "bench", "-E", "UTF8", "--locale=C"
    )
    subprocess.run(  # type: ignore[call-overload]
        initdb, check=True, stdout=subprocess.DEVNULL, **as_owner
    )
    settings = (*TUNED, f"port={port}", f"unix_socket_directories={folder}")
    options = [option for setting in settings for option in ("-c", setting)]
    serve_data = command("postgres", "-D", str(data), *options)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # type: ignore[call-overload]
            serve_data, stdout=log, stderr=log, **as_owner
        )
    try:
        dsn = f"postgresql://bench@127.0.0.1:{port}/postgres"
        asyncio.run(_until_answers(dsn))
        yield dsn
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def serving(dsn: str) -> Iterator[int]:
    """Run the service in a separate process; yield its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.peer", str(port), dsn])
    try:
        asyncio.run(_until_listens(port))
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


async def fill(dsn: str, persons: int) -> None:
    """Insert persons with the properties that the commands of bench set."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, persons)
        for statement in (EVENTS, HISTORY, HISTORY_KEY, "VACUUM ANALYZE persons"):
            await connection.execute(statement)
    finally:
        await connection.close()


async def in_batches(
    dsn: str, statement: str, rows: Sequence[tuple[object, ...]], size: int
) -> None:
    """Execute a statement for each row as a consumer of a log would, `size` rows a transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for start in range(0, len(rows), size):
            async with connection.transaction():
                await connection.executemany(statement, rows[start : start + size])
    finally:
        await connection.close()


async def _until_answers(dsn: str) -> None:
    for _ in range(300):
        try:
            await (await asyncpg.connect(dsn)).close()
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
        else:
            return
    raise RuntimeError("PostgreSQL did not start")


async def _until_listens(port: int) -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError("the peer's service did not start")


async def _main(port: int, dsn: str) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL)

    async def patch(request: web.Request) -> web.Response:
        properties = orjson.loads(await request.read())["properties"]
        person = int(request.match_info["id"])
        await pool.execute(UPDATE, person, orjson.dumps(properties).decode())
        return web.Response(status=202)

    async def get(request: web.Request) -> web.Response:
        row = await pool.fetchrow(SELECT, int(request.match_info["id"]))
        person, distinct_id, properties = row
        body = b'{"id":%d,"distinct_ids":["%b"],"properties":%b}' % (
            person,
            distinct_id.encode(),
            properties.encode(),
        )
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_patch("/persons/{id}/", patch)
    app.router.add_get("/persons/{id}/", get)
    await serve(app, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(_main(int(sys.argv[1]), sys.argv[2]))
