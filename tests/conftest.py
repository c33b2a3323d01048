"""Fixtures that every test may use, and the rule that CI never skips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, settings

SIMULATED = (
    "episodes",
    "commands",
    "kills",
    "failures",
    "ambiguous",
    "frozen",
    "fenced",
    "redeliveries",
    "restores",
    "rebuilds",
)

pytest_plugins = [f"tests.support.{module}" for module in ("engine", "kafka", "erasing", "s3", "chromium", "stacks")]

for name, examples in (("dev", 60), ("ci", 400), ("deep", 10_000)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("PERSONLOG_TEST_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def name() -> str:
    """A distinct id that no other test has used."""
    return f"user-{uuid4().hex[:12]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PERSONLOG_TEST_NO_SKIP=1 a skipped test has failed: CI must have what every test needs."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("PERSONLOG_TEST_NO_SKIP") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipping is forbidden here: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the simulator did and found, summed over all workers."""
    reports = [one for name in ("passed", "failed") for one in terminalreporter.stats.get(name, ())]
    noted = [pair for one in reports for pair in one.user_properties]
    simulated: Counter[str] = Counter()
    for name, value in noted:
        if name == "simulated":
            simulated.update(orjson.loads(value))
    if simulated:
        counts = ", ".join(f"{simulated[name]:,} {name}" for name in (*SIMULATED, "wrong"))
        terminalreporter.write_line(f"simulator: {counts}")
    for name, value in noted:
        if name in ("faults", "schemathesis"):
            terminalreporter.write_line(f"{name}: {value}")
    planted = [one for one in reports if "test_mutations.py" in one.nodeid]
    if planted:
        found = sorted(value for name, value in noted if name == "planted_fault_found")
        terminalreporter.write_line(f"planted faults: found {len(found)} / planted {len(planted)}: {', '.join(found)}")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes name no test: gzip puts the time into them, and workers that collect in different seconds disagree."""
    return argname if isinstance(val, bytes) else None
