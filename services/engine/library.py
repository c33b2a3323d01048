"""The library that ClickHouse's server is in. The only module that loads it, and only in the engine's own process.

`chdb._chdb.query` runs a script as `clickhouse-local` does, and `SYSTEM START LISTEN` in it starts ClickHouse's own
HTTP and TCP servers (ClickHouse 26.5 and later). The call lasts as long as they do. It is not a documented interface of
chDB, so the version is pinned, and checked before anything is opened.
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
"""As in pyproject.toml; a test compares them."""

KEEPER = "keeper_of_the_listeners"
"""Names the sleeping query in comments; it is ended by this."""

SCRIPT = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP;"
    f" SELECT /* {KEEPER} */ sum(sleepEachRow(1)) FROM numbers(9000000000000000000)"
    " SETTINGS max_block_size = 1, max_threads = 1, max_execution_time = 0,"
    " function_sleep_max_microseconds_per_block = 0 FORMAT Null"
)
"""The servers live while the script runs: the last query sleeps for 285 thousand million years."""

OUTPUT_FORMAT = "TSV"
"""Also the default format of the servers: with Null every answer would be empty."""


def check_version() -> None:
    """SettingsError when the library is absent or another one than was tested."""
    try:
        found = version(DISTRIBUTION)
    except PackageNotFoundError:
        text = f"the embedded engine needs {DISTRIBUTION}=={VERSION}: install personlog[embedded]"
        raise SettingsError(text) from None
    if found != VERSION:
        raise SettingsError(f"{DISTRIBUTION} {found} is installed; the embedded engine needs {VERSION}")


UNUSED = "pyarrow"
"""What the library imports for its frames of pandas if it can: 39 MB and 0.1 s that no server needs."""


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Within, importing it fails as if it were not installed."""
    sys.modules[module] = None  # type: ignore[assignment]  # how Python's own documentation blocks an import
    try:
        yield
    finally:
        del sys.modules[module]


def load() -> Callable[[Path], None]:
    """Load the library (0.1 s, 225 MB with the pages of its file); what serves a data folder until its keeper is ended.

    Importing it opens a session that reads `config.xml` of the current folder, so the caller is not yet in the folder
    of ours. What is returned reads it there.
    """
    with _without(UNUSED):
        library = import_module("chdb._chdb")
    library.set_signal_handlers_enabled(0)

    def serve(data: Path) -> None:
        """Does not raise: what is wrong is printed to standard error, and the call returns."""
        library.query(SCRIPT, OUTPUT_FORMAT, path=os.fspath(data))

    return serve
