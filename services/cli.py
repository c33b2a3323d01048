"""`personlog`: the entry point. Each command imports its modules only when it runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from clients.importing import command as importing
from services import dead, keys, projects
from services.operator_store import with_store
from services.renewing import command as renewing
from shared.domain.errors import LogMismatch, PersonlogError
from shared.runtime.process import preflight
from shared.runtime.process.exits import BAD_USAGE, DONE, FOUND_WRONG, WRONG_LOG
from shared.runtime.progress import ProgressBar
from shared.runtime.settings import (
    BOOTSTRAP,
    SECRETS_OF,
    Settings,
    SettingsError,
    read,
    with_keys,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return an exit code of `shared/runtime/process/exits.py`."""
    options = _parser().parse_args(arguments)
    try:
        settings, new_keys = read(os.environ), False
        if not options.offline:
            preflight.check(settings)
            settings, new_keys = with_keys(settings, _needed(settings, options.secrets))
        if options.check:
            print("\n".join(settings.describe()))
            return DONE
        if options.command is None:
            _parser().print_help()
            return BAD_USAGE
        return int(options.command(settings, options, new_keys) or DONE)
    except SettingsError as error:
        print(f"personlog: {error.detail}", file=sys.stderr)
        return BAD_USAGE
    except PersonlogError as error:
        from shared.store.clickhouse.failures import explained

        print(f"personlog: {explained(error)}", file=sys.stderr)
        return WRONG_LOG if isinstance(error, LogMismatch) else FOUND_WRONG
    except OSError as error:  # a full disk, a folder without rights: for the operator
        print(f"personlog: {error}", file=sys.stderr)
        return BAD_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="personlog", description="An event-sourced person store."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print the effective settings, secrets masked",
    )
    commands = parser.add_subparsers(required=False, metavar="COMMAND")
    parser.set_defaults(command=None, offline=False, secrets=SECRETS_OF["up"])
    _process_commands(commands)
    keys.add(commands)
    projects.add(commands)
    importing.add(commands)
    renewing.add(commands)
    dead.add(commands)
    _deletion_commands(commands)
    return parser


def _process_commands(commands: Any) -> None:
    for name, command, text in (
        ("up", _up, "run everything here: engine, api, projector and deleter"),
        ("api", _api, "run one API process"),
        ("projector", _projector, "run one projector process"),
        ("deleter", _deleter, "run the deleter"),
        ("engine", _engine, "run the embedded ClickHouse server"),
        (
            "migrate",
            _migrate,
            "create or upgrade the tables; create the first project and key",
        ),
        (
            "rebuild",
            _rebuild,
            "derive the tables again from the timeline, compare, and swap them in",
        ),
        (
            "doctor",
            _doctor,
            "check disk, store, log, clock, deletions and processes, and suggest remedies",
        ),
        ("analyst", _analyst, "print how to connect to ClickHouse as an analyst"),
        ("grants", _grants, "print users and rights for a ClickHouse server, as SQL"),
    ):
        secrets = SECRETS_OF.get(name, SECRETS_OF["operator"])
        commands.add_parser(name, help=text).set_defaults(
            command=command, secrets=secrets
        )
    commands.choices["rebuild"].add_argument(
        "--verify",
        action="store_true",
        help="with any difference, exit 1 and keep the live tables",
    )
    # it needs no key, nor a data folder
    commands.choices["grants"].set_defaults(offline=True)


def _deletion_commands(commands: Any) -> None:
    deletions = commands.add_parser("deletions", help="run deletions").add_subparsers(
        required=True, metavar="COMMAND"
    )
    deletions.add_parser("run", help="open one deletion window now").set_defaults(
        command=_deletions_run, secrets=SECRETS_OF["deleter"]
    )
    receipts = commands.add_parser("receipts", help="verify receipts of erasures")
    kinds = receipts.add_subparsers(required=True, metavar="COMMAND")
    verify = kinds.add_parser(
        "verify",
        help="check signatures of receipts and the chain between them, offline",
    )
    verify.add_argument("files", nargs="+", metavar="FILE")
    verify.add_argument(
        "--key",
        default="",
        help="file of the public key, PEM (default: receipts/public-key.pem in PERSONLOG_DATA)",
    )
    verify.set_defaults(command=_receipts_verify, offline=True)


def _needed(settings: Settings, secrets: Collection[str]) -> Collection[str]:
    """Select the generated values of a command; a ClickHouse server's URL has its password."""
    return (
        secrets
        if settings.embedded
        else [field for field in secrets if field in BOOTSTRAP]
    )


