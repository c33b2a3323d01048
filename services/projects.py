"""`personlog projects`: create, list and set projects. Imports wait until it runs."""

from __future__ import annotations

import argparse
from typing import Any

from services.operator_store import with_store
from shared.runtime.settings import SECRETS_OF, Settings


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
    zone = projects.add_parser("zone", help="set the time zone of a project's dates")
    zone.add_argument("id", type=int)
    zone.add_argument("zone", type=_zone, help="Europe/Berlin")
    zone.set_defaults(command=_set_zone, secrets=SECRETS_OF["operator"])
    listing = projects.add_parser(
        "list", help="list projects with their tokens, switches and zones"
    )
    listing.set_defaults(command=_list, secrets=SECRETS_OF["operator"])


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
            zone = row.zone or "UTC"
            print(f"{row.project}  {row.token}  {switches}  zone {zone}  {row.name}")

    return with_store(settings, act)
