"""harvest-brain proof against a real Redis: it only reads, each check can fail, and what it can't see does not pass."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon, environment
from tests.support.daemon import harvest_brain as command
from tests.support.processes import free_port
from tests.support.server import DURABLE, HOST, RedisServer, StartServer, redis_server
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, GROUP, KILL, LEASE, REJECTED, STATE, SUGGESTIONS, dump, feed, fill, tick

from harvest_brain.ops import children, proof
from harvest_brain.ops.proof import FAIL, PASS, UNKNOWN

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", order_id="A1")
PRICE = tick("ETHUSDT", "2526")
READING = {
    *(
        "ping",
        "time",
        "select",
        "auth",
        "hello",
        "client|setname",
        "client|setinfo",
        "info",
        "config|get",
    ),
    *("get", "hget", "hgetall", "exists", "type", "ttl", "pttl", "scan"),
    *("xlen", "xinfo|stream", "xinfo|groups", "xrevrange"),
}


@pytest.fixture(scope="module")
def durable() -> Iterator[RedisServer]:
    """A Redis as it should be."""
    with redis_server(DURABLE) as server:
        yield server


@pytest.fixture
def server(durable: RedisServer) -> RedisServer:
    with durable.client() as client:
        client.flushall()
    return durable


@pytest.fixture
def working(redis: Any, start_daemon: StartDaemon) -> DaemonProcess:
    """A daemon that has published something."""
    daemon = start_daemon(HARVEST_RELEASE_ID="1.0.0-0123456789ab")
    feed(redis, OPENING, PRICE)
    daemon.wait_for(role="leader", positions=1)
    return daemon


def prove(settings: dict[str, str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the checks by name."""
    done = command("proof", "--json", *words, settings=settings)
    assert done.returncode in (0, 1, 3), done.stderr
    found = json.loads(done.stdout)
    assert proof.EXIT_CODES[found["verdict"]] == done.returncode
    return done.returncode, {check["name"]: check for check in found["checks"]}


# As it should be.


def test_incident_28_a_working_daemon_passes_every_check(working: DaemonProcess) -> None:
    code, checks = prove(working.settings)
    assert {name: check["line"] for name, check in checks.items() if check["verdict"] != PASS} == {}
    assert code == 0
    assert list(checks) == ["config", "redis", *(name for name, _ in proof.CHECKS)]
    assert checks["heartbeat"]["evidence"]["release"] == "1.0.0-0123456789ab"


def test_the_evidence_is_a_json_and_a_report_in_a_directory_of_its_own(working: DaemonProcess, tmp_path: Path) -> None:
    directory = tmp_path / "evidence"
    done = command("proof", "--out", str(directory), settings=working.settings)
    assert done.returncode == 0
    found = json.loads((directory / "proof.json").read_text())
    report = (directory / "report.txt").read_text()
    assert report == done.stdout
    assert report.splitlines()[0].endswith(": PASS")
    assert all(check["line"] in report for check in found["checks"])
    again = command("proof", "--out", str(directory), settings=working.settings)
    assert again.returncode == 2, "two proofs are not mixed"


def test_the_exit_codes_stand_in_the_help() -> None:
    told = command("proof", "--help", settings={}).stdout
    assert "0 every check passes, 1 one fails, 3 none fails but one can't tell" in " ".join(told.split())


# It only reads.


def test_incident_28_redis_and_the_files_are_the_same_before_and_after(redis: Any, working: DaemonProcess) -> None:
    working.stop()
    before = dump(redis)
    files = {path: path.read_bytes() for path in working.directory.iterdir()}
    prove(working.settings)
    assert dump(redis) == before
    assert {path: path.read_bytes() for path in working.directory.iterdir()} == files


def test_incident_28_no_command_but_reading_ones_is_sent_and_never_keys(redis: Any, working: DaemonProcess) -> None:
    working.stop()
    redis.config_resetstat()
    prove(working.settings)
    sent = {name.removeprefix("cmdstat_") for name in redis.info("commandstats")} - {"config|resetstat"}
    assert sent <= READING, sent - READING
    assert "scan" in sent


def test_incident_29_neither_proof_nor_drill_touches_the_kill_switch(redis: Any, working: DaemonProcess) -> None:
    redis.set(KILL, "1")
    prove(working.settings, "--drill")
    assert redis.get(KILL) == "1"


