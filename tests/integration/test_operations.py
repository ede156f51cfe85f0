"""What the daemon says of itself, and what an operator does: log, status.json, systemd, signals, the command line."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.daemon import harvest_brain as command
from tests.support.notify import NotifySocket
from tests.support.processes import free_port
from tests.support.server import HOST, RedisServer, StartServer
from tests.support.waiting import stays, wait_until
from tests.support.wire import EXECUTIONS, KILL, LEASE, OUTPUTS, STATE, feed, fill, harvests, is_caught_up, tick

import harvest_brain

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450")
PRICE = tick("ETHUSDT", "2526")
NOWHERE = {"REDIS_HOST": HOST, "REDIS_TIMEOUT_SEC": "1"}
modes = pytest.mark.parametrize("mode", ["shadow", "live"])


def changed_program(directory: Path, code: str) -> dict[str, str]:
    """Settings with which the daemon runs `code` before anything of it is imported."""
    (directory / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(directory)}


# The log.


@modes
def test_incident_19_the_first_line_of_the_log_says_version_mode_ladder_streams_group_and_redis(
    server: RedisServer, start_daemon: StartDaemon, mode: str
) -> None:
    daemon = start_daemon(HARVEST_MODE=mode, HARVEST_LADDER="0.7:0.5,2:0.5", STREAM_MARKET_PRICE="prices")
    first = daemon.log().splitlines()[0]
    assert f"HarvestBrain {harvest_brain.__version__} " in first
    assert f"mode={mode} ladder=0.7:0.5,2:0.5 " in first
    inputs = "execution.result, prices, quantum:stream:position.snapshot, quantum:stream:pnl.snapshot"
    outputs = "trade.intent, quantum:stream:stop.intent" if mode == "live" else "harvest.suggestions"
    assert (
        f" reads quantum:stream:{inputs} as group harvest_brain_group, publishes to quantum:stream:{outputs}, " in first
    )
    assert f"redis://127.0.0.1:{server.port}/0" in first


def test_the_log_can_be_json_and_in_a_file(server: RedisServer, tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    with DaemonProcess(server.settings() | {"LOG_FORMAT": "json", "LOG_FILE": str(log)}) as daemon:
        daemon.stop()
        assert daemon.log() == ""
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert lines[0]["message"].startswith("HarvestBrain")
        assert {"time", "level", "message"} == set(lines[0])
        assert lines[0]["time"].endswith("Z")


# status.json.


def test_the_status_names_all_that_an_operator_asks_for(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(HARVEST_RELEASE_ID="1.2.3-abcdef", HARVEST_CONSUMER="here")
    started = time.time()
    cursor = feed(redis, OPENING, {"bad": "entry"}, PRICE)[-1]
    status = daemon.wait_for(cursor=cursor)
    assert status["release"] == "1.2.3-abcdef"
    assert status["version"] == harvest_brain.__version__
    assert (status["mode"], status["role"], status["state"]) == ("shadow", "leader", "ready")
    assert (status["consumer"], status["leader"]) == ("here", redis.get(LEASE))
    assert (status["lag"], status["kill_switch"], status["positions"]) == (0, "0", 1)
    assert (status["errors"], status["last_error"], status["unpriced"], status["suspect"]) == (0, "", [], [])
    assert started - 1 < status["last_commit"] <= time.time()
    counts = {"fill:applied": 1, "malformed": 1, "published:HARVEST_PARTIAL": 1, "published:MOVE_SL_BREAKEVEN": 1}
    assert counts.items() <= status["counts"].items()


def test_the_status_says_which_schema_may_lie_in_redis_once_it_leads(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(LEASE, "another", px=600_000)
    daemon = start_daemon()
    assert daemon.wait_for(role="standby")["schema"] is None
    redis.delete(LEASE)
    assert daemon.wait_for(role="leader")["schema"] == json.loads(redis.hget(STATE, "_meta"))["schema"]


def test_the_status_is_renewed_every_two_seconds_and_replaced_whole(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    path = daemon.directory / "status.json"
    seen: dict[int, float] = {}

    def gaps() -> list[float]:
        seen[path.stat().st_ino] = json.loads(path.read_text())["updated"]
        redis.xadd(EXECUTIONS, PRICE)
        return [later - earlier for earlier, later in pairwise(sorted(set(seen.values())))]

    # However many entries come in between, not sooner; not later either, where nothing else keeps the machine busy.
    wait_until(lambda: len(gaps()) >= 3 and min(gaps()) < 2.6)
    assert min(gaps()) >= 1.9
    assert [name.name for name in daemon.directory.iterdir() if "status" in name.name] == ["status.json"]


def test_a_standby_says_that_it_stands_by_and_a_stopped_daemon_that_it_is_stopped(start_daemon: StartDaemon) -> None:
    first, second = start_daemon(), start_daemon()
    assert (second.status()["role"], second.status()["state"]) == ("standby", "ready")
    first.stop()
    assert (first.status()["role"], first.status()["state"]) == ("none", "stopped")


def test_a_status_that_cannot_be_written_is_said_once_and_stops_nothing(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    (daemon.directory / "status.tmp").mkdir()  # in the way, also of root
    wait_until(lambda: "the status can't be written" in daemon.log())
    feed(redis, OPENING, PRICE)
    stays(lambda: daemon.is_running, 4.5)
    assert len(harvests(redis)) == 1
    assert daemon.log().count("the status can't be written") == 1
    (daemon.directory / "status.tmp").rmdir()
    daemon.wait_for(positions=1)


@pytest.mark.slow
def test_incident_15_a_position_that_is_never_evaluated_is_named_and_fails_health(
    redis: Any, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    soon = changed_program(tmp_path, "import harvest_brain.report\nharvest_brain.report.UNPRICED_AFTER_SEC = 10\n")
    daemon = start_daemon(**soon)

    def health() -> str:
        done = command("health", settings=soon | {"RUNTIME_DIRECTORY": str(daemon.directory)})
        assert done.returncode == (1 if done.stderr else 0)
        return done.stderr

    time.sleep(10.5)
    assert health() == "", "without positions nothing is missing"
    feed(redis, fill("ETHUSDT", "BUY", "1", "100"), fill("BTCUSDT", "BUY", "1", "100"))
    daemon.wait_for(positions=2)
    assert health() == ""
    daemon.wait_for(unpriced=["BTCUSDT", "ETHUSDT"])
    assert "2 positions are open and none has had a price for" in health()
    named = [line for line in daemon.log().splitlines() if "no price for 10 s: " in line]
    assert all(any(symbol in line for line in named) for symbol in ("BTCUSDT", "ETHUSDT"))
    feed(redis, tick("ETHUSDT", "100"))
    daemon.wait_for(unpriced=["BTCUSDT"])
    assert health() == ""


def test_health_fails_without_a_daemon_with_an_old_status_and_while_redis_is_away(tmp_path: Path) -> None:
    settings = {"RUNTIME_DIRECTORY": str(tmp_path)}
    done = command("health", settings=settings)
    assert done.returncode == 1
    assert "status.json can't be read" in done.stderr

    well = {"state": "ready", "mode": "shadow", "because": "", "role": "leader", "positions": 0, "evaluated": None}
    for change, complaint in (
        ({"updated": time.time()}, ""),
        ({"updated": time.time() - 60}, "no sign of life for 6"),
        ({"updated": time.time(), "state": "waiting for Redis: gone"}, "waiting for Redis: gone"),
        ({}, "can't be read"),
    ):
        (tmp_path / "status.json").write_text(json.dumps(well | change))
        done = command("health", settings=settings)
        assert done.returncode == (1 if complaint else 0)
        assert complaint in done.stderr


# systemd.


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract name"])
def test_systemd_is_told_ready_once_a_line_of_status_the_signs_of_life_and_the_end(
    server: RedisServer, redis: Any, abstract: bool
) -> None:
    with (
        NotifySocket(abstract=abstract) as systemd,
        DaemonProcess(server.settings() | {"NOTIFY_SOCKET": systemd.address}) as daemon,
    ):
        feed(redis, OPENING)
        wait_until(lambda: "shadow, leader, ready: 1 positions, lag 0" in systemd.fields("STATUS"))
        alive = len(systemd.fields("WATCHDOG"))
        wait_until(lambda: len(systemd.fields("WATCHDOG")) >= alive + 2)
        assert systemd.fields("READY") == ["1"]
        daemon.stop()
        assert systemd.fields("STOPPING") == ["1"]
        assert systemd.fields("READY") == ["1"]


def test_a_standby_is_ready_too_and_shows_signs_of_life(server: RedisServer, start_daemon: StartDaemon) -> None:
    start_daemon()
    with NotifySocket() as systemd, DaemonProcess(server.settings() | {"NOTIFY_SOCKET": systemd.address}):
        wait_until(lambda: systemd.fields("READY") == ["1"])
        alive = len(systemd.fields("WATCHDOG"))
        wait_until(lambda: len(systemd.fields("WATCHDOG")) >= alive + 2)


def test_without_redis_systemd_is_not_told_ready_but_is_told_why_and_sees_signs_of_life() -> None:
    with NotifySocket() as systemd:
        settings = NOWHERE | {"REDIS_PORT": str(free_port()), "NOTIFY_SOCKET": systemd.address}
        daemon = DaemonProcess(settings).start()
        try:
            wait_until(lambda: len(systemd.fields("WATCHDOG")) >= 5)
            assert systemd.fields("READY") == []
            assert "waiting for Redis" in systemd.fields("STATUS")[-1]
        finally:
            daemon.discard()


# Signals and faults.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_finishes_the_batch_gives_the_lease_back_and_exits_with_0(
    redis: Any, start_daemon: StartDaemon, number: signal.Signals
) -> None:
    daemon = start_daemon()
    feed(redis, OPENING)
    for _ in range(500):
        redis.xadd(EXECUTIONS, PRICE)
    daemon.signal(number)
    assert daemon.process.wait(20) == 0
    assert not redis.exists(LEASE)
    assert "stopped" in daemon.status()["state"]
    assert "Traceback" not in daemon.log()
    daemon.start().wait_for(role="leader")
    wait_until(lambda: is_caught_up(redis))
    assert len(harvests(redis)) == 1


def test_incident_23_an_error_of_our_own_ends_the_process_loudly_with_nothing_written(
    server: RedisServer, redis: Any, tmp_path: Path
) -> None:
    broken = changed_program(
        tmp_path,
        "import harvest_brain.core.engine as engine\n"
        "def broken(self, event): raise AttributeError('a mistake')\n"
        "engine._HANDLERS[engine.Price] = broken\n",
    )
    with DaemonProcess(server.settings() | broken) as daemon:
        feed(redis, OPENING)
        cursor = redis.xadd(EXECUTIONS, PRICE)
        assert daemon.process.wait(20) != 0
        assert "AttributeError: a mistake" in daemon.log()
        assert not redis.exists(*OUTPUTS)
        assert not is_caught_up(redis)
        # Put right, it goes on with the entry that it stumbled over.
        (tmp_path / "sitecustomize.py").unlink()
        redis.delete(LEASE)
        daemon.start().wait_for(role="leader", cursor=cursor)
        assert len(harvests(redis)) == 1


def test_incident_18_an_unknown_setting_stops_the_start_up_with_a_line_for_each_fault(server: RedisServer) -> None:
    faulty = {"HARVEST_SHADOW_MODE": "false", "HARVEST_LADDER": "0.5:0.6,0.4:0.6", "REDIS_PORT": "port"}
    done = command("run", settings=server.settings() | faulty)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for name, value in faulty.items():
        assert any(line.startswith(name) for line in lines), name
        assert name == "HARVEST_SHADOW_MODE" or any(repr(value) in line for line in lines)


# How much it costs to wait.


def test_an_idle_leader_and_an_idle_standby_cost_next_to_nothing(start_daemon: StartDaemon) -> None:
    daemons = [start_daemon(), start_daemon()]
    before = [daemon.cpu_seconds() for daemon in daemons]
    time.sleep(5)
    used = [daemon.cpu_seconds() - start for daemon, start in zip(daemons, before, strict=True)]
    assert max(used) / 5 < 0.03, used


# The command line.


def test_status_shows_the_same_with_a_daemon_and_without(
    server: RedisServer, redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon()
    feed(redis, OPENING, PRICE)
    settings = server.settings()
    running = json.loads(command("status", "--json", settings=settings).stdout)
    assert running["leader"] == redis.get(LEASE)
    assert running["lag"] == 0
    daemon.stop()
    stopped = json.loads(command("status", "--json", settings=settings).stdout)
    assert stopped["leader"] == ""
    assert stopped | {"leader": "", "lease_ms": 0} == running | {"leader": "", "lease_ms": 0}
    [line] = stopped["positions"]
    assert (line["key"], line["qty"], line["price"], line["r"]) == ("ETHUSDT", "1", "2526", "+0.52")
    text = command("status", settings=settings).stdout
    assert "nobody: no daemon runs" in text
    assert "ETHUSDT" in text


@modes
def test_kill_and_arm_work_while_the_daemon_runs_and_are_kept_with_the_reason(
    server: RedisServer, redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    settings = server.settings() | {"HARVEST_MODE": mode}
    start_daemon(HARVEST_MODE=mode)
    done = command("kill", "--reason", "bad news", settings=settings)
    assert (done.returncode, done.stdout) == (0, f"{KILL} was absent, is 1\n")
    feed(redis, OPENING, PRICE)
    assert not redis.exists(*OUTPUTS)
    assert "1: stopped" in command("status", settings=settings).stdout

    done = command("arm", settings=settings)
    assert done.returncode == 0
    assert done.stdout == f"{KILL} was 1, is 0\nmode {mode}, 1 open positions\n"
    feed(redis, PRICE)
    assert redis.exists(*OUTPUTS)
    audit = [fields for _, fields in redis.xrange("quantum:harvest:audit")]
    assert [(entry["action"], entry["was"], entry["reason"]) for entry in audit] == [
        ("kill", "absent", "bad news"), ("arm", "1", ""),
    ]  # fmt: skip


def test_incident_29_no_daemon_and_no_command_but_arm_lifts_the_switch(
    server: RedisServer, redis: Any, start_daemon: StartDaemon
) -> None:
    redis.set(KILL, "1")
    daemon = start_daemon()
    feed(redis, OPENING, PRICE)
    for word in ("status", "doctor", "health", "check-config"):
        command(word, settings=server.settings() | {"RUNTIME_DIRECTORY": str(daemon.directory)})
    daemon.stop()
    daemon.start(HARVEST_MODE="live").wait_for(role="leader")
    daemon.stop()
    assert redis.get(KILL) == "1"


def test_kill_and_arm_work_without_a_daemon_and_kill_whatever_the_switch_holds(server: RedisServer, redis: Any) -> None:
    redis.rpush(KILL, "a list")
    done = command("kill", "--reason", "drill", settings=server.settings())
    assert (done.returncode, done.stdout) == (0, f"{KILL} was unreadable, is 1\n")
    assert redis.get(KILL) == "1"
    done = command("arm", settings=server.settings())
    assert (done.returncode, redis.get(KILL)) == (0, "0")


def test_kill_wants_a_reason(server: RedisServer, redis: Any) -> None:
    done = command("kill", settings=server.settings())
    assert done.returncode == 2
    assert "--reason" in done.stderr
    assert not redis.exists(KILL)


def test_kill_is_thrown_even_when_the_audit_cannot_be_written(server: RedisServer, redis: Any) -> None:
    redis.set("quantum:harvest:audit", "foreign")
    done = command("kill", "--reason", "drill", settings=server.settings())
    assert redis.get(KILL) == "1"
    assert f"{KILL} was absent, is 1" in done.stdout
    assert done.returncode == 1
    assert "quantum:harvest:audit" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("kill", "--reason", "x"), ("arm",)])
def test_a_command_that_cannot_reach_redis_says_so_in_a_sentence_and_fails(words: tuple[str, ...]) -> None:
    done = command(*words, settings=NOWHERE | {"REDIS_PORT": str(free_port())})
    assert done.returncode == 1
    assert done.stderr.startswith("Redis: ")
    assert "Traceback" not in done.stderr


def test_a_state_that_cannot_be_read_is_a_sentence_in_the_status(server: RedisServer, redis: Any) -> None:
    for text in ('{"schema":99}', "no JSON"):
        redis.hset("quantum:harvest:state", "_meta", text)
        done = command("status", settings=server.settings())
        assert done.returncode == 1
        assert "quantum:harvest:state can't be read" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_password_reaches_neither_arguments_nor_environment_nor_log(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(password="sentinel-password")
    path = tmp_path / "password"
    path.write_text("sentinel-password")
    path.chmod(stat.S_IRUSR)
    with DaemonProcess(server.settings() | {"REDIS_PASSWORD_FILE": str(path), "LOG_LEVEL": "DEBUG"}) as daemon:
        feed(server.client(), OPENING, PRICE)
        proc = Path("/proc", str(daemon.pid))
        for text in ((proc / "cmdline").read_bytes(), (proc / "environ").read_bytes(), daemon.log().encode()):
            assert b"sentinel-password" not in text
        daemon.stop()
    assert os.environ.get("REDIS_PASSWORD") is None
