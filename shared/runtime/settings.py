"""Settings: read once from the environment into a frozen struct; an error names its variable.

Secrets are masked wherever settings are printed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from shared.domain.errors import PersonlogError
from shared.domain.ids import COMMANDS, DEAD, DELETIONS, IDENTITY, PARTITIONS_MAX
from shared.runtime.files import write_whole

PREFIX = "PERSONLOG_"
IDENTITY_PARTITIONS = 4
"""Fixed for a generation; the merges of a project need one core anyway."""

OBJECT_SCHEMES = ("s3://", "gs://", "az://")

BOOTSTRAP = ("personal_key", "project_token")
"""Generated with the first project; the only generated values that `up` prints."""

OWNER = "personlog"
"""The operator's user: all rights, raw tables included."""

ENGINE_USERS = {OWNER: "engine_password"} | {
    user: f"engine_{user}_password"
    for user in ("api", "writer", "deleter", "migrator", "analyst")
}
"""Users of the embedded engine with their password fields; shared/store/clickhouse/roles.py has the
rights."""

GENERATED = (*BOOTSTRAP, *ENGINE_USERS.values())
"""Generated at random where they are not set, and stored in `keys.env`."""

SECRETS_OF = {
    "up": frozenset(GENERATED),
    "engine": frozenset(ENGINE_USERS.values()),
    "migrate": frozenset((*BOOTSTRAP, ENGINE_USERS["migrator"])),
    "api": frozenset((ENGINE_USERS["api"],)),
    "projector": frozenset((ENGINE_USERS["writer"],)),
    "deleter": frozenset((ENGINE_USERS["deleter"],)),
    "analyst": frozenset((ENGINE_USERS["analyst"],)),
    "operator": frozenset((ENGINE_USERS["migrator"],)),
}
"""Generated secrets that a command gets. `operator`: keys, projects, doctor, rebuild."""

SECRETS = (*GENERATED, "clickhouse")

_KEY_PREFIXES = {"personal_key": "phx_", "project_token": "phc_"}

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class SettingsError(PersonlogError):
    """A setting is wrong; the process must not start."""

    slug = "settings"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every variable of docs/settings.md without its prefix."""

    data: Path = Path("var")
    host: str = "127.0.0.1"
    port: Port = 8000
    clickhouse: str = ""
    engine_port: Port = 8123
    kafka: str = ""
    kafka_replication: Annotated[int, msgspec.Meta(ge=1, le=7)] = 1
    partitions: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS_MAX)] = 16
    personal_key: str = ""
    project_token: str = ""
    engine_password: str = ""  # of the owner, and below of each role
    engine_api_password: str = ""
    engine_writer_password: str = ""
    engine_deleter_password: str = ""
    engine_migrator_password: str = ""
    engine_analyst_password: str = ""
    window: str = "0 5 * * 0"
    window_hours: Annotated[float, msgspec.Meta(gt=0, le=168)] = 6
    window_zone: str = "UTC"
    objects: str = (
        ""  # s3://bucket/prefix, with AWS_… variables; else a folder in `data`
    )
    # an older request is worked on at any hour
    deletion_days: Annotated[float, msgspec.Meta(gt=0, le=365)] = 25
    # `up` gives the deleter the next port
    ops_port: Annotated[int, msgspec.Meta(ge=0, le=65_534)] = 0
    # requests a second; 0: no limit
    key_rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0
    key_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    # of a project; 0: no limit
    capture_events_per_second: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = (
        50_000
    )
    capture_bytes_per_second: Annotated[int, msgspec.Meta(ge=0, le=10_000_000_000)] = (
        50_000_000
    )
    capture_burst_seconds: Annotated[int, msgspec.Meta(ge=1, le=3_600)] = 10
    # costly calls at once of one API process
    scans: Annotated[int, msgspec.Meta(ge=1, le=16)] = 4
    # CSVs and archives in the making
    export_bytes: Annotated[int, msgspec.Meta(ge=1_048_576)] = 4 * 1_073_741_824
    static: str = ""  # a folder of posthog-js's files: node_modules/posthog-js/dist
    instance: str = ""  # `up` derives it from host and data folder

    @property
    def embedded(self) -> bool:
        """Whether the embedded engine is used."""
        return not self.clickhouse

    def store_url(self, user: str) -> str:
        """The store's URL for one of ENGINE_USERS; a ClickHouse server's URL has its own user."""
        if self.clickhouse:
            return self.clickhouse
        password = quote(getattr(self, ENGINE_USERS[user]), safe="")
        return f"http://{user}:{password}@127.0.0.1:{self.engine_port}/personlog"

    @property
    def objects_url(self) -> str:
        """The URL or folder of recordings' blocks."""
        return self.objects or str(self.data.absolute() / "objects")

    @property
    def topics(self) -> dict[str, int]:
        """The partition count of each topic of a new log."""
        return {
            COMMANDS: self.partitions,
            IDENTITY: IDENTITY_PARTITIONS,
            DELETIONS: 1,
            DEAD: 1,
        }

    def describe(self) -> list[str]:
        """List the variables, one a line, secrets masked."""
        return [
            f"{PREFIX}{name.upper()}={'***' if name in SECRETS and value else value}"
            for name, value in msgspec.structs.asdict(self).items()
        ]


