"""config.xml and users.xml of the embedded server, made from the settings. Holds no password: users.xml has hashes."""

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
from shared.store.roles import DATABASE, FIXED, ROLES, SETTINGS, Limit, Role

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

SESSION = Role(
    name="session",
    does="The library's own session, which serves while its last query sleeps. It logs in as `default`.",
    grants=("SYSTEM LISTEN ON *.*",),
    limits={"max_sessions_for_user": Limit(value=1)},
)
"""That user can have no password, nor be removed or kept to an address of its own: anybody on this machine could log in
as it, and end the listeners. So it may have one session, which is the library's for as long as it serves: every other
one is refused with code 700 before it can ask anything."""

CLOSED_FUNCTIONS = {"file": "path -> throwIf(1, 'the function file is closed')"}
"""Functions of ours in place of the library's own, by name; CREATE FUNCTION would refuse that, a file in the data
folder does not. `file` reads any file for anybody: in the library, which is a user's own program, it asks no right."""

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
        "version": orjson.dumps({"version": release()}).decode(),
    }
    functions = settings.data.resolve() / "engine" / "user_defined"
    functions.mkdir(mode=0o700, exist_ok=True)
    for name, definition in CLOSED_FUNCTIONS.items():
        write_whole(functions / f"function_{name}.sql", f"CREATE FUNCTION {name} AS {definition}\n".encode(), 0o600)
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
    """users.xml for the roles, the owner, the warden and the library's own session."""
    root = ElementTree.Element("clickhouse")
    profiles, accounts, quotas = (ElementTree.SubElement(root, name) for name in ("profiles", "users", "quotas"))
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
        _add_user(accounts, role.name, passwords[role.name], grants, role.name if role.limits else "default")
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
        ElementTree.SubElement(ElementTree.SubElement(constraints, name), "changeable_in_readonly")


def _constrain(setting: ElementTree.Element, limit: Limit, role: Role) -> None:
    if limit.most is None:
        ElementTree.SubElement(setting, "readonly")
        return
    ElementTree.SubElement(setting, "min").text = str(limit.least)
    ElementTree.SubElement(setting, "max").text = str(limit.most)
    if role.may_set is not None:
        ElementTree.SubElement(setting, "changeable_in_readonly")


def _add_user(
    accounts: ElementTree.Element, name: str, password: str, grants: Iterable[str], profile: str = "default"
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
    """All places at once: a path may have another place's name in it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: escape(places[found[1]]), template)
