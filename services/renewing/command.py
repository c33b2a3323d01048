"""The command `personlog log renew`: options, question, output. Imports wait until it runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from services.health import answers
from shared.domain.ids import PARTITIONS_MAX
from shared.runtime.process.exits import DONE, FOUND_WRONG
from shared.runtime.settings import SECRETS_OF, Settings, SettingsError

if TYPE_CHECKING:
    from services.renewing.run import Outlook

ENGINE_SECONDS_MAX = 120.0
"""Until an engine that was started for the renewal answers."""

ENGINE_STOP_SECONDS_MAX = 30.0


def add(commands: Any) -> None:
    """Add the command to the parser."""
    log = commands.add_parser("log", help="manage the command log").add_subparsers(
        required=True, metavar="COMMAND"
    )
    renew = log.add_parser(
        "renew",
        help="begin the next generation of the log, after a loss or for another partition count",
    )
    renew.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help="commands partitions of the next generation (default: as before)",
    )
    renew.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    renew.set_defaults(command=_renew, secrets=SECRETS_OF["operator"])


def _renew(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    if options.partitions is not None and not 1 <= options.partitions <= PARTITIONS_MAX:
        raise SettingsError(
            f"--partitions: {options.partitions} is not between 1 and {PARTITIONS_MAX}"
        )
    if not options.yes and not sys.stdin.isatty():
        raise SettingsError(
            "log renew asks for confirmation; without a terminal add --yes"
        )
    with _engine(settings):
        return asyncio.run(_go(settings, options))


async def _go(settings: Settings, options: argparse.Namespace) -> int:
    from services.projector.rebuild.run import only_rebuild
    from services.renewing.run import renew
    from shared.store.clickhouse.connect import connect_store
    from shared.store.clickhouse.migrate import status

    store = await connect_store(settings, "migrator")
    try:
        if (await status(store)).pending:
            raise SettingsError(
                "the tables are of an older version; run `personlog migrate` first"
            )
        with only_rebuild(settings.data / "run"):
            opened = await renew(
                settings,
                store,
                options.partitions,
                lambda outlook: _consents(outlook, options),
                _print_line,
            )
    finally:
        await store.close()
    if opened is None:
        print("nothing was changed")
        return FOUND_WRONG
    counts = ", ".join(
        f"{topic} {count}" for topic, count in sorted(opened.partitions.items())
    )
    print(f"generation {opened.number} is open; partitions: {counts}")
    return DONE


def _consents(outlook: Outlook, options: argparse.Namespace) -> bool:
    """Print what will happen, and ask for consent."""
    number = outlook.ending.number
    if outlook.begun:
        print(f"generation {number} has ended; an earlier renewal is gone on with")
    elif outlook.mismatch is not None:
        print(outlook.mismatch.line)
    if not outlook.begun and not outlook.projects:
        print(
            f"nothing that is left of generation {number} is projected:"
            " what the tables do not hold is lost"
        )
    elif not outlook.begun:
        print(
            f"what is left of generation {number} is projected,"
            " then the log is closed and the next one begins"
        )
    return options.yes or input("Renew the log? [y/N] ").strip().lower() in ("y", "yes")


def _print_line(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _engine(settings: Settings) -> Iterator[None]:
    """Run the embedded engine where `personlog up` does not: that ends when the log is lost."""
    url = f"http://127.0.0.1:{settings.engine_port}/ping"
    if not settings.embedded or answers(url):
        yield
        return
    from services.up import folder_lock

    run = settings.data / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder_lock(run / "up.lock", settings.data):
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "engine"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            _until_answered(url, process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=ENGINE_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_answered(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + ENGINE_SECONDS_MAX
    while not answers(url):
        if process.poll() is not None:
            raise SettingsError("the engine could not be started; see above")
        if time.monotonic() > deadline:
            raise SettingsError(
                f"the engine did not answer within {ENGINE_SECONDS_MAX:g} s"
            )
        time.sleep(0.05)
