"""An order from its publishing to its end through the real daemon, and the operator's word on those that are silent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon, harvest_brain
from tests.support.server import RedisServer
from tests.support.waiting import wait_until
from tests.support.wire import KILL, STOP_INTENTS, TRADE_INTENTS, feed, fill, harvests, intents, position, tick

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450")
LIVE = {
    "HARVEST_MODE": "live",
    "HARVEST_PENDING_TIMEOUT_SEC": "1",
    "HARVEST_LEASE_SEC": "2",
    "HARVEST_TRAIL_ATR_MULT": "0",
}


@pytest.fixture
def daemon(redis: Any, start_daemon: StartDaemon) -> DaemonProcess:
    redis.set(KILL, "0")
    return start_daemon(**LIVE)


def order(redis: Any) -> dict[str, Any]:
    """Open a position and have the first rung's order published."""
    feed(redis, OPENING, tick("ETHUSDT", "2526"))
    [order] = harvests(redis, TRADE_INTENTS)
    return order


def reservations(redis: Any) -> list[tuple[str, Decimal, str]]:
    found = position(redis, "ETHUSDT")
    assert found is not None
    return [(r[0], Decimal(r[1]), r[3]) for r in found["epoch"]["reservations"]]


def fall_silent(redis: Any, intent_id: str) -> None:
    """Prices go on, and of the order nothing is heard."""

    def is_unknown() -> bool:
        feed(redis, tick("ETHUSDT", "2510"))
        return [(r[0], r[2]) for r in reservations(redis)] == [(intent_id, "unknown")]

    wait_until(is_unknown, poll=0.2)


def command(server: RedisServer, *words: str) -> tuple[int, str, str]:
    done = harvest_brain(*words, settings=server.settings() | LIVE)
    return done.returncode, done.stdout, done.stderr


def test_incident_30_an_order_is_acknowledged_filled_in_parts_and_the_stop_follows_each_of_them(
    redis: Any, daemon: DaemonProcess
) -> None:
    intent_id = order(redis)["correlation_id"]
    assert daemon.is_running
    assert reservations(redis) == [(intent_id, Decimal("0.25"), "published")]
    feed(redis, {"symbol": "ETHUSDT", "status": "NEW", "client_order_id": intent_id, "order_id": "X7"})
    assert reservations(redis) == [(intent_id, Decimal("0.25"), "acked")]
    part = fill("ETHUSDT", "SELL", "0.10", "2526", order_id="X7", trade_id="t1") | {"status": "PARTIALLY_FILLED"}
    feed(redis, part, tick("ETHUSDT", "2520"))
    assert reservations(redis) == [(intent_id, Decimal("0.15"), "partial")]
    rest = fill("ETHUSDT", "SELL", "0.15", "2526", correlation_id=intent_id, trade_id="t2")
    feed(redis, rest, tick("ETHUSDT", "2520"))
    assert reservations(redis) == []
    moves = intents(redis, STOP_INTENTS)
    assert [move["intent_type"] for move in moves] == ["MOVE_SL_BREAKEVEN", "STOP_RESIZE", "STOP_RESIZE"]
    assert [move["qty"] for move in moves] == [1, Decimal("0.9"), Decimal("0.75")]
    assert len({move["stop_price"] for move in moves}) == 1
    assert [move["stop_seq"] for move in moves] == [1, 2, 3]


def test_silence_makes_an_order_unknown_and_it_is_never_sent_again_whatever_restarts(
    redis: Any, daemon: DaemonProcess
) -> None:
    intent_id = order(redis)["correlation_id"]
    fall_silent(redis, intent_id)
    status = daemon.wait_for(unknown=[f"ETHUSDT: {intent_id}"])
    assert status["reservations"] == 1
    assert f"nothing was heard of {intent_id} for 1 s; its 0.25 stay reserved" in daemon.log()
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, tick("ETHUSDT", "2526"))
    assert reservations(redis) == [(intent_id, Decimal("0.25"), "unknown")]
    assert len(harvests(redis, TRADE_INTENTS)) == 1
    # It was filled after all.
    feed(redis, fill("ETHUSDT", "SELL", "0.25", "2526", client_order_id=intent_id))
    assert reservations(redis) == []


