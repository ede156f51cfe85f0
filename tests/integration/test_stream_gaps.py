"""Entries that were removed before they were read, seen in the figures of a real stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, GROUP, feed, fill, group_of, harvests, is_caught_up, position, tick

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450")


@pytest.fixture
def stopped(redis: Any, start_daemon: StartDaemon) -> DaemonProcess:
    """A daemon that has an open position and is not running now."""
    daemon = start_daemon(HARVEST_LEASE_SEC="2", HARVEST_BATCH_SIZE="10")
    feed(redis, OPENING)
    daemon.stop()
    return daemon


def add(redis: Any, count: int) -> list[str]:
    return [str(redis.xadd(EXECUTIONS, tick("ETHUSDT", "2501"))) for _ in range(count)]


def go_on(redis: Any, daemon: DaemonProcess) -> None:
    daemon.start().wait_for(role="leader")
    wait_until(lambda: is_caught_up(redis))


def suspicion(redis: Any) -> str:
    found = position(redis, "ETHUSDT")
    assert found is not None
    return str(found["suspect"])


@pytest.mark.parametrize("left", [25, 7, 1])
def test_incident_12_entries_trimmed_before_they_were_read_make_the_open_symbols_suspect_and_are_counted(
    redis: Any, stopped: DaemonProcess, left: int
) -> None:
    add(redis, 40)
    redis.xtrim(EXECUTIONS, maxlen=left, approximate=False)
    go_on(redis, stopped)
    expected = f"stream gap: {40 - left} entries of {EXECUTIONS} were removed before they were read"
    wait_until(lambda: suspicion(redis) == expected, what=expected)
    wait_until(lambda: stopped.status()["counts"].get("gap:entries") == 40 - left)
    assert stopped.status()["suspect"] == [f"ETHUSDT: {expected}"]
    assert expected in stopped.log()
    feed(redis, tick("ETHUSDT", "2526"))
    assert harvests(redis) == []
    assert (group_of(redis)["entries-read"], group_of(redis)["lag"]) == (42, 0)


def test_a_stream_that_was_emptied_is_a_gap_without_a_new_entry(redis: Any, stopped: DaemonProcess) -> None:
    add(redis, 5)
    redis.xtrim(EXECUTIONS, maxlen=0, approximate=False)
    stopped.start().wait_for(role="leader")
    wait_until(lambda: "stream gap: 5 entries" in suspicion(redis))
    wait_until(lambda: group_of(redis)["lag"] == 0)


def test_single_entries_that_were_deleted_unread_are_found_at_the_end_of_the_stream(
    redis: Any, stopped: DaemonProcess
) -> None:
    ids = add(redis, 30)
    redis.xdel(EXECUTIONS, ids[3], ids[17])
    go_on(redis, stopped)
    wait_until(lambda: "stream gap: 2 entries" in suspicion(redis))
    wait_until(lambda: group_of(redis)["lag"] == 0)


def test_it_is_said_once(redis: Any, stopped: DaemonProcess) -> None:
    add(redis, 5)
    redis.xtrim(EXECUTIONS, maxlen=2, approximate=False)
    go_on(redis, stopped)
    feed(redis, *(tick("ETHUSDT", "2501") for _ in range(30)))
    wait_until(lambda: stopped.status()["counts"].get("gap:entries") == 3)
    assert stopped.log().count("WARNING stream gap") == 1


def test_removing_what_was_read_is_no_gap(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(HARVEST_BATCH_SIZE="10")
    ids = feed(redis, OPENING, *(tick("ETHUSDT", "2501") for _ in range(25)))
    redis.xdel(EXECUTIONS, *ids[3:6])
    redis.xtrim(EXECUTIONS, maxlen=5, approximate=False)
    feed(redis, tick("ETHUSDT", "2502"))
    redis.xtrim(EXECUTIONS, maxlen=0, approximate=False)
    feed(redis, tick("ETHUSDT", "2502"))
    assert suspicion(redis) == ""
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, tick("ETHUSDT", "2503"))
    assert suspicion(redis) == ""
    assert "gap" not in daemon.log()


def begin_anew_with_later_ids(redis: Any) -> None:
    redis.delete(EXECUTIONS)
    redis.xadd(EXECUTIONS, fill("BTCUSDT", "BUY", "1.0", "100.0"))


def begin_anew_with_earlier_ids(redis: Any) -> None:
    redis.delete(EXECUTIONS)
    redis.xadd(EXECUTIONS, fill("BTCUSDT", "BUY", "1.0", "100.0"), id="5-0")


def begin_anew_with_a_group(redis: Any) -> None:
    redis.delete(EXECUTIONS)
    redis.xadd(EXECUTIONS, fill("BTCUSDT", "BUY", "1.0", "100.0"), id="5-0")
    redis.xgroup_create(EXECUTIONS, GROUP, "0")


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize(
    "begin_anew", [begin_anew_with_later_ids, begin_anew_with_earlier_ids, begin_anew_with_a_group]
)
def test_a_stream_that_was_deleted_and_created_anew_is_followed_and_what_was_open_is_suspect(
    redis: Any, stopped: DaemonProcess, begin_anew: Callable[[Any], None], running: bool
) -> None:
    if running:
        stopped.start().wait_for(role="leader")
        begin_anew(redis)
    else:
        begin_anew(redis)
        stopped.start().wait_for(role="leader")
    wait_until(lambda: position(redis, "BTCUSDT"), what="the new stream's entries")
    assert "was deleted and created anew" in suspicion(redis)
    assert "was deleted and created anew" in stopped.log()
    wait_until(lambda: (group_of(redis)["entries-read"], group_of(redis)["lag"]) == (1, 0))
    feed(redis, fill("XRPUSDT", "BUY", "1.0", "100.0"))
    assert position(redis, "XRPUSDT") is not None


def test_a_stream_that_is_only_deleted_is_made_again(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon()
    feed(redis, OPENING)
    redis.delete(EXECUTIONS)
    wait_until(lambda: group_of(redis))
    wait_until(lambda: "was deleted" in suspicion(redis))
    feed(redis, fill("BTCUSDT", "BUY", "1.0", "100.0"))
    assert position(redis, "BTCUSDT") is not None


def test_a_group_that_counted_wrongly_before_the_first_start_is_counted_anew(
    redis: Any, start_daemon: StartDaemon
) -> None:
    ids = add(redis, 4)
    redis.xgroup_create(EXECUTIONS, GROUP, ids[1], entries_read=900)
    start_daemon()
    wait_until(lambda: (group_of(redis).get("entries-read"), group_of(redis).get("lag")) == (4, 0))
