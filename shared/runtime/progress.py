"""Signs of life of long work: a bar in a terminal, a line every ten seconds elsewhere. Never measures anything."""

from __future__ import annotations

import time

BAR_SECONDS, LINE_SECONDS = 0.2, 10.0
"""Between two signs of life of long work, in a terminal and elsewhere."""


class Progress:
    """A bar in a terminal, a line every ten seconds elsewhere."""

    def __init__(self, *, terminal: bool, began: float) -> None:
        self._terminal, self._said_at, self._open = terminal, began, False

    def tell(self, done: int, total: int, text: str) -> None:
        """`total` 0: nobody knows how much there is."""
        now = time.monotonic()
        if now - self._said_at < (BAR_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._said_at = now
        share = min(1.0, done / max(total, 1))
        text = f"{done:,} of about {total:,}, {text}" if total else text
        bar = f"\r[{'#' * int(share * 30):30}] {share:4.0%} {text} "
        print(bar if self._terminal and total else f"\r{text} " if self._terminal else text,
              end="" if self._terminal else "\n", flush=True)  # fmt: skip
        self._open = self._terminal

    def end(self) -> None:
        """Leave the bar as it stands."""
        if self._open:
            print()
