"""`personlog projects`: create, list and switch projects. Imports wait until it runs."""

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
    listing = projects.add_parser(
        "list", help="list projects with their tokens and switches"
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
        row = await create_project(store, options.name, token, now, **flags)
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


def _list(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.clickhouse.access import list_projects

    async def act(store: Any) -> None:
        for row in await list_projects(store):
            recordings = "on" if row.recordings else "off"
            everything = "on" if row.delete_everything else "off"
            switches = f"recordings {recordings}  delete-everything {everything}"
            print(f"{row.project}  {row.token}  {switches}  {row.name}")

    return with_store(settings, act)
