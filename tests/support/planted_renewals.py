"""Rules of a renewal of the log: each is taken away alone, and must be missed (tests/properties/test_mutations.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared.domain.ids import COMMANDS, DELETIONS, IDENTITY, version_of
from shared.log.memory import MemoryLog
from shared.log.port import Record
from shared.log.renewal import Renewal
from tests.support.renewing import MemoryBooks


def before_the_first_of_identity(patch: pytest.MonkeyPatch) -> None:
    """A generation begins without the position rows of one table."""
    vouch = MemoryBooks._vouch

    async def forgetful(self: MemoryBooks, topic: str, positions: Sequence[Any]) -> None:
        await vouch(self, topic, [one for one in positions if topic != IDENTITY or one.offset >= 0])

    patch.setattr(MemoryBooks, "_vouch", forgetful)


def before_the_first_of_partitions_that_were_added(patch: pytest.MonkeyPatch) -> None:
    """A generation begins with the position rows of the ending one's partitions only."""
    vouch = MemoryBooks._vouch

    async def narrow(self: MemoryBooks, topic: str, positions: Sequence[Any]) -> None:
        counts = self.ledger().generation.partitions
        await vouch(self, topic, [one for one in positions if one.offset >= 0 or one.partition < counts[topic]])

    patch.setattr(MemoryBooks, "_vouch", narrow)


def generations_in_versions(patch: pytest.MonkeyPatch) -> None:
    """What a later generation changes has the versions of the first."""
    patch.setattr(Record, "version", property(lambda self: version_of(self.offset)))


def all_of_a_generation_before_the_next(patch: pytest.MonkeyPatch) -> None:
    """The next generation begins while records of the last one are not projected."""

    async def hasty(self: Renewal, log: Any, topics: Any) -> None:
        return

    patch.setattr(Renewal, "_projected", hasty)


def identity_closed_before_commands(patch: pytest.MonkeyPatch) -> None:
    """All topics are closed at once, and what identity still has to tell fragments is refused."""
    end = Renewal.end

    async def at_once(self: Renewal, log: Any) -> Any:
        await log.seal((COMMANDS, IDENTITY, DELETIONS))
        return await end(self, log)

    patch.setattr(Renewal, "end", at_once)


def deletions_closed_with_identity(patch: pytest.MonkeyPatch) -> None:
    """The deletions topic is closed before identity is projected, which asks for a deletion there with each delete."""
    end = Renewal.end

    async def together(self: Renewal, log: Any) -> Any:
        await log.seal((IDENTITY, DELETIONS))
        return await end(self, log)

    patch.setattr(Renewal, "end", together)


def closed_topics(patch: pytest.MonkeyPatch) -> None:
    """A generation that has ended still takes records."""

    async def open_(self: MemoryLog, topics: Any) -> None:
        return

    patch.setattr(MemoryLog, "seal", open_)


PLANTED_RENEWALS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    before_the_first_of_identity, before_the_first_of_partitions_that_were_added, generations_in_versions,
    all_of_a_generation_before_the_next, identity_closed_before_commands, deletions_closed_with_identity,
    closed_topics,
)  # fmt: skip
