"""A clock that a test sets: what this folder's place in PYTHONPATH does to every Python process started with it.

SKEWED_BY names a file with seconds; as long as it is there, they are added to the time of day. The time that has
gone by is left alone, as it is when somebody sets a machine's clock.
"""

from __future__ import annotations

import os
import time

_FILE = os.environ.get("SKEWED_BY", "")
_true_ns = time.time_ns


def _skewed_ns() -> int:
    try:
        with open(_FILE) as file:
            return _true_ns() + int(float(file.read()) * 1e9)
    except (OSError, ValueError):
        return _true_ns()


if _FILE:
    time.time_ns = _skewed_ns
    time.time = lambda: _skewed_ns() / 1e9
