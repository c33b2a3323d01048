"""Rows of persons that were read before and are still the newest, as `shared.store.changes` proves. Never asks itself.

Without a proof (another machine's store, a writer that marks nothing) nothing is kept and every read asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from shared.store.changes import Changes
from shared.store.timeline import Row

KEPT_BYTES_MAX = 32 * 1_048_576
"""Of the kept rows of one table, estimated."""

KEPT_SECONDS_MAX = 600.0
"""Then all are forgotten: of a person that is erased, nothing stays here because nobody asked again."""

ROW_BYTES = 600
"""Of a row besides its texts: the tuple, its key and its place."""

Key = tuple[int, int]
"""A project and a fragment's integer: uuids take ten times as long to hash."""

K = TypeVar("K")
V = TypeVar("V")


class Unknown:
    """That nothing is known of a row; None is that there is none."""


UNKNOWN: Final = Unknown()


class Recent(Generic[K, V]):
    """Values of so many bytes together; the least recently used go first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._bytes = bytes_max, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        self.drop(key)
        self._values[key] = value, size
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= self._values.popitem(last=False)[1][1]

    def drop(self, key: K) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def clear(self) -> None:
        self._values.clear()
        self._bytes = 0


class Kept:
    """The newest rows of one topic's table, by (project, fragment)."""

    def __init__(self, topic: str, changes: Changes | None, monotonic: Callable[[], float]) -> None:
        self._topic, self._changes, self._monotonic = topic, changes, monotonic
        self._until = monotonic() + KEPT_SECONDS_MAX
        self.generation = 0
        """How often all were forgotten."""

        self._rows: Recent[Key, tuple[Row | None, int, int]] = Recent(KEPT_BYTES_MAX)  # row, slot, seen

    def find(self, key: Key) -> Row | Unknown | None:
        """The row as it is in the table now, None when it has none, UNKNOWN when the table must be asked."""
        if self._changes is None:
            return UNKNOWN
        if self._monotonic() > self._until:
            self._until = self._monotonic() + KEPT_SECONDS_MAX
            self._rows.clear()
            self.generation += 1
        found = self._rows.get(key)
        if found is None:
            return UNKNOWN
        row, slot, seen = found
        if self._changes.seen(slot) != seen:
            self._rows.drop(key)
            return UNKNOWN
        return row

    def looked(self, keys: Sequence[Key]) -> dict[Key, tuple[int, int]]:
        """To be called before the table is asked: what `keep` wants to know of those that may be kept."""
        changes = self._changes
        if changes is None:
            return {}
        slots = ((key, changes.slot(self._topic, *key)) for key in keys)
        return {key: (slot, seen) for key, slot in slots if (seen := changes.seen(slot)) is not None}

    def keep(
        self, looked: dict[Key, tuple[int, int]], rows: dict[Key, Row], reached: dict[tuple[str, int], int]
    ) -> None:
        """Keep what was read; `reached` is how far the table was in each partition, by (topic, partition)."""
        changes = self._changes
        if changes is None:
            return
        topic = self._topic
        for key, (slot, seen) in looked.items():
            partition = changes.partition(topic, *key)
            if reached.get((topic, partition), 0) > changes.announced(topic, partition):
                continue  # somebody writes who marks nothing
            row = rows.get(key)
            size = ROW_BYTES + sum(len(value) for value in row or () if isinstance(value, str | list))
            self._rows.put(key, (row, slot, seen), size)
