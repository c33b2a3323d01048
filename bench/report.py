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
"""What is compared, ours, the limit, their ratio, and a note."""

RESULTS = ROOT / "bench" / "results.md"
PLOTS = ROOT / "bench" / "plots"
HEAD = "# Results\n\nWritten by `make bench`, the newest first. Only ratios within a run mean anything.\n"

GOALS = {
    "acknowledged append / bare handler": "≥ 0.65; Kafka ≥ 0.60",
    "events of batches of 100 / bare handler's requests": "≥ 7",
    "PATCH, respond-async / PostgreSQL JSONB UPDATE": "≥ 3",
    "projected commands, state only / raw insert rows": "≥ 0.25; Kafka ≥ 0.30",
    "projected commands, with timeline / raw insert rows": "≥ 0.16; Kafka ≥ 0.20",
    "projected commands, with timeline / PostgreSQL batched UPDATE": "≥ 1.5",
    "coalesced GET / one query each, 64 in flight": "≥ 20",
    "the same, 2,000 in flight": "≥ 100",
    "GET one / PostgreSQL point SELECT, c = 16": "≥ 1",
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
"""By how a row's name begins; the first that fits."""


def row(name: str, ours: list[float], limit: list[float], note: str) -> Row:
    """Medians of both sides, and their ratio."""
    mine, theirs = statistics.median(ours), statistics.median(limit)
    return name, f"{mine:,.0f}/s", f"{theirs:,.0f}/s", f"**{mine / theirs:.2f}**", note


def goal(name: str) -> str:
    """What the issue wants of a row; nothing for a row that only explains."""
    return next((text for beginning, text in GOALS.items() if name.startswith(beginning)), "")


def report(rows: list[Row]) -> str:
    """One run, with the machine, the versions and the commit that it was made on."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = Path("/proc/cpuinfo").read_text().splitlines()
    chip = next((line.partition(":")[2].strip() for line in said if line.startswith("model name")), "?")
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}",
        "",
        f"{os.cpu_count()} cores ({chip}), Python {platform.python_version()}, aiohttp {version('aiohttp')}, "
        f"chdb-core {version('chdb-core')}. The embedded log and medians of 5 turns, where the note says nothing else.",
        "",
        "| measured | ours | limit | ratio | goal | note |",
        "|---|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(measured)} | {goal(name)} | {note} |" for name, *measured, note in rows),
        "",
    ]
    return "\n".join(lines)


def keep(text: str) -> None:
    """Put a run above the older ones."""
    older = RESULTS.read_text().removeprefix(HEAD) if RESULTS.exists() else ""
    RESULTS.write_text(HEAD + "\n" + text + older)
