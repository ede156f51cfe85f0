"""Telling systemd how it goes (sd_notify(3)): ready, a line of status, and the watchdog's sign of life.

The protocol is one datagram to the socket that NOTIFY_SOCKET names; where there is none, nothing is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the socket in `environ`, if there is one. A supervisor that does not listen is no fault of ours."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ names a socket in Linux's abstract namespace, whose address begins with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """The watchdog's sign of life, and `status` when it has changed. A line break would begin another message."""
        said = " ".join(status.splitlines())
        self._send("WATCHDOG=1" if said == self._said else f"WATCHDOG=1\nSTATUS={said}")
        self._said = said

    def _send(self, message: str) -> None:
        if self._socket is not None:
            try:
                self._socket.sendto(message.encode(), self._address)
            except OSError:
                # Full or gone: the watchdog, if any, draws the conclusion.
                return
