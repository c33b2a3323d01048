"""The installed version of personlog."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Return the installed version, or "unreleased"."""
    try:
        return version("personlog")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unreleased"
