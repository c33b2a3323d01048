"""config.xml and users.xml of the embedded server, made from the settings. Holds no password: users.xml has hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import orjson

from shared.runtime.files import write_whole
from shared.runtime.settings import ENGINE_USERS, OWNER, Settings, SettingsError
from shared.store.roles import DATABASE, ROLES, SETTINGS, Limit, Role

NATIVE_PORT = "native.port"
"""A file beside them that says where the native protocol is."""

TEMPLATE = Path(__file__).with_name("config.xml")

QUERIES_MAX = 200
"""At once, of all users. An API process has 32 connections, and an analyst takes ten at most (`roles.py`)."""

MERGE_THREADS = max(1, (os.cpu_count() or 1) // 2)

WARDEN = "warden"
"""The process itself, over HTTP: starts workloads, and ends what runs when it stops. Its password is of one start."""

WARDEN_GRANTS = (
    "SYSTEM LISTEN, KILL QUERY, CREATE WORKLOAD, DROP WORKLOAD, CREATE RESOURCE, DROP RESOURCE ON *.*",
    "SELECT ON system.processes",
)

LOOPBACK = ("127.0.0.1", "::1")


def write(home: Path, settings: Settings, *, http_port: int, tcp_port: int, warden: str) -> None:
    """Write both files into `home`, readable by their owner only."""
    for folder in ("tmp", "user_files", "format_schemas"):
        (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    log = settings.data.resolve() / "logs" / "clickhouse.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    places = {
        "home": os.fspath(home),
        "log": os.fspath(log),
        "http_port": str(http_port),
        "tcp_port": str(tcp_port),
        "merge_threads": str(MERGE_THREADS),
        "queries_max": str(QUERIES_MAX),
        "version": orjson.dumps({"version": _version()}).decode(),
    }
    write_whole(home / "config.xml", _filled(TEMPLATE.read_text("utf-8"), places).encode(), 0o600)
    passwords = {user: str(getattr(settings, field)) for user, field in ENGINE_USERS.items()}
    write_whole(home / NATIVE_PORT, f"{tcp_port}\n".encode(), 0o600)
    write_whole(home / "users.xml", users(passwords | {WARDEN: warden}), 0o600)


def home_of(settings: Settings) -> Path:
    """Where both files are; also the server's working folder."""
    return (settings.data / "run" / "engine").resolve()


def native_port(settings: Settings) -> int:
    """The native protocol's port, as of the last start; SettingsError before the first."""
    try:
        return int((home_of(settings) / NATIVE_PORT).read_text())
    except OSError:
        raise SettingsError(f"no engine was started in {settings.data} yet") from None


def users(passwords: Mapping[str, str]) -> bytes:
    """users.xml for the roles, the owner and the warden."""
    root = ElementTree.Element("clickhouse")
    profiles, accounts = ElementTree.SubElement(root, "profiles"), ElementTree.SubElement(root, "users")
    ElementTree.SubElement(ElementTree.SubElement(root, "quotas"), "default")
    default = ElementTree.SubElement(profiles, "default")
    for name, value in SETTINGS.items():
        ElementTree.SubElement(default, name).text = value
    for role in ROLES:
        if role.limits or role.readonly:
            _add_profile(profiles, role)
    # The library's own session logs in as `default`, without a password, from this machine; that cannot be changed, so
    # this user may start and stop the listeners and do nothing else.
    _add_user(accounts, "default", "", ("SYSTEM LISTEN ON *.*",), "default")
    _add_user(accounts, WARDEN, passwords[WARDEN], WARDEN_GRANTS, "default")
    _add_user(accounts, OWNER, passwords[OWNER], ("ALL ON *.*",), "default")
    for role in ROLES:
        grants = (grant.format(db=DATABASE) for grant in role.grants)
        _add_user(accounts, role.name, passwords[role.name], grants, _profile(role))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _profile(role: Role) -> str:
    return role.name if role.limits or role.readonly else "default"


def _add_profile(profiles: ElementTree.Element, role: Role) -> None:
    profile = ElementTree.SubElement(profiles, role.name)
    ElementTree.SubElement(profile, "profile").text = "default"
    if role.readonly:
        ElementTree.SubElement(profile, "readonly").text = "2"  # 1 would refuse the settings that every client sends
    for name, limit in role.limits.items():
        ElementTree.SubElement(profile, name).text = str(limit.value)
    constraints = ElementTree.SubElement(profile, "constraints")
    for name, limit in role.limits.items():
        _constrain(ElementTree.SubElement(constraints, name), limit)


def _constrain(setting: ElementTree.Element, limit: Limit) -> None:
    if limit.most is None:
        ElementTree.SubElement(setting, "readonly")
        return
    ElementTree.SubElement(setting, "min").text = str(limit.least)
    ElementTree.SubElement(setting, "max").text = str(limit.most)


def _add_user(
    accounts: ElementTree.Element, name: str, password: str, grants: Iterable[str], profile: str
) -> None:
    user = ElementTree.SubElement(accounts, name)
    if password:
        ElementTree.SubElement(user, "password_sha256_hex").text = hashlib.sha256(password.encode()).hexdigest()
    else:
        ElementTree.SubElement(user, "password")
    networks = ElementTree.SubElement(user, "networks")
    for address in LOOPBACK:
        ElementTree.SubElement(networks, "ip").text = address
    ElementTree.SubElement(user, "profile").text = profile
    ElementTree.SubElement(user, "quota").text = "default"
    granted = ElementTree.SubElement(user, "grants")
    for grant in grants:
        ElementTree.SubElement(granted, "query").text = f"GRANT {grant}"


def _filled(template: str, places: Mapping[str, str]) -> str:
    for name, text in places.items():
        template = template.replace(f"{{{{{name}}}}}", escape(text))
    return template


def _version() -> str:
    try:
        return version("personlog")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unreleased"
