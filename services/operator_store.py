"""The store of an operator's commands, connected for one action. Imports wait until it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shared.runtime.process.exits import DONE
from shared.runtime.settings import Settings


def with_store(
    settings: Settings,
    act: Callable[[Any], Awaitable[int | None]],
    *,
    migrated: bool = True,
) -> int:
    """Run `act` on the store as the operator; return its exit code, DONE by default.

    Raises PersonlogError when the store is unavailable, or not migrated unless `migrated` is false.
    """
    from shared.store.clickhouse.client import Store
    from shared.store.clickhouse.migrate import check_migrated

    async def go() -> int:
        store = await Store.connect(settings.store_url("migrator"))
        try:
            if migrated:
                await check_migrated(store)
            return await act(store) or DONE
        finally:
            await store.close()

    return asyncio.run(go())
