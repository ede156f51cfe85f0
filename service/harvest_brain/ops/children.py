"""Processes that a command starts for itself: they end with it, even when it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import harvest_brain

STOP_SEC = 5
PR_SET_PDEATHSIG = 1


def harvest_brain_command(*words: str) -> list[str]:
    """`harvest-brain WORDS` of this very package."""
    return [sys.executable, "-m", "harvest_brain", *words]


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base`, in which the package of this process is found from any directory."""
    root = str(Path(harvest_brain.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, base.get("PYTHONPATH", ""))))
    return {**base, "PYTHONPATH": path}


def start(
    command: list[str], log: Path, directory: Path, base: Mapping[str, str] = os.environ
) -> subprocess.Popen[bytes]:
    """Start it in `directory` with `base` as its environment; what it says goes to `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment(base),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops them in order
            preexec_fn=die_with_parent,  # noqa: PLW1509  # it does one system call and takes no lock
        )


_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """In a child between fork and exec: even a parent that is killed with SIGKILL leaves nothing behind (on Linux)."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and SIGKILL when that is not enough. Returns the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
