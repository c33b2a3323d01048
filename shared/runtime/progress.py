"""Progress of long work: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time

BAR_SECONDS, LINE_SECONDS = 0.2, 10.0
"""Time between two reports, in a terminal and elsewhere."""


class ProgressBar:
    """A progress bar or line, printed at most once in its interval."""

    def __init__(self, *, terminal: bool, began: float) -> None:
        self._terminal = terminal
        self._printed_at = began
        self._open = False

    def tell(self, done: int, total: int, text: str) -> None:
        """Print the progress; `total` 0 means unknown."""
        now = time.monotonic()
        if now - self._printed_at < (BAR_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._printed_at = now
        share = min(1.0, done / max(total, 1))
        text = f"{done:,} of about {total:,}, {text}" if total else text
        bar = f"\r[{'#' * int(share * 30):30}] {share:4.0%} {text} "
        if self._terminal:
            print(bar if total else f"\r{text} ", end="", flush=True)
        else:
            print(text, flush=True)
        self._open = self._terminal

    def end(self) -> None:
        """End the line of an open bar."""
        if self._open:
            print()
