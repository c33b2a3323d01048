"""Ports of this machine, looked at before somebody listens on them."""

from __future__ import annotations

import socket

from shared.runtime.settings import SettingsError


def check_port(name: str, host: str, port: int) -> None:
    """SettingsError, naming whom the port is for, when somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(f"port {port} for the {name} is taken on {host} ({error.strerror})") from None
