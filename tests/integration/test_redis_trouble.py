"""Redis away, frozen, loading, read-only, full, or not what it should be: the daemon waits, says so once, and goes on.

In each case entries were waiting when the trouble came, and afterwards each of them has had its effect exactly once.
"""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.processes import free_port
from tests.support.server import DURABLE, HOST, SMALL_DISK, ContainerServer, RedisServer, StartServer
from tests.support.waiting import stays, wait_until
from tests.support.wire import (
    EXECUTIONS,
    GROUP,
    KILL,
    LEASE,
    OUTPUTS,
    REJECTED,
    STATE,
    SUGGESTIONS,
    TRADE_INTENTS,
    feed,
    fill,
    harvests,
    is_caught_up,
    position,
    tick,
)

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", order_id="A1")
PRICE = tick("ETHUSDT", "2526")
MARKET = "quantum:stream:market.price"


def complaints(daemon: DaemonProcess) -> list[str]:
    return [line for line in daemon.log().splitlines() if "waiting for Redis" in line]


@contextmanager
def frozen(daemon: DaemonProcess) -> Iterator[None]:
    """While the daemon can't act, the body makes trouble behind its back."""
    daemon.freeze()
    try:
        yield
    finally:
        daemon.thaw()


def assert_one_position_and_one_harvest(client: Any) -> None:
    wait_until(lambda: is_caught_up(client))
    held = position(client, "ETHUSDT")
    assert held is not None
    assert Decimal(held["qty"]) == 1
    assert len(harvests(client)) == 1


# Not there yet, or not for us.


def test_a_daemon_that_is_started_before_redis_waits_and_goes_on(start_server: StartServer) -> None:
    server = start_server(*DURABLE)
    server.client().xadd(EXECUTIONS, OPENING)
    server.stop()
    daemon = DaemonProcess(server.settings()).start()
    try:
        # It says so in its log first, and then in the status.
        wait_until(lambda: str(daemon.status().get("state", "")).startswith("waiting for Redis"))
        assert complaints(daemon)
        assert daemon.status()["role"] == "none"
        server.start()
        daemon.wait_for(role="leader", state="ready")
        assert "Redis is back" in daemon.log()
        client = server.client()
        feed(client, PRICE)
        assert_one_position_and_one_harvest(client)
    finally:
        daemon.discard()


def test_a_daemon_that_waits_for_redis_ends_in_order_when_told_to() -> None:
    daemon = DaemonProcess({"REDIS_HOST": HOST, "REDIS_PORT": str(free_port())}).start()
    try:
        wait_until(lambda: len(complaints(daemon)) == 1)
        daemon.stop()
    finally:
        daemon.discard()


