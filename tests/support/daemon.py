"""The real daemon as its own process, and the command line as an operator would use it.

with DaemonProcess(server.settings() | {"HARVEST_MODE": "live"}) as daemon:     # ready when the body begins
    ...
    daemon.stop()                                                               # SIGTERM, and it must exit with 0
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import processes
from tests.support.waiting import PATIENCE_SEC, wait_until

_COMMAND = [sys.executable, "-m", "harvest_brain"]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What the daemon needs to run, `settings`, and nothing else of this process's environment."""
    return {"PATH": os.environ["PATH"], **settings}


class DaemonProcess:
    """One daemon. `settings` are its environment beside the bare necessities; it has its own RUNTIME_DIRECTORY."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="harvest-brain-test-"))
        self.settings = {"RUNTIME_DIRECTORY": str(self.directory), **settings}
        self._log = self.directory / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **changes: str) -> Self:
        """Start it, for the first time or again, with `changes` to its settings; don't wait."""
        assert not self.is_running
        self.settings.update(changes)
        (self.directory / "status.json").unlink(missing_ok=True)
        self._process = processes.start(
            [*_COMMAND, "run"], self._log, env=environment(self.settings), cwd=self.directory
        )
        return self

    def status(self) -> dict[str, Any]:
        """Its status.json; empty while there is none."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_for(self, *, timeout: float = PATIENCE_SEC, **wanted: object) -> dict[str, Any]:
        """Its status, as soon as the fields `wanted` have these values: `wait_for(role="leader", state="ready")`."""

        def seen() -> dict[str, Any]:
            if not self.is_running:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self._end_of_log()}")
            status = self.status()
            return status if all(status.get(name) == value for name, value in wanted.items()) else {}

        try:
            return wait_until(seen, timeout, what=f"a daemon with {wanted}")
        except AssertionError as fault:
            raise AssertionError(f"{fault}\nstatus: {self.status()}\nlog:\n{self._end_of_log()}") from None

    def wait_ready(self) -> dict[str, Any]:
        """Its status, as soon as it leads or stands by."""
        return self.wait_for(state="ready")

    def log(self) -> str:
        """All that it wrote to stderr, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _end_of_log(self) -> str:
        return "\n".join(self.log().splitlines()[-40:])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, as systemd does it: it ends in order."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_SEC)
        assert code == 0, f"exit code {code} after SIGTERM:\n{self._end_of_log()}"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self) -> float:
        """The processor time that it has used, from the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def discard(self) -> None:
        """End it, however it is, and remove what it left."""
        if self.is_running:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            if self._process is None:
                self.start()
            self.wait_ready()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- the daemon with {self.settings} ---\n{self._end_of_log()}", file=sys.stderr)
        self.discard()


# What the fixture `start_daemon` gives: settings in, a daemon out that is ready.
StartDaemon = Callable[..., DaemonProcess]


def harvest_brain(*words: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `harvest-brain WORDS` with `settings` as its environment."""
    return subprocess.run(
        [*_COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SEC,
        env=environment(settings),
        check=False,
    )


def now_ms() -> int:
    """The clock of this machine, which a Redis on it shares."""
    return time.time_ns() // 1_000_000
