"""The state of an import in an atomically replaced file, and its refusals in another; no keys."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clients.importing.target import Refusal
from shared.runtime.files import write_whole
from shared.runtime.settings import SettingsError


class ImportState(msgspec.Struct, kw_only=True):
    """Progress: rows up to `rows` are durable or refused; a REST list resumes at page, index."""

    v: int = 1
    source: str  # its fingerprint
    target: str  # a hash of address and token
    rows: int = 0
    page: str = ""
    index: int = 0
    events: int = 0
    refused: int = 0  # rows
    refused_bytes: int = 0  # length of the file of refusals that belongs to `rows`
    unmarked: int = 0
    kinds: dict[str, int] = {}  # rows by what they were
    ended: bool = False


class ImportLedger:
    """The state and the refusals of one import."""

    def __init__(
        self,
        path: Path,
        refusals: Path,
        source: str,
        target: str,
        *,
        restart: bool = False,
    ) -> None:
        self._path = path
        self._refusals = refusals
        self.state = ImportState(source=source, target=target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not restart and path.exists():
                self.state = msgspec.json.decode(path.read_bytes(), type=ImportState)
            self._save()
        except (OSError, msgspec.DecodeError) as error:
            raise SettingsError(f"--state {path}: {error}") from None
        if (self.state.source, self.state.target) != (source, target):
            what = "source" if self.state.source != source else "target"
            raise SettingsError(
                f"{path} is of another {what}, or it has changed: --restart begins again"
            )
        self._cut()

    def settle(self, refusals: Sequence[Refusal]) -> None:
        """Save durably that all rows up to the state's are settled, the refusals first."""
        if refusals:
            with self._refusals.open("ab") as file:
                file.write(
                    b"".join(
                        msgspec.json.encode(refusal) + b"\n" for refusal in refusals
                    )
                )
                file.flush()
                os.fsync(file.fileno())
                self.state.refused_bytes = file.tell()
            self.state.refused += len({refusal.row for refusal in refusals})
        self._save()

    def _save(self) -> None:
        write_whole(self._path, msgspec.json.encode(self.state), 0o600)

    def _cut(self) -> None:
        """Drop refusals that a killed run wrote but did not settle: their rows are read again."""
        if self._refusals.exists():
            size = self._refusals.stat().st_size
            os.truncate(self._refusals, min(self.state.refused_bytes, size))
