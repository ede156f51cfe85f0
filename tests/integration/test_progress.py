"""Where reading begins, and that the consumer group shows the true progress."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.support.daemon import StartDaemon
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, GROUP, STATE, feed, fill, group_of, is_caught_up, position, tick


def buy(number: int) -> dict[str, str | int]:
    return fill("ETHUSDT", "BUY", "1", "100", fill_id=f"F{number}")


def held(redis: Any) -> Decimal:
    found = position(redis, "ETHUSDT")
    return Decimal(0) if found is None else Decimal(found["qty"])


def add(redis: Any, *numbers: int) -> list[str]:
    return [redis.xadd(EXECUTIONS, buy(number)) for number in numbers]


def assert_progress(redis: Any, *, entries: int, lag: int = 0) -> None:
    group = group_of(redis)
    assert (group["entries-read"], group["lag"], group["pending"]) == (entries, lag, 0)


def test_the_group_is_made_with_its_stream_and_stands_at_the_beginning(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon()
    assert group_of(redis)["last-delivered-id"] == "0-0"
    assert_progress(redis, entries=0)


def test_a_first_start_at_0_reads_the_stream_from_its_oldest_entry(redis: Any, start_daemon: StartDaemon) -> None:
    add(redis, 1, 2, 3)
    start_daemon(HARVEST_START="0")
    wait_until(lambda: is_caught_up(redis))
    assert held(redis) == 3
    assert_progress(redis, entries=3)


def test_a_first_start_at_the_end_reads_new_entries_only(redis: Any, start_daemon: StartDaemon) -> None:
    add(redis, 1, 2, 3)
    start_daemon(HARVEST_START="$")
    assert_progress(redis, entries=3)
    feed(redis, buy(4))
    assert held(redis) == 1
    assert_progress(redis, entries=4)


def test_a_first_start_on_a_trimmed_stream_counts_what_was_trimmed(redis: Any, start_daemon: StartDaemon) -> None:
    add(redis, 1, 2, 3, 4, 5)
    redis.xtrim(EXECUTIONS, maxlen=2, approximate=False)
    daemon = start_daemon()
    wait_until(lambda: is_caught_up(redis))
    assert held(redis) == 2
    assert_progress(redis, entries=5)
    assert "gap" not in daemon.log(), "what was gone before it ever read is nothing missed"


def test_the_start_setting_means_nothing_once_there_is_a_state(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, buy(1))
    daemon.stop()
    add(redis, 2)
    daemon.start(HARVEST_START="$")
    wait_until(lambda: is_caught_up(redis))
    assert held(redis) == 2


@pytest.mark.parametrize("counted", [True, False], ids=["its entries counted", "its entries not counted"])
def test_an_older_consumers_group_is_taken_over_at_its_last_delivered_entry(
    redis: Any, start_daemon: StartDaemon, counted: bool
) -> None:
    ids = add(redis, 1, 2, 3, 4, 5)
    if counted:
        redis.xgroup_create(EXECUTIONS, GROUP, "0")
        redis.xreadgroup(GROUP, "older", {EXECUTIONS: ">"}, count=2, noack=True)
    else:
        redis.xgroup_create(EXECUTIONS, GROUP, ids[1])
        assert group_of(redis)["entries-read"] is None
    start_daemon()
    wait_until(lambda: is_caught_up(redis))
    assert held(redis) == 3
    assert_progress(redis, entries=5)


@pytest.mark.slow
def test_taking_over_a_group_outlasts_the_lease_when_there_is_much_to_count(
    redis: Any, start_daemon: StartDaemon
) -> None:
    length = 20_000
    pipeline = redis.pipeline(transaction=False)
    for _ in range(length):
        pipeline.xadd(EXECUTIONS, {"status": "NEW", "symbol": "ETHUSDT"})
    first = pipeline.execute()[0]
    redis.xgroup_create(EXECUTIONS, GROUP, first)
    # One entry a page, so that counting takes longer than the lease holds.
    daemon = start_daemon(HARVEST_BATCH_SIZE="1", HARVEST_LEASE_SEC="2")
    assert "starting over" not in daemon.log()
    wait_until(lambda: (group_of(redis)["entries-read"] or 0) > 1)
    group = group_of(redis)
    assert group["entries-read"] + group["lag"] == length


@pytest.mark.parametrize("id_", ["0", "$"])
def test_incident_13_a_group_that_is_moved_by_hand_changes_nothing_and_is_put_right_by_the_next_entry(
    redis: Any, start_daemon: StartDaemon, id_: str
) -> None:
    daemon = start_daemon()
    feed(redis, buy(1), buy(2))
    daemon.freeze()
    add(redis, 3)
    redis.xgroup_setid(EXECUTIONS, GROUP, id_)
    daemon.thaw()
    wait_until(lambda: held(redis) == 3)

    daemon.stop()
    add(redis, 4)
    redis.xgroup_setid(EXECUTIONS, GROUP, id_)
    daemon.start()
    wait_until(lambda: held(redis) == 4)
    assert_progress(redis, entries=4)


def test_incident_09_entries_handed_out_by_the_group_are_not_lost(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, buy(1))
    daemon.freeze()
    add(redis, 2, 3)
    # Somebody looks with XREADGROUP, takes the entries into a pending list, and goes away.
    redis.xreadgroup(GROUP, "curious", {EXECUTIONS: ">"}, count=2)
    daemon.thaw()
    wait_until(lambda: held(redis) == 3)
    feed(redis, buy(4))
    assert held(redis) == 4


def test_incident_12_the_lag_is_what_waits_in_redis_and_in_the_status(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, buy(1), buy(2))
    daemon.freeze()
    ids = add(redis, *range(3, 10))
    assert_progress(redis, entries=2, lag=7)
    daemon.thaw()
    wait_until(lambda: is_caught_up(redis))
    assert_progress(redis, entries=9)
    daemon.wait_for(cursor=ids[-1], lag=0)


def test_the_cursor_in_the_state_the_group_and_the_status_are_one(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    ids = feed(redis, buy(1), {"bad": "entry"}, {"status": "NEW", "symbol": "ETHUSDT"}, tick("ETHUSDT", "100"))
    assert group_of(redis)["last-delivered-id"] == ids[-1]
    assert f'"{EXECUTIONS}":"{ids[-1]}"' in redis.hget(STATE, "_meta")
    daemon.wait_for(cursor=ids[-1])
