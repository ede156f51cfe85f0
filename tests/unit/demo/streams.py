"""A run of the demo without Redis: entries at given seconds, and a ledger that has read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from harvest_brain.ops.demo.ledger import Ledger
from harvest_brain.ops.demo.market import Plan

ZERO_MS = 1_768_737_600_000
STREAM = "quantum:stream:"
RESULTS, SUGGESTIONS, ORDERS, STOPS, DEAD = (
    *(f"{STREAM}execution.result", f"{STREAM}harvest.suggestions", f"{STREAM}trade.intent", f"{STREAM}stop.intent"),
    f"{STREAM}harvest.rejected",
)
SIDES = {"long": ("BUY", "SELL", 1), "short": ("SELL", "BUY", -1)}


class Streams:
    """The few commands that a ledger sends, over entries that the test has put in."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[str, dict[str, str]]]] = {}
        self.count = 0

    def put(self, stream: str, at: float, fields: Mapping[str, str]) -> None:
        self.count += 1
        self.entries.setdefault(stream, []).append((f"{ZERO_MS + round(at * 1000)}-{self.count}", dict(fields)))

    def result(self, at: float, **answer: str) -> None:
        self.put(RESULTS, at, {"event_type": "execution.result", "payload": json.dumps(answer)})

    def price(self, at: float, symbol: str, price: str) -> None:
        self.put(RESULTS, at, {"symbol": symbol, "price": price, "status": "PRICE_UPDATE"})

    def intent(self, at: float, stream: str, **intent: Any) -> None:
        self.put(stream, at, {"payload": json.dumps(intent)})

    def xread(self, cursors: dict[str, str], count: int, block: int) -> list[Any]:
        assert count > 0
        assert block > 0
        found = []
        for stream, cursor in cursors.items():
            seen = order(cursor)
            new = [entry for entry in self.entries.get(stream, []) if order(entry[0]) > seen]
            if new:
                found.append((stream, new))
        return found

    def xrevrange(self, stream: str, count: int) -> list[Any]:
        return self.entries.get(stream, [])[-count:]


def order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def plan(side: str = "long", symbol: str = "ETHUSDT", at: float = 1.0, until: float = 9.0) -> Plan:
    return Plan(at, until, symbol, SIDES[side][0], Decimal(1), Decimal("0.02"))


def price_at(side: str, r: str) -> str:
    """The price at which a position from 100 with a risk of 2 has this R."""
    return str(100 + SIDES[side][2] * 2 * Decimal(r))


def enter(streams: Streams, side: str = "long", at: float = 1.0, symbol: str = "ETHUSDT") -> None:
    """One at 100, with a risk of 2."""
    streams.price(at - 0.1, symbol, "100")
    streams.result(
        at,
        symbol=symbol,
        side=SIDES[side][0],
        status="FILLED",
        qty="1",
        price="100",
        stop_loss=price_at(side, "-1"),
        reason="entry",
    )


def harvest(streams: Streams, of: str = "long", *, at: float = 3.0, live: bool = False, **changes: Any) -> None:
    """The first rung at 0.5 R of a long or a short. `changes` spoil it."""
    intent = {
        "intent_type": "REDUCE_ONLY" if live else "HARVEST_PARTIAL",
        "symbol": "ETHUSDT",
        "side": SIDES[of][1],
        "qty": 0.25,
        "price": float(price_at(of, "0.5")),
        "r_level": 0.5,
        "rungs": ["0.5"],
        "reason": "R=0.5 >= 0.5",
        "reduce_only": True,
        "correlation_id": "hb-1-r1",
    }
    streams.intent(at, ORDERS if live else SUGGESTIONS, **(intent | changes))


def move_stop(streams: Streams, side: str = "long", *, at: float = 3.5, live: bool = False, r: str = "0") -> None:
    streams.intent(
        at,
        STOPS if live else SUGGESTIONS,
        intent_type="MOVE_SL_BREAKEVEN",
        symbol="ETHUSDT",
        side=SIDES[side][1],
        reduce_only=True,
        correlation_id=f"hb-1-s{r}",
        stop_price=float(price_at(side, r)),
    )


def fill_harvest(streams: Streams, side: str = "long", *, at: float = 4.0, status: str = "FILLED", **more: str) -> None:
    answer = {
        "symbol": "ETHUSDT",
        "side": SIDES[side][1],
        "status": status,
        "qty": "0.25",
        "price": price_at(side, "0.6"),
        "reason": "harvest",
        "correlation_id": "hb-1-r1",
    }
    streams.result(at, **(answer | more))


def leave(
    streams: Streams, side: str = "long", *, at: float = 9.0, qty: str = "1", r: str = "1", why: str = "close"
) -> None:
    streams.price(at - 0.1, "ETHUSDT", price_at(side, r))
    streams.result(
        at,
        symbol="ETHUSDT",
        side=SIDES[side][1],
        status="FILLED",
        qty=qty,
        price=price_at(side, r),
        reason=why,
    )


def ledger_of(streams: Streams, *plans: Plan) -> Ledger:
    """A ledger that has read all of it."""
    ledger = Ledger("quantum", ZERO_MS, plans or (plan(),))
    while ledger.read(streams, 1):
        pass
    return ledger


def shadow_run(side: str = "long") -> Streams:
    """Entry, a suggested harvest and stop, and the trader's close at 1 R."""
    streams = Streams()
    enter(streams, side)
    streams.price(2.0, "ETHUSDT", price_at(side, "0.5"))
    harvest(streams, side)
    move_stop(streams, side)
    streams.price(5.0, "ETHUSDT", price_at(side, "0.7"))
    leave(streams, side)
    return streams


def live_run(side: str = "long") -> Streams:
    """The same, with the harvest filled at 0.6 R."""
    streams = Streams()
    enter(streams, side)
    streams.price(2.0, "ETHUSDT", price_at(side, "0.5"))
    harvest(streams, side, live=True)
    move_stop(streams, side, live=True)
    streams.result(3.6, symbol="ETHUSDT", status="ACK", correlation_id="hb-1-r1")
    fill_harvest(streams, side)
    streams.price(5.0, "ETHUSDT", price_at(side, "0.7"))
    leave(streams, side, qty="0.75")
    return streams
