"""Snapshots are held against the books through the real daemon: each with a cursor of its own in the same commit."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon, now_ms
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, KILL, REJECTED, STATE, SUGGESTIONS, feed, fill, harvests, position, tick

SNAPSHOTS = "quantum:stream:position.snapshot"
PROFITS = "quantum:stream:pnl.snapshot"
modes = pytest.mark.parametrize("mode", ["shadow", "live"])

# No stop moves, and a fill that is at once old enough for snapshots to show it.
SETTINGS = {"HARVEST_SET_BE_AT_R": "1000", "HARVEST_TRAIL_ATR_MULT": "0", "HARVEST_SNAPSHOT_SETTLE_SEC": "0"}


def say(redis: Any, qty: str, *, stream: str = SNAPSHOTS, **more: str) -> str:
    """Put a snapshot on its stream and wait until it has been read."""
    fields = {"symbol": "ETHUSDT", "position_qty": qty, "entry_price": "2500", **more}
    entry_id = str(redis.xadd(stream, fields))
    wait_until(lambda: cursor(redis, stream) == entry_id, what=f"the cursor of {stream} at {entry_id}")
    return entry_id


def cursor(redis: Any, stream: str) -> str:
    return str(json.loads(redis.hget(STATE, "_meta") or '{"cursors":{}}')["cursors"].get(stream, ""))


def held(redis: Any) -> dict[str, Any]:
    found = position(redis, "ETHUSDT")
    assert found is not None
    return found


@modes
def test_a_mismatch_stops_harvesting_at_once_and_two_equal_ones_are_adopted_without_firing_anything(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(HARVEST_MODE=mode, **SETTINGS)
    output = SUGGESTIONS if mode == "shadow" else "quantum:stream:trade.intent"
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"))
    say(redis, "2.0")
    assert "the books say 1 @ 2500" in held(redis)["suspect"]
    feed(redis, tick("ETHUSDT", "2526"))
    assert harvests(redis, output) == []
    wait_until(lambda: daemon.status()["suspect"])

    say(redis, "2.0", mark_price="2552")
    assert (held(redis)["qty"], held(redis)["suspect"]) == ("2.0", "")
    assert held(redis)["epoch"]["rungs"] == "ssa"
    feed(redis, tick("ETHUSDT", "2552"))
    assert harvests(redis, output) == []
    feed(redis, tick("ETHUSDT", "2576"))
    [harvest] = harvests(redis, output)
    assert (harvest["qty"], harvest["rungs"]) == (Decimal("0.5"), ["1.5"])
    assert "2 @ 2500 adopted from snapshot" in daemon.log()


def test_a_crash_between_two_snapshots_forgets_nothing(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="2", **SETTINGS)
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"), tick("ETHUSDT", "2501"))
    say(redis, "2.0")
    daemon.kill()
    second = redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "2.0", "entry_price": "2500"})
    daemon.start().wait_for(role="leader")
    wait_until(lambda: cursor(redis, SNAPSHOTS) == second)
    assert held(redis)["qty"] == "2.0"


def test_a_snapshot_soon_after_a_fill_is_ignored_also_after_a_restart(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="2", HARVEST_SNAPSHOT_SETTLE_SEC="600")
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0"), fill("ETHUSDT", "SELL", "1.0", "2500.0", order_id="B"))
    daemon.stop()
    daemon.start().wait_for(role="leader")
    say(redis, "1.0", mark_price="2500")
    say(redis, "1.0", mark_price="2500")
    assert position(redis, "ETHUSDT") is None
    wait_until(lambda: daemon.status()["counts"].get("snapshot:too soon after a fill") == 2)


def test_what_was_said_before_the_first_start_is_passed_over(redis: Any, start_daemon: StartDaemon) -> None:
    for _ in range(2):
        redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "1", "entry_price": "2500", "mark_price": "2500"})
    start_daemon(**SETTINGS)
    say(redis, "0")
    assert position(redis, "ETHUSDT") is None


def test_a_snapshot_that_cannot_be_used_is_a_dead_letter_and_stops_nothing(
    redis: Any, start_daemon: StartDaemon
) -> None:
    start_daemon(**SETTINGS)
    redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "much"})
    redis.xadd(PROFITS, {"symbol": "ETHUSDT"})
    say(redis, "0")
    wait_until(lambda: redis.xlen(REJECTED) == 2)
    letters = [fields for _, fields in redis.xrange(REJECTED)]
    assert {(fields["stream"], fields["reason"]) for fields in letters} == {
        (SNAPSHOTS, "position_qty 'much' is not a number"),
        (PROFITS, "no unrealized_pnl"),
    }


def test_a_gross_difference_of_profit_is_counted_and_logged_once_and_nothing_else_happens(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(**SETTINGS)
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"), tick("ETHUSDT", "2501"))
    before = redis.hget(STATE, "ETHUSDT")
    for _ in range(2):
        say(redis, "", stream=PROFITS, unrealized_pnl="900")
    assert redis.hget(STATE, "ETHUSDT") == before
    wait_until(lambda: daemon.status()["counts"].get("pnl:mismatch") == 2)
    assert daemon.log().count("its profit snapshots are far from") == 1


def test_where_the_streams_are_not_named_they_are_not_read(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon(STREAM_POSITION_SNAPSHOT="", STREAM_PNL_SNAPSHOT="")
    redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "1", "entry_price": "2500"})
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0"))
    assert set(json.loads(redis.hget(STATE, "_meta"))["cursors"]) == {EXECUTIONS, "quantum:stream:harvest.control"}
    assert held(redis)["suspect"] == ""


def test_while_there_is_a_backlog_no_snapshot_is_compared_with_books_that_lag(
    redis: Any, start_daemon: StartDaemon
) -> None:
    """The fill that the snapshot knows of stands behind a thousand prices, of which ten are read at a time."""
    daemon: DaemonProcess = start_daemon(HARVEST_BATCH_SIZE="10", HARVEST_LEASE_SEC="2", **SETTINGS)
    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", timestamp=now_ms()))
    daemon.kill()
    pipeline = redis.pipeline(transaction=False)
    for _ in range(1000):
        pipeline.xadd(EXECUTIONS, tick("ETHUSDT", "2501"))
    pipeline.xadd(EXECUTIONS, fill("ETHUSDT", "BUY", "1.0", "2500.0", order_id="second", timestamp=now_ms()))
    pipeline.execute()
    time.sleep(0.01)
    entry_id = redis.xadd(SNAPSHOTS, {"symbol": "ETHUSDT", "position_qty": "2.0", "entry_price": "2500"})
    daemon.start().wait_for(role="leader")
    wait_until(lambda: cursor(redis, SNAPSHOTS) == entry_id)
    assert (held(redis)["qty"], held(redis)["suspect"]) == ("2.0", "")
    assert "suspect" not in daemon.log()
