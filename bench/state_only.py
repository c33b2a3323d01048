"""A projector that writes state and positions, but no facts: the difference is the timeline's cost.

`python -m bench.state_only` runs it with the settings of a stack. Use it on throw-away stores only.
"""

from __future__ import annotations

import os
import time

from services.projector.app import COLLECTED_OBJECTS, GROUP
from services.projector.fold import FragmentFolder
from services.projector.tables.clickhouse import ClickHouseTables, Facts
from services.projector.worker import Worker
from shared.domain.ids import COMMANDS
from shared.log.connect import connect_log
from shared.runtime.process.lifecycle import collect_seldom, run
from shared.runtime.settings import read, with_keys
from shared.store.clickhouse.connect import connect_store


class StateOnly(ClickHouseTables):
    """Tables that drop all facts."""

    async def write_facts(self, facts: Facts) -> None: ...


async def main() -> None:
    settings, _ = with_keys(read(os.environ))
    log, store = connect_log(settings), await connect_store(settings, "writer")
    await log.start()
    worker = Worker(
        log=log,
        reader=log.reader(COMMANDS, GROUP),
        tables=StateOnly(store),
        folder=FragmentFolder(),
        monotonic=time.monotonic,
    )
    collect_seldom(COLLECTED_OBJECTS)
    try:
        await worker.run()
    finally:
        await log.close()
        await store.close()


if __name__ == "__main__":
    run(main())