def _up(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from services.up import up

    return up(settings, announce_keys=new_keys)


def _api(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from services.api.app import run

    _serve(run(settings), "api")


def _projector(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from services.projector.app import run

    _serve(run(settings), "projector")


def _deleter(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from services.deleter.app import run

    _serve(run(settings), "deleter")


def _engine(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from services.engine.app import run

    run(settings)


def _analyst(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from services.engine.analyst import connections

    print(connections(settings))


def _grants(settings: Settings, options: argparse.Namespace, new_keys: bool) -> None:
    from shared.store.clickhouse.roles import as_sql

    print(as_sql())


def _serve(main: Any, service: str) -> None:
    from shared.runtime.process.lifecycle import run
    from shared.runtime.telemetry import setup_logs

    setup_logs(service).info("started")
    run(main)


def _migrate(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import ensure_bootstrap
    from shared.store.clickhouse.migrate import migrate
    from shared.store.logwatch import take_on_log

    async def act(store: Any) -> None:
        for name in await migrate(store):
            print(f"applied {name}")
        bootstrap = settings.personal_key, settings.project_token
        await ensure_bootstrap(store, *bootstrap, clock_of(settings).now_us)
        await take_on_log(settings, store, clock_of(settings).now_us)

    return with_store(settings, act, migrated=False)


def _rebuild(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from services.projector.app import COLLECTED_OBJECTS
    from services.projector.rebuild.derive import RebuildReport
    from services.projector.rebuild.run import rebuild
    from shared.runtime.process.lifecycle import collect_seldom

    collect_seldom(COLLECTED_OBJECTS)
    began = time.monotonic()
    progress = ProgressBar(terminal=sys.stdout.isatty(), began=began)

    def report_progress(report: RebuildReport) -> None:
        progress.tell(report.facts, report.total, f"{report.differences} differences")

    report = asyncio.run(rebuild(settings, verify=options.verify, tell=report_progress))
    seconds = time.monotonic() - began
    print("\n".join(report.findings), end="\n" if report.findings else "")
    print(
        f"{report.state}: {report.facts:,} facts into {report.fragments:,} fragments"
        f" and {report.identities:,} identities in {seconds:.1f} s;"
        f" {report.compared:,} rows compared, {report.differences:,} differences,"
        f" {report.corrupt:,} corrupt"
    )
    if report.state != "swapped":
        print("the live tables are as they were", file=sys.stderr)
    differs = bool(options.verify and report.differences)
    return DONE if report.state == "swapped" and not differs else FOUND_WRONG


def _doctor(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from services.doctor import doctor

    return doctor(settings, options, new_keys)


def _deletions_run(
    settings: Settings, options: argparse.Namespace, new_keys: bool
) -> None:
    from collections import Counter

    from services.deleter.app import run_once
    from shared.domain.errors import Rejected
    from shared.runtime.process.lifecycle import run
    from shared.runtime.telemetry import setup_logs

    setup_logs(
        "deletions run"
    )  # else a pause of the load guard would be logged to stdout
    progress = ProgressBar(terminal=sys.stdout.isatty(), began=time.monotonic())

    async def go() -> None:
        try:
            ended, unfinished = await run_once(settings, progress.tell)
        finally:
            progress.end()
        counts = Counter(request.state for request in ended)
        print(
            f"{counts['verified']} verified, {counts['failed']} failed, {unfinished} left open"
        )
        if unfinished:
            reasons = sorted(
                {request.reason for request in ended if request.state == "failed"}
            )
            text = f"{unfinished} deletion requests are left open. {' '.join(reasons)}"
            raise Rejected(text.rstrip())

    run(go())


def _receipts_verify(
    settings: Settings, options: argparse.Namespace, new_keys: bool
) -> int:
    from services.deleter.receipts import broken_links, check, public_key
    from shared.domain.errors import Corrupt

    path = (
        Path(options.key)
        if options.key
        else settings.data / "receipts" / "public-key.pem"
    )
    key = public_key(path)
    receipts, wrong = [], 0
    for name in options.files:
        try:
            receipt = check(Path(name).read_bytes(), key)
            receipts.append(receipt)
            place = f"project {receipt['project']}, receipt {receipt['sequence']}"
            print(f"{name}: ok, {place}, verified {receipt['verified_at']}")
        except (Corrupt, OSError) as error:
            wrong += 1
            print(f"{name}: {error.detail if isinstance(error, Corrupt) else error}")
    for link in broken_links(receipts):
        wrong += 1
        print(link)
    return FOUND_WRONG if wrong else DONE


if __name__ == "__main__":
    sys.exit(main())
