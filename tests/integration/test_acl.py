"""The Redis users of `harvest-brain acl`: the daemon can do its whole job with its own, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as client_library
from tests.support.daemon import DaemonProcess, harvest_brain, now_ms
from tests.support.engine import ROOT
from tests.support.server import RedisServer, StartServer
from tests.support.waiting import wait_until
from tests.support.wire import (
    EXECUTIONS,
    GROUP,
    KILL,
    LEASE,
    REJECTED,
    STATE,
    SUGGESTIONS,
    TRADE_INTENTS,
    feed,
    fill,
    harvests,
    intents,
    position,
    tick,
)

PASSWORD = "correct horse"
SNAPSHOTS, MARKET = "quantum:stream:position.snapshot", "prices"
CONTROL, AUDIT = "quantum:stream:harvest.control", "quantum:harvest:audit"


class Guarded:
    """A Redis with the two users, made from what the command line prints."""

    def __init__(self, server: RedisServer, directory: Path, **settings: str) -> None:
        self.server = server
        (directory / "password").write_text(PASSWORD + "\n")
        login = {"REDIS_PASSWORD_FILE": str(directory / "password"), "STREAM_MARKET_PRICE": MARKET, **settings}
        self.daemon = server.settings() | login | {"REDIS_USERNAME": "harvest-brain"}
        self.operator = server.settings() | login | {"REDIS_USERNAME": "harvest-brain-operator"}
        printed = harvest_brain("acl", settings=self.daemon)
        assert printed.returncode == 0
        assert PASSWORD not in printed.stdout
        self.admin = server.client()
        for line in printed.stdout.splitlines():
            _, name, *rules = _words(line)
            self.admin.execute_command("ACL", "SETUSER", name, *rules)
        self.admin.execute_command("ACL", "SETUSER", "harvest-brain-operator", f">{PASSWORD}")

    def as_user(self, name: str) -> Any:
        return self.server.client(username=name, password=PASSWORD)

    def denied(self) -> list[Any]:
        """What the server has refused to HarvestBrain's users, but for the client library's name tag."""
        found: list[Any] = self.admin.acl_log()
        refused = [(entry["username"], entry["context"], entry["object"]) for entry in found]
        return [what for what in refused if what[2] != "client|setinfo"]


def _words(line: str) -> list[str]:
    """A line of an ACL file as arguments of ACL SETUSER: a selector is one of them."""
    words: list[str] = []
    for word in line.split():
        if words and words[-1].startswith("(") and not words[-1].endswith(")"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


@pytest.fixture
def guard(start_server: StartServer, tmp_path: Path) -> Callable[..., Guarded]:
    return lambda **settings: Guarded(start_server(), tmp_path, **settings)


@pytest.fixture
def guarded(guard: Callable[..., Guarded]) -> Guarded:
    return guard()


@pytest.fixture
def daemon(guarded: Guarded) -> Iterator[Callable[..., DaemonProcess]]:
    started: list[DaemonProcess] = []

    def start(**settings: str) -> DaemonProcess:
        started.append(DaemonProcess(guarded.daemon | {"HARVEST_LEASE_SEC": "2"} | settings).start())
        started[-1].wait_ready()
        return started[-1]

    yield start
    for process in started:
        process.discard()


@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_the_daemon_does_its_whole_job(guarded: Guarded, daemon: Callable[..., DaemonProcess], mode: str) -> None:
    redis = guarded.admin
    redis.hset("quantum:config:harvest:ETHUSDT", "ladder", "0.5:0.5,1:0.5")
    redis.set(KILL, "0")
    leader = daemon(HARVEST_MODE=mode)
    standby = daemon(HARVEST_MODE=mode)
    output = TRADE_INTENTS if mode == "live" else SUGGESTIONS
    feed(
        redis, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450", trade_id="T1", timestamp=1000), {"bad": "entry"}
    )
    redis.xadd(MARKET, {"symbol": "ETHUSDT", "price": "2526"})
    wait_until(lambda: len(harvests(redis, output)) == 1)
    assert harvests(redis, output)[0]["qty"] == 0.5
    assert redis.xlen(REJECTED) == 1

    # A snapshot makes it suspect, the operator clears it, the leader goes and the standby goes on.
    redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "3", "entry_price": "2500", "timestamp": now_ms()})
    wait_until(lambda: position(redis, "ETHUSDT")["suspect"])  # type: ignore[index]
    done = harvest_brain("clear", "ETHUSDT", "--reason", "looked", settings=guarded.operator)
    assert (done.returncode, done.stderr) == (0, "")
    leader.stop()
    standby.wait_for(role="leader")
    feed(redis, tick("ETHUSDT", "2550"))
    assert len(harvests(redis, output)) == 2
    redis.delete(EXECUTIONS)  # it makes the stream and the group again
    wait_until(lambda: redis.exists(EXECUTIONS))
    feed(redis, fill("BTCUSDT", "BUY", "1.0", "100"))
    standby.stop()
    assert not redis.exists(LEASE)
    # CONFIG is not permitted: live mode asks for it, and says what it can't tell.
    assert set(guarded.denied()) <= {("harvest-brain", "toplevel", "config|get")}
    assert {"shadow": [], "live": [True]}[mode] == [
        "can't be told" in remark for remark in standby.status()["durability"]
    ]


def test_the_operator_throws_and_lifts_the_switch_and_sees_everything(
    guarded: Guarded, daemon: Callable[..., DaemonProcess]
) -> None:
    daemon()
    feed(guarded.admin, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"))
    for words in (("kill", "--reason", "news"), ("arm",), ("status",)):
        done = harvest_brain(*words, settings=guarded.operator)
        assert (done.returncode, done.stderr) == (0, ""), words
    done = harvest_brain("doctor", settings=guarded.operator)
    assert done.stderr == ""
    assert [fields["action"] for _, fields in guarded.admin.xrange(AUDIT)] == ["kill", "arm"]
    # CONFIG, which shows passwords, is not permitted: the doctor asks for it, and says what it can't tell.
    assert "how often the append-only file is synced can't be told" in done.stdout
    assert guarded.denied() == [("harvest-brain-operator", "toplevel", "config|get")]


FORBIDDEN_TO_BOTH: tuple[tuple[str, ...], ...] = (
    ("GET", "foreign"),
    ("SET", "foreign", "1"),
    ("SET", "quantum:position:ETHUSDT", "1"),
    ("DEL", KILL),
    ("DEL", EXECUTIONS),
    ("SET", STATE, "1"),
    ("RENAME", STATE, "foreign"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("CONFIG", "SET", "appendonly", "no"),
    ("CONFIG", "GET", "requirepass"),
    ("ACL", "SETUSER", "harvest-brain", "+@all"),
    ("ACL", "LIST"),
    ("SHUTDOWN", "NOSAVE"),
    ("BGREWRITEAOF",),
    ("MONITOR",),
    ("SAVE",),
    ("REPLICAOF", "NO", "ONE"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("PUBLISH", "channel", "word"),
    ("SWAPDB", "0", "1"),
    ("XADD", EXECUTIONS, "*", "a", "b"),
    ("XADD", SNAPSHOTS, "*", "a", "b"),
    ("XTRIM", EXECUTIONS, "MAXLEN", "0"),
    ("XDEL", TRADE_INTENTS, "1-1"),
    ("XTRIM", TRADE_INTENTS, "MAXLEN", "0"),
    ("XGROUP", "DESTROY", EXECUTIONS, GROUP),
    ("HSET", "quantum:config:harvest:ETHUSDT", "min_r", "9"),
)
FORBIDDEN_TO_THE_DAEMON = (
    ("DEL", STATE),
    ("SET", KILL, "0"),
    ("SET", KILL, "1"),
    ("SCAN", "0"),
    ("XADD", CONTROL, "*", "a", "b"),
    ("XADD", AUDIT, "*", "a", "b"),
    ("XRANGE", TRADE_INTENTS, "-", "+"),
    ("EVAL", "return redis.call('SET', KEYS[1], '0')", "1", KILL),
    ("EVAL", "return redis.call('DEL', KEYS[1])", "1", STATE),
    ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'a', 'b')", "1", EXECUTIONS),
    ("EVAL", "return redis.call('GET', 'foreign')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
)
FORBIDDEN_TO_THE_OPERATOR = (
    ("XADD", TRADE_INTENTS, "*", "a", "b"),
    ("XADD", SUGGESTIONS, "*", "a", "b"),
    ("HSET", STATE, "_meta", ""),
    ("SET", LEASE, "me"),
    ("DEL", LEASE),
    ("EVAL", "return redis.call('HSET', KEYS[1], '_meta', '')", "1", STATE),
    ("EVAL", "return redis.call('XADD', 'quantum:stream:trade.intent', '*', 'a', 'b')", "0"),
    ("SET", "quantum:harvest:drilled", "1"),
)


def refusal(client: Any, *command: str) -> bool:
    """Whether the server says that this user may not do that, and not that something else is wrong with it."""
    try:
        client.execute_command(*command)
    except client_library.exceptions.NoPermissionError:
        return True
    except client_library.ResponseError as fault:
        return "The user executing the script can't" in str(fault)
    return False


def test_the_operator_proves_with_the_drill(guarded: Guarded, daemon: Callable[..., DaemonProcess]) -> None:
    guarded.admin.config_set("appendonly", "yes")
    guarded.admin.set(KILL, "0")
    leader = daemon()
    feed(guarded.admin, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"))
    feed(guarded.admin, tick("ETHUSDT", "2526"))
    settings = guarded.operator | {"RUNTIME_DIRECTORY": str(leader.directory)}
    done = harvest_brain("proof", "--json", "--drill", settings=settings)
    checks = {check["name"]: (check["verdict"], check["line"]) for check in json.loads(done.stdout)["checks"]}
    assert {name: seen for name, seen in checks.items() if seen[0] != "pass"} == {}
    assert "drill switch off" in checks
    assert list(guarded.admin.scan_iter("quantum:harvest:drill:*")) == []
    assert {refused[2] for refused in guarded.denied()} <= {"config|get"}


def test_the_operator_removes_what_is_left_of_a_daemon(guarded: Guarded, daemon: Callable[..., DaemonProcess]) -> None:
    process = daemon()
    feed(guarded.admin, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"))
    feed(guarded.admin, tick("ETHUSDT", "2526"))
    process.stop()
    done = harvest_brain("purge-keys", settings=guarded.operator)
    assert (done.returncode, done.stderr) == (0, "")
    left = set(guarded.admin.scan_iter())
    assert left == {EXECUTIONS, SUGGESTIONS}


@pytest.mark.parametrize("user", ["harvest-brain", "harvest-brain-operator"])
def test_neither_can_do_anything_else(guarded: Guarded, user: str) -> None:
    redis = guarded.admin
    redis.mset({"foreign": "1", KILL: "1", "quantum:position:ETHUSDT": "1"})
    redis.hset(STATE, "_meta", "1")
    for stream in (EXECUTIONS, TRADE_INTENTS, SNAPSHOTS):
        redis.xadd(stream, {"a": "b"})
    redis.xgroup_create(EXECUTIONS, GROUP)
    more = FORBIDDEN_TO_THE_DAEMON if user == "harvest-brain" else FORBIDDEN_TO_THE_OPERATOR
    with guarded.as_user(user) as client:
        assert client.ping()
        for command in (*FORBIDDEN_TO_BOTH, *more):
            assert refusal(client, *command), f"{user} may {' '.join(command)}"
    assert redis.get(KILL) == "1"
    assert redis.xlen(EXECUTIONS) == 1


def test_a_commit_waits_for_replicas_only_where_the_settings_say_so(guard: Callable[..., Guarded]) -> None:
    for settings, command in (({}, ""), ({"HARVEST_WAIT_REPLICAS": "1"}, "+wait ")):
        guarded = guard(**settings)
        rules, _ = harvest_brain("acl", settings=guarded.daemon).stdout.splitlines()
        assert ("+wait" in rules) is bool(command)
        assert command in rules


def test_a_daemon_that_lacks_a_right_says_so_and_writes_nothing(
    guarded: Guarded, daemon: Callable[..., DaemonProcess]
) -> None:
    redis = guarded.admin
    process = daemon()
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"))
    redis.execute_command("ACL", "SETUSER", "harvest-brain", "clearselectors")
    wait_until(lambda: "lacks a right" in process.status()["last_error"])
    before = redis.hgetall(STATE)
    redis.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
    wait_until(lambda: process.status()["errors"] > 2)
    assert redis.hgetall(STATE) == before
    assert intents(redis, SUGGESTIONS) == []


def test_the_committed_file_is_what_the_command_prints() -> None:
    printed = harvest_brain("acl", settings={}).stdout
    assert (ROOT / "docs" / "redis-users.acl").read_text() == printed
    assert " #" not in printed, "a password is the host's own"
