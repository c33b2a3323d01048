"""Settings: read once from the environment into a frozen struct, or a clear error that names the variable.

Never read again later; secrets are masked wherever they are shown.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
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
"""Fixed for a generation; merges of a project are one core's work anyway."""

SECRETS = ("personal_key", "project_token", "engine_password", "clickhouse")
OBJECT_SCHEMES = ("s3://", "gs://", "az://")
GENERATED = ("PERSONLOG_PERSONAL_KEY", "PERSONLOG_PROJECT_TOKEN", "PERSONLOG_ENGINE_PASSWORD")

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class SettingsError(PersonlogError):
    """A setting is wrong; the process must not start."""

    slug = "settings"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every variable of CONTRACT §12 without its prefix."""

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
    engine_password: str = ""
    window: str = "0 5 * * 0"
    window_hours: Annotated[float, msgspec.Meta(gt=0, le=168)] = 6
    window_zone: str = "UTC"
    objects: str = ""  # s3://bucket/prefix, with AWS_… variables; a folder in `data` otherwise
    deletion_days: Annotated[float, msgspec.Meta(gt=0, le=365)] = 25  # an older request is worked on at any hour
    ops_port: Annotated[int, msgspec.Meta(ge=0, le=65_534)] = 0  # `up` gives the deleter the next one
    key_rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0  # requests a second; 0: no limit
    key_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    static: str = ""  # a folder of posthog-js's files, such as node_modules/posthog-js/dist
    instance: str = ""  # `up` makes one of host and data folder

    @property
    def embedded(self) -> bool:
        """Whether the engine is ours."""
        return not self.clickhouse

    @property
    def store_url(self) -> str:
        if self.clickhouse:
            return self.clickhouse
        return f"http://personlog:{quote(self.engine_password, safe='')}@127.0.0.1:{self.engine_port}/personlog"

    @property
    def objects_url(self) -> str:
        """Where the blocks of recordings lie."""
        return self.objects or str(self.data / "objects")

    @property
    def topics(self) -> dict[str, int]:
        """The partition count of each topic of a new log."""
        return {COMMANDS: self.partitions, IDENTITY: IDENTITY_PARTITIONS, DELETIONS: 1, DEAD: 1}

    def describe(self) -> list[str]:
        """One line a variable, secrets masked."""
        return [
            f"{PREFIX}{name.upper()}={'***' if name in SECRETS and value else value}"
            for name, value in msgspec.structs.asdict(self).items()
        ]


def read(environment: Mapping[str, str]) -> Settings:
    """The settings; SettingsError for an unknown PERSONLOG_ name or a bad value. `NAME_FILE` names a file to read."""
    known = {field.name for field in msgspec.structs.fields(Settings)}
    values: dict[str, str] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name.startswith(PREFIX + "TEST_"):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field.endswith("_file") and field.removesuffix("_file") in known:
            field, text = field.removesuffix("_file"), _read_file(name, text)
        if field not in known:
            raise SettingsError(f"{name} is not a setting; see docs/settings.md")
        if text != "":
            values[field] = text
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_hook)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        shown = "***" if field in SECRETS else values.get(field, "")
        raise SettingsError(f"{PREFIX}{field.upper()}={shown}: {str(error).partition(' - ')[0]}") from None
    return _checked(settings)


def with_keys(
    settings: Settings, token: Callable[[], str] = lambda: secrets.token_urlsafe(32)
) -> tuple[Settings, bool]:
    """The settings with the kept or newly made keys of `keys.env`; whether a key to show was made now."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.data / "keys.env"
    kept = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line) if path.exists() else {}
    prefixes = ("phx_", "phc_", "")
    given = msgspec.structs.asdict(settings)
    made = written = False
    for name, prefix in zip(GENERATED, prefixes, strict=True):
        field = name.removeprefix(PREFIX).lower()
        if not given[field]:
            if name not in kept:
                kept[name], written = prefix + token(), True
                made |= bool(prefix)
            given[field] = kept[name]
    if written:
        text = "".join(f"{name}={kept[name]}\n" for name in GENERATED if name in kept)
        write_whole(path, text.encode(), 0o600)
    return Settings(**given), made


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
            shown = "***" if field in SECRETS else value
            raise SettingsError(f"{PREFIX}{field.upper()}={shown}: {error}") from None
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
