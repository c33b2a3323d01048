"""Checks before every command: the data folder, and the limit of open files.

A failure is one line that says what to do. Only the soft limit of files is changed.
"""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

from shared.runtime.settings import PREFIX, Settings, SettingsError

FILES_MIN = 2_048
"""An API process has up to 1,000 connections, and the engine opens the files of many parts."""

FILES_TARGET = 65_536
"""The soft limit to set where the hard limit allows it; the usual soft limit is 1,024."""

PROBE_BYTES = 4_096
"""Bytes written and removed again: a full disk shows at once."""

FOLDERS = ("engine", "imports", "log", "logs", "objects", "receipts", "run")


def check(settings: Settings) -> None:
    """Raise a SettingsError of one line when a process of these settings could not work here."""
    _check_data(settings.data)
    _check_files()


def _check_data(data: Path) -> None:
    text = os.fspath(data)
    if "\\" in text or any(
        ord(character) < 0x20 or ord(character) == 0x7F for character in text
    ):
        raise SettingsError(
            f"{PREFIX}DATA={text!r}: a path with a backslash or a control character cannot be used"
        )
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(prefix=".probe-", dir=data)
        try:
            os.posix_fallocate(descriptor, 0, PROBE_BYTES)
        finally:
            os.close(descriptor)
            Path(probe).unlink()
    except (FileExistsError, NotADirectoryError):
        text = (
            f"{PREFIX}DATA={data}: it is a file, or lies below one; it must be a folder"
        )
        raise SettingsError(text) from None
    except OSError as error:
        text = f"{PREFIX}DATA={data}: nothing can be written there: {error.strerror}"
        raise SettingsError(text) from None
    for name in FOLDERS:
        _check_folder(data / name)


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise SettingsError(
                f"{PREFIX}DATA: {folder} cannot be read and written by this user"
            )
    elif folder.exists() or folder.is_symlink():
        raise SettingsError(f"{PREFIX}DATA: {folder} must be a folder")


def _check_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < FILES_MIN:
        raise SettingsError(
            f"{hard} files may be open here, and {FILES_MIN} are needed;"
            " raise the hard limit (ulimit -Hn)"
        )
    target = FILES_TARGET if hard == unlimited else min(hard, FILES_TARGET)
    if soft != unlimited and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
