"""Which personlog this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version."""
    try:
        return version("personlog")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unreleased"
