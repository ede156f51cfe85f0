"""The paper exchange: it takes an order once, never fills more than is held, and answers as the seed says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_brain.core.events import Fill, OrderUpdate
from harvest_brain.ops.demo.exchange import FEE_RATE, Answer, Exchange, body
from harvest_brain.ops.demo.market import Plan
from harvest_brain.redis.decode import decode

STEP, TICK = Decimal("0.001"), Decimal("0.01")
LATER = 100.0
SIDES = {"long": ("BUY", "SELL"), "short": ("SELL", "BUY")}
both_sides = pytest.mark.parametrize("side", ["long", "short"])


def opened(side: str, seed: int = 1, price: str = "100") -> tuple[Exchange, Answer]:
    exchange = Exchange(seed, STEP, TICK)
    list(exchange.mark("ETH", Decimal(price)))
    [answer] = exchange.enter(Plan(0, 9, "ETH", SIDES[side][0], Decimal(1), Decimal("0.02")))
    return exchange, answer


def intent(side: str, name: str = "hb-1-r1", qty: str = "0.25") -> dict[str, Any]:
    return {
        "symbol": "ETH",
        "side": SIDES[side][1],
        "qty": Decimal(qty),
        "client_order_id": name,
        "correlation_id": name,
    }


def that(exchange_seed_outcome: str, side: str) -> Exchange:
    """An exchange whose next order has this outcome."""
    for seed in range(100):
        exchange, _ = opened(side, seed)
        answers = list(exchange.order(intent(side, "probe"), 0.0))
        outcome = "reject" if answers[-1]["status"] == "REJECTED" else "fill" if len(exchange._work) == 1 else "partial"
        if outcome == exchange_seed_outcome:
            return opened(side, seed)[0]
    raise AssertionError("no seed has it")


@both_sides
def test_an_entry_is_filled_at_once_with_the_stop_that_says_what_is_risked(side: str) -> None:
    exchange, answer = opened(side)
    assert (answer["status"], answer["side"], answer["qty"], answer["price"]) == ("FILLED", SIDES[side][0], "1", "100")
    assert answer["stop_loss"] == ("98.00" if side == "long" else "102.00")
    assert Decimal(answer["fee"]) == 100 * FEE_RATE
    assert exchange.holdings["ETH"].sign == (1 if side == "long" else -1)


@both_sides
def test_a_price_at_the_stop_closes_what_is_left(side: str) -> None:
    exchange, _ = opened(side)
    near, at = ("98.01", "98") if side == "long" else ("101.99", "102")
    assert list(exchange.mark("ETH", Decimal(near))) == []
    [answer] = exchange.mark("ETH", Decimal(at))
    assert (answer["side"], answer["qty"], answer["price"], answer["reason"]) == (SIDES[side][1], "1", at, "stop")
    assert not exchange.holdings
    assert list(exchange.leave("ETH", "close")) == []


@both_sides
def test_a_stop_moves_only_to_where_it_protects_more(side: str) -> None:
    exchange, _ = opened(side)
    better, worse = ("99", "97") if side == "long" else ("101", "103")
    exchange.move_stop({"symbol": "ETH", "stop_price": worse})
    assert exchange.holdings["ETH"].stop == (98 if side == "long" else 102)
    exchange.move_stop({"symbol": "ETH", "stop_price": better})
    assert exchange.holdings["ETH"].stop == Decimal(better)
    exchange.move_stop({"symbol": "BTC", "stop_price": better})


@both_sides
def test_an_order_is_acknowledged_and_filled_at_the_last_price_with_its_correlation_id(side: str) -> None:
    exchange = that("fill", side)
    [ack] = exchange.order(intent(side), 0.0)
    assert (ack["status"], ack["correlation_id"], ack["client_order_id"]) == ("ACK", "hb-1-r1", "hb-1-r1")
    assert list(exchange.due(0.2)) == []
    list(exchange.mark("ETH", Decimal("100.50")))
    [fill] = exchange.due(LATER)
    assert (fill["status"], fill["qty"], fill["price"]) == ("FILLED", "0.25", "100.50")
    assert (fill["correlation_id"], fill["order_id"]) == ("hb-1-r1", ack["order_id"])
    assert exchange.holdings["ETH"].qty == Decimal("0.75")


@both_sides
def test_a_partial_fill_comes_in_two_parts_with_two_fill_ids(side: str) -> None:
    exchange = that("partial", side)
    list(exchange.order(intent(side), 0.0))
    first, second = exchange.due(LATER)
    assert [first["status"], second["status"]] == ["PARTIALLY_FILLED", "FILLED"]
    assert [first["qty"], second["qty"]] == ["0.150", "0.100"]
    assert first["fill_id"] != second["fill_id"]
    assert first["order_id"] == second["order_id"]


@both_sides
def test_a_rejected_order_is_never_filled(side: str) -> None:
    exchange = that("reject", side)
    [answer] = exchange.order(intent(side), 0.0)
    assert (answer["status"], answer["correlation_id"]) == ("REJECTED", "hb-1-r1")
    assert list(exchange.due(LATER)) == []


@both_sides
def test_incident_32_a_client_order_id_is_taken_once(side: str) -> None:
    exchange = that("fill", side)
    assert len(list(exchange.order(intent(side), 0.0))) == 1
    assert list(exchange.order(intent(side), 0.1)) == []
    assert exchange.repeats == 1
    assert len(list(exchange.due(LATER))) == 1


@both_sides
def test_an_order_that_would_open_is_rejected(side: str) -> None:
    exchange, _ = opened(side)
    [answer] = exchange.order(intent(side) | {"side": SIDES[side][0]}, 0.0)
    assert (answer["status"], answer["reason"]) == ("REJECTED", "reduce-only, and there is nothing to reduce")
    list(exchange.leave("ETH", "close"))
    [answer] = exchange.order(intent(side, "hb-1-r2"), 0.0)
    assert answer["status"] == "REJECTED"


@both_sides
def test_leaving_cancels_the_orders_that_work_first(side: str) -> None:
    exchange = that("partial", side)
    list(exchange.order(intent(side), 0.0))
    cancelled, closed = exchange.leave("ETH", "close")
    assert (cancelled["status"], cancelled["correlation_id"]) == ("CANCELED", "hb-1-r1")
    assert (closed["status"], closed["qty"], closed["reason"]) == ("FILLED", "1", "close")
    assert list(exchange.due(LATER)) == []


@both_sides
def test_no_more_is_filled_than_is_held_and_the_rest_is_cancelled(side: str) -> None:
    exchange = that("fill", side)
    for number in range(3):
        list(exchange.order(intent(side, f"hb-1-r{number}", qty="0.8"), 0.0))
    answers = list(exchange.due(LATER))
    fills = [Decimal(answer["qty"]) for answer in answers if "qty" in answer]
    assert sum(fills) == 1
    assert not exchange.holdings
    assert list(exchange.due(LATER)) == []


@given(st.integers(0, 10_000), st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=12))
def test_whatever_is_ordered_the_position_never_turns_round(seed: int, orders: list[tuple[int, bool]]) -> None:
    exchange, _ = opened("long", seed)
    held = Decimal(1)
    for number, (thousandths, settle) in enumerate(orders):
        answers = list(exchange.order(intent("long", f"hb-{number}", qty=str(STEP * thousandths)), float(number)))
        answers += list(exchange.due(float(number))) if settle else []
        held -= sum(Decimal(answer["qty"]) for answer in answers if "qty" in answer)
        assert held >= 0
    held -= sum(Decimal(answer["qty"]) for answer in exchange.due(LATER) if "qty" in answer)
    left = exchange.holdings["ETH"].qty if "ETH" in exchange.holdings else 0
    assert held == left >= 0


def test_the_same_seed_gives_the_same_answers() -> None:
    def answers(seed: int) -> list[Answer]:
        exchange, _ = opened("long", seed)
        found = []
        for number in range(6):
            found += list(exchange.order(intent("long", f"hb-{number}", qty="0.1"), number * 1.0))
        return [*found, *exchange.due(LATER)]

    assert answers(3) == answers(3)
    assert any(answers(3) != answers(seed) for seed in range(4, 10))


def test_among_six_orders_are_three_fills_two_partial_ones_and_a_reject() -> None:
    exchange, _ = opened("long")
    drawn = sorted(exchange._draw() for _ in range(6))
    assert drawn == ["fill", "fill", "fill", "partial", "partial", "reject"]
    assert sorted(exchange._draw() for _ in range(6)) == drawn


@both_sides
def test_every_answer_is_one_that_the_daemon_understands(side: str) -> None:
    exchange = that("partial", side)
    answers = [opened(side)[1], *exchange.order(intent(side), 0.0), *exchange.due(LATER), *exchange.leave("ETH", "x")]
    events = [decode("1768737600000-0", [b"payload", json.dumps(answer).encode()]) for answer in answers]
    assert [type(event) for event in events] == [Fill, OrderUpdate, Fill, Fill, Fill]


def test_the_fee_of_the_smallest_prices_is_still_a_number_that_the_daemon_takes() -> None:
    exchange = Exchange(1, Decimal("1e-12"), Decimal("1e-16"))
    list(exchange.mark("ETH", Decimal("1e-12")))
    [answer] = exchange.enter(Plan(0, 9, "ETH", "BUY", Decimal("1e-9"), Decimal("0.02")))
    assert isinstance(decode("1768737600000-0", [b"payload", json.dumps(answer).encode()]), Fill)


def test_a_body_is_the_payload_in_its_envelope_with_exact_numbers() -> None:
    assert body({"source": "x", "payload": '{"qty":0.1,"n":2}'}) == {
        "source": "x",
        "payload": '{"qty":0.1,"n":2}',
        "qty": Decimal("0.1"),
        "n": Decimal(2),
    }
    assert body({"price": "5"}) == {"price": "5"}
