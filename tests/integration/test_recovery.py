"""Killed, stopped, frozen, doubled: nothing is lost and nothing comes twice.

The measure is the pure core's own result over the whole stream, byte for byte and in order.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.reference import OPEN_GATES, actual, expected, story
from tests.support.server import RedisServer
from tests.support.waiting import stays, wait_until
from tests.support.wire import EXECUTIONS, KILL, LEASE, STATE, feed, fill, group_of, harvests, is_caught_up, tick

from harvest_brain.config import load
from harvest_brain.core.policy import Policy

CHUNK = 1500
MOST = 20 * CHUNK
modes = pytest.mark.parametrize("mode", ["shadow", "live"])


def settings_of(mode: str) -> dict[str, str]:
    """Small batches, so that a backlog takes a while, and a lease that ends soon."""
    return {**OPEN_GATES, "HARVEST_MODE": mode, "HARVEST_BATCH_SIZE": "3", "HARVEST_LEASE_SEC": "2"}


def policy_of(settings: dict[str, str]) -> Policy:
    return load(None, settings).settings.policy()


def write(redis: Any, entries: Iterable[dict[str, str]]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for entry in entries:
        pipeline.xadd(EXECUTIONS, entry)
    pipeline.execute()


def entries_read(redis: Any, *, more_than: int) -> int:
    return wait_until(
        lambda: read if (read := group_of(redis).get("entries-read") or 0) > more_than else 0,
        what=f"an entry behind the first {more_than}",
        poll=0.001,
    )


def wait_for_progress(redis: Any, entries: int) -> None:
    """However long it takes, as long as it goes on."""
    read = 0
    while read < entries:
        read = entries_read(redis, more_than=read)


def end_in_mid_backlog(
    redis: Any, seed: int, times: int, end: Callable[[], object], begin_again: Callable[[], object]
) -> None:
    """Write a backlog, and `end` the daemon when it is in the middle of it; again and again, until that came so many
    `times` before all was over. On a busy machine it may come late."""
    entries = story(seed, MOST)
    written = in_time = 0
    while in_time < times:
        assert written < MOST, "it was always ended when all was over"
        write(redis, islice(entries, CHUNK))
        wait_for_progress(redis, written + 100)
        written += CHUNK
        end()
        in_time += group_of(redis)["lag"] > 0
        begin_again()


def assert_nothing_lost_and_nothing_twice(server: RedisServer, redis: Any, settings: dict[str, str]) -> None:
    wait_for_progress(redis, redis.xlen(EXECUTIONS))
    outcome = expected(server, policy_of(settings), kill_switch="0")
    assert sum(map(len, outcome.published.values())) > 100, "a story without intents shows nothing"
    assert outcome.rejected
    assert actual(redis) == outcome
    group = group_of(redis)
    length = redis.xlen(EXECUTIONS)
    assert (group["entries-read"], group["lag"], group["pending"]) == (length, 0, 0)
    assert json.loads(redis.hget(STATE, "_meta"))["read"] == length


@pytest.mark.slow
@pytest.mark.timeout(600)
@modes
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_incident_20_ended_in_mid_backlog_again_and_again_it_loses_nothing_and_doubles_nothing(
    server: RedisServer, redis: Any, mode: str, end: signal.Signals
) -> None:
    redis.set(KILL, "0")
    settings = settings_of(mode)
    with DaemonProcess(server.settings() | settings) as daemon:

        def end_it() -> None:
            if end is signal.SIGTERM:
                daemon.stop()
                assert not redis.exists(LEASE)
            else:
                daemon.kill()
                redis.delete(LEASE)  # as if its time had passed

        end_in_mid_backlog(redis, 1, 5, end_it, daemon.start)
        assert_nothing_lost_and_nothing_twice(server, redis, settings)


@pytest.mark.slow
@pytest.mark.timeout(600)
@modes
def test_incident_17_two_daemons_and_the_leader_killed_give_what_one_daemon_gives(
    server: RedisServer, redis: Any, mode: str
) -> None:
    redis.set(KILL, "0")
    settings = server.settings() | settings_of(mode)
    with DaemonProcess(settings) as first, DaemonProcess(settings) as second:
        both = [first, second] if first.status()["role"] == "leader" else [second, first]

        def kill_the_leader() -> None:
            both[0].kill()

        def take_over() -> None:
            both[1].wait_for(role="leader")
            both.reverse()
            both[1].start().wait_ready()

        end_in_mid_backlog(redis, 2, 3, kill_the_leader, take_over)
        assert_nothing_lost_and_nothing_twice(server, redis, settings)


def test_two_daemons_one_leads_and_one_stands_by_and_names_the_leader(redis: Any, start_daemon: StartDaemon) -> None:
    first = start_daemon(HARVEST_CONSUMER="first")
    second = start_daemon(HARVEST_CONSUMER="second")
    assert first.status()["role"] == "leader"
    assert second.status()["role"] == "standby"
    assert second.status()["leader"] == redis.get(LEASE)
    assert redis.get(LEASE).startswith(f"first:{first.pid}:")
    assert f"standing by: {redis.get(LEASE)} leads" in second.log()
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"), tick("ETHUSDT", "2526"))
    assert len(harvests(redis)) == 1


def test_a_killed_leader_is_replaced_within_its_lease_and_a_second(redis: Any, start_daemon: StartDaemon) -> None:
    first = start_daemon(HARVEST_LEASE_SEC="3")
    second = start_daemon(HARVEST_LEASE_SEC="3")
    symbols = [f"SYM{attempt}" for attempt in range(5)]
    feed(redis, *(fill(symbol, "BUY", "1.0", "2500.0", stop_loss="2450") for symbol in symbols))
    # A machine that is busy with something else may need longer for one of them, not for each.
    took: list[float] = []
    for symbol in symbols:
        first.kill()
        killed = time.monotonic()
        redis.xadd(EXECUTIONS, tick(symbol, "2526"))
        wait_until(lambda: len(harvests(redis)) == len(took) + 1)
        took.append(time.monotonic() - killed)
        assert redis.get(LEASE) == second.wait_for(role="leader")["leader"]
        if took[-1] < 3 + 1:
            return
        first, second = second, first.start()
        second.wait_ready()
    pytest.fail(f"it took {took} s")


def test_a_leader_that_is_told_to_stop_is_replaced_at_once(start_daemon: StartDaemon) -> None:
    first = start_daemon(HARVEST_LEASE_SEC="60")
    second = start_daemon(HARVEST_LEASE_SEC="60")
    first.stop()
    assert "gave the lease back at cursor" in first.log()
    second.wait_for(role="leader", timeout=10)


def test_a_leader_whose_session_broke_gives_the_lease_back_too_when_it_is_told_to_stop(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="60")
    redis.hset(STATE, "_meta", "not JSON")
    redis.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
    wait_until(lambda: "can't be read" in daemon.log(), what="the end of its session")
    assert redis.get(LEASE)
    daemon.stop()
    assert not redis.exists(LEASE)


@modes
def test_incident_34_a_leader_that_was_frozen_past_its_lease_writes_nothing_when_it_wakes_and_stands_by(
    server: RedisServer, redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    settings = {"HARVEST_MODE": mode, "HARVEST_LEASE_SEC": "2"}
    first, second = start_daemon(**settings), start_daemon(**settings)
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"))
    first.freeze()
    second.wait_for(role="leader")
    # These are waiting for the first one's read when it wakes, and the second one has committed them already.
    feed(redis, tick("ETHUSDT", "2526"), fill("ETHUSDT", "BUY", "1.0", "2500.0"), tick("ETHUSDT", "2551"))
    second.freeze()
    before = actual(redis), redis.hget(STATE, "_meta"), redis.get(LEASE)
    first.thaw()
    stays(lambda: (actual(redis), redis.hget(STATE, "_meta"), redis.get(LEASE)) == before, 0.5)
    second.thaw()
    first.wait_for(role="standby", state="ready")
    assert "starting over: the lease" in first.log()

    feed(redis, tick("ETHUSDT", "2576"))
    wait_until(lambda: is_caught_up(redis))
    outcome = expected(server, policy_of(settings), kill_switch="0")
    assert actual(redis) == outcome


def test_a_frozen_leader_that_nobody_replaced_goes_on(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="2")
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"))
    daemon.freeze()
    wait_until(lambda: not redis.exists(LEASE))
    redis.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
    daemon.thaw()
    wait_until(lambda: is_caught_up(redis))
    assert len(harvests(redis)) == 1


def test_an_idle_leader_keeps_its_lease(redis: Any, start_daemon: StartDaemon) -> None:
    leader = start_daemon(HARVEST_LEASE_SEC="2")
    standby = start_daemon(HARVEST_LEASE_SEC="2")
    token = redis.get(LEASE)
    stays(lambda: redis.get(LEASE) == token, 5)
    assert leader.status()["role"] == "leader"
    assert standby.status()["role"] == "standby"


def test_a_lease_that_never_ends_is_waited_for_without_haste(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    redis.set(LEASE, "somebody:1:else")
    daemon.wait_for(role="standby", leader="somebody:1:else")
    before = redis.info("stats")["total_commands_processed"]
    time.sleep(1)
    assert redis.info("stats")["total_commands_processed"] - before < 100
    redis.delete(LEASE)
    daemon.wait_for(role="leader")


def test_a_stolen_lease_makes_the_leader_stand_by(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    redis.set(LEASE, "somebody:1:else", px=60_000)
    daemon.wait_for(role="standby", leader="somebody:1:else")
    redis.xadd(EXECUTIONS, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"))
    stays(lambda: not redis.hexists(STATE, "ETHUSDT"), 1)
    redis.delete(LEASE)
    wait_until(lambda: is_caught_up(redis))
    assert redis.hexists(STATE, "ETHUSDT")
