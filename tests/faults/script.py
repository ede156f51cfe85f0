"""A random life of a trading account, from a seed, as entries of the execution stream: what the producers write.

The author plays along with the reference while it writes, so that what it writes makes sense: it closes what is open,
sets prices around the rungs, fills and rejects the orders that were published. And it makes what goes wrong in the
field: repeats, contradictions, entries nobody can read, prices from yesterday and from tomorrow, ticks out of the blue.

Ids are given by the author, one after the other in the recent past, so that feeding is repeatable (an id that is there
already is refused) and all that must come out is known to the byte.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import NamedTuple

from harvest_brain.core.events import Key, PositionSide, Side
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.numbers import plain
from harvest_brain.core.position import Position, ReservationState
from tests.faults.reference import Reference, settings_of

TICK = Decimal("0.01")
STEP = Decimal("0.001")
HOUR_MS = 3_600_000
MODE, FRESHNESS, RATE = "HARVEST_MODE", "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC", "HARVEST_MAX_ACTIONS_PER_MIN"
LONG_FRESH_SEC, SHORT_FRESH_SEC = "3600", "1"
NO_RATE = "10000"
SPACING_MS = 40
STALE_MS = 3 * HOUR_MS


class Feed(NamedTuple):
    """Put an entry on the execution stream."""

    entry_id: str
    fields: tuple[bytes, ...]


class Switch(NamedTuple):
    """Set the kill-switch. Thrown while a commit that publishes is on its way, or, `abrupt`, at any moment: the commit
    is refused, so what was decided by then and what was not is known from the stored cursor. Not so what is too small
    and carried, or waits for the rate: that is decided without a commit that the switch could refuse. Lifted when
    nothing is on its way."""

    value: str
    abrupt: bool


class Beside(NamedTuple):
    """Put an entry on another stream, when nothing is on its way, and wait until it is taken in: only then it is known
    what stood in the books when it was read. `stream` is "snapshots", "pnl" or "control"."""

    stream: str
    entry_id: str
    fields: tuple[bytes, ...]


class Change(NamedTuple):
    """Stop the daemons and start them with another value of a setting: `MODE`, or `FRESHNESS`, whose short one makes
    every price of the script too old."""

    setting: str
    value: str


class Minute(NamedTuple):
    """A minute passes when nothing is on its way, so that the rate allows as much as ever. While entries are fed none
    does."""


class Trim(NamedTuple):
    """Stop the daemons, put `lost` on the execution stream and the next entry behind it, and remove `lost` before
    anybody has read it."""

    lost: tuple[Feed, ...]


Control = Switch | Beside | Change | Minute | Trim
Step = Feed | Control


@dataclass(frozen=True)
class Size:
    """How much of it: the number of symbols, and of entries."""

    symbols: int = 12
    entries: int = 600


@dataclass(frozen=True)
class Script:
    """`environ` is the daemons' configuration, without where Redis is; `overrides` the operator's terms per symbol."""

    environ: Mapping[str, str]
    overrides: Mapping[str, Mapping[str, str]]
    steps: Sequence[Step]
    base_ms: int

    @property
    def entries(self) -> int:
        return sum(isinstance(step, Feed) for step in self.steps)


def follow(reference: Reference, step: Control) -> None:
    """What a step that is no entry of the execution stream is to the reference."""
    if isinstance(step, Switch):
        reference.kill_switch = step.value
    elif isinstance(step, Beside):
        reference.take_beside(step.stream, step.entry_id, list(step.fields))
    elif isinstance(step, Minute):
        reference.pass_minute()
    elif isinstance(step, Trim):
        reference.miss(len(step.lost))
    elif step.setting == MODE:
        reference.change_mode(step.value)
    else:
        reference.change_freshness(int(step.value))


def write(rng: random.Random, size: Size, now_ms: int) -> Script:
    """The script that `rng` comes to. Its last entry lies before `now_ms`."""
    author = _Author(rng, size, now_ms - size.entries * SPACING_MS - 60_000)
    while author.written < size.entries:
        author.go_on()
    return Script(author.environ, author.overrides, author.steps, author.base_ms)


def _environ(rng: random.Random, *, has_minima: bool) -> dict[str, str]:
    return {
        MODE: rng.choice(["shadow", "live", "live"]),
        "HARVEST_LADDER": rng.choice(["0.5:0.25,1.0:0.25,1.5:0.25", "0.3:0.2,0.6:0.2,0.9:0.2,1.2:0.2,1.5:0.2", "1:1"]),
        "HARVEST_MIN_R": "0.3",
        FRESHNESS: LONG_FRESH_SEC,
        RATE: rng.choice([*[NO_RATE] * 6, "4", "12"]),
        "HARVEST_DEDUP_TTL_SEC": rng.choice(["1", "900"]),
        "HARVEST_QTY_STEP": plain(STEP),
        "HARVEST_PRICE_TICK": plain(TICK),
        "HARVEST_DUST": rng.choice(["leave", "close_all"]),
        "HARVEST_MIN_QTY": "0.1" if has_minima else "0",
        "HARVEST_LIVE_ALLOW_FALLBACK_RISK": rng.choice(["true", "false"]),
        "HARVEST_SPOT": rng.choice(["true", "false", "false"]),
        "HARVEST_TRAIL_BAR_SEC": "1",
        "HARVEST_TRAIL_ATR_PERIOD": "3",
        "HARVEST_TRAIL_START_R": "0.8",
        "HARVEST_LIVE_CATCH_UP": rng.choice(["true", "false"]),
        "HARVEST_PENDING_TIMEOUT_SEC": rng.choice(["1", "3600"]),
        "HARVEST_SNAPSHOT_SETTLE_SEC": "0",
        "HARVEST_BATCH_SIZE": rng.choice(["1", "3", "10", "100", "2000"]),
        "HARVEST_LEASE_SEC": rng.choice(["2", "3"]),
    }


@dataclass
class _Author:
    rng: random.Random
    size: Size
    base_ms: int
    written: int = 0
    said: int = 0
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        has_minima = rng.random() < 0.25
        self.environ = _environ(rng, has_minima=has_minima)
        self.symbols = [f"S{number}USDT" for number in range(self.size.symbols)]
        self.keys = [key for symbol in self.symbols for key in self._keys(symbol)]
        self.overrides: dict[str, dict[str, str]] = {
            symbol: rng.choice(_OVERRIDES if has_minima else _OVERRIDES[1:])
            for symbol in self.symbols
            if rng.random() < 0.2
        }
        self.nominal = Reference(
            settings_of(self.environ), self.base_ms + HOUR_MS // 2, self.overrides, kill_switch="0"
        )
        self.prices = {symbol: Decimal(rng.randint(2_000, 900_000)) * TICK for symbol in self.symbols}
        self.orders: list[Intent] = []  # published, and not answered to the end
        self.repeatable: list[tuple[bytes, ...]] = []
        self.switched_off = False
        self.mode = self.environ[MODE]
        self.is_limited = self.environ[RATE] != NO_RATE
        self.abrupt = not has_minima and not self.is_limited
        self.ages = rng.random() < 0.15
        self.freshness = LONG_FRESH_SEC
        self.changes = rng.choice([0, 0, 0, 1, 2, 3])

    def _keys(self, symbol: str) -> list[Key]:
        """One position for most, both sides or two accounts for some."""
        kind = self.rng.random()
        if kind < 0.8:
            return [Key("", symbol, PositionSide.NET)]
        if kind < 0.9:
            return [Key("", symbol, PositionSide.LONG), Key("", symbol, PositionSide.SHORT)]
        return [Key("one", symbol, PositionSide.NET), Key("two", symbol, PositionSide.NET)]

    def go_on(self) -> None:
        """Write the next thing that happens."""
        kinds = {
            self.tick: 620,
            self.trade: 110,
            self.answer: 100,
            self.repeat: 40,
            self.pass_over: 20,
            self.garble: 20,
            self.switch: 100 if self.switched_off else 12,
            self.beside: 10,
            self.change: 3,
            self.age: 0 if not self.ages else 4 if self.freshness == LONG_FRESH_SEC else 40,
            self.minute: 30 if self.is_limited else 0,
            self.trim: 0.2,
        }
        self.rng.choices(list(kinds), list(kinds.values()))[0]()

    def pass_over(self) -> None:
        status = self.rng.choice(["skipped_cooldown", "UNHEARD_OF", "NEW", "CANCELED"])
        self.feed({"status": status, **self.some_symbol()})

    def garble(self) -> None:
        self.feed_raw(_unreadable(self.rng, self.rng.choice(self.symbols)))

    def repeat(self) -> None:
        if self.repeatable:
            self.feed_raw(self.rng.choice(self.repeatable))

    def change(self) -> None:
        to = "live" if self.mode == "shadow" else "shadow"
        if self.changes and self.written > self.size.entries // 4:
            self.changes -= 1
            self.mode = to
            self.put(Change(MODE, self.mode))

    def age(self) -> None:
        """Prices are too old for a while."""
        self.freshness = SHORT_FRESH_SEC if self.freshness == LONG_FRESH_SEC else LONG_FRESH_SEC
        self.put(Change(FRESHNESS, self.freshness))

    def minute(self) -> None:
        self.put(Minute())

    def some_symbol(self) -> dict[str, str]:
        return {"symbol": self.rng.choice(self.symbols)}

    def switch(self) -> None:
        self.switched_off = not self.switched_off
        value = "0"
        if self.switched_off:
            value = self.rng.choice(["1", "1", "1", "on", ""])
        self.put(Switch(value, abrupt=self.switched_off and self.abrupt))

    def trim(self) -> None:
        """Lose some prices."""
        if not self.written:
            return
        lost = []
        for number in range(10, 10 + self.rng.randint(1, 9)):
            fields = _flat(symbol=self.rng.choice(self.symbols), price="1", status="PRICE_UPDATE")
            lost.append(Feed(f"{self.time_ms()}-{number}", fields))
        self.put(Trim(tuple(lost)))
        self.written += 1
        self.tick()

    # What others say.

    def beside(self) -> None:
        """Somebody else says something. Contradictions are mostly settled, or nothing would be harvested for long."""
        if not self.written:
            return
        rng = self.rng
        positions = list(self.nominal.state.positions())
        suspects = [p.key for p in positions if p.suspect]
        unknown = [
            (p.key.symbol, r.intent_id)
            for p in positions
            if p.epoch is not None
            for r in p.epoch.reservations
            if r.state is ReservationState.UNKNOWN
        ]
        chance = rng.random()
        if suspects and chance < 0.7:
            if rng.random() < 0.5:
                self.say("control", {"action": "clear", "symbol": rng.choice(suspects).symbol})
            else:
                self.snapshot(rng.choice(suspects), times=3)
        elif (unknown or self.orders) and chance < 0.85:
            symbol, intent_id = rng.choice(unknown or [(order.key.symbol, order.intent_id) for order in self.orders])
            self.say("control", {"action": "release", "symbol": symbol, "intent": intent_id})
        elif chance < 0.9:
            self.say("pnl", {"unrealized_pnl": str(rng.randint(-500, 500)), **self.some_symbol()})
        elif chance < 0.92:
            stream = rng.choice(["snapshots", "control"])
            self.say(stream, {"symbol": "S0USDT", "position_qty": "many", "action": "shout"})
        else:
            self.snapshot(rng.choice(self.keys), times=rng.choice([1, 2, 2]))

    def snapshot(self, key: Key, times: int) -> None:
        """What the books say, or something else; twice in a row, it is believed."""
        rng = self.rng
        position = self.position(key) or Position(key)
        qty, average = position.qty, position.average
        if rng.random() < 0.3:
            sign = {PositionSide.LONG: 1, PositionSide.SHORT: -1}.get(key.position_side, rng.choice([1, -1]))
            qty = rng.choice([Decimal(0), sign * self.some_qty(), qty / 2])
            average = average or self.prices[key.symbol]
        fields = {"symbol": key.symbol, "position_qty": plain(qty), "entry_price": plain(average)}
        if key.account:
            fields["account"] = key.account
        if key.position_side is not PositionSide.NET:
            fields["position_side"] = key.position_side.value
        if rng.random() < 0.5:
            fields["mark_price"] = plain(self.prices[key.symbol])
        for _ in range(times):
            self.say("snapshots", fields)

    def say(self, stream: str, fields: Mapping[str, str]) -> None:
        self.said += 1
        words = _flat(**fields)
        entry_id = f"{self.time_ms()}-{self.said}"
        self.put(Beside(stream, entry_id, words))

    # Fills of the trader's own.

    def trade(self) -> None:
        rng = self.rng
        key = rng.choice(self.keys)
        position = self.position(key)
        price = self.prices[key.symbol]
        if position is None or position.qty == 0:
            self.open(key, price)
            return
        held = abs(position.qty)
        way, back = (Side.BUY, Side.SELL) if position.qty > 0 else (Side.SELL, Side.BUY)
        kind = rng.random()
        if kind < 0.35:
            self.fill(key, way, self.some_qty(), price)
        elif kind < 0.7:
            self.fill(key, back, max((held * rng.choice([1, 2, 3]) / 4).quantize(STEP), STEP), price)
        elif kind < 0.9 or key.position_side is not PositionSide.NET:
            self.fill(key, back, held, price)
        else:
            self.fill(key, back, held + self.some_qty(), price, self.stop(back, price))

    def open(self, key: Key, price: Decimal) -> None:
        rng = self.rng
        way = {PositionSide.LONG: Side.BUY, PositionSide.SHORT: Side.SELL}.get(
            key.position_side, rng.choice([Side.BUY, Side.SELL])
        )
        stop = self.stop(way, price) if rng.random() < 0.85 else {}
        parts = rng.choice([1, 1, 1, 2, 3])
        order = f"o{self.written}"
        filled = Decimal(0)
        for part in range(parts):
            qty = self.some_qty()
            filled += qty
            more: dict[str, str] = {"order_id": order, **stop}
            if parts > 1 and rng.random() < 0.5:
                more["cum_qty"] = plain(filled)
            self.fill(key, way, qty, price, more, complete=part == parts - 1)

    def fill(
        self,
        key: Key,
        way: Side,
        qty: Decimal,
        price: Decimal,
        more: Mapping[str, str] = MappingProxyType({}),
        *,
        complete: bool = True,
    ) -> None:
        rng = self.rng
        fields = {
            "symbol": key.symbol,
            "side": way.value,
            "qty": plain(qty),
            "price": plain(price),
            "status": "FILLED" if complete else rng.choice(["PARTIAL", "partially_filled"]),
            **more,
        }
        if key.account:
            fields["account"] = key.account
        if key.position_side is not PositionSide.NET:
            fields["position_side"] = key.position_side.value
        if "order_id" not in fields or rng.random() < 0.3:
            fields["fill_id"] = f"f{self.written}"
        if rng.random() < 0.3:
            fields |= {"fee": "0.0002", "fee_asset": rng.choice(["USDT", key.symbol.removesuffix("USDT"), "BNB"])}
        self.feed(fields)
        if rng.random() < 0.006:
            self.feed({**fields, "qty": plain(qty + STEP)})  # the same fill, another content

    def some_qty(self) -> Decimal:
        return self.rng.randint(1, 4000) * STEP

    def stop(self, way: Side, price: Decimal) -> dict[str, str]:
        distance = price * Decimal(self.rng.uniform(0.004, 0.03))
        return {"stop_loss": plain(_to_tick(price - way.sign * distance))}

    # Answers to the orders that were published.

    def answer(self) -> None:
        if not self.orders:
            return
        rng = self.rng
        order = rng.choice(self.orders)
        key = order.key
        kind = rng.random()
        name = {"client_order_id": order.intent_id} if rng.random() < 0.8 else {"correlation_id": order.intent_id}
        if kind < 0.15:
            self.feed({"status": "ACCEPTED", "symbol": key.symbol, "order_id": f"x{order.intent_id}", **name})
            return
        held = self.position(key)
        outlived = held is None or held.epoch is None or held.epoch.epoch_id != order.epoch_id
        if kind < (0.9 if outlived else 0.3):
            self.feed({"status": rng.choice(["REJECTED", "EXPIRED"]), "symbol": key.symbol, **name})
            self.orders.remove(order)
            return
        if kind < 0.5 and order.qty > STEP:
            part = (order.qty / 2).quantize(STEP)
            self.fill(key, order.side, max(part, STEP), self.prices[key.symbol], name, complete=False)
            return
        self.fill(key, order.side, order.qty, self.prices[key.symbol], name)
        self.orders.remove(order)

    # Prices.

    def tick(self) -> None:
        rng = self.rng
        symbol = rng.choice(self.symbols)
        price = self.prices[symbol]
        held = self.nominal.state.books.get(symbol)
        open_ones = [p for p in held.positions if p.epoch is not None] if held is not None else []
        kind = rng.random()
        if open_ones and kind < 0.45:
            price = self.towards_profit(rng.choice(open_ones))
        elif kind < 0.97:
            price = _to_tick(price * Decimal(1 + rng.gauss(0, 0.004)))
        else:
            price = _to_tick(price * Decimal(rng.choice([0.6, 1.5])))  # a bad tick, if nothing confirms it
        price = max(price, TICK)
        fields = {"symbol": symbol, "price": plain(price), "status": "PRICE_UPDATE"}
        kind = rng.random()
        if kind < 0.05:
            fields["timestamp"] = str(self.time_ms() - STALE_MS)
        elif kind < 0.07:
            fields["timestamp"] = str(self.time_ms() + HOUR_MS)
        elif kind < 0.3:
            fields["timestamp"] = str(self.time_ms() - rng.randint(0, 3000))
        if rng.random() > 0.1:
            self.prices[symbol] = price
        self.feed(fields)

    def towards_profit(self, position: Position) -> Decimal:
        epoch = position.open_epoch
        return _to_tick(position.average + epoch.sign * epoch.r_unit * Decimal(self.rng.uniform(-0.3, 1.9)))

    # Writing.

    def put(self, step: Control) -> None:
        """Write a step that is no entry."""
        self.steps.append(step)
        follow(self.nominal, step)

    def position(self, key: Key) -> Position | None:
        book = self.nominal.state.books.get(key.symbol)
        return next((p for p in book.positions if p.key == key), None) if book is not None else None

    def time_ms(self) -> int:
        return self.base_ms + self.written * SPACING_MS

    def feed(self, fields: Mapping[str, str]) -> None:
        """In one of the shapes that producers use."""
        shape = self.rng.random()
        if shape < 0.5:
            flat: tuple[bytes, ...] = tuple(word.encode() for pair in fields.items() for word in pair)
        elif shape < 0.6 and "side" in fields:
            outer = {name: value for name, value in fields.items() if name not in ("symbol", "side")}
            signal = {"symbol": fields["symbol"], "side": fields["side"]}
            flat = (b"payload", json.dumps({**outer, "signal": signal}).encode())
        else:
            carrier = self.rng.choice([b"payload", b"data", b"json"])
            flat = (carrier, json.dumps(fields).encode(), b"source", b"trader")
        self.feed_raw(flat)
        if fields["status"] != "PRICE_UPDATE":
            self.repeatable.append(flat)

    def feed_raw(self, fields: tuple[bytes, ...]) -> None:
        entry_id = f"{self.time_ms()}-{self.rng.choice([0, 0, 0, 7])}"
        self.steps.append(Feed(entry_id, fields))
        self.written += 1
        decision = self.nominal.take(entry_id, list(fields))
        if self.nominal.policy.live:
            self.orders += [intent for intent in decision.intents if intent.action is Action.HARVEST]


def _to_tick(price: Decimal) -> Decimal:
    return price.quantize(TICK, ROUND_HALF_UP)


_OVERRIDES = (
    {"qty_step": "0.1", "min_qty": "0.2"},
    {"min_r": "0.7"},
    {"ladder": "0.4:0.5,0.8:0.5"},
    {"trail_atr_mult": "0"},
    {"ladder": "none", "set_be_at_r": "0.9"},  # a bad value refuses itself alone
)


def _unreadable(rng: random.Random, symbol: str) -> tuple[bytes, ...]:
    """An entry that can't be used."""
    return rng.choice(
        [
            (b"payload", b"{not json %d" % rng.randint(0, 99)),
            (b"status", b"FILLED", b"side", b"BUY", b"qty", b"1", b"price", b"%d" % rng.randint(1, 99)),
            _flat(symbol=symbol, status="FILLED", side="BUY", qty="0", price="0", order_id=f"z{rng.random()}"),
            _flat(symbol=symbol, status="PRICE_UPDATE", price=rng.choice(["0", "-1", "NaN", "1e400", "ten"])),
            _flat(symbol=symbol, status="FILLED", side="UP", qty="1", price="1"),
            (b"symbol", b"\xff\xfe", b"status", b"FILLED", b"noise", rng.randbytes(8)),
            (b"status", b"FILLED", b"status", b"FILLED"),
            (b"payload", b"x" * rng.choice([10, 70_000])),
            (b"a", b"b"),
        ]
    )


def _flat(**fields: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for pair in fields.items() for word in pair)
