"""A real Redis, in a container or as a process, that can be stopped, killed, frozen and started again on the same port.

    with redis_server() as server:                        # a container where one can run, else a process
        server.client().ping()
        server.kill()
        server.start()

Nothing of it is left when the context ends. Data survive a stop or a kill as far as the options say
(`--appendonly yes --appendfsync always` keeps all that was acknowledged).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harvest_brain.ops.demo.processes import server_program
from tests.support import engine, processes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from testcontainers.community.redis import RedisContainer

HOST = "127.0.0.1"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
SMALL_DISK = "/small"
_IN_CONTAINER, _TLS_IN_CONTAINER = 6379, 6380


class RedisServer(ABC):
    """A Redis on a port of 127.0.0.1 that stays the same for its whole life."""

    def __init__(self, options: Sequence[str] = (), *, password: str = "", certificates: Path | None = None) -> None:
        """With `certificates`, a directory with ca.crt, server.crt and server.key, it speaks TLS on `tls_port`."""
        # Live mode is live only where nothing is lost in an orderly restart.
        self.options = [*("--save", "", "--appendonly", "yes"), *options]
        self.certificates = certificates
        self.tls_port = 0
        if certificates is not None:
            self.options += ["--tls-ca-cert-file", f"{certificates}/ca.crt"]
            self.options += ["--tls-cert-file", f"{certificates}/server.crt"]
            self.options += ["--tls-key-file", f"{certificates}/server.key"]
        self.password = password
        if password:
            self.options += ["--requirepass", password]
        self.port = 0

    def client(self, **options: Any) -> Any:
        """A new client that decodes replies. `Any`, because redis-py's types unite the replies of all protocols.

        It tries a command once more on a new connection, since a server that was restarted has left it a dead one.
        """
        defaults: dict[str, Any] = {
            "password": self.password or None,
            "decode_responses": True,
            "protocol": 2,
            "socket_timeout": 20,
            "retry": Retry(NoBackoff(), 1),
        }
        return redis.Redis(host=HOST, port=self.port, **(defaults | options))

    def settings(self) -> dict[str, str]:
        """The settings with which a daemon finds it."""
        return {"REDIS_HOST": HOST, "REDIS_PORT": str(self.port)}

    def wait_ready(self) -> None:
        """Wait until it answers, with its data loaded."""
        wait_until(self._answers, what=f"Redis on port {self.port}")

    def _answers(self) -> bool:
        try:
            with self.client(socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @abstractmethod
    def start(self, *, wait: bool = True) -> None:
        """Start it, for the first time or again, and wait until it answers with its data loaded.

        Only a start again can do without the waiting.
        """

    @abstractmethod
    def stop(self) -> None:
        """Let it end in order (SIGTERM)."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered."""

    @abstractmethod
    def resume(self) -> None:
        """Go on after `pause`."""

    @abstractmethod
    def log(self) -> str:
        """What it has logged."""

    @abstractmethod
    def discard(self) -> None:
        """End it and remove all that it left."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class ContainerServer(RedisServer):
    """Redis in a container of its own, through testcontainers."""

    def __init__(
        self,
        options: Sequence[str] = (),
        *,
        password: str = "",
        certificates: Path | None = None,
        small_disk: str = "",
    ) -> None:
        """`small_disk`, such as 2m, keeps its data at SMALL_DISK in so much space; by default it has the engine's."""
        options = [*options, *(("--dir", SMALL_DISK) if small_disk else ())]
        super().__init__(options, password=password, certificates=certificates)
        self._small_disk = small_disk
        self._container: RedisContainer | None = None

    @property
    def container(self) -> Any:
        """The engine's own object, for what only a container can do (networks, exec)."""
        assert self._container is not None
        return self._container.get_wrapped_container()

    def start(self, *, wait: bool = True) -> None:
        if self._container is None:
            self._create()
        else:
            self.container.start()
        if wait:
            self.wait_ready()

    def _create(self) -> None:
        from docker.errors import APIError  # type: ignore[import-untyped]  # docker-py carries no types
        from testcontainers.community.redis import RedisContainer

        while self._container is None:
            self.port = processes.free_port()
            container = RedisContainer(engine.image("REDIS"), _IN_CONTAINER, self.password or None)
            # A port of our own choice survives a restart, and nobody else can reach it. The declared type knows no
            # address, the engine does.
            container.ports = {f"{_IN_CONTAINER}/tcp": (HOST, self.port)}  # type: ignore[dict-item]
            if self.certificates is not None:
                self.tls_port = processes.free_port()
                container.ports[f"{_TLS_IN_CONTAINER}/tcp"] = (HOST, self.tls_port)  # type: ignore[assignment]
                container.with_volume_mapping(self.certificates, str(self.certificates), "ro")
            tls = ["--tls-port", str(_TLS_IN_CONTAINER)] if self.certificates is not None else []
            container.with_command(["redis-server", *self.options, *tls])
            container.with_kwargs(cap_add=["NET_ADMIN"])
            if self._small_disk:
                container.with_tmpfs_mount(SMALL_DISK, f"size={self._small_disk},mode=777")
            try:
                container.start()
            except APIError as fault:
                container.stop()
                if "allocated" not in str(fault) and "address already in use" not in str(fault):
                    raise
                continue  # somebody else was quicker; take another port
            except BaseException:
                container.stop()
                raise
            self._container = container

    def stop(self) -> None:
        self.container.stop(timeout=20)

    def kill(self) -> None:
        self.container.kill()

    def pause(self) -> None:
        self.container.pause()

    def resume(self) -> None:
        self.container.unpause()

    def log(self) -> str:
        return str(self.container.logs().decode(errors="replace"))

    def discard(self) -> None:
        if self._container is not None:
            self._container.stop()
            self._container = None


class ProcessServer(RedisServer):
    """Redis (or Valkey) as a process. `program` defaults to the one that `make demo` would take."""

    def __init__(
        self,
        options: Sequence[str] = (),
        *,
        password: str = "",
        certificates: Path | None = None,
        program: str = "",
    ) -> None:
        super().__init__(options, password=password, certificates=certificates)
        self._program = program or server_program()[0]
        self.directory = Path(tempfile.mkdtemp(prefix="harvest-brain-test-"))
        self._log = self.directory / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        first = self.port == 0
        while True:
            if first:
                self.port = processes.free_port()
            address = ["--port", str(self.port), "--bind", HOST, "--dir", str(self.directory)]
            if self.certificates is not None:
                self.tls_port = self.tls_port or processes.free_port()
                address += ["--tls-port", str(self.tls_port)]
            self._process = processes.start(
                [self._program, *address, *self.options], self._log, env=None, cwd=self.directory
            )
            if not wait:
                return
            wait_until(lambda: self._answers() or self._has_ended(), what=f"Redis on port {self.port}")
            if not self._has_ended():
                return
            if not first or "in use" not in self.log():
                raise AssertionError(f"{self._program} ended; its log says:\n{self.log()[-2000:]}")

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def discard(self) -> None:
        if not self._has_ended():
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def redis_server(options: Sequence[str] = (), *, password: str = "", certificates: Path | None = None) -> RedisServer:
    """A server that is not started yet: in a container where one can run, else a process."""
    if reason := engine.why_no_containers():
        assert not engine.containers_required(), f"REQUIRE_CONTAINERS=1, but {reason}"
        return ProcessServer(options, password=password, certificates=certificates)
    return ContainerServer(options, password=password, certificates=certificates)


# What the fixture `start_server` gives: options in, a server out that answers.
StartServer = Callable[..., RedisServer]
