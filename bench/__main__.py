"""`make bench`: measure questions side by side, in turns; medians go to bench/results.md.

`python -m bench persons` measures that question only. Benchmarks are not tests: the machines are
noisy, so that only ratios within a run mean anything.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.analyst import analyst
from bench.analytics import analytics
from bench.appends import appends
from bench.beside import beside
from bench.deletion import deletions
from bench.giant import giant
from bench.life import life
from bench.peer import Missing
from bench.peers import peers
from bench.persons import persons, ten_million
from bench.projection import projection
from bench.readers import readers
from bench.report import Row, keep, report
from bench.scaling import scaling
from bench.stages import stages

QUESTIONS: dict[str, Callable[[Path], list[Row]]] = {
    "appends": appends,  # acknowledged appends against a bare aiohttp handler
    # projected commands against raw column-wise insert, rebuilds, and coalesced reads
    "projection": projection,
    "peers": peers,  # reads, writes and projection against aiohttp on PostgreSQL
    "deletions": deletions,  # 1,000 persons in one run against one by one, and readers beside it
    "analytics": analytics,  # the queries of docs/analytics.md against a scan of their columns
    "analyst": analyst,  # reads beside three endless queries of an analyst
    "life": life,  # time until a write is visible, memory, disk, a restart
    "persons": persons,  # keyed lookups and projection from 10 k to 1 M persons, and lists of them
    "beside": beside,  # reads beside a projector that catches up
    "readers": readers,  # reads by key beside many concurrent lists
    "giant": giant,  # other persons' writes beside an endlessly growing person, and memory
    "scaling": scaling,  # two projectors against one, and up to 16 simulated
}
LONG: dict[str, Callable[[Path], list[Row]]] = {
    "stages": stages,  # the processor time of an append, by the parts of the API
    "ten_million": ten_million,  # the curves of `persons` up to 10 M
}
"""Measured by name only: `make bench` takes 15 minutes at most."""


def main(names: list[str]) -> None:
    questions = QUESTIONS | LONG
    if unknown := set(names) - questions.keys():
        sys.exit(
            f"No such question: {', '.join(sorted(unknown))}. There are: {', '.join(questions)}."
        )
    rows: list[Row] = []
    began = time.monotonic()
    try:
        for name in names or QUESTIONS:
            rows += _measure(name, questions[name])
    finally:  # the rows of the others are kept when a question fails
        print(f"all took {time.monotonic() - began:.0f} s", flush=True)
        text = report(rows)
        print(text)
        keep(text)


def _measure(name: str, question: Callable[[Path], list[Row]]) -> list[Row]:
    print(name, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="personlog-bench-") as folder:
        try:
            return question(Path(folder) / name)
        except Missing as error:
            print(f"{name} left out: {error}", flush=True)
            return []
        finally:
            print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
