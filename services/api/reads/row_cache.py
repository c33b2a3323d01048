"""An LRU cache of person rows, each validated by its seqlock
(`shared.store.shared_memory.row_versions`) on every read.

Without such versions (another machine's store, a writer that marks nothing) nothing is cached:
every read is a query.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from shared.store.shared_memory.segment import SharedMemory

CACHE_BYTES_MAX = 32 * 1_048_576
"""Of the cached rows of one table, estimated."""

CACHE_SECONDS_MAX = 600.0
"""Then the cache is cleared, so that no row of an erased person stays because nobody read it
again."""

ROW_BYTES = 600
"""Of a row besides its texts: the tuple, its key and its place."""

RowKey = tuple[int, int]
"""A project and a fragment's integer: uuids take ten times as long to hash."""

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R", bound=tuple[Any, ...])


class Miss:
    """Sentinel: not cached. (None means: cached, no such row.)"""


MISS: Final = Miss()


class LruCache(Generic[K, V]):
    """Values bounded by their size in bytes; the least recently used are evicted first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._bytes = bytes_max, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        value, _ = entry
        return value

    def put(self, key: K, value: V, size: int) -> None:
        self.drop(key)
        self._values[key] = value, size
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, (_, evicted) = self._values.popitem(last=False)
            self._bytes -= evicted

    def drop(self, key: K) -> None:
        entry = self._values.pop(key, None)
        if entry is not None:
            _, size = entry
            self._bytes -= size

    def clear(self) -> None:
        self._values.clear()
        self._bytes = 0


class RowCache(Generic[R]):
    """The newest rows of one topic's table, by (project, fragment)."""

    def __init__(
        self, topic: str, memory: SharedMemory | None, monotonic: Callable[[], float]
    ) -> None:
        self._topic, self._memory, self._monotonic = topic, memory, monotonic
        self._until = monotonic() + CACHE_SECONDS_MAX
        self.generation = 0
        """How often the cache was cleared."""

        self._rows: LruCache[RowKey, tuple[R | None, int, int]] = LruCache(
            CACHE_BYTES_MAX
        )  # row, slot, version

    def get(self, key: RowKey) -> R | Miss | None:
        """The row as it is in the table now; None when the table has none; MISS when the table must
        be read."""
        if self._memory is None:
            return MISS
        if self._monotonic() > self._until:
            self._until = self._monotonic() + CACHE_SECONDS_MAX
            self._rows.clear()
            self.generation += 1
        entry = self._rows.get(key)
        if entry is None:
            return MISS
        row, slot, version = entry
        if self._memory.versions.read_version(slot) != version:
            self._rows.drop(key)
            return MISS
        return row

    def version_snapshot(self, keys: Sequence[RowKey]) -> dict[RowKey, tuple[int, int]]:
        """(slot, version) of the keys that may be cached, for `put`. Call it before the table is
        read."""
        if self._memory is None:
            return {}
        versions = self._memory.versions
        slots = ((key, versions.slot(self._topic, *key)) for key in keys)
        return {
            key: (slot, version)
            for key, slot in slots
            if (version := versions.read_version(slot)) is not None
        }

    def put(
        self,
        snapshot: dict[RowKey, tuple[int, int]],
        rows: dict[RowKey, R],
        table_versions: dict[tuple[str, int], int],
    ) -> None:
        """Cache the rows read; `table_versions` is how far the table is, by (topic, partition)."""
        if self._memory is None:
            return
        topic, versions, board = self._topic, self._memory.versions, self._memory.board
        for key, (slot, version) in snapshot.items():
            partition = versions.partition(topic, *key)
            if table_versions.get((topic, partition), 0) > board.published(
                topic, partition
            ):
                continue  # a writer that marks nothing
            row = rows.get(key)
            size = ROW_BYTES + sum(
                len(value) for value in row or () if isinstance(value, str | list)
            )
            self._rows.put(key, (row, slot, version), size)
