"""Lifted properties: what is copied from a captured event to its person, by rule. Pure data."""

from __future__ import annotations

from collections.abc import Iterable

LIFTED = {
    key: f"$initial_{key.removeprefix('$')}"
    for key in (
        "$app_build $app_name $app_namespace $app_version $browser $browser_version $device_type $current_url $pathname"
        " $os $os_name $os_version $referring_domain $referrer $screen_height $screen_width $viewport_height"
        " $viewport_width $raw_user_agent utm_source utm_medium utm_campaign utm_content utm_name utm_term gclid"
        " gad_source gclsrc dclid gbraid wbraid fbclid msclkid twclid li_fat_id mc_cid igshid ttclid rdt_cid irclid"
        " _kx epik qclid sccid"
    ).split()
}
"""The name in the event, which is that of the property as well, and the name of the first value."""


def copies(name: str) -> tuple[str, ...]:
    """A property and the one that holds its first value, where it has one by rule."""
    return (name, LIFTED[name]) if name in LIFTED else (name,)


def sources(names: Iterable[str]) -> list[str]:
    """Those of the names that an event carries beside `$set` and `$set_once`."""
    return [name for name in names if name in LIFTED]
