"""Temporary files of answers that must be whole before they are sent: CSVs and archives. Bounded
together.

They are nameless, so nothing of them outlives the process, however it ends. They lie where `TMPDIR`
says.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO

from shared.domain.errors import BadInput, Transient
from shared.runtime import telemetry

MEMORY_BYTES = 1_048_576
"""From this size on it is a file."""

EXPORT_BYTES_MAX = 4 * 1_073_741_824
"""Without a setting: 8 million rows of 500 bytes."""

FULL = "The space for answers that are being made is taken."
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))


class Spool:
    """One temporary file. Who writes says so with `check`, after each batch."""

    def __init__(self, spools: Spools, file: IO[bytes]) -> None:
        self._spools, self.file = spools, file
        self._bytes = 0

    def check(self) -> None:
        """Count what was written. Transient where there is no room beside the others, BadInput
        where there never is."""
        size = self.file.tell()
        self._spools.bytes += size - self._bytes
        self._bytes = size
        if size > self._spools.bytes_max:
            raise BadInput(f"More than {self._spools.bytes_max} bytes: ask for less.")
        if self._spools.bytes > self._spools.bytes_max:
            telemetry.REFUSED.labels("space").inc()
            raise Transient(FULL)

    def free(self) -> None:
        self._spools.bytes -= self._bytes


class Spools:
    """All temporary files of one API process. Not thread-safe."""

    def __init__(self, bytes_max: int = EXPORT_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0

    @contextmanager
    def open(self) -> Iterator[Spool]:
        """A file that goes when the block ends, and its bytes with it. Transient when the disk is
        full."""
        with SpooledTemporaryFile(MEMORY_BYTES) as file:
            spool = Spool(self, file)
            try:
                yield spool
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                telemetry.REFUSED.labels("space").inc()
                raise Transient(FULL) from error
            finally:
                spool.free()
