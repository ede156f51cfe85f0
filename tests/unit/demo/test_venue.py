"""The demo's players at work: what the venue puts on the stream, and when the operator throws the switch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from harvest_brain.core.events import Fill, OrderUpdate, Price
from harvest_brain.ops.demo import KILL_REASON, LEAST_ON_SEC, Operator, exchange
from harvest_brain.ops.demo.exchange import Exchange, Venue
from harvest_brain.ops.demo.ledger import Ledger
from harvest_brain.ops.demo.market import Market, Plan, Tick
from harvest_brain.redis.decode import decode

RESULTS, ORDERS, STOPS = "quantum:stream:execution.result", "quantum:stream:trade.intent", "quantum:stream:stop.intent"


class Redis:
    """What the venue asks of Redis: groups, a pipeline, and the intents that wait for it."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, str]] = []
        self.entries: list[tuple[str, dict[str, str]]] = []
        self.acknowledged: list[tuple[str, str]] = []
        self.waiting: list[tuple[str, list[tuple[str, dict[str, str]]]]] = []
        self.fault: Exception | None = None

    def xgroup_create(self, stream: str, group: str, id: str, mkstream: bool) -> None:  # noqa: A002  # redis-py's name
        assert (id, mkstream) == ("0", True)
        self.groups.append((stream, group))

    def pipeline(self, transaction: bool) -> Redis:
        assert not transaction
        return self

    def execute(self) -> None:
        if self.fault is not None:
            raise self.fault

    def xadd(self, stream: str, fields: dict[str, str]) -> None:
        self.entries.append((stream, fields))

    def xack(self, stream: str, group: str, entry_id: str) -> None:
        assert group == exchange.GROUP
        self.acknowledged.append((stream, entry_id))

    def xreadgroup(self, group: str, consumer: str, streams: dict[str, str], count: int) -> Iterable[Any]:
        assert group == exchange.GROUP
        assert consumer
        assert set(streams) == {ORDERS, STOPS}
        assert count > 0
        found, self.waiting = self.waiting, []
        return found


class Orders(Redis):
    """Has a harvest and a stop move waiting as soon as there is a position."""

    def xadd(self, stream: str, fields: dict[str, str]) -> None:
        super().xadd(stream, fields)
        if '"reason": "entry"' in fields.get("payload", ""):
            order = {"symbol": "ETH", "side": "SELL", "qty": 0.25, "client_order_id": "c", "correlation_id": "c"}
            move = {"symbol": "ETH", "side": "SELL", "stop_price": 99.5}
            self.waiting = [
                (ORDERS, [("1-1", {"payload": json.dumps(order)})]),
                (STOPS, [("2-1", {"payload": json.dumps(move)})]),
            ]


def market() -> Market:
    ticks = tuple(Tick(n / 100, "ETH", Decimal(100) + n) for n in range(20))
    plans = (Plan(0.02, 0.15, "ETH", "BUY", Decimal(1), Decimal("0.02")),)
    return Market("m", "USDT", ticks, plans, Decimal("0.001"), Decimal("0.01"))


def played(db: Redis, monkeypatch: pytest.MonkeyPatch) -> Venue:
    monkeypatch.setattr(exchange, "AFTERMATH_SEC", 0.1)
    monkeypatch.setattr(exchange, "WORK_SEC", (0.0, 0.01))
    venue = Venue(db, "quantum", market(), 0.2, Exchange(1, Decimal("0.001"), Decimal("0.01")))
    venue.start()
    venue.join(60)
    assert not venue.is_alive()
    return venue


def test_the_venue_plays_the_market_fills_the_orders_and_acknowledges_what_it_has_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db = Orders()
    venue = played(db, monkeypatch)
    assert venue.error is None
    assert db.groups == [(ORDERS, exchange.GROUP), (STOPS, exchange.GROUP)]
    assert db.acknowledged == [(ORDERS, "1-1"), (STOPS, "2-1")]
    events = [
        decode("1768737600000-0", [text.encode() for pair in fields.items() for text in pair])
        for stream, fields in db.entries
        if stream == RESULTS
    ]
    assert [event.price for event in events if isinstance(event, Price)] == [Decimal(100) + n for n in range(20)]
    fills = [event for event in events if isinstance(event, Fill)]
    assert [str(fill.side) for fill in fills] == ["BUY", *["SELL"] * (len(fills) - 1)]
    assert sum(fill.qty * fill.side.sign for fill in fills) == 0
    updates = [event for event in events if isinstance(event, OrderUpdate)]
    assert [update.order.correlation_id for update in updates] == ["c"]
    assert not venue.exchange.holdings


def test_an_error_of_the_venue_is_kept_for_the_one_who_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    db = Redis()
    db.fault = ConnectionError("gone")
    assert str(played(db, monkeypatch).error) == "gone"


def test_a_venue_that_is_told_to_halt_does_so() -> None:
    venue = Venue(Redis(), "quantum", market(), 1_000.0, Exchange(1, Decimal(1), Decimal(1)))
    venue.start()
    venue.halt.set()
    venue.join(60)
    assert not venue.is_alive()
    assert venue.error is None


# The operator.


class Stage:
    """Notes the commands, with what the operator showed at that moment."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.fault = fault

    def connect(self) -> Stage:
        return self

    def xrevrange(self, stream: str, count: int) -> list[Any]:
        assert count == 1
        return [(f"{len(self.commands)}-0", {})] if stream == ORDERS else []

    def command(self, *words: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.commands.append(words)


def operator(stage: Any, seconds: float) -> tuple[Operator, Ledger]:
    ledger = Ledger("quantum", 0, ())
    return Operator(stage, ledger, seconds), ledger


def test_the_operator_throws_the_switch_looks_what_came_out_and_lifts_it() -> None:
    stage = Stage()
    person, ledger = operator(stage, 0.5)
    person.start()
    person.join(60)
    assert person.error is None
    assert stage.commands == [("kill", "--reason", KILL_REASON), ("arm",)]
    assert person.span == ((1, 0), (1, 0))
    assert person.band is not None
    assert person.band[0] > 0.1
    assert person.band[1] - person.band[0] >= LEAST_ON_SEC - 0.1
    assert person.switch == ""
    assert [happening.text for happening in ledger.happenings] == [
        f"harvest-brain kill --reason '{KILL_REASON}'",
        "harvest-brain arm lifts the kill-switch",
    ]


def test_an_operator_who_is_told_to_halt_before_the_time_does_nothing() -> None:
    stage = Stage()
    person, _ = operator(stage, 1_000.0)
    person.start()
    person.halt.set()
    person.join(60)
    assert stage.commands == []
    assert person.error is None


def test_an_operator_who_is_told_to_halt_while_the_switch_is_on_leaves_it_on() -> None:
    class Ending(Stage):
        def command(self, *words: str) -> None:
            super().command(*words)
            person.halt.set()

    stage = Ending()
    person, _ = operator(stage, 0.5)
    person.start()
    person.join(60)
    assert [words[0] for words in stage.commands] == ["kill"]
    assert (person.switch, person.span) == (KILL_REASON, None)


def test_an_operators_command_that_fails_is_kept_for_the_one_who_ends_the_demo() -> None:
    person, _ = operator(Stage(ConnectionError("refused")), 0.1)
    person.start()
    person.join(60)
    assert str(person.error) == "refused"
