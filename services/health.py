"""Health of the processes on this machine, for `personlog doctor`. Read-only."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

from shared.runtime.process.processes import Process, living

ANSWER_SECONDS_MAX = 10.0
"""A readiness check may wait for the log and the store."""


def answers(url: str, seconds: float = 2.0) -> bool:
    """Whether a process answers 200 at this address."""
    try:
        with urllib.request.urlopen(  # noqa: S310  # a process of ours
            url, timeout=seconds
        ) as response:
            return bool(response.status == 200)
    except OSError:  # a URLError too
        return False


def lines(data: Path) -> tuple[list[str], bool]:
    """Describe each process of this data folder; whether all on this machine are ready."""
    descriptions = []
    ready = True
    here = socket.gethostname()
    processes = living(data)
    for process in processes:
        description = (
            f"{process.service}: process {process.pid}, version {process.version}"
        )
        if process.host != here:
            descriptions.append(f"{description}, on {process.host}")
            continue
        trouble = unready(process)
        ready = ready and not trouble
        state = f"not ready: {trouble}" if trouble else "ready"
        descriptions.append(f"{description}, {state}")
    if len(versions := sorted({process.version for process in processes})) > 1:
        descriptions.append(
            f"versions differ: {', '.join(versions)};"
            " upgrade the projectors and the deleter before the APIs"
        )
    return descriptions, ready


def unready(process: Process) -> str:
    """Return why a process is not ready, by its own account; empty when it is ready."""
    try:
        with urllib.request.urlopen(  # noqa: S310  # a process of ours named it
            f"{process.url}/readyz?verbose", timeout=ANSWER_SECONDS_MAX
        ):
            return ""
    except urllib.error.HTTPError as error:
        checks = error.read().decode(errors="replace").splitlines()
        failures = [
            line.removeprefix("[-] ") for line in checks if line.startswith("[-] ")
        ]
        return "; ".join(failures) or f"{error.code}"
    except (urllib.error.URLError, OSError) as error:
        return f"it does not answer: {getattr(error, 'reason', error)}"