def test_a_wrong_password_is_waited_out_and_said_once(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(password="right-password")
    password = tmp_path / "password"
    password.write_text("wrong-password\n")
    daemon = DaemonProcess(server.settings() | {"REDIS_PASSWORD_FILE": str(password)}).start()
    try:
        wait_until(lambda: daemon.status().get("errors", 0) >= 4)
        [complaint] = complaints(daemon)
        assert "the password or user name is wrong; see REDIS_PASSWORD_FILE and REDIS_USERNAME" in complaint
        assert daemon.status()["state"].startswith("waiting for Redis: the password")

        password.write_text("right-password\n")
        daemon.wait_for(role="leader", state="ready")
        feed(server.client(), OPENING, PRICE)
        assert len(harvests(server.client())) == 1
        for secret in ("right-password", "wrong-password"):
            assert secret not in daemon.log()
            assert secret not in str(daemon.status())
    finally:
        daemon.discard()


def test_no_password_where_one_is_wanted_is_said_so(start_server: StartServer) -> None:
    server = start_server(password="secret")
    daemon = DaemonProcess(server.settings()).start()
    try:
        wait_until(lambda: complaints(daemon))
        assert "Redis wants a password; see REDIS_PASSWORD_FILE" in complaints(daemon)[0]
    finally:
        daemon.discard()


def test_a_password_file_that_is_not_there_is_named(server: RedisServer) -> None:
    daemon = DaemonProcess(server.settings() | {"REDIS_PASSWORD_FILE": "/nowhere/password"}).start()
    try:
        wait_until(lambda: complaints(daemon))
        assert "/nowhere/password" in complaints(daemon)[0]
    finally:
        daemon.discard()


class OldRedis(socketserver.StreamRequestHandler):
    """Answers as Redis 6.2 would."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                self.rfile.readline()
                words.append(self.rfile.readline().strip().upper())
            info = b"# Server\r\nredis_version:6.2.14\r\n"
            self.wfile.write(b"$%d\r\n%s\r\n" % (len(info), info) if words[0] == b"INFO" else b"+OK\r\n")


def test_a_redis_that_is_too_old_is_refused_with_a_sentence() -> None:
    with socketserver.ThreadingTCPServer((HOST, 0), OldRedis) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        daemon = DaemonProcess({"REDIS_HOST": HOST, "REDIS_PORT": str(stub.server_address[1])}).start()
        try:
            wait_until(lambda: daemon.status().get("errors", 0) >= 2)
            [complaint] = complaints(daemon)
            assert "Redis 6.2.14 is too old; HarvestBrain needs Redis 7.0 or newer, or Valkey" in complaint
            daemon.stop()
        finally:
            daemon.discard()
            stub.shutdown()


# Gone and back.


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_incident_25_redis_stopped_or_killed_and_started_again_is_waited_out(
    start_server: StartServer, end: str
) -> None:
    server = start_server(*DURABLE)
    client = server.client()
    with DaemonProcess(server.settings()) as daemon:
        feed(client, OPENING)
        with frozen(daemon):
            client.xadd(EXECUTIONS, PRICE)
        getattr(server, end)()
        wait_until(lambda: complaints(daemon))
        # However long it lasts, it doesn't give up, and it doesn't fill the log.
        stays(lambda: daemon.is_running, 3)
        assert len(complaints(daemon)) <= 3
        server.start()
        daemon.wait_for(role="leader", state="ready")
        assert_one_position_and_one_harvest(client)
        daemon.stop()


def test_a_frozen_redis_is_given_up_after_the_time_out_and_used_again_when_it_answers(
    start_server: StartServer,
) -> None:
    server = start_server()
    with DaemonProcess(server.settings() | {"REDIS_TIMEOUT_SEC": "1"}) as daemon:
        client = server.client()
        feed(client, OPENING)
        server.pause()
        wait_until(lambda: complaints(daemon))
        server.resume()
        daemon.wait_for(role="leader", state="ready")
        feed(client, PRICE)
        assert_one_position_and_one_harvest(client)


def test_connections_and_scripts_that_vanish_do_no_harm(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, OPENING)
    redis.client_kill_filter(_type="normal", skipme=True)
    redis.script_flush()
    feed(redis, PRICE)
    redis.script_flush()
    feed(redis, PRICE)
    assert_one_position_and_one_harvest(redis)
    daemon.stop()


def test_a_redis_that_was_emptied_does_not_re_arm_live_trading(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE="live")
    feed(redis, OPENING, PRICE)
    assert len(harvests(redis, TRADE_INTENTS)) == 1
    redis.flushall()
    wait_until(lambda: redis.exists(EXECUTIONS), what="the group made anew, with its stream")
    feed(redis, OPENING, PRICE)
    assert not redis.exists(*OUTPUTS)
    assert position(redis, "ETHUSDT") is not None


# There, but not willing.


def test_a_redis_that_is_loading_its_data_is_waited_for(start_server: StartServer) -> None:
    slowly = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    server = start_server(*DURABLE, *slowly)
    client = server.client()
    client.xadd(EXECUTIONS, OPENING)
    client.mset({f"ballast:{number}": "x" for number in range(3000)})
    client.bgrewriteaof()
    wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    server.stop()
    server.start(wait=False)
    daemon = DaemonProcess(server.settings()).start()
    try:
        wait_until(lambda: "Redis is loading its data" in daemon.log())
        server.wait_ready()
        daemon.wait_for(role="leader", state="ready")
        feed(client, PRICE)
        assert_one_position_and_one_harvest(client)
    finally:
        daemon.discard()


def test_a_read_only_replica_is_waited_out(start_server: StartServer) -> None:
    server = start_server()
    client = server.client()
    with DaemonProcess(server.settings()) as daemon:
        feed(client, OPENING)
        with frozen(daemon):
            client.xadd(EXECUTIONS, PRICE)
            client.replicaof(HOST, 1)
        wait_until(lambda: complaints(daemon))
        assert "this Redis is a read-only replica" in complaints(daemon)[0]
        assert not client.exists(SUGGESTIONS)
        client.replicaof("NO", "ONE")
        daemon.wait_for(role="leader", state="ready")
        assert_one_position_and_one_harvest(client)


def test_a_redis_out_of_memory_is_waited_out(start_server: StartServer) -> None:
    server = start_server("--maxmemory-policy", "noeviction")
    client = server.client()
    with DaemonProcess(server.settings()) as daemon:
        feed(client, OPENING)
        with frozen(daemon):
            client.xadd(EXECUTIONS, PRICE)
            client.config_set("maxmemory", "1")
        wait_until(lambda: complaints(daemon))
        assert "Redis is out of memory and takes no writes; raise maxmemory or free some" in complaints(daemon)[0]
        assert not client.exists(SUGGESTIONS)
        client.config_set("maxmemory", "0")
        daemon.wait_for(role="leader", state="ready")
        assert_one_position_and_one_harvest(client)


def test_a_redis_that_cannot_save_is_waited_out(start_server: StartServer) -> None:
    server = start_server("--enable-protected-configs", "yes")
    client = server.client()
    directory = client.config_get("dir")["dir"]
    with DaemonProcess(server.settings()) as daemon:
        feed(client, OPENING)
        with frozen(daemon):
            client.xadd(EXECUTIONS, PRICE)
            client.config_set("save", "3600 1")
            client.config_set("dir", "/proc")
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        wait_until(lambda: complaints(daemon))
        assert "Redis can't persist and takes no writes; look at its disk and its log" in complaints(daemon)[0]
        assert not client.exists(SUGGESTIONS)
        client.config_set("dir", directory)
        client.bgsave()
        daemon.wait_for(role="leader", state="ready")
        assert_one_position_and_one_harvest(client)


@pytest.mark.containers
def test_a_full_disk_under_the_append_only_file_is_waited_out() -> None:
    with ContainerServer(("--appendonly", "yes"), small_disk="2m") as server:
        client = server.client()
        with DaemonProcess(server.settings()) as daemon:
            feed(client, OPENING)
            with frozen(daemon):
                client.xadd(EXECUTIONS, PRICE)
                time.sleep(1.5)  # the append-only file is written every second
                server.container.exec_run(["sh", "-c", f"cat /dev/zero >{SMALL_DISK}/ballast"])
                client.set("more", "x" * 100_000)
                wait_until(lambda: client.info("persistence")["aof_last_write_status"] == "err")
            wait_until(lambda: complaints(daemon))
            assert "Redis can't persist and takes no writes; look at its disk and its log" in complaints(daemon)[0]
            assert not client.exists(SUGGESTIONS)
            server.container.exec_run(["rm", f"{SMALL_DISK}/ballast"])
            daemon.wait_for(role="leader", state="ready")
            assert_one_position_and_one_harvest(client)


# Not what it should be.

FOREIGN = {
    STATE: "list",
    "quantum:harvest:rate": "hash",
    LEASE: "list",
    EXECUTIONS: "string",
    MARKET: "string",
    SUGGESTIONS: "list",
    REJECTED: "string",
    "quantum:harvest:history:ETHUSDT": "string",
    "quantum:dedup:fill:ETHUSDT#filled#A1": "list",
}


@pytest.mark.parametrize(("key", "kind"), FOREIGN.items(), ids=FOREIGN.keys())
def test_a_key_of_ours_that_holds_another_type_is_refused_by_name_and_left_as_it_is(
    server: RedisServer, redis: Any, key: str, kind: str
) -> None:
    {"list": lambda: redis.rpush(key, "foreign"), "string": lambda: redis.set(key, "foreign"),
     "hash": lambda: redis.hset(key, "foreign", "1")}[kind]()  # fmt: skip
    before = redis.dump(key)
    daemon = DaemonProcess(server.settings() | {"STREAM_MARKET_PRICE": MARKET}).start()
    try:
        if key != EXECUTIONS:
            for entry in (OPENING, {"bad": "entry"}, PRICE):
                redis.xadd(EXECUTIONS, entry)
        wait_until(lambda: complaints(daemon))
        assert f"{key} holds another type than HarvestBrain's; rename or delete it" in complaints(daemon)[0]
        assert redis.dump(key) == before

        redis.delete(key)
        daemon.wait_for(role="leader", state="ready")
        if key == EXECUTIONS:
            feed(redis, OPENING, {"bad": "entry"}, PRICE)
        assert_one_position_and_one_harvest(redis)
        assert redis.xlen(REJECTED) == 1
    finally:
        daemon.discard()


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("_meta", '{"schema":99}'),
        ("_meta", "not JSON"),
        ("_meta", "null"),
        ("ETHUSDT", "{}"),
        ("_market:ETHUSDT", "[]"),
    ],
)
def test_a_state_that_this_release_cannot_read_is_refused_and_left_as_it_is(
    server: RedisServer, redis: Any, start_daemon: StartDaemon, field: str, text: str
) -> None:
    daemon = start_daemon()
    feed(redis, OPENING)
    daemon.stop()
    redis.hset(STATE, field, text)
    before = redis.hgetall(STATE)
    daemon = DaemonProcess(server.settings()).start()
    try:
        wait_until(lambda: complaints(daemon))
        assert f"{STATE} can't be read" in complaints(daemon)[0]
        assert redis.hgetall(STATE) == before
    finally:
        daemon.discard()


def test_a_group_that_was_deleted_is_made_again_where_it_stood(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon()
    feed(redis, OPENING)
    redis.xgroup_destroy(EXECUTIONS, GROUP)
    redis.xadd(EXECUTIONS, PRICE)
    wait_until(lambda: is_caught_up(redis))
    assert_one_position_and_one_harvest(redis)
    [group] = redis.xinfo_groups(EXECUTIONS)
    assert (group["entries-read"], group["lag"]) == (2, 0)
