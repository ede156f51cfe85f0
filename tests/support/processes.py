"""Child processes that end with the tests, however these end."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1

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
            # Only async-signal-safe work is done between fork and exec.
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    assert _prctl is not None
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
