"""The paper exchange: what a consumer of the intents has to do, in small.

It reads `trade.intent` (and `stop.intent`) through a consumer group, takes each client order id once,
acknowledges it, and fills at the last price with the correlation id of the intent. It fills some orders in
two parts and rejects one now and then: which ones is drawn from the seed. It holds the positions and their
stops, so a stop that is touched closes what is left.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any

from harvest_brain.ops.demo.market import Market, Plan

FEE_RATE = Decimal("0.0005")  # of the notional of each fill, paid in quote currency
FEE_STEP = Decimal("1e-12")
OUTCOMES = ("fill", "fill", "fill", "partial", "partial", "reject")  # shuffled, dealt, shuffled again
WORK_SEC = (0.3, 0.7)  # from the acknowledgement to the fill, and from one partial fill to the next
GROUP = "paper_exchange"
PASS_SEC = 0.02  # one round of the venue
AFTERMATH_SEC = 1.5  # after the last price: late intents still get their answer

Answer = dict[str, str]  # the payload of one entry of execution.result


@dataclass
class Holding:
    """An open position: `qty` > 0 in base asset, `sign` +1 long and -1 short."""

    sign: int
    qty: Decimal
    stop: Decimal


@dataclass
class Work:
    """A part of an accepted order that is still to be filled."""

    due: float
    order: Answer
    qty: Decimal
    last: bool


class Exchange:
    """The book. No Redis and no clock: `now` is in seconds, answers come in the order of publishing."""

    def __init__(self, seed: int, qty_step: Decimal, price_tick: Decimal) -> None:
        self.price: dict[str, Decimal] = {}
        self.holdings: dict[str, Holding] = {}
        self.repeats = 0  # client order ids seen a second time
        self._rng = random.Random(seed)
        self._step, self._tick = qty_step, price_tick
        self._deck: list[str] = []
        self._seen: set[str] = set()
        self._work: list[Work] = []
        self._orders = 0

    def enter(self, plan: Plan) -> Iterator[Answer]:
        """The trader's market order: filled at once, with the stop that says what is risked."""
        price, sign = self.price[plan.symbol], 1 if plan.side == "BUY" else -1
        stop = (price * (1 - sign * plan.risk)).quantize(self._tick)
        self.holdings[plan.symbol] = Holding(sign, plan.qty, stop)
        order = self._order(plan.symbol, plan.side)
        yield self._fill(order, plan.qty, last=True) | {"stop_loss": str(stop), "reason": "entry"}

    def leave(self, symbol: str, reason: str) -> Iterator[Answer]:
        """Close what is left at the last price; orders that are still working are cancelled first."""
        holding = self.holdings.pop(symbol, None)
        if holding is None:
            return
        yield from self._cancel(symbol)
        order = self._order(symbol, "SELL" if holding.sign > 0 else "BUY")
        yield self._fill(order, holding.qty, last=True) | {"reason": reason}

    def mark(self, symbol: str, price: Decimal) -> Iterator[Answer]:
        """A new price; a stop that it touches is filled at it."""
        self.price[symbol] = price
        holding = self.holdings.get(symbol)
        if holding and (price - holding.stop) * holding.sign <= 0:
            yield from self.leave(symbol, "stop")

    def order(self, intent: dict[str, Any], now: float) -> Iterator[Answer]:
        """An order from `trade.intent`. A client order id that is known already is counted and ignored."""
        name = str(intent["client_order_id"])
        if name in self._seen:
            self.repeats += 1
            return
        self._seen.add(name)
        symbol, side, qty = str(intent["symbol"]), str(intent["side"]), Decimal(str(intent["qty"]))
        order = self._order(symbol, side) | {
            "client_order_id": name,
            "correlation_id": str(intent["correlation_id"]),
        }
        outcome = self._draw()
        holding = self.holdings.get(symbol)
        if holding is None or (side == "SELL") != (holding.sign > 0):
            yield order | {"status": "REJECTED", "reason": "reduce-only, and there is nothing to reduce"}
            return
        if outcome == "reject":
            yield order | {"status": "REJECTED", "reason": "the exchange is busy (simulated)"}
            return
        yield order | {"status": "ACK"}
        due = now + self._rng.uniform(*WORK_SEC)
        first = (qty * Decimal("0.6")).quantize(self._step, ROUND_DOWN) if outcome == "partial" else Decimal(0)
        if 0 < first < qty:
            self._work.append(Work(due, order, first, last=False))
            due += self._rng.uniform(*WORK_SEC)
            qty -= first
        self._work.append(Work(due, order, qty, last=True))

    def move_stop(self, intent: dict[str, Any]) -> None:
        """A stop from `stop.intent`. A stop is not an order here: it has no answer of its own."""
        holding = self.holdings.get(str(intent["symbol"]))
        stop = Decimal(str(intent["stop_price"]))
        if holding and (stop - holding.stop) * holding.sign > 0:
            holding.stop = stop

    def due(self, now: float) -> Iterator[Answer]:
        """The fills whose time has come, never more than what is held."""
        for work in sorted((work for work in self._work if work.due <= now), key=lambda work: work.due):
            if work not in self._work:
                continue  # cancelled by the fill before it
            self._work.remove(work)
            symbol = work.order["symbol"]
            holding = self.holdings[symbol]
            qty = min(work.qty, holding.qty)
            holding.qty -= qty
            yield self._fill(work.order, qty, work.last) | {"reason": "harvest"}
            if not holding.qty:
                del self.holdings[symbol]
                yield from self._cancel(symbol)

    def _cancel(self, symbol: str) -> Iterator[Answer]:
        gone = [work for work in self._work if work.order["symbol"] == symbol]
        self._work = [work for work in self._work if work not in gone]
        for work in gone:
            if work.last:
                yield work.order | {"status": "CANCELED", "reason": "the position is closed"}

    def _order(self, symbol: str, side: str) -> Answer:
        self._orders += 1
        return {"symbol": symbol, "side": side, "order_id": f"PX{self._orders}"}

    def _fill(self, order: Answer, qty: Decimal, last: bool) -> Answer:
        price = self.price[order["symbol"]]
        return order | {
            "status": "FILLED" if last else "PARTIALLY_FILLED",
            "qty": str(qty),
            "price": str(price),
            "fee": str((qty * price * FEE_RATE).quantize(FEE_STEP)),
            "fill_id": f"{order['order_id']}-{2 if last else 1}",
        }

    def _draw(self) -> str:
        if not self._deck:
            self._deck = list(OUTCOMES)
            self._rng.shuffle(self._deck)
        return self._deck.pop()


