"""Properties that an event says of its person by rule (docs/contract.md §9). Commands say what
becomes of them."""

from __future__ import annotations

LIFTED = {
    key: f"$initial_{key.removeprefix('$')}"
    for key in (
        "$app_build $app_name $app_namespace $app_version $browser $browser_version"
        " $device_type $current_url $pathname $os $os_name $os_version $referring_domain"
        " $referrer $screen_height $screen_width $viewport_height $viewport_width"
        " $raw_user_agent utm_source utm_medium utm_campaign utm_content utm_name utm_term"
        " gclid gad_source gclsrc dclid gbraid wbraid fbclid msclkid twclid li_fat_id mc_cid"
        " igshid ttclid rdt_cid irclid _kx epik qclid sccid"
    ).split()
}
"""What is copied from an event to its person, and the name of the first value."""

IDS = (
    "distinct_id",
    "$distinct_id",
    "$anon_distinct_id",
    "alias",
    "$user_id",
    "$device_id",
)
"""Where an event names a person's distinct ids."""

PERSONAL = ("$set", "$set_once", "$unset", *IDS, *LIFTED, *LIFTED.values())
"""Properties of an event that tell of its person; one that outlives the person is shown without
them."""


def copies(name: str) -> tuple[str, ...]:
    """A property and the one that holds its first value, where it has one by rule."""
    return (name, LIFTED[name]) if name in LIFTED else (name,)