def test_an_order_of_unknown_fate_is_released_by_hand_and_the_next_rung_carries_it(
    server: RedisServer, redis: Any, daemon: DaemonProcess
) -> None:
    intent_id = order(redis)["correlation_id"]
    fall_silent(redis, intent_id)
    assert f"{intent_id} of ETHUSDT: 0.25 unknown" in command(server, "status")[1]
    code, out, _ = command(server, "release", intent_id, "--reason", "not in the exchange's book")
    assert (code, out) == (0, f"{intent_id} is released; the next rung carries what was left of it\n")
    assert reservations(redis) == []
    assert f"the operator released {intent_id}" in daemon.log()
    [(_, audited)] = redis.xrange("quantum:harvest:audit")
    assert (audited["action"], audited["intent"]) == ("release", intent_id)
    assert audited["reason"] == "not in the exchange's book"
    feed(redis, tick("ETHUSDT", "2550"))
    assert [o["qty"] for o in harvests(redis, TRADE_INTENTS)] == [Decimal("0.25"), Decimal("0.5")]

    code, _, err = command(server, "release", intent_id, "--reason", "again")
    assert code == 1
    assert "there is no order" in err


def test_what_is_said_while_no_daemon_runs_is_done_by_the_next_one_once(
    server: RedisServer, redis: Any, daemon: DaemonProcess
) -> None:
    intent_id = order(redis)["correlation_id"]
    fall_silent(redis, intent_id)
    daemon.stop()
    code, out, _ = command(server, "release", intent_id, "--reason", "gone")
    assert (code, out) == (0, "no daemon has taken it yet; the next one that leads will\n")
    assert len(reservations(redis)) == 1
    daemon.start()
    wait_until(lambda: reservations(redis) == [])
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, tick("ETHUSDT", "2550"), tick("ETHUSDT", "2575"))
    assert [o["qty"] for o in harvests(redis, TRADE_INTENTS)] == [Decimal("0.25"), Decimal("0.5"), Decimal("0.25")]


def test_a_suspect_symbol_is_cleared_by_hand_without_a_burst(
    server: RedisServer, redis: Any, daemon: DaemonProcess
) -> None:
    clash = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", trade_id="T1")
    feed(redis, clash, clash | {"qty": "2.0"}, tick("ETHUSDT", "2526"))
    assert harvests(redis, TRADE_INTENTS) == []
    assert "suspect      ETHUSDT: ETHUSDT#fill#T1 came as" in command(server, "status")[1]
    code, out, _ = command(server, "clear", "ETHUSDT", "--reason", "the second one is the producer's mistake")
    assert (code, out) == (0, "ETHUSDT is trusted again; the rungs crossed by now are skipped\n")
    feed(redis, tick("ETHUSDT", "2526"))
    assert harvests(redis, TRADE_INTENTS) == []
    feed(redis, tick("ETHUSDT", "2550"))
    assert [o["rungs"] for o in harvests(redis, TRADE_INTENTS)] == [["1"]]
    assert daemon.status()["suspect"] == [] or daemon.wait_for(suspect=[])

    code, _, err = command(server, "clear", "ETHUSDT", "--reason", "again")
    assert (code, err) == (1, "'ETHUSDT' is not suspect; suspect are: none\n")


def test_what_nobody_can_have_said_is_a_dead_letter(redis: Any, daemon: DaemonProcess) -> None:
    redis.xadd("quantum:stream:harvest.control", {"action": "sell", "symbol": "ETHUSDT"})
    wait_until(lambda: redis.xlen("quantum:stream:harvest.rejected") == 1)
    [(_, letter)] = redis.xrange("quantum:stream:harvest.rejected")
    assert letter["stream"] == "quantum:stream:harvest.control"
    assert letter["reason"] == "action 'sell' is neither release nor clear"
    assert daemon.is_running