class Venue(threading.Thread):
    """The market, the trader and the exchange at work, over a Redis connection of their own."""

    def __init__(self, db: Any, namespace: str, market: Market, seconds: float, exchange: Exchange) -> None:
        super().__init__(name="venue", daemon=True)
        self.exchange = exchange
        self.error: Exception | None = None
        self.halt = threading.Event()
        self._db, self._market, self._seconds = db, market, seconds
        self._results = f"{namespace}:stream:execution.result"
        self._intents = f"{namespace}:stream:trade.intent"
        self._stops = f"{namespace}:stream:stop.intent"
        for stream in (self._intents, self._stops):
            db.xgroup_create(stream, GROUP, id="0", mkstream=True)

    def run(self) -> None:
        try:
            self._trade()
        except Exception as error:  # noqa: BLE001  # told by the main thread, which ends the demo
            self.error = error

    def _trade(self) -> None:
        exchange, started = self.exchange, time.monotonic()
        ticks, entries = list(reversed(self._market.ticks)), list(self._market.plans)
        exits = sorted(entries, key=lambda plan: plan.until)
        while not self.halt.wait(PASS_SEC) and (now := time.monotonic() - started) < self._seconds + AFTERMATH_SEC:
            pipe = self._db.pipeline(transaction=False)
            while ticks and ticks[-1].at <= now:
                tick = ticks.pop()
                stamp = str(time.time_ns() // 1_000_000)
                fields = {
                    "symbol": tick.symbol,
                    "price": str(tick.price),
                    "status": "PRICE_UPDATE",
                    "timestamp": stamp,
                }
                pipe.xadd(self._results, fields)
                self._publish(pipe, exchange.mark(tick.symbol, tick.price))
            for plan in [plan for plan in entries if plan.at <= now]:
                entries.remove(plan)
                self._publish(pipe, exchange.enter(plan))
            for plan in [plan for plan in exits if plan.until <= now]:
                exits.remove(plan)
                self._publish(pipe, exchange.leave(plan.symbol, "close"))
            for stream, entry_id, intent in self._read():
                if stream == self._intents:
                    self._publish(pipe, exchange.order(intent, now))
                else:
                    exchange.move_stop(intent)
                pipe.xack(stream, GROUP, entry_id)
            self._publish(pipe, exchange.due(now))
            pipe.execute()

    def _read(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        reply = self._db.xreadgroup(GROUP, "exchange-1", {self._intents: ">", self._stops: ">"}, count=100)
        for stream, entries in reply or ():
            for entry_id, fields in entries:
                yield stream, entry_id, body(fields)

    def _publish(self, pipe: Any, answers: Iterable[Answer]) -> None:
        for answer in answers:
            envelope = {
                "event_type": "execution.result",
                "payload": json.dumps(answer),
                "source": "paper_exchange",
                "timestamp": str(time.time_ns() // 1_000_000),
            }
            if "correlation_id" in answer:
                envelope["correlation_id"] = answer["correlation_id"]
            pipe.xadd(self._results, envelope)


def body(fields: dict[str, str]) -> dict[str, Any]:
    """The message of an entry, whichever of the two shapes that the demo meets it has; numbers as Decimal."""
    payload = json.loads(fields.get("payload", "{}"), parse_float=Decimal, parse_int=Decimal)
    return {**fields, **payload}
