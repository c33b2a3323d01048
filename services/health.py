"""What the processes on this machine say of themselves, for `personlog doctor`. Never changes anything."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

from shared.runtime.processes import Process, living

ANSWER_SECONDS_MAX = 10.0
"""A readiness check may wait for the log and the store."""


def answers(url: str, seconds: float = 2.0) -> bool:
    """Whether a process answers 200 there."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as response:  # noqa: S310  # a process of ours
            return bool(response.status == 200)
    except OSError:  # a URLError too
        return False


def lines(data: Path) -> tuple[list[str], bool]:
    """A line for each process that runs on this data folder, and whether all that can be asked are ready."""
    found, ready = [], True
    here = socket.gethostname()
    processes = living(data)
    for process in processes:
        told = f"{process.service}: process {process.pid}, version {process.version}"
        if process.host != here:
            found.append(f"{told}, on {process.host}")
            continue
        wrong = unready(process)
        ready = ready and not wrong
        found.append(f"{told}, {f'not ready: {wrong}' if wrong else 'ready'}")
    if len(versions := sorted({process.version for process in processes})) > 1:
        found.append(f"versions differ: {', '.join(versions)}; upgrade the projectors and the deleter before the APIs")
    return found, ready


def unready(process: Process) -> str:
    """What is wrong with a process, by its own account; empty when nothing is."""
    try:
        with urllib.request.urlopen(  # noqa: S310  # a process of ours named it
            f"{process.url}/readyz?verbose", timeout=ANSWER_SECONDS_MAX
        ):
            return ""
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").splitlines()
        return "; ".join(line.removeprefix("[-] ") for line in said if line.startswith("[-] ")) or f"{error.code}"
    except (urllib.error.URLError, OSError) as error:
        return f"it does not answer: {getattr(error, 'reason', error)}"
