"""A check that a port of this machine is free."""

from __future__ import annotations

import socket

from shared.runtime.settings import SettingsError


def check_port(name: str, host: str, port: int) -> None:
    """Raise SettingsError, naming the service `name`, when the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            text = f"port {port} for the {name} is taken on {host} ({error.strerror})"
            raise SettingsError(text) from None
