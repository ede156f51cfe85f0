"""Where daemons come from, fast: a process that has imported HarvestBrain already and forks one for each start.

What runs is the real command, `harvest-brain run`, in a process of its own that a SIGKILL ends like any other; only the
interpreter's start and the imports are saved. A `cold` start does not save them: it executes
`python -m harvest_brain run`.

The nursery is a program of its own (`python -m tests.faults.nursery`), since a process that has threads must not fork.
It takes one JSON line per order on stdin, and answers with one on stdout.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from harvest_brain.ops.children import die_with_parent
from tests.support.daemon import environment
from tests.support.engine import ROOT
from tests.support.waiting import wait_until

_PR_SET_PDEATHSIG = 1


class Nursery:
    """A context; on leaving it all its daemons are dead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  # it does one system call and takes no lock
        )

    def ask(self, **order: object) -> Any:
        """Give one order and return its answer."""
        with self._lock:
            wanted, given = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
            wanted.write(json.dumps(order) + "\n")
            wanted.flush()
            return json.loads(given.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class Daemon:
    """One daemon that can be started again and again. `settings` is its whole configuration."""

    def __init__(self, nursery: Nursery, settings: Mapping[str, str], *, planted: str = "") -> None:
        self.settings = dict(settings)
        self.directory = Path(tempfile.mkdtemp(prefix="harvest-brain-fault-"))
        self.pid = 0
        self.has_ended_by_itself = False  # gone at some time without having been killed or stopped from here
        self._code = 0
        self._lock = threading.Lock()
        self._nursery = nursery
        self._planted = planted
        self._log = self.directory / "daemon.log"
        self._status = self.directory / "status.json"

    def start(self, *, cold: bool = False) -> None:
        assert not self.is_running
        self._status.unlink(missing_ok=True)
        self.pid = self._nursery.ask(
            order="start",
            settings=environment({"RUNTIME_DIRECTORY": str(self.directory), **self.settings}),
            directory=str(self.directory),
            log=str(self._log),
            cold=cold,
            planted=self._planted,
        )

    @property
    def is_running(self) -> bool:
        with self._lock:
            if self._is_found_gone():
                self.has_ended_by_itself = True
            return bool(self.pid)

    def _is_found_gone(self) -> bool:
        """Whether it ran as far as was known, and is gone now; it is buried then. Needs the lock."""
        status = self._nursery.ask(order="look", pid=self.pid) if self.pid else None
        if status is not None:
            self.pid, self._code = 0, status["code"]
        return status is not None

    def kill(self) -> None:
        """SIGKILL; it is dead and gone on return. In one step, so that who looks meanwhile doesn't take it for an end
        of its own."""
        with self._lock:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
                self._nursery.ask(order="bury", pid=self.pid)
                self.pid = 0

    def stop(self) -> None:
        """SIGTERM, as systemd does it; it must exit with 0. Before it has said anything it does not listen yet."""
        wait_until(self._status.exists, what="a sign of life")
        self.signal(signal.SIGTERM)

        def is_gone() -> bool:
            with self._lock:
                return self._is_found_gone() or not self.pid

        wait_until(is_gone, what=f"the end of {self.pid}")
        assert self._code == 0, f"exit code {self._code} after SIGTERM; the log says:\n{self.log()}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs. Its pid is its own until the nursery buries it, so this reaches nobody else."""
        with self._lock:
            if self.pid:
                os.kill(self.pid, number)

    def log(self) -> str:
        """All that it wrote to stderr, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def discard(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def serve() -> None:
    """The nursery's own program: orders in, answers out, until stdin ends."""
    from harvest_brain.ops import cli

    for line in sys.stdin:
        order = json.loads(line)
        answer: Any = None
        if order["order"] == "start":
            sys.stdout.flush()
            answer = os.fork()
            if answer == 0:
                _become_daemon(order, cli.main)
        elif order["order"] == "bury":
            os.waitpid(order["pid"], 0)
        else:
            ended, status = os.waitpid(order["pid"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status)} if ended else None
        print(json.dumps(answer), flush=True)


def _become_daemon(order: Mapping[str, Any], main: Any) -> None:
    """In the child: never returns."""
    code = 70
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(order["settings"])
        os.chdir(order["directory"])
        if order["cold"] and not order["planted"]:
            os.execv(sys.executable, [sys.executable, "-m", "harvest_brain", "run"])  # noqa: S606  # no shell is meant
        if order["planted"]:
            from tests.faults import planted

            planted.plant(order["planted"])
        code = main(["run"])
    except Exception:  # noqa: BLE001  # what the interpreter would do; it must not get back into the nursery's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
