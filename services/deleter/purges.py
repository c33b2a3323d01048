"""Purges: a command to every fragment that holds anything of what is purged, until none does. Never
erases a row.

The API sends the first of them; whoever is left gets his here. All of it may be done twice: a
fragment takes each purge once, and who has taken it has a fact that says so. So nothing is kept of
how far it came, and a crash costs a look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID, uuid5

from services.deleter.ledger import Ledger
from shared.domain.commands import Purge, encode, route
from shared.domain.deletion import DeletionRequest
from shared.domain.errors import NewerVersion, Transient
from shared.domain.ids import COMMANDS, IDENTITY, position_key
from shared.domain.person.lifted import copies
from shared.log.port import Entry, Log
from shared.runtime.wakeup import Wakeup
from shared.store.clickhouse.client import Store
from shared.store.clickhouse.failures import StoreError
from shared.store.purging import NOBODY, cuts, search_has_passed, unpurged

FRAGMENTS_AT_ONCE = 100_000
"""Fragments found by one look: 2 MB. A look passes all that is behind the last one, so there should
be few."""

COMMANDS_AT_ONCE = 1_000
"""Commands of one append."""

LOOK_SECONDS = 30.0
"""Between two looks for purges when nothing was told: another deleter may have left something."""

RETRY_SECONDS = 2.0
"""The same while some are left to send, and the projector or the store is behind: a large project's
has answered 202, and its values still show."""


class Purges:
    """The open purges. `projected` says whether the projector has passed all that is in the log
    now."""

    def __init__(
        self,
        log: Log,
        store: Store,
        ledger: Ledger,
        now_us: Callable[[], int],
        projected: Callable[[], Awaitable[bool]],
    ) -> None:
        self._log, self._store, self._ledger, self._now_us, self._projected = (
            log,
            store,
            ledger,
            now_us,
            projected,
        )
        self._spread: set[UUID] = set()

    async def run(self, owns: Callable[[], bool], woken: Wakeup) -> None:
        """Send what is left to send, as long as this process is the owner, until cancelled."""
        pause = LOOK_SECONDS
        while True:
            await woken.wait(pause)
            pause = LOOK_SECONDS
            try:
                if owns() and await self.round():
                    pause = RETRY_SECONDS
            except (
                Transient,
                StoreError,
                NewerVersion,
            ):  # the sweep looks again, and says what is wrong
                self._spread.clear()
                pause = RETRY_SECONDS

    async def round(self) -> bool:
        """Send what is left to send; whether some of it is left."""
        requests = await self._ledger.purges()
        return bool({request.id for request in requests} - await self.spread())

    async def spread(self, *, again: bool = False) -> set[UUID]:
        """Send what is left to send; the purges of which nothing is. `again`: look at those of
        earlier looks too."""
        if again:
            self._spread.clear()
        requests = [
            request
            for request in await self._ledger.purges()
            if request.id not in self._spread
        ]
        if not requests or not await self._projected():
            return set(self._spread)
        for request in requests:
            await self._send(request)
        if await self._projected():
            self._spread |= {
                request.id
                for request in requests
                if not await self._untouched(request, limit=1)
            }
        return set(self._spread)

    async def search_caught_up(self) -> bool:
        """Whether the search table is fed with all that is in the log now: only then are older rows
        superseded."""
        heads = [*await self._log.heads(COMMANDS), *await self._log.heads(IDENTITY)]
        return await search_has_passed(
            self._store,
            {position_key(head.topic, head.partition): head.version for head in heads},
        )

    async def _send(self, request: DeletionRequest) -> None:
        after = NOBODY
        while fragments := await self._untouched(request, after=after):
            commands = [
                purge_of(request, fragment, self._now_us()) for fragment in fragments
            ]
            counts = self._log.partitions()
            for start in range(0, len(commands), COMMANDS_AT_ONCE):
                chunk = commands[start : start + COMMANDS_AT_ONCE]
                await self._log.append(
                    [
                        Entry(*route(command, counts), encode(command))
                        for command in chunk
                    ]
                )
            after = fragments[-1]
            if request.members or len(fragments) < FRAGMENTS_AT_ONCE:
                return

    async def _untouched(
        self,
        request: DeletionRequest,
        *,
        after: UUID = NOBODY,
        limit: int = FRAGMENTS_AT_ONCE,
    ) -> Sequence[UUID]:
        """Who has not taken it yet: of a person every member, of a project who has anything of
        it."""
        key, cutoff = request.scope.purge, request.cutoff
        if request.members:
            purged = await cuts(
                self._store, request.project, key, cutoff, request.members
            )
            return [member for member in request.members if member not in purged]
        return await unpurged(
            self._store.rows_with_hidden,
            request.project,
            key,
            cutoff,
            after=after,
            limit=limit,
        )


def purge_of(request: DeletionRequest, fragment: UUID, now_us: int) -> Purge:
    """The command for one fragment, sent now."""
    return Purge(
        id=uuid5(request.id, fragment.hex),
        project=request.project,
        at=max(now_us, request.cutoff),
        actor=request.actor,
        fragment=fragment,
        names=copies(request.scope.purge),
        before=request.cutoff,
        request=request.id,
    )
