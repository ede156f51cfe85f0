"""A stand-in for systemd: the socket that NOTIFY_SOCKET names (sd_notify(3))."""

from __future__ import annotations

import socket
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self


class NotifySocket:
    """Collects what is sent to it. `address` is for NOTIFY_SOCKET: a path, or with `abstract` a Linux abstract name."""

    def __init__(self, *, abstract: bool = False) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._directory = tempfile.TemporaryDirectory(prefix="harvest-brain-test-")
        self.address = f"@harvest-brain-{uuid.uuid4().hex}" if abstract else str(Path(self._directory.name, "notify"))
        self._socket.bind(self.address.replace("@", "\0", 1) if abstract else self.address)
        self._messages: list[str] = []

    def messages(self) -> list[str]:
        """Every message so far."""
        while True:
            try:
                self._messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._messages

    def fields(self, name: str) -> list[str]:
        """The values of `name` in them, in order."""
        lines = (line for message in self.messages() for line in message.splitlines())
        return [value for field, _, value in (line.partition("=") for line in lines) if field == name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._directory.cleanup()
