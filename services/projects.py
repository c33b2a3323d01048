"""`personlog projects`: create, list and set projects. Imports wait until it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from services.operator_store import with_store
from shared.runtime.settings import SECRETS_OF, Settings

if TYPE_CHECKING:
    from shared.store.clickhouse.access import ProjectRow

AUDITED_MAX = 10_000
"""Properties that an audit lists; one with more is run again after a purge."""


def add(commands: Any) -> None:
    """Add the command's parsers."""
    projects = commands.add_parser("projects", help="manage projects").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = projects.add_parser(
        "create", help="create a project, and print its id and token"
    )
    create.add_argument("name")
    create.add_argument(
        "--recordings", action="store_true", help="let browsers record sessions"
    )
    create.add_argument(
        "--delete-everything",
        action="store_true",
        help="let DELETE cover events and recordings",
    )
    create.add_argument(
        "--zone",
        type=_zone,
        default="UTC",
        help="the time zone of its dates: Europe/Berlin (default: %(default)s)",
    )
    create.set_defaults(command=_create, secrets=SECRETS_OF["operator"])
    for name, text in (
        ("recordings", "let browsers record sessions, or not"),
        ("delete-everything", "let DELETE cover events and recordings, or not"),
    ):
        switch = projects.add_parser(name, help=text)
        switch.add_argument("id", type=int)
        switch.add_argument("switch", choices=("on", "off"))
        switch.set_defaults(
            command=_switch, setting=name, secrets=SECRETS_OF["operator"]
        )
    _add_settings(projects)
    listing = projects.add_parser(
        "list", help="list projects with their tokens, switches and zones"
    )
    listing.set_defaults(command=_list, secrets=SECRETS_OF["operator"])


def _add_settings(projects: Any) -> None:
    zone = projects.add_parser("zone", help="set the time zone of a project's dates")
    zone.add_argument("id", type=int)
    zone.add_argument("zone", type=_zone, help="Europe/Berlin")
    zone.set_defaults(command=_set_zone, secrets=SECRETS_OF["operator"])
    protect = projects.add_parser(
        "protect", help="limit what a project's public token may do"
    )
    protect.add_argument("id", type=int)
    protect.add_argument(
        "--dangerous",
        choices=("on", "off"),
        help="whether $merge_dangerously may merge",
    )
    protect.add_argument(
        "--server-only",
        type=_names,
        metavar="NAME,NAME",
        help="properties that only a personal key may change; '' for none",
    )
    protect.add_argument(
        "--audit",
        action="store_true",
        help="list such properties that the public token set last",
    )
    protect.set_defaults(command=_protect, secrets=SECRETS_OF["operator"])


def _create(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    import secrets

    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import create_project

    async def act(store: Any) -> None:
        token = "phc_" + secrets.token_urlsafe(32)
        now = clock_of(settings).now_us()
        flags = {
            "recordings": options.recordings,
            "delete_everything": options.delete_everything,
        }
        row = await create_project(
            store, options.name, token, now, options.zone, **flags
        )
        print(f"{row.project} {row.token}")

    return with_store(settings, act)


def _switch(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import set_delete_everything, set_recordings

    change = (
        set_recordings if options.setting == "recordings" else set_delete_everything
    )

    async def act(store: Any) -> None:
        row = await change(
            store, options.id, options.switch == "on", clock_of(settings).now_us()
        )
        print(f"{options.setting} of project {row.project}: {options.switch}")

    return with_store(settings, act)


def _set_zone(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import set_zone

    async def act(store: Any) -> None:
        now = clock_of(settings).now_us()
        row = await set_zone(store, options.id, options.zone, now)
        print(f"zone of project {row.project}: {row.zone}")

    return with_store(settings, act)


def _protect(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import set_by_capture, set_protection
    from shared.store.person import iso

    dangerous = None if options.dangerous is None else options.dangerous == "on"

    async def act(store: Any) -> None:
        row = await set_protection(
            store,
            options.id,
            clock_of(settings).now_us(),
            merge_dangerously=dangerous,
            server_only=options.server_only,
        )
        print(f"protection of project {row.project}: {_protection(row)}")
        if options.audit:
            listed = await set_by_capture(
                store, row.project, row.server_only, AUDITED_MAX
            )
            for captured in listed:
                print(f"{captured.fragment}  {iso(captured.at)}  {captured.key}")
            more = " or more" if len(listed) == AUDITED_MAX else ""
            print(f"{len(listed)}{more} set by the public token")

    return with_store(settings, act)


def _protection(row: ProjectRow) -> str:
    dangerous = "on" if row.merge_dangerously else "off"
    return f"dangerous {dangerous}  server-only {','.join(row.server_only) or '-'}"


def _names(text: str) -> list[str]:
    """Names of properties, separated by commas."""
    from shared.inputs.names import NAME_CHARS_MAX

    names = [name for name in text.split(",") if name]
    if any(len(name) > NAME_CHARS_MAX for name in names):
        raise argparse.ArgumentTypeError(
            f"a name has at most {NAME_CHARS_MAX} characters"
        )
    return names


def _zone(text: str) -> str:
    """The name of a time zone, as the IANA database has it."""
    from zoneinfo import available_timezones

    if text not in available_timezones() or text in ("Factory", "localtime"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone")
    return text


def _list(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.clickhouse.access import list_projects

    async def act(store: Any) -> None:
        for row in await list_projects(store):
            recordings = "on" if row.recordings else "off"
            everything = "on" if row.delete_everything else "off"
            switches = f"recordings {recordings}  delete-everything {everything}"
            zone = f"zone {row.zone or 'UTC'}"
            settings_text = f"{switches}  {zone}  {_protection(row)}"
            print(f"{row.project}  {row.token}  {settings_text}  {row.name}")

    return with_store(settings, act)
