"""config.xml and users.xml of the embedded server, with hashes of passwords only."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import orjson

from shared.runtime.files import write_whole
from shared.runtime.release import release
from shared.runtime.settings import ENGINE_USERS, OWNER, Settings, SettingsError
from shared.store.clickhouse.roles import DATABASE, FIXED, ROLES, SETTINGS, Limit, Role

NATIVE_PORT = "native.port"
"""A file beside them with the port of the native protocol."""

TEMPLATE = Path(__file__).with_name("config.xml")

QUERIES_MAX = 200
"""At once, of all users. An API process has 32 connections, an analyst ten at most (roles.py)."""

MERGE_THREADS = max(1, (os.cpu_count() or 1) // 2)

WARDEN = "warden"
"""The process's own user, which creates workloads and ends queries; its password is per start."""

WARDEN_GRANTS = (
    "SYSTEM LISTEN, KILL QUERY, CREATE WORKLOAD, DROP WORKLOAD,"
    " CREATE RESOURCE, DROP RESOURCE ON *.*",
    "SELECT ON system.processes",
)

SESSION = Role(
    name="session",
    does="The library's own session, which serves while its last query sleeps."
    " It logs in as `default`.",
    grants=("SYSTEM LISTEN ON *.*",),
    limits={"max_sessions_for_user": Limit(value=1)},
)
"""The user `default` cannot have a password, be removed, or be bound to an address.

Any user of this machine could log in as it, and end the listeners. So it may have one session,
which is the library's while it serves: another is refused with code 700 before its first query.
"""

CLOSED_FUNCTIONS = {"file": "path -> throwIf(1, 'the function file is closed')"}
"""SQL functions that replace the library's own, by name.

CREATE FUNCTION would refuse the name; a file in the data folder is accepted. In the library, which
is a user's own program, `file` reads any file without a right.
"""

LOOPBACK = ("127.0.0.1", "::1")


def write(
    home: Path, settings: Settings, *, http_port: int, tcp_port: int, warden: str
) -> None:
    """Write both files into `home`, readable by their owner only; `warden` is its password."""
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
        "version": orjson.dumps({"version": release()}).decode(),
    }
    functions = settings.data.resolve() / "engine" / "user_defined"
    functions.mkdir(mode=0o700, exist_ok=True)
    for name, definition in CLOSED_FUNCTIONS.items():
        statement = f"CREATE FUNCTION {name} AS {definition}\n"
        write_whole(functions / f"function_{name}.sql", statement.encode(), 0o600)
    text = _filled(TEMPLATE.read_text("utf-8"), places)
    write_whole(home / "config.xml", text.encode(), 0o600)
    passwords = {
        user: str(getattr(settings, field)) for user, field in ENGINE_USERS.items()
    }
    write_whole(home / NATIVE_PORT, f"{tcp_port}\n".encode(), 0o600)
    write_whole(home / "users.xml", users(passwords | {WARDEN: warden}), 0o600)


def home_of(settings: Settings) -> Path:
    """The folder of both files, which is the server's working folder."""
    return (settings.data / "run" / "engine").resolve()


def native_port(settings: Settings) -> int:
    """The native protocol's port of the last start; SettingsError before the first."""
    try:
        return int((home_of(settings) / NATIVE_PORT).read_text())
    except OSError:
        raise SettingsError(f"no engine was started in {settings.data} yet") from None


def users(passwords: Mapping[str, str]) -> bytes:
    """Build users.xml for the roles, the owner, the warden and the library's own session."""
    root = ElementTree.Element("clickhouse")
    profiles, accounts, quotas = (
        ElementTree.SubElement(root, name) for name in ("profiles", "users", "quotas")
    )
    default = ElementTree.SubElement(profiles, "default")
    for name, value in SETTINGS.items():
        ElementTree.SubElement(default, name).text = value
    constraints = ElementTree.SubElement(default, "constraints")
    for name in FIXED:
        ElementTree.SubElement(ElementTree.SubElement(constraints, name), "readonly")
    ElementTree.SubElement(quotas, "default")
    _add_profile(profiles, SESSION)
    _add_user(accounts, "default", "", SESSION.grants, SESSION.name)
    _add_user(accounts, WARDEN, passwords[WARDEN], WARDEN_GRANTS)
    _add_user(accounts, OWNER, passwords[OWNER], ("ALL ON *.*",))
    for role in ROLES:
        grants = (grant.format(db=DATABASE) for grant in role.grants)
        if role.limits:
            _add_profile(profiles, role)
        profile = role.name if role.limits else "default"
        _add_user(accounts, role.name, passwords[role.name], grants, profile)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _add_profile(profiles: ElementTree.Element, role: Role) -> None:
    profile = ElementTree.SubElement(profiles, role.name)
    ElementTree.SubElement(profile, "profile").text = "default"
    for name, limit in role.limits.items():
        ElementTree.SubElement(profile, name).text = str(limit.value)
    constraints = ElementTree.SubElement(profile, "constraints")
    for name, limit in role.limits.items():
        _constrain(ElementTree.SubElement(constraints, name), limit, role)
    for name in role.may_set or ():
        ElementTree.SubElement(
            ElementTree.SubElement(constraints, name), "changeable_in_readonly"
        )


def _constrain(setting: ElementTree.Element, limit: Limit, role: Role) -> None:
    if limit.maximum is None:
        ElementTree.SubElement(setting, "readonly")
        return
    ElementTree.SubElement(setting, "min").text = str(limit.minimum)
    ElementTree.SubElement(setting, "max").text = str(limit.maximum)
    if role.may_set is not None:
        ElementTree.SubElement(setting, "changeable_in_readonly")


def _add_user(
    accounts: ElementTree.Element,
    name: str,
    password: str,
    grants: Iterable[str],
    profile: str = "default",
) -> None:
    user = ElementTree.SubElement(accounts, name)
    if password:
        digest = hashlib.sha256(password.encode()).hexdigest()
        ElementTree.SubElement(user, "password_sha256_hex").text = digest
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
    """Fill all places in one pass: a path may contain another place's name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: escape(places[place[1]]), template)