def read(environment: Mapping[str, str]) -> Settings:
    """Read the settings; raise SettingsError for an unknown PERSONLOG_ name or a bad value.

    A variable `NAME_FILE` names a file with the value of NAME.
    """
    fields = {field.name for field in msgspec.structs.fields(Settings)}
    values: dict[str, str] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name.startswith(PREFIX + "TEST_"):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field.endswith("_file") and field.removesuffix("_file") in fields:
            field, text = field.removesuffix("_file"), _read_file(name, text)
        if field not in fields:
            raise SettingsError(f"{name} is not a setting; see docs/settings.md")
        if text != "":
            values[field] = text
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_hook)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        value = "***" if field in SECRETS else values.get(field, "")
        reason = str(error).partition(" - ")[0]
        raise SettingsError(f"{PREFIX}{field.upper()}={value}: {reason}") from None
    return _checked(settings)


def with_keys(
    settings: Settings,
    needed: Collection[str] = GENERATED,
    token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> tuple[Settings, bool]:
    """Fill the `needed` values that are not set from `keys.env`; whether keys to print are new.

    The first process writes the whole file. It is not read when all needed values are set.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    values = msgspec.structs.asdict(settings)
    if all(values[field] for field in needed):
        return settings, False
    path = settings.data / "keys.env"
    with _alone(settings.data):
        lines = path.read_text().splitlines() if path.exists() else []
        keys = dict(line.split("=", 1) for line in lines if "=" in line)
        names = {field: PREFIX + field.upper() for field in GENERATED}
        new_fields = [
            field
            for field in GENERATED
            if not values[field] and names[field] not in keys
        ]
        for field in new_fields:
            keys[names[field]] = _KEY_PREFIXES.get(field, "") + token()
        if new_fields:
            text = "".join(
                f"{name}={keys[name]}\n" for name in names.values() if name in keys
            )
            write_whole(path, text.encode(), 0o600)
    filled = {field: values[field] or keys[names[field]] for field in needed}
    new_keys = any(field in BOOTSTRAP for field in new_fields)
    return msgspec.structs.replace(settings, **filled), new_keys


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder: two processes that start at once must not both generate keys."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _checked(settings: Settings) -> Settings:
    for field, check in (
        ("window", _check_cron),
        ("window_zone", ZoneInfo),
        ("clickhouse", _check_url),
        ("objects", _check_objects),
        ("static", _check_folder),
    ):
        value = getattr(settings, field)
        try:
            check(value)
        except (ValueError, KeyError, OSError, CronSimError) as error:
            text = "***" if field in SECRETS else value
            raise SettingsError(f"{PREFIX}{field.upper()}={text}: {error}") from None
    return settings


def _check_cron(text: str) -> None:
    from datetime import UTC, datetime

    CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))


def _check_url(text: str) -> None:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("must look like http://user:password@host:8123/database")


def _check_objects(text: str) -> None:
    if text and not text.startswith(OBJECT_SCHEMES):
        raise ValueError(f"must begin with {', '.join(OBJECT_SCHEMES)}")


def _check_folder(text: str) -> None:
    if text and not Path(text).is_dir():
        raise ValueError("must be a folder")


def _read_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name}={path}: {error.strerror}") from None


def _hook(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(kind)
