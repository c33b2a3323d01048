"""What a user would pick instead: an aiohttp service on PostgreSQL with a JSONB column, tuned, durable at commit.

`python -m bench.peer PORT DSN` serves it: POST /capture/ inserts an event, PATCH /:id merges properties by one UPDATE,
GET /:id reads a person by one SELECT. No authentication, no history, no checks: an upper bound of that design.
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

from shared.runtime.lifecycle import run, serve
from tests.support.processes import free_port

POOL = 16
"""Connections: more than that only wait for each other's locks and for two cores."""

TUNED = (
    "shared_buffers=512MB", "effective_cache_size=4GB", "max_wal_size=4GB", "checkpoint_timeout=15min",
    "wal_buffers=16MB", "synchronous_commit=on", "fsync=on", "max_connections=64", "random_page_cost=1.1",
    "listen_addresses=127.0.0.1",
)  # fmt: skip
"""What guides advise for a machine with 24 GiB that is shared; durability is personlog's: fsync stays on."""

TABLE = "CREATE TABLE persons (id bigint PRIMARY KEY, distinct_id text NOT NULL UNIQUE, properties jsonb NOT NULL)"
UPDATE = "UPDATE persons SET properties = properties || $2::jsonb WHERE id = $1"
SELECT = "SELECT id, distinct_id, properties FROM persons WHERE id = $1"

FILL = """INSERT INTO persons SELECT n, 'person-' || n, jsonb_build_object('a', n, 'b', 'some text', 'c', n / 4.0, 'd',
    jsonb_build_array(n), 'e', 1, 'f', 2, 'g', 3) FROM generate_series(0, $1::bigint - 1) n"""


class Missing(RuntimeError):
    """There is no PostgreSQL server on this machine."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server with a database of its own, ended afterwards; its DSN. It refuses to run as root, so `postgres` does."""
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
    initdb = command("initdb", "-D", str(data), "-A", "trust", "-U", "bench", "-E", "UTF8", "--locale=C")
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **as_owner)  # type: ignore[call-overload]
    settings = [part for one in (*TUNED, f"port={port}", f"unix_socket_directories={folder}") for part in ("-c", one)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command("postgres", "-D", str(data), *settings), stdout=log, stderr=log, **as_owner)  # type: ignore[call-overload]
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
    """The service in a process of its own; its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.peer", str(port), dsn])
    try:
        asyncio.run(_until_listens(port))
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


async def fill(dsn: str, persons: int) -> None:
    """So many persons with the properties that bench's commands set."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, persons)
        await connection.execute("VACUUM ANALYZE persons")
    finally:
        await connection.close()


async def update_batches(dsn: str, changes: Sequence[tuple[int, str]], size: int) -> None:
    """What a consumer of a log would do: UPDATEs, so many a transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for start in range(0, len(changes), size):
            async with connection.transaction():
                await connection.executemany(UPDATE, changes[start : start + size])
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
        changed = orjson.loads(await request.read())["properties"]
        await pool.execute(UPDATE, int(request.match_info["id"]), orjson.dumps(changed).decode())
        return web.Response(status=202)

    async def get(request: web.Request) -> web.Response:
        row = await pool.fetchrow(SELECT, int(request.match_info["id"]))
        body = b'{"id":%d,"distinct_ids":["%b"],"properties":%b}' % (row[0], row[1].encode(), row[2].encode())
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_patch("/persons/{id}/", patch)
    app.router.add_get("/persons/{id}/", get)
    await serve(app, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(_main(int(sys.argv[1]), sys.argv[2]))
