"""Child processes that end with the tests, however these end."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harvest_brain.ops.children import die_with_parent

# Below the ports that kernels give to outgoing connections, so nobody takes one while its server is down.
_PORTS = range(20_000, 32_000)


def start(command: Sequence[str], log: Path, *, env: Mapping[str, str] | None, cwd: Path) -> subprocess.Popen[bytes]:
    """Start `command` with its output appended to `log`. On Linux it dies with the thread that started it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            preexec_fn=die_with_parent,  # noqa: PLW1509  # it does one system call and takes no lock
        )


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
