"""What wakes the tasks of the deleter before they look by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.commands import Cancel, DeletionCommand, RequestDeletion
from shared.runtime.wakeup import Wakeup


class Wakeups:
    """What ends the waits of the process's tasks, each of which looks by itself as well."""

    def __init__(self) -> None:
        self.sweep, self.restore, self.purge, self.forget = (
            Wakeup(),
            Wakeup(),
            Wakeup(),
            Wakeup(),
        )

    def on_commands(self, commands: Sequence[DeletionCommand]) -> None:
        """These are in the ledger now; none of them says that this process has become the owner.
        Requests do not wake the sweep: those that come while the window is open share one."""
        if not commands:
            for wakeup in (self.sweep, self.restore, self.purge, self.forget):
                wakeup.set()
        if any(isinstance(command, Cancel) for command in commands):
            self.restore.set()
        if any(
            isinstance(command, RequestDeletion) and command.scope.purge
            for command in commands
        ):
            self.purge.set()