# Every check can fail.

Damage = Callable[[Any, DaemonProcess], dict[str, str]]


def unknown_setting(_: Any, __: DaemonProcess) -> dict[str, str]:
    return {"HARVEST_LADER": "0.5:0.25"}


def no_status(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    return {"RUNTIME_DIRECTORY": str(daemon.directory / "elsewhere")}


def old_status(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.kill()
    status = daemon.status() | {"updated": time.time() - 60}
    (daemon.directory / "status.json").write_text(json.dumps(status))
    return {}


def waiting_daemon(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.kill()
    status = daemon.status() | {"updated": time.time(), "role": "none", "state": "waiting for Redis: gone"}
    (daemon.directory / "status.json").write_text(json.dumps(status))
    return {}


def other_mode(redis: Any, _: DaemonProcess) -> dict[str, str]:
    redis.set(KILL, "0")
    return {"HARVEST_MODE": "live"}


def said_otherwise(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.kill()
    (daemon.directory / "status.json").write_text(json.dumps(daemon.status() | {"mode": "live"}))
    return {}


def switch_unreadable(redis: Any, _: DaemonProcess) -> dict[str, str]:
    redis.set(KILL, "yes")
    return {}


def switch_of_another_type(redis: Any, _: DaemonProcess) -> dict[str, str]:
    redis.rpush(KILL, "0")
    return {}


def nobody_leads(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    return {}


def endless_lease(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.set(LEASE, "somebody")
    return {}


def another_leads(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.kill()
    redis.set(LEASE, "somebody", px=60_000)
    return {}


def stream_of_another_type(redis: Any, _: DaemonProcess) -> dict[str, str]:
    redis.delete(SUGGESTIONS)
    redis.set(SUGGESTIONS, "text")
    return {}


def no_stream(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.delete(EXECUTIONS)
    return {}


def wrong_group(_: Any, __: DaemonProcess) -> dict[str, str]:
    return {"HARVEST_GROUP": "another_group"}


def no_group(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.xgroup_destroy(EXECUTIONS, GROUP)
    return {}


def moved_group(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.xgroup_setid(EXECUTIONS, GROUP, "0-1")
    return {}


def nobody_reads(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.xadd(EXECUTIONS, PRICE)
    return {}


def clash(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    feed(redis, OPENING | {"qty": "2.0"})
    daemon.wait_for(suspect=daemon.status()["suspect"] or daemon.wait_for(positions=1)["suspect"])
    return {}


def unreadable_state(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.hset(STATE, "_meta", json.dumps(json.loads(redis.hget(STATE, "_meta")) | {"schema": 999}))
    return {}


def twice(redis: Any, _: DaemonProcess) -> dict[str, str]:
    [(_, fields), *_] = redis.xrange(SUGGESTIONS)
    redis.xadd(SUGGESTIONS, fields)
    return {}


def endless_key(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.persist(next(iter(redis.scan_iter("quantum:dedup:harvest:*"))))
    return {}


def endless_fill_key(redis: Any, daemon: DaemonProcess) -> dict[str, str]:
    daemon.stop()
    redis.persist(next(iter(redis.scan_iter("quantum:dedup:fill:*"))))
    return {}


def error_in_the_log(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    log = daemon.directory / "log"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    log.write_text(f"2020-01-01 00:00:00,000 ERROR long ago\n{now},123 ERROR waiting for Redis: gone\n")
    return {"LOG_FILE": str(log)}


def error_in_the_json_log(_: Any, daemon: DaemonProcess) -> dict[str, str]:
    log = daemon.directory / "log"
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    log.write_text(json.dumps({"time": now, "level": "ERROR", "message": "gone"}) + "\n")
    return {"LOG_FILE": str(log)}


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("config", unknown_setting, "HARVEST_LADER"),
        ("heartbeat", no_status, "no daemon runs here"),
        ("heartbeat", old_status, "no sign of life for 6"),
        ("heartbeat", waiting_daemon, "waiting for Redis: gone"),
        ("mode", other_mode, "shadow is in force, and the settings say live"),
        ("mode", said_otherwise, "the daemon says live, and the state was written in shadow"),
        ("mode", unreadable_state, "schema 999"),
        ("kill-switch", switch_unreadable, "'yes' is neither 0 nor 1"),
        ("kill-switch", switch_of_another_type, "is no string"),
        ("lease", nobody_leads, "nobody leads"),
        ("lease", endless_lease, "without end"),
        ("lease", another_leads, "says that it leads, and somebody holds the lease"),
        ("streams", stream_of_another_type, f"{SUGGESTIONS} is a string"),
        ("streams", no_stream, f"{EXECUTIONS} does not exist"),
        ("group", wrong_group, "another_group does not exist"),
        ("group", no_group, "does not exist"),
        ("group", moved_group, "was moved by hand"),
        ("progress", nobody_reads, "1 entries wait, and the cursor does not move"),
        ("positions", clash, "ETHUSDT is tracked and not harvested"),
        ("positions", unreadable_state, "schema 999"),
        ("duplicates", twice, "1 intents stand twice: hb-"),
        ("dedup keys", endless_key, "1 keys never end: quantum:dedup:harvest:"),
        ("dedup keys", endless_fill_key, "1 keys never end: quantum:dedup:fill:"),
        ("log file", error_in_the_log, "1 errors in the last hour"),
        ("log file", error_in_the_json_log, "1 errors in the last hour"),
    ],
)
def test_incident_28_each_check_fails_when_what_it_looks_at_is_wrong(
    redis: Any, working: DaemonProcess, name: str, damage: Damage, words: str
) -> None:
    settings = working.settings | damage(redis, working)
    code, checks = prove(settings)
    assert code == 1
    assert checks[name]["verdict"] == FAIL, checks[name]
    assert words in checks[name]["line"]


def test_an_absent_switch_fails_in_live_mode_where_it_stops_and_passes_in_shadow(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(HARVEST_MODE="live")
    feed(redis, OPENING)
    daemon.wait_for(role="leader", positions=1)
    assert prove(daemon.settings)[1]["kill-switch"]["verdict"] == FAIL
    redis.set(KILL, "0")
    assert prove(daemon.settings)[1]["kill-switch"]["verdict"] == PASS


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("persistence", ("--appendonly", "no"), "appendonly is off"),
        ("eviction", (*DURABLE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "evicts the state"),
        ("memory", (*DURABLE, "--maxmemory-policy", "noeviction"), "MB used"),
    ],
)
def test_incident_28_a_server_that_could_lose_the_state_fails(
    start_server: StartServer, name: str, options: tuple[str, ...], words: str
) -> None:
    server = start_server(*options)
    with server.client() as client:
        if name == "memory":
            client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        _, checks = prove(server.settings())
    assert checks[name]["verdict"] == FAIL, checks[name]
    assert words in checks[name]["line"]


def test_incident_28_a_server_that_is_too_old_fails(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "OLDEST_REDIS", (99, 0))
    checks = {check.name: check for check in proof.prove(None, server.settings(), with_drill=False)}
    assert checks["redis"].verdict == FAIL


def test_entries_that_are_being_worked_off_pass(redis: Any, working: DaemonProcess) -> None:
    """The daemon stands still while the proof looks for the first time, and goes on then."""
    working.freeze()
    redis.xadd(EXECUTIONS, PRICE)
    thaw = f"sleep 1; kill -CONT {working.pid}"
    with subprocess.Popen(["sh", "-c", thaw]):
        _, checks = prove(working.settings)
    assert checks["progress"]["verdict"] == PASS


# What can't be seen is not passed.


def test_without_redis_it_says_what_it_can_and_exits_with_3(tmp_path: Path) -> None:
    settings = {"REDIS_HOST": HOST, "REDIS_PORT": str(free_port()), "RUNTIME_DIRECTORY": str(tmp_path)}
    status = {
        "mode": "shadow",
        "role": "leader",
        "state": "ready",
        "updated": time.time() + proof.FRESH_SEC,
        "leader": "x",
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    code, checks = prove(settings, "--drill")
    assert code == 3
    passed = {name for name, check in checks.items() if check["verdict"] == PASS}
    assert passed == {"config", "heartbeat", "log file"}
    assert {check["verdict"] for name, check in checks.items() if name not in passed} == {UNKNOWN}


def test_what_the_redis_user_may_not_see_it_can_not_tell(server: RedisServer, redis: Any, tmp_path: Path) -> None:
    redis.set(KILL, "0")
    redis.acl_setuser(
        "poor", enabled=True, passwords=["+secret"], keys=["quantum:*"], commands=["+ping", "+get", "+client|setname"]
    )
    (tmp_path / "password").write_text("secret\n")
    poor = {"REDIS_USERNAME": "poor", "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    code, checks = prove(server.settings() | poor)
    assert code in (1, 3)
    for name in (
        "redis",
        "streams",
        "group",
        "progress",
        "dedup keys",
        "duplicates",
        "persistence",
        "eviction",
        "memory",
    ):
        assert checks[name]["verdict"] == UNKNOWN, checks[name]
    assert "may not look" in checks["streams"]["line"]
    assert checks["kill-switch"]["verdict"] == PASS


STRANGE: dict[str, Callable[[Any], object]] = {
    "a dead letter of another's": lambda redis: redis.xadd(REJECTED, {b"a": b"\xff"}),
    "a group with a name of bytes": lambda redis: redis.xgroup_create(EXECUTIONS, b"\xff", "0"),
    "a state that is no object": lambda redis: redis.hset(STATE, "_meta", "null"),
    "a state that is not whole": lambda redis: redis.hset(STATE, "_meta", '{"schema":1}'),
}


@pytest.mark.parametrize("what", STRANGE)
def test_whatever_others_left_there_is_no_reason_to_end_without_a_verdict(
    server: RedisServer, redis: Any, what: str
) -> None:
    redis.xadd(EXECUTIONS, OPENING)
    STRANGE[what](redis)
    code, checks = prove(server.settings())
    assert (code, checks["redis"]["verdict"]) == (1, PASS)
    assert list(checks) == ["config", "redis", *(name for name, _ in proof.CHECKS)]
    if what.startswith("a state"):
        assert "can't be read" in checks["positions"]["line"]
    for other in ("doctor", "status"):
        done = command(other, settings=server.settings())
        assert (done.returncode in (0, 1), "Traceback" in done.stderr) == (True, False), done.stderr


def test_without_a_runtime_directory_the_heartbeat_can_not_be_told(working: DaemonProcess) -> None:
    settings = {name: value for name, value in working.settings.items() if name != "RUNTIME_DIRECTORY"}
    code, checks = prove(settings)
    assert (code, checks["heartbeat"]["verdict"]) == (3, UNKNOWN)


# The drill.


def drilled(settings: dict[str, str]) -> dict[str, dict[str, Any]]:
    _, checks = prove(settings, "--drill")
    return {name: check for name, check in checks.items() if name.startswith("drill")}


def test_the_drill_runs_the_real_daemon_from_a_fill_to_the_switch(server: RedisServer) -> None:
    checks = drilled(server.settings() | {"HARVEST_LADDER": "5:1", "HARVEST_MODE": "live"})
    names = ["daemon", "suggestion", "repetition", "switch on", "switch off"]
    assert list(checks) == [f"drill {name}" for name in names]
    assert {name: check["line"] for name, check in checks.items() if check["verdict"] != PASS} == {}
    assert "SELL 0.25, R=0.52 >= 0.5" in checks["drill suggestion"]["line"]


def test_the_drill_never_touches_production_keys_and_leaves_nothing(
    redis: Any, working: DaemonProcess, tmp_path: Path
) -> None:
    working.stop()
    before = dump(redis)
    checks = drilled(working.settings | {"TMPDIR": str(tmp_path)})
    assert {check["verdict"] for check in checks.values()} == {PASS}
    assert dump(redis) == before
    assert list(tmp_path.iterdir()) == []


def test_a_drill_that_is_killed_leaves_keys_that_end_and_no_daemon(server: RedisServer, redis: Any) -> None:
    settings = environment(server.settings())
    process = subprocess.Popen(
        [sys.executable, "-m", "harvest_brain", "proof", "--json", "--drill"], env=settings, stdout=subprocess.DEVNULL
    )
    found = wait_until(lambda: [*redis.scan_iter("quantum:harvest:drill:*:harvest:lease")], what="the drill's daemon")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not redis.exists(found[0]), what="the end of the drill's daemon and its lease")
    left = [*redis.scan_iter("quantum:harvest:drill:*")]
    assert left
    drilled(server.settings())
    assert {key: redis.ttl(key) for key in left if not 0 < redis.ttl(key) <= 600} == {}


BAD_DAEMON = """
import json, os, time, redis
kind, ns = os.environ["BAD"], os.environ["HARVEST_NAMESPACE"]
client = redis.Redis(port=int(os.environ["REDIS_PORT"]), decode_responses=True, protocol=2)
stream, out = ns + ":stream:execution.result", ns + ":stream:harvest.suggestions"
client.xgroup_create(stream, "harvest_brain_group", "0", mkstream=True)
with open(os.environ["RUNTIME_DIRECTORY"] + "/status.json", "w") as file:
    json.dump({"role": "leader"}, file)
cursor, count = "0", 0
while True:
    for _, entries in client.xread({stream: cursor}, block=500) or ():
        for cursor, fields in entries:
            if fields["status"] == "PRICE_UPDATE":
                count += 1
                on = client.get(ns + ":kill") == "1"
                publish = {
                    "silent": False,
                    "wrong": count == 1,
                    "repeats": count <= 2,
                    "deaf": count in (1, 3),
                    "stuck": count == 1,
                }[kind]
                if publish:
                    side = "BUY" if kind == "wrong" else "SELL"
                    payload = {"intent_type": "HARVEST_PARTIAL", "side": side, "qty": 0.25, "reason": "R=0.52 >= 0.5",
                               "dry_run": True, "reduce_only": True, "rungs": ["0.5"]}
                    client.xadd(out, {"payload": json.dumps(payload)})
            client.xgroup_setid(stream, "harvest_brain_group", cursor)
"""


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("silent", "suggestion"),
        ("wrong", "suggestion"),
        ("repeats", "repetition"),
        ("deaf", "switch on"),
        ("stuck", "switch off"),
    ],
)
def test_incident_28_the_drill_fails_with_a_bad_daemon(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    monkeypatch.setenv("BAD", kind)
    monkeypatch.setattr("harvest_brain.ops.drill.STEP_SEC", 3.0)
    bad = [sys.executable, "-c", f"import os; os.environ['BAD'] = {kind!r}\n{textwrap.dedent(BAD_DAEMON)}"]
    monkeypatch.setattr(children, "harvest_brain_command", lambda *_: bad)
    checks = proof.prove(None, server.settings(), with_drill=True)
    steps = [check for check in checks if check.name.startswith("drill")]
    assert [check.name for check in steps if check.verdict != PASS] == [f"drill {step}"]
    assert steps[-1].verdict == FAIL


def test_incident_28_a_daemon_that_does_not_start_fails_the_drill_with_what_it_said(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('No module named harvest_brain.core')"]
    monkeypatch.setattr(children, "harvest_brain_command", lambda *_: broken)
    checks = proof.prove(None, server.settings(), with_drill=True)
    assert (checks[-1].name, checks[-1].verdict) == ("drill daemon", FAIL)
    assert "No module named harvest_brain.core" in checks[-1].line


# Taking it off for good.


def test_purging_removes_the_daemon_s_own_keys_and_nothing_else(redis: Any, working: DaemonProcess) -> None:
    redis.set(KILL, "1")
    redis.hset("quantum:config:harvest:ETHUSDT", "min_r", "1")
    redis.set("quantum:dedup:other:1", "another service's")
    redis.set("another:harvest:state", "another's")
    working.stop()
    left = {
        *(KILL, "quantum:config:harvest:ETHUSDT", "quantum:dedup:other:1", "another:harvest:state"),
        *(key for key in redis.scan_iter() if redis.type(key) == "stream"),
    }
    done = command("purge-keys", settings=working.settings)
    assert done.returncode == 0, done.stderr
    assert set(redis.scan_iter()) == left
    assert EXECUTIONS in left


def test_incident_21_nothing_is_purged_while_a_daemon_leads(redis: Any, working: DaemonProcess) -> None:
    done = command("purge-keys", settings=working.settings)
    assert done.returncode == 1
    assert "stop every daemon first" in done.stderr
    assert redis.exists(STATE)
