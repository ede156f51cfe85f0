"""The gates: kill-switch, freshness, rate, dedup. Each closes what it should, and nothing else."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from tests.support.daemon import StartDaemon, now_ms
from tests.support.waiting import stays, wait_until
from tests.support.wire import (
    EXECUTIONS,
    KILL,
    OUTPUTS,
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

OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450")
PRICE = tick("ETHUSDT", "2526")
modes = pytest.mark.parametrize("mode", ["shadow", "live"])


def output_of(mode: str) -> str:
    return TRADE_INTENTS if mode == "live" else SUGGESTIONS


@modes
def test_any_other_value_than_0_of_the_kill_switch_stops(redis: Any, start_daemon: StartDaemon, mode: str) -> None:
    redis.set(KILL, "1")
    start_daemon(HARVEST_MODE=mode)
    for value in ("1", "", "00", "off", "false", " 0", "0\n", "\x00"):
        redis.set(KILL, value)
        feed(redis, OPENING, PRICE)
        assert not redis.exists(*OUTPUTS), repr(value)
    assert position(redis, "ETHUSDT") is not None
    redis.set(KILL, "0")
    feed(redis, PRICE)
    assert len(harvests(redis, output_of(mode))) == 1


@modes
def test_a_kill_switch_of_another_type_stops_and_is_left_alone(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.rpush(KILL, "0")
    start_daemon(HARVEST_MODE=mode)
    feed(redis, OPENING, PRICE)
    assert not redis.exists(*OUTPUTS)
    assert redis.lrange(KILL, 0, -1) == ["0"]


def test_an_absent_kill_switch_runs_in_shadow(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon()
    feed(redis, OPENING, PRICE)
    assert len(harvests(redis)) == 1
    assert not redis.exists(KILL)


def test_an_absent_kill_switch_stops_in_live_until_it_is_set_to_0(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon(HARVEST_MODE="live")
    feed(redis, OPENING, PRICE)
    assert not redis.exists(*OUTPUTS)
    assert not redis.exists(KILL)
    redis.set(KILL, "0")
    feed(redis, PRICE)
    assert len(harvests(redis, TRADE_INTENTS)) == 1


@modes
def test_once_setting_the_switch_has_returned_nothing_more_comes_out_however_fast_the_prices_come(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE=mode, HARVEST_MAX_ACTIONS_PER_MIN="10000", HARVEST_BATCH_SIZE="10")
    many = 600
    symbols: list[str] = []
    published: dict[str, int] = {}
    # The daemon may have been through before the switch was thrown; then it is tried again, with others.
    for attempt in range(20):
        redis.set(KILL, "0")
        others = [f"SYM{attempt}X{number}" for number in range(many)]
        symbols.extend(others)
        feed(redis, *(fill(symbol, "BUY", "1", "100", stop_loss="90") for symbol in others))
        pipeline = redis.pipeline(transaction=False)
        for symbol in others:
            pipeline.xadd(EXECUTIONS, tick(symbol, "106"))
        pipeline.execute()
        wait_until(lambda: redis.xlen(output_of(mode)) > len(symbols) - many, poll=0.001)
        redis.set(KILL, "1")
        published = {stream: redis.xlen(stream) for stream in OUTPUTS}
        wait_until(lambda: is_caught_up(redis))
        assert {stream: redis.xlen(stream) for stream in OUTPUTS} == published
        if published[output_of(mode)] < len(symbols):
            break
    assert published[output_of(mode)] < len(symbols), "the switch was always thrown when all was over"

    # What was held back is due, once, on the next fresh price.
    redis.set(KILL, "0")
    feed(redis, *(tick(symbol, "106") for symbol in symbols))
    ids = [order["correlation_id"] for order in harvests(redis, output_of(mode))]
    assert len(ids) == len(set(ids)) == len(symbols)


@modes
def test_incident_11_a_backlog_updates_the_state_and_fires_nothing_and_the_next_fresh_price_does(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    old = now_ms() - 31_000
    for entry in (OPENING, PRICE, tick("ETHUSDT", "2580")):
        redis.xadd(EXECUTIONS, {**entry, "timestamp": old})
    start_daemon(HARVEST_MODE=mode)
    wait_until(lambda: is_caught_up(redis))
    assert not redis.exists(*OUTPUTS)
    assert position(redis, "ETHUSDT") is not None

    feed(redis, {**PRICE, "timestamp": now_ms()})
    [harvest] = harvests(redis, output_of(mode))
    assert (harvest["qty"], harvest["rungs"]) == (Decimal("0.25"), ["0.5"])
    assert harvest["reduce_only"] is True


@modes
def test_a_price_that_became_old_in_the_stream_while_the_daemon_was_away_fires_nothing(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(HARVEST_MODE=mode, HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC="1")
    feed(redis, OPENING)
    daemon.stop()
    redis.xadd(EXECUTIONS, PRICE)
    time.sleep(1.2)
    daemon.start().wait_for(role="leader")
    wait_until(lambda: is_caught_up(redis))
    assert not redis.exists(*OUTPUTS)


def test_a_price_from_the_future_fires_nothing(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, OPENING, {**PRICE, "timestamp": now_ms() + 60_000})
    assert not redis.exists(*OUTPUTS)
    wait_until(lambda: daemon.status()["counts"].get("refused:price from the future"))


@modes
def test_what_the_rate_holds_back_waits_and_no_minute_sees_more(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    # Break-even far away, so each harvest is one action.
    daemon = start_daemon(
        HARVEST_MODE=mode, HARVEST_MAX_ACTIONS_PER_MIN="3", HARVEST_SET_BE_AT_R="100", HARVEST_LEASE_SEC="2"
    )
    symbols = [f"SYM{number}" for number in range(5)]
    feed(redis, *(fill(symbol, "BUY", "1", "100", stop_loss="90") for symbol in symbols))
    feed(redis, *(tick(symbol, "106") for symbol in symbols))
    assert [harvest["symbol"] for harvest in harvests(redis, output_of(mode))] == symbols[:3]

    assert redis.llen("quantum:harvest:rate") == 3
    assert redis.pttl("quantum:harvest:rate") > 0

    # Later one token is free again: it is for the one that has waited longest, whoever's price comes first, and a
    # restart changes nothing of that.
    daemon.kill()
    daemon.start().wait_for(role="leader")
    redis.ltrim("quantum:harvest:rate", 0, 1)
    feed(redis, *(tick(symbol, "106") for symbol in reversed(symbols)))
    assert [harvest["symbol"] for harvest in harvests(redis, output_of(mode))][3:] == ["SYM3"]

    # Neither another price nor another restart gives more within the minute.
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, *(tick(symbol, "106") for symbol in symbols))
    assert len(harvests(redis, output_of(mode))) == 4


@modes
def test_incident_06_a_dedup_key_that_stands_already_stops_a_second_publishing_of_the_same_rung(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(HARVEST_MODE=mode)
    feed(redis, OPENING)
    held = position(redis, "ETHUSDT")
    assert held is not None
    claim = f"hb-{held['epoch']['id']}-r1"
    redis.set(f"quantum:dedup:harvest:{claim}", "1", ex=900)
    feed(redis, PRICE)
    assert harvests(redis, output_of(mode)) == []
    wait_until(lambda: daemon.status()["counts"].get("refused:already published"))

    # The rung counts as fired, so that it stays unpublished when the key has expired; the next one is unharmed.
    redis.delete(f"quantum:dedup:harvest:{claim}")
    feed(redis, PRICE, tick("ETHUSDT", "2551"))
    [harvest] = harvests(redis, output_of(mode))
    assert harvest["rungs"] == ["1"]


@modes
def test_a_jump_past_several_rungs_of_which_one_has_its_dedup_key_publishes_the_others_once(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    """As when the state was rebuilt from the stream: what is out is known by its keys alone."""
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE=mode)
    feed(redis, OPENING)
    held = position(redis, "ETHUSDT")
    assert held is not None
    redis.set(f"quantum:dedup:harvest:hb-{held['epoch']['id']}-r1", "1", ex=900)
    feed(redis, tick("ETHUSDT", "2580"), tick("ETHUSDT", "2580"))
    [harvest] = harvests(redis, output_of(mode))
    assert (harvest["rungs"], harvest["qty"]) == (["1", "1.5"], Decimal("0.5"))
    assert position(redis, "ETHUSDT")["epoch"]["rungs"] == "fff"  # type: ignore[index]


def test_a_fired_rung_stays_fired_when_its_dedup_key_has_expired_and_across_a_restart(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="2")
    feed(redis, OPENING, PRICE)
    keys = list(redis.scan_iter("quantum:dedup:harvest:*"))
    assert keys
    redis.delete(*keys)
    feed(redis, PRICE)
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, PRICE)
    assert len(harvests(redis)) == 1


def test_the_kill_switch_can_be_another_key(redis: Any, start_daemon: StartDaemon) -> None:
    redis.mset({KILL: "0", "my:kill": "1"})
    start_daemon(HARVEST_KILL_SWITCH_KEY="my:kill")
    feed(redis, OPENING, PRICE)
    assert not redis.exists(*OUTPUTS)
    redis.mset({KILL: "1", "my:kill": "0"})
    feed(redis, PRICE)
    assert len(harvests(redis)) == 1


def test_an_idle_stream_with_an_open_position_publishes_nothing_by_itself(
    redis: Any, start_daemon: StartDaemon
) -> None:
    redis.set(KILL, "1")
    start_daemon()
    feed(redis, OPENING, PRICE)
    redis.set(KILL, "0")
    stays(lambda: not redis.exists(*OUTPUTS), 1.5)
    assert redis.hexists(STATE, "ETHUSDT")
