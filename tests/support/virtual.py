"""An event loop whose time stands still while it works and jumps when it would wait: simulation without sleeping."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Instead of waiting, tells how long it would have waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.waited += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is the sum of all that was waited for."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.waited


def work(seconds: float) -> None:
    """As if the caller had computed for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._waits.waited += seconds


def virtual(test: Callable[..., Any]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def wrapped(*arguments: Any, **named: Any) -> None:
        run(test(*arguments, **named))

    return wrapped


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
