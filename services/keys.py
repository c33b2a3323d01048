"""`personlog keys`: create, list and revoke personal keys. Imports wait until it runs."""

from __future__ import annotations

import argparse
from typing import Any

from services.operator_store import with_store
from shared.runtime.settings import SECRETS_OF, Settings, SettingsError

DAY_US = 86_400_000_000


def add(commands: Any) -> None:
    """Add the command's parsers."""
    keys = commands.add_parser("keys", help="manage personal keys").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = keys.add_parser("create", help="create a key, and print it once")
    create.add_argument("--name", default="", help="a name to recognise the key by")
    create.add_argument(
        "--scopes",
        required=True,
        help="person:read,person:write,activity_log:read or *",
    )
    create.add_argument(
        "--projects", required=True, help="project ids, comma-separated, or all"
    )
    create.add_argument(
        "--expires",
        default="",
        help="days until the key expires, such as 30d (default: never)",
    )
    create.set_defaults(command=_create, secrets=SECRETS_OF["operator"])
    listing = keys.add_parser(
        "list", help="list keys with their scopes, projects and states"
    )
    listing.set_defaults(command=_list, secrets=SECRETS_OF["operator"])
    revoke = keys.add_parser("revoke", help="revoke a key")
    revoke.add_argument("key", help="the key or its id")
    revoke.set_defaults(command=_revoke, secrets=SECRETS_OF["operator"])


def _create(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    import secrets
    from uuid import uuid4

    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import SCOPES, KeyRow, create_key

    scopes = [scope.strip() for scope in options.scopes.split(",")]
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise SettingsError(f"--scopes: {unknown[0]} is none of {', '.join(SCOPES)}")
    now = clock_of(settings).now_us()
    expires = _expiry(options.expires, now)
    row = KeyRow(
        uuid4(), options.name, "", scopes, _projects(options.projects), expires, False
    )
    plain = "phx_" + secrets.token_urlsafe(32)

    async def act(store: Any) -> None:
        await create_key(store, plain, row, now)
        print(plain)

    return with_store(settings, act)


def _list(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.store.clickhouse.access import list_keys

    async def act(store: Any) -> None:
        for row in await list_keys(store):
            projects = ",".join(map(str, row.projects)) or "all"
            state = f"expires {row.expires_at}" if row.expires_at else "active"
            state = "revoked" if row.revoked else state
            print(
                f"{row.id}  {','.join(row.scopes)}  projects {projects}  {state}  {row.name}"
            )

    return with_store(settings, act)


def _revoke(settings: Settings, options: argparse.Namespace, new_keys: bool) -> int:
    from shared.runtime.timekeeping import clock_of
    from shared.store.clickhouse.access import revoke_key

    async def act(store: Any) -> None:
        print(
            f"revoked {(await revoke_key(store, options.key, clock_of(settings).now_us())).id}"
        )

    return with_store(settings, act)


def _projects(text: str) -> list[int]:
    if text == "all":
        return []
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--projects: {text} is not a list of integers, nor all"
        ) from None


def _expiry(text: str, now: int) -> int:
    if not text:
        return 0
    if not text.endswith("d") or not text[:-1].isdigit():
        raise SettingsError(f"--expires: {text} does not look like 30d")
    return now + int(text[:-1]) * DAY_US
