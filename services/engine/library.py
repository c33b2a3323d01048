"""The library with ClickHouse's server. Only this module loads it, in the engine's own process.

`chdb._chdb.query` runs a script as `clickhouse-local` does, and `SYSTEM START LISTEN` in it starts
ClickHouse's own HTTP and TCP servers (ClickHouse 26.5 and later). The call lasts as long as they
do. It is not a documented interface of chDB, so the version is pinned, and checked at the start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shared.runtime.settings import SettingsError

DISTRIBUTION, VERSION = "chdb-core", "26.9.0"
"""The same as in pyproject.toml; a test compares them."""

KEEPER = "keeper_of_the_listeners"
"""The name of the sleeping query, in its comment; the warden ends it by this name."""

SCRIPT = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP;"
    f" SELECT /* {KEEPER} */ sum(sleepEachRow(1)) FROM numbers(9000000000000000000)"
    " SETTINGS max_block_size = 1, max_threads = 1, max_execution_time = 0,"
    " function_sleep_max_microseconds_per_block = 0 FORMAT Null"
)
"""The servers run as long as the script: its last query sleeps for 285 thousand million years."""

OUTPUT_FORMAT = "TSV"
"""Also the servers' default format: with Null every answer would be empty."""


def check_version() -> None:
    """Raise SettingsError when the library is absent, or not of the tested version."""
    try:
        installed = version(DISTRIBUTION)
    except PackageNotFoundError:
        text = f"the embedded engine needs {DISTRIBUTION}=={VERSION}: install personlog[embedded]"
        raise SettingsError(text) from None
    if installed != VERSION:
        raise SettingsError(
            f"{DISTRIBUTION} {installed} is installed; the embedded engine needs {VERSION}"
        )


UNUSED = "pyarrow"
"""An optional import of the library, for pandas: 39 MB and 0.1 s that no server needs."""


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let imports of `module` fail inside the block, as if it were not installed."""
    # Python documents None as the way to block an import
    sys.modules[module] = None  # type: ignore[assignment]  # typed for modules only
    try:
        yield
    finally:
        del sys.modules[module]


def load() -> Callable[[Path], None]:
    """Load the library; return a function that serves a data folder until its keeper is ended.

    Takes 0.1 s, and 225 MB with the pages of its file. The import opens a session that reads
    `config.xml` of the current folder, so the caller must not be in the folder of the server's
    config.xml yet. The returned function reads it there.
    """
    with _without(UNUSED):
        library = import_module("chdb._chdb")
    library.set_signal_handlers_enabled(0)

    def serve(data: Path) -> None:
        """Serve a data folder. Errors are printed to standard error, and the call returns."""
        library.query(SCRIPT, OUTPUT_FORMAT, path=os.fspath(data))

    return serve
