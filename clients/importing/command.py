"""The command `personlog import`: options and output. Imports wait until it runs."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.domain.errors import BadInput
from shared.runtime.process import preflight
from shared.runtime.progress import ProgressBar
from shared.runtime.settings import BOOTSTRAP, Settings, SettingsError, with_keys

if TYPE_CHECKING:
    from clients.importing.client import Client
    from clients.importing.index import SourceIndex
    from clients.importing.parcels import Manner
    from clients.importing.run import RowReader
    from clients.importing.sources.files import File
    from clients.importing.sources.pages import Pages
    from clients.importing.state import ImportLedger, ImportState
    from clients.importing.target import ImportTarget

SOURCE_KEY = "POSTHOG_PERSONAL_API_KEY"
"""Environment variable of the source's key: other users of the machine see command lines."""

REPORTED_RETRY = 3
"""The retry of a request at which its failure is printed, once."""


class Destination(NamedTuple):
    """The API and the project to import into; without a key merges go as events."""

    url: str
    token: str
    key: str


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("import", help="import persons or events of the past")
    parser.add_argument(
        "source",
        metavar="FILE|URL",
        help="an export as NDJSON, JSON, CSV or Parquet; or a REST list",
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="URL",
        help="API to import into (default: that of the settings)",
    )
    parser.add_argument(
        "--token",
        default="",
        help="token of the target project (default: that of the settings)",
    )
    parser.add_argument(
        "--to-key",
        default="",
        help="personal key of that API (default: that of the settings)",
    )
    parser.add_argument(
        "--key", default="", help=f"personal key of the source; safer in {SOURCE_KEY}"
    )
    _add_handling(parser)
    parser.set_defaults(command=_import, offline=True)


