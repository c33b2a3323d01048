"""The store that the settings name, waited for while it starts. Never migrates it."""

from __future__ import annotations

from pathlib import Path

import stamina
from stamina.instrumentation import set_on_retry_hooks

from shared.domain.errors import StoreUnavailable
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import ServerTime
from shared.runtime.trouble import Trouble
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.migrate import check_migrated
from shared.store.clickhouse.queries import load

START_SECONDS_MAX = 30.0
"""An engine that was killed answers again within 3 s; after this the supervisor's back-off takes
over."""

WAIT_SECONDS_MAX = 0.5


async def connect_store(settings: Settings, user: str) -> Store:
    """A connected store with all its tables, as one of the engine's users. StoreUnavailable when it
    does not answer in time, SettingsError when it was not migrated."""
    set_on_retry_hooks(())  # told here, once
    trouble = Trouble("store")
    async for attempt in stamina.retry_context(
        on=StoreUnavailable,
        attempts=None,
        timeout=START_SECONDS_MAX,
        wait_initial=0.05,
        wait_max=WAIT_SECONDS_MAX,
        wait_jitter=0.05,
    ):
        with attempt:
            try:
                store = await Store.connect(settings.store_url(user))
            except StoreUnavailable as error:
                trouble.is_now(error.detail)
                raise
    trouble.is_now("")
    try:
        await check_migrated(store)
    except BaseException:
        await store.close()
        raise
    return store


def judge_of(settings: Settings, store: Store) -> ServerTime | None:
    """Who knows better how late it is: a ClickHouse server. The embedded engine has this machine's
    clock."""
    if settings.embedded:
        return None

    async def now() -> int:
        ((now_us,),) = await store.rows(load(Path(__file__).with_suffix(".sql"))["now"])
        return int(now_us)

    return now
