"""The report: rows of measurements beside their goals, newest first in bench/results.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.support.processes import ROOT

Row = tuple[str, str, str, str, str]
"""The comparison, our figure, the limit, their ratio, and a note."""

RESULTS = ROOT / "bench" / "results.md"
PLOTS = ROOT / "bench" / "plots"
HEAD = (
    "# Results\n\n"
    "Written by `make bench`, the newest first. Only ratios within a run mean anything.\n"
)

GOALS = {
    "acknowledged append / bare handler": "≥ 1.0",
    "API's processor time of an acknowledged append": "≤ 1.1",
    "events of batches of 100 / bare handler's requests": "≥ 5; Kafka ≥ 4",
    "PATCH, respond-async / PostgreSQL JSONB UPDATE": "≥ 3",
    "projected commands, state only / raw insert rows": "≥ 0.25; Kafka ≥ 0.30",
    "projected commands, with timeline / raw insert rows": "≥ 0.20; Kafka ≥ 0.22",
    "projected commands, with timeline / PostgreSQL doing": "≥ 1.5",
    "coalesced GET / one query each, 64 in flight": "≥ 20",
    "the same, 2,000 in flight": "≥ 100",
    "GET one, rows not read before / PostgreSQL point SELECT": "≥ 0.6",
    "GET one / PostgreSQL point SELECT, c = 16": "≥ 1",
    "GET one / PostgreSQL point SELECT, c = 64": "≥ 5",
    "GET one / PostgreSQL point SELECT": "≥ 2.5",
    "GET /": "exponent ≤ 0.05",
    "batch_by_distinct_ids": "exponent ≤ 0.15",
    "project one": "exponent ≤ 0.05",
    "GETs beside a catching-up projector / alone": "≥ 0.6",
    "p99 of GETs beside a catching-up projector / alone": "≤ 3",
    "p99 of reads of a person beside three endless queries / idle": "≤ 3",
    "p99 of GETs by": "≤ 3",
    "write to visible at": "≤ 3",
    "write to visible of others beside a giant person": "≤ 2",
    "PATCH and wait, idle, p50": "≤ 2.2",
    "restart to ready": "≤ 2",
    "rebuilt facts, compared and swapped / projected commands": "≥ 1.5",
    "commands of 2 projectors / of 1, by cores used": "≥ 0.9",
    "simulated": "≥ 0.9",
    "transitions of a value": "≤ 5",
    "time in a state": "≤ 5",
    "a funnel over changes": "≤ 5",
    "counts as of a moment": "≤ 5",
    "memory of all five processes, idle": "≤ 500 MB",
    "memory of": "≤ 1.5, then flat",
    "disk of the engine": "≤ 10",
}
"""Goals by the beginning of a row's name; the first match counts."""


def row(name: str, rates: list[float], limits: list[float], note: str) -> Row:
    """Compare the medians of both sides."""
    rate, limit = statistics.median(rates), statistics.median(limits)
    return name, f"{rate:,.0f}/s", f"{limit:,.0f}/s", f"**{rate / limit:.2f}**", note


def goal(name: str) -> str:
    """Return the goal of a row; an empty text for a row without one."""
    return next((text for beginning, text in GOALS.items() if name.startswith(beginning)), "")


def report(rows: list[Row]) -> str:
    """Format one run, with the machine, the versions and the commit."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2] for line in cpu_lines if line.startswith("model name"))
    chip = next(models, "?").strip()
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}",
        "",
        f"{os.cpu_count()} cores ({chip}), Python {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}, chdb-core {version('chdb-core')}. "
        "The embedded log and medians of 5 turns, where the note says nothing else.",
        "",
        "| measured | ours | limit | ratio | goal | note |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {' | '.join(measured)} | {goal(name)} | {note} |"
            for name, *measured, note in rows
        ),
        "",
    ]
    return "\n".join(lines)


def keep(text: str) -> None:
    """Write a run above the older ones in bench/results.md."""
    older = RESULTS.read_text().removeprefix(HEAD) if RESULTS.exists() else ""
    RESULTS.write_text(HEAD + "\n" + text + older)