def _add_handling(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the rows are read, and where progress is kept."""
    parser.add_argument(
        "--format",
        choices=("persons", "events"),
        help="kind of the rows (default: by each row)",
    )
    parser.add_argument(
        "--at",
        default="",
        metavar="TIME",
        help="time at which the values of persons were true",
    )
    parser.add_argument(
        "--joined-rows-max",
        type=int,
        default=100,
        metavar="N",
        help="rows of a file that one id may join to one person (default: 100)",
    )
    parser.add_argument(
        "--errors",
        type=Path,
        metavar="FILE",
        help="file for refused rows (default: beside it)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="progress file (default: FILE.personlog-import)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start from the beginning and ignore the state",
    )


def _import(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from stamina.instrumentation import set_on_retry_hooks

    from shared.runtime.process.lifecycle import run

    set_on_retry_hooks([_report_retry])
    if settings.data.exists() or _remote(options.source):
        preflight.check(settings)
    if (settings.data / "keys.env").exists():
        settings = with_keys(settings, BOOTSTRAP)[0]
    codes: list[int] = []
    run(_go(settings, options, codes))
    if not codes:
        print("Stopped; run it again to go on.", file=sys.stderr)
        return 1
    return codes[0]


async def _go(
    settings: Settings, options: argparse.Namespace, codes: list[int]
) -> None:
    from clients.importing.client import Client
    from clients.importing.index import SourceIndex
    from clients.importing.state import ImportLedger
    from clients.importing.target import ImportTarget

    destination = _destination(settings, options)
    client = Client()
    source: Any = None
    index = SourceIndex(options.joined_rows_max)
    began = time.monotonic()
    progress = ProgressBar(terminal=sys.stdout.isatty(), began=began)
    try:
        source = _source(client, options)
        path, errors = _files(settings, options)
        goal = f"{destination.url} {destination.token}"
        goal_hash = hashlib.sha256(goal.encode()).hexdigest()[:32]
        places = source.fingerprint, goal_hash
        ledger = ImportLedger(path, errors, *places, restart=options.restart)
        state = ledger.state
        if state.ended:
            print("Imported before; --restart begins again.", file=sys.stderr)
        else:
            target = ImportTarget(client, *destination)
            manner = _manner(options, by_rest=target.has_key)
            reader = await _reader(source, index, ledger.state, manner, progress)
            state = await _transfer(source, reader, target, ledger, progress)
    finally:
        progress.end()
        index.close()
        await client.close()
        if source is not None:
            await source.close()
    _report(state, errors, time.monotonic() - began)
    codes.append(1 if state.refused else 0)


def _report(state: ImportState, errors: Path, seconds: float) -> None:
    """Print the outcome, with the rows by what they were."""
    print(f"{state.rows:,} rows, {state.events:,} events sent in {seconds:.1f} s")
    for kind, count in sorted(state.kinds.items()):
        print(f"  {kind}: {count:,}")
    if state.unmarked:
        text = "persons of one id come without is_identified: only a merge marks"
        print(f"{state.unmarked:,} {text}")
    if state.refused:
        print(f"{state.refused:,} rows refused, in whole or in part: {errors}")


async def _reader(
    source: Any,
    index: SourceIndex,
    state: ImportState,
    manner: Manner,
    progress: ProgressBar,
) -> RowReader:
    """Read a file once for the index; return the reader of the rows that are to be imported."""
    from clients.importing.run import RowReader
    from clients.importing.sources.files import File

    if state.rows:
        print(f"going on behind row {state.rows:,}", file=sys.stderr)
    if isinstance(source, File):
        async for row in source.rows():
            index.add(row.value, row.number)
            progress.tell(row.done, source.total, "reading the file")
        rows = source.rows()
    else:
        rows = source.rows(state.rows, state.page, state.index)
    index.close_rows()
    return RowReader(rows, manner, index, state.rows)


def _manner(options: argparse.Namespace, *, by_rest: bool) -> Manner:
    from clients.importing.parcels import Manner

    return Manner(kind=options.format, at=_at(options.at), by_rest=by_rest)


async def _transfer(
    source: Any,
    reader: RowReader,
    target: ImportTarget,
    ledger: ImportLedger,
    progress: ProgressBar,
) -> ImportState:
    """Import the rows that have not been imported yet; return the state after them."""
    from clients.importing.run import run

    def report_progress(done: int, state: ImportState) -> None:
        text = f"{state.rows:,} rows, {state.refused:,} refused"
        progress.tell(done, source.total, text)

    return await run(reader, target, ledger, report_progress)


def _destination(settings: Settings, options: argparse.Namespace) -> Destination:
    here = f"http://{settings.host}:{settings.port}"
    token = options.token or settings.project_token
    if not token:
        raise SettingsError("Which project? --token phc_…, or PERSONLOG_PROJECT_TOKEN.")
    key = options.to_key or ("" if options.to else settings.personal_key)
    return Destination((options.to or here).rstrip("/"), token, key)


def _source(client: Client, options: argparse.Namespace) -> File | Pages:
    from clients.importing.sources.files import File
    from clients.importing.sources.pages import Pages

    if not _remote(options.source):
        return File(Path(options.source))
    key = options.key or os.environ.get(SOURCE_KEY, "")
    return Pages(client, options.source, key)


def _files(settings: Settings, options: argparse.Namespace) -> tuple[Path, Path]:
    """The files of the state and of the refusals."""
    path = options.state or _state_path(settings, options.source)
    stem = path.name.removesuffix(".personlog-import")
    errors = path.with_name(stem + ".personlog-errors")
    return path, options.errors or errors


def _remote(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _report_retry(details: Any) -> None:
    """Print a request's failure once, when it has been retried a few times."""
    if details.retry_num == REPORTED_RETRY:
        print(f"\n{details.caused_by}; trying on", file=sys.stderr)


def _state_path(settings: Settings, source: str) -> Path:
    if not _remote(source):
        return Path(source + ".personlog-import")
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    return settings.data / "imports" / f"{name}.personlog-import"


def _at(text: str) -> datetime | None:
    from clients.importing.formats.fields import moment

    try:
        when = moment(text, "--at")
    except BadInput as error:
        raise SettingsError(error.detail) from None
    if when is not None and when > datetime.now(UTC):
        raise SettingsError("--at lies in the future.")
    return when
