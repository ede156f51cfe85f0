"""The demo's own account of the run: it follows the streams, and each of its checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.demo.streams import (
    DEAD,
    ORDERS,
    SUGGESTIONS,
    ZERO_MS,
    Streams,
    enter,
    fill_harvest,
    harvest,
    leave,
    ledger_of,
    live_run,
    move_stop,
    plan,
    price_at,
    shadow_run,
)

from harvest_brain.ops.demo.ledger import (
    CHECKS,
    CLOSING_SIDE,
    PEAK,
    READABLE,
    SAME_R,
    SWITCH,
    UNIQUE,
    Ledger,
    number,
)

both_sides = pytest.mark.parametrize("side", ["long", "short"])
FEE = Decimal("0.0005")


@both_sides
def test_in_shadow_the_account_follows_entry_suggestion_stop_and_close(side: str) -> None:
    ledger = ledger_of(shadow_run(side), plan(side))
    [epoch] = ledger.epochs
    assert (epoch.side, epoch.opened, epoch.closed) == (side, 1.0, 9.0)
    assert [epoch.entry, epoch.peak, epoch.qty] == [100, 1, 0]
    assert [(h.qty, h.r, h.rungs, h.state) for h in epoch.harvests] == [
        (Decimal("0.25"), Decimal("0.5"), (Decimal("0.5"),), "published")
    ]
    assert epoch.stop_at(3.4) == Decimal(price_at(side, "-1"))
    assert epoch.stop_at(3.5) == 100
    assert [exit_.kind for exit_ in epoch.exits] == ["close"]
    assert not ledger.open
    assert {name: ledger.counts[name] for name in ("harvests", "stop_moves", "fills")} == {
        "harvests": 1,
        "stop_moves": 1,
        "fills": 0,
    }
    assert ledger.faults == {name: [] for name in CHECKS}


@both_sides
def test_in_live_an_order_is_followed_to_its_fill(side: str) -> None:
    ledger = ledger_of(live_run(side), plan(side))
    [epoch] = ledger.epochs
    [order] = epoch.harvests
    assert (order.state, order.filled) == ("filled", Decimal("0.25"))
    assert [(exit_.kind, exit_.qty) for exit_ in epoch.exits] == [
        ("harvest", Decimal("0.25")),
        ("close", Decimal("0.75")),
    ]
    assert (ledger.counts["fills"], ledger.counts["partial_fills"], ledger.counts["ack"]) == (1, 0, 1)
    assert ledger.faults == {name: [] for name in CHECKS}


def test_partial_fills_rejections_and_cancellations_are_counted() -> None:
    streams = Streams()
    enter(streams)
    harvest(streams, live=True)
    fill_harvest(streams, status="PARTIALLY_FILLED", qty="0.15")
    fill_harvest(streams, at=4.5, qty="0.1")
    harvest(streams, at=5.0, live=True, correlation_id="hb-1-r2")
    streams.result(5.1, symbol="ETHUSDT", status="REJECTED", correlation_id="hb-1-r2", reason="busy")
    harvest(streams, at=6.0, live=True, correlation_id="hb-1-r3")
    streams.result(6.1, symbol="ETHUSDT", status="CANCELED", correlation_id="hb-1-r3")
    streams.result(6.2, symbol="ETHUSDT", status="REJECTED", correlation_id="of somebody else")
    ledger = ledger_of(streams)
    assert [h.state for h in ledger.epochs[0].harvests] == ["filled", "rejected", "canceled"]
    counts = ("fills", "partial_fills", "rejected", "canceled")
    assert [ledger.counts[name] for name in counts] == [2, 1, 1, 1]


def test_a_position_opened_again_is_another_epoch_with_its_own_plan() -> None:
    streams = shadow_run()
    enter(streams, "short", at=10.0)
    ledger = ledger_of(streams, plan(at=1.0, until=9.0), plan("short", at=10.0, until=15.0))
    assert [(epoch.side, epoch.until) for epoch in ledger.epochs] == [("long", 9.0), ("short", 15.0)]
    assert ledger.open["ETHUSDT"] is ledger.epochs[1]


def test_an_intent_that_crosses_the_closing_fill_belongs_to_the_position_it_was_decided_for() -> None:
    streams = shadow_run()
    harvest(streams, at=9.1, correlation_id="hb-1-r2", r_level=1.0, price=float(price_at("long", "1")))
    ledger = ledger_of(streams)
    assert len(ledger.epochs[0].harvests) == 2
    assert ledger.faults == {name: [] for name in CHECKS}


# Money.


@both_sides
def test_money_is_what_the_exits_earn_after_the_fees_of_both_ways(side: str) -> None:
    [epoch] = ledger_of(live_run(side), plan(side)).epochs
    sign = epoch.sign
    expected = Decimal(0)
    for qty, price in (("0.25", Decimal(price_at(side, "0.6"))), ("0.75", Decimal(price_at(side, "1")))):
        expected += Decimal(qty) * (sign * (price - 100) - FEE * (price + 100))
    assert epoch.money(epoch.exits) == expected
    assert epoch.in_r(expected) == expected / 2


@both_sides
def test_held_to_the_end_it_closes_at_the_last_price_and_stopped_it_ends_at_the_first_price_beyond(side: str) -> None:
    ledger = ledger_of(shadow_run(side), plan(side))
    [epoch] = ledger.epochs
    path = ledger.prices["ETHUSDT"]
    [close] = epoch.play(path, advised=False)
    assert (close.kind, close.qty, close.price) == ("close", Decimal(1), Decimal(price_at(side, "1")))
    [close] = epoch.play([*path, (9.01, Decimal(price_at(side, "-3")))], advised=False)
    assert close.at < 9
    fallen = [*path, (8.95, Decimal(price_at(side, "-1.1"))), (8.99, Decimal(price_at(side, "3")))]
    [stop] = epoch.play(fallen, advised=False)
    assert (stop.kind, stop.qty, stop.at) == ("stop", Decimal(1), 8.95)


@both_sides
def test_followed_it_takes_the_harvests_at_their_price_and_the_moved_stop(side: str) -> None:
    ledger = ledger_of(shadow_run(side), plan(side))
    [epoch] = ledger.epochs
    harvested, close = epoch.play(ledger.prices["ETHUSDT"], advised=True)
    assert (harvested.kind, harvested.qty, harvested.price) == (
        "harvest",
        Decimal("0.25"),
        Decimal(price_at(side, "0.5")),
    )
    assert (close.kind, close.qty) == ("close", Decimal("0.75"))
    path = [tick for tick in ledger.prices["ETHUSDT"] if tick[0] < 5] + [(6.0, Decimal(price_at(side, "-0.1")))]
    _, stopped = epoch.play(path, advised=True)
    assert (stopped.kind, stopped.qty) == ("stop", Decimal("0.75"))


# Each check can fail.


def break_side(streams: Streams) -> None:
    harvest(streams, side="BUY")


def break_reduce_only(streams: Streams) -> None:
    harvest(streams, reduce_only=False)


def break_peak(streams: Streams) -> None:
    for index in range(5):
        harvest(streams, at=3.0 + index / 10, correlation_id=f"hb-1-r{index}")


def break_unique(streams: Streams) -> None:
    harvest(streams)
    harvest(streams, at=3.2)


def break_unique_across_streams(streams: Streams) -> None:
    harvest(streams)
    harvest(streams, at=3.2, live=True)


def break_r(streams: Streams) -> None:
    harvest(streams, r_level=0.52)


def break_reading(streams: Streams) -> None:
    streams.put(DEAD, 3.0, {"reason": "no symbol"})


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (break_side, CLOSING_SIDE),
        (break_reduce_only, CLOSING_SIDE),
        (break_peak, PEAK),
        (break_unique, UNIQUE),
        (break_unique_across_streams, UNIQUE),
        (break_r, SAME_R),
        (break_reading, READABLE),
    ],
)
def test_a_check_fails_when_what_it_checks_is_broken(spoil: Callable[[Streams], None], check: str) -> None:
    streams = Streams()
    enter(streams)
    spoil(streams)
    ledger = ledger_of(streams)
    assert [name for name, found in ledger.faults.items() if found] == [check]


def test_a_rejected_order_frees_what_it_asked_for() -> None:
    streams = Streams()
    enter(streams)
    for index in range(5):
        harvest(streams, at=3.0 + index, live=True, correlation_id=f"hb-1-r{index}")
        if index < 2:
            streams.result(3.1 + index, symbol="ETHUSDT", status="REJECTED", correlation_id=f"hb-1-r{index}")
    assert ledger_of(streams).faults[PEAK] == []


def test_what_was_published_while_the_switch_was_on_is_found() -> None:
    streams = Streams()
    enter(streams)
    harvest(streams, at=3.0)
    ledger = ledger_of(streams)
    since = ledger.last_output(streams)
    harvest(streams, at=4.0, correlation_id="hb-1-r2", live=True)
    until = ledger.last_output(streams)
    move_stop(streams, at=5.0)
    ledger.read(streams, 1)
    ledger.span(since, until)
    assert ledger.faults[SWITCH] == [f"hb-1-r2 at {until[0]}-{until[1]}"]
    assert since < until == (ZERO_MS + 4000, streams.count - 1)


def test_before_the_first_output_the_last_one_is_the_beginning_of_time() -> None:
    assert Ledger("quantum", ZERO_MS, ()).last_output(Streams()) == (0, 0)


def test_entries_of_several_streams_are_taken_in_the_order_in_which_they_were_written() -> None:
    class Backwards(Streams):
        def xread(self, cursors: dict[str, str], count: int, block: int) -> list[Any]:
            return super().xread(cursors, count, block)[::-1]

    streams = Backwards()
    streams.entries = shadow_run().entries
    ledger = ledger_of(streams)
    assert [happening.at for happening in ledger.happenings] == sorted(h.at for h in ledger.happenings)
    assert not ledger.read(streams, 1)


# What a person reads.


def test_the_happenings_of_a_live_run_tell_its_story() -> None:
    assert [(round(h.at, 1), h.kind, h.text) for h in ledger_of(live_run()).happenings] == [
        (1.0, "fill", "long 1 at 100, stop 98"),
        (3.0, "intent", "orders SELL 0.25: R=0.5 >= 0.5"),
        (3.5, "stop", "MOVE_SL_BREAKEVEN 100"),
        (3.6, "dim", "ack"),
        (4.0, "fill", "filled 0.25 at 101.2, 0.75 left"),
        (9.0, "fill", "trader closes 0.75 at 102, closed"),
    ]


def test_a_stop_that_is_hit_says_so() -> None:
    streams = Streams()
    enter(streams)
    leave(streams, at=5.0, r="-1", why="stop")
    assert ledger_of(streams).happenings[-1].text == "stop hit, 1 at 98, closed"


@pytest.mark.parametrize(
    ("value", "text"), [("0.250", "0.25"), ("1E+3", "1000"), ("100", "100"), ("2500.00", "2500"), ("-0.10", "-0.1")]
)
def test_a_number_has_no_needless_zeros_and_no_exponent(value: str, text: str) -> None:
    assert number(Decimal(value)) == text


def test_suggestions_and_orders_are_read_from_their_own_streams() -> None:
    assert Ledger("quantum", 0, ()).outputs == (SUGGESTIONS, ORDERS, "quantum:stream:stop.intent")
