"""What really was on the streams: the demo's own account of the run, and its judgement.

It reads every stream from its first entry and believes nothing else. Positions are kept from the fills by a
book of its own, R is computed from the opening stop, and each published intent is held against both: so it
is also a small independent check of the daemon. Times are seconds since the market opened; money is in
quote currency, after fees.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from harvest_brain.ops.demo.exchange import FEE_RATE, body
from harvest_brain.ops.demo.market import Plan

ZERO = Decimal(0)
R_TOLERANCE = Decimal("0.011")  # r_level is published with two decimals

CLOSING_SIDE = "every intent is reduce-only and on the closing side"
PEAK = "harvests of a position never exceed its peak"
UNIQUE = "no correlation id was used twice"
SWITCH = "nothing was published while the kill-switch was on"
SAME_R = "the R of every harvest agrees with the demo's own"
READABLE = "the daemon could read every entry"
CHECKS = (SWITCH, PEAK, UNIQUE, CLOSING_SIDE, SAME_R, READABLE)


@dataclass
class Harvest:
    """A harvest as it was published, and what became of it. `price`: what triggered it."""

    at: float
    correlation_id: str
    qty: Decimal
    price: Decimal
    r: Decimal
    rungs: tuple[Decimal, ...]
    state: str = "published"
    filled: Decimal = ZERO


@dataclass
class Exit:
    at: float
    qty: Decimal
    price: Decimal
    kind: str  # harvest, stop or close


@dataclass
class Epoch:
    """One life of a position. `stop` is the first one, `stops` what became of it."""

    symbol: str
    sign: int
    opened: float
    until: float
    entry: Decimal
    stop: Decimal
    peak: Decimal
    qty: Decimal
    best: Decimal  # the price furthest in its favour so far
    closed: float | None = None
    exits: list[Exit] = field(default_factory=list)
    harvests: list[Harvest] = field(default_factory=list)
    stops: list[tuple[float, Decimal]] = field(default_factory=list)

    @property
    def side(self) -> str:
        return "long" if self.sign > 0 else "short"

    @property
    def r_unit(self) -> Decimal:
        return self.sign * (self.entry - self.stop)

    def r(self, price: Decimal) -> Decimal:
        return self.sign * (price - self.entry) / self.r_unit

    def stop_at(self, at: float) -> Decimal:
        moved = bisect_right(self.stops, at, key=lambda stop: stop[0])
        return self.stops[moved - 1][1] if moved else self.stop

    def money(self, exits: list[Exit]) -> Decimal:
        """What `exits` earn, after the fees of both ways."""
        return sum(
            (e.qty * (self.sign * (e.price - self.entry) - FEE_RATE * (e.price + self.entry)) for e in exits),
            ZERO,
        )

    def in_r(self, money: Decimal) -> Decimal:
        return money / (self.r_unit * self.peak)

    def play(self, path: list[tuple[float, Decimal]], advised: bool) -> list[Exit]:
        """The exits of this position on `path`, held to its end with its first stop; if `advised`, as if
        each harvest had been filled at its price and each stop moved when that was published."""
        left, exits = self.peak, []
        waiting = list(self.harvests) if advised else []
        for at, price in path[bisect_right(path, self.opened, key=lambda tick: tick[0]) :]:
            if at > self.until:
                break
            while waiting and waiting[0].at <= at:
                harvest = waiting.pop(0)
                exits.append(Exit(harvest.at, harvest.qty, harvest.price, "harvest"))
                left -= harvest.qty
            stop = self.stop_at(at) if advised else self.stop
            if (price - stop) * self.sign <= 0:
                return [*exits, Exit(at, left, price, "stop")]
            last = Exit(at, left, price, "close")
        return [*exits, last] if left else exits


@dataclass
class Happening:
    """A line for the screen."""

    at: float
    symbol: str
    kind: str
    text: str


class Ledger:
    def __init__(self, namespace: str, zero_ms: int, plans: tuple[Plan, ...]) -> None:
        stream = f"{namespace}:stream:"
        self.results, self.dead = f"{stream}execution.result", f"{stream}harvest.rejected"
        self.outputs = (f"{stream}harvest.suggestions", f"{stream}trade.intent", f"{stream}stop.intent")
        self.cursors = dict.fromkeys((self.results, *self.outputs, self.dead), "0")
        self.prices: dict[str, list[tuple[float, Decimal]]] = defaultdict(list)
        self.epochs: list[Epoch] = []
        self.open: dict[str, Epoch] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.faults: dict[str, list[str]] = {name: [] for name in CHECKS}
        self.happenings: list[Happening] = []
        self.published: list[tuple[tuple[int, int], str]] = []  # entry id and correlation id of every output
        self._harvests: dict[str, tuple[Epoch, Harvest]] = {}
        self._ids: set[str] = set()
        self._zero = zero_ms
        self._plans = sorted(plans, key=lambda plan: plan.at)

    def read(self, db: Any, block_ms: int) -> bool:
        """Take in what is new, in the order in which Redis wrote it; False when there was nothing."""
        batch = [
            (_order(entry_id), stream != self.results, stream, fields)
            for stream, entries in db.xread(self.cursors, count=2000, block=block_ms) or ()
            for entry_id, fields in entries
        ]
        for entry_id, _, stream, fields in sorted(batch, key=lambda entry: entry[:2]):
            self.cursors[stream] = f"{entry_id[0]}-{entry_id[1]}"
            at = (entry_id[0] - self._zero) / 1000
            if stream == self.results:
                self._result(at, body(fields))
            elif stream == self.dead:
                self.faults[READABLE].append(f"{at:.1f} s: {fields}")
            else:
                self._output(at, entry_id, body(fields))
        return bool(batch)

    def last_output(self, db: Any) -> tuple[int, int]:
        """The id of the newest entry on any output stream at this moment."""
        newest = [entry_id for stream in self.outputs for entry_id, _ in db.xrevrange(stream, count=1)]
        return max(map(_order, newest), default=(0, 0))

    def span(self, after: tuple[int, int], until: tuple[int, int]) -> None:
        """Judge the time of the kill-switch, by the last output before it and the last one at its end."""
        for entry_id, name in self.published:
            if after < entry_id <= until:
                self.faults[SWITCH].append(f"{name} at {entry_id[0]}-{entry_id[1]}")

    def _result(self, at: float, result: dict[str, Any]) -> None:
        symbol, status = result["symbol"], result["status"]
        if status == "PRICE_UPDATE":
            price = Decimal(result["price"])
            self.prices[symbol].append((at, price))
            epoch = self.open.get(symbol)
            if epoch:
                epoch.best = max(epoch.best, price, key=epoch.r)
            return
        known = self._harvests.get(result.get("correlation_id", ""))
        if status in ("FILLED", "PARTIALLY_FILLED"):
            self._fill(at, result, known)
        elif known:
            self.counts[status.lower()] += 1
            known[1].state = status.lower()
            self._say(
                at,
                symbol,
                "bad" if status != "ACK" else "dim",
                f"{status.lower()} {result.get('reason', '')}",
            )

    def _fill(self, at: float, fill: dict[str, Any], known: tuple[Epoch, Harvest] | None) -> None:
        symbol, qty, price, kind = (
            fill["symbol"],
            Decimal(fill["qty"]),
            Decimal(fill["price"]),
            fill["reason"],
        )
        self.counts["fills"] += kind == "harvest"
        self.counts["partial_fills"] += fill["status"] == "PARTIALLY_FILLED"
        epoch = self.open.get(symbol)
        if epoch is None:
            plan = next(plan for plan in self._plans if plan.symbol == symbol)
            self._plans.remove(plan)
            sign = 1 if fill["side"] == "BUY" else -1
            epoch = Epoch(
                symbol, sign, at, plan.until, price, Decimal(fill["stop_loss"]), peak=qty, qty=qty, best=price
            )
            self.open[symbol] = epoch
            self.epochs.append(epoch)
            self._say(
                at,
                symbol,
                "fill",
                f"{epoch.side} {number(qty)} at {number(price)}, stop {number(epoch.stop)}",
            )
            return
        epoch.qty -= qty
        epoch.exits.append(Exit(at, qty, price, kind))
        if known:
            known[1].filled += qty
            known[1].state = "filled" if fill["status"] == "FILLED" else "partial"
        left = f"{number(epoch.qty)} left"
        if epoch.qty <= 0:
            epoch.closed = at
            del self.open[symbol]
            left = "closed"
        word = {
            "harvest": known[1].state if known else "filled",
            "stop": "stop hit,",
            "close": "trader closes",
        }[kind]
        self._say(at, symbol, "fill", f"{word} {number(qty)} at {number(price)}, {left}")

    def _output(self, at: float, entry_id: tuple[int, int], intent: dict[str, Any]) -> None:
        symbol, name, kind = intent["symbol"], intent["correlation_id"], intent["intent_type"]
        self.published.append((entry_id, name))
        if name in self._ids:
            self.faults[UNIQUE].append(name)
        self._ids.add(name)
        # An intent may cross the fill that closes its position; it belongs to the one it was decided for.
        epoch = self.open.get(symbol) or next(epoch for epoch in reversed(self.epochs) if epoch.symbol == symbol)
        if intent["side"] != ("SELL" if epoch.sign > 0 else "BUY") or intent["reduce_only"] not in (
            True,
            "true",
        ):
            self.faults[CLOSING_SIDE].append(name)
        if kind in ("HARVEST_PARTIAL", "REDUCE_ONLY"):
            self._harvest(at, epoch, name, intent)
        else:
            self.counts["stop_moves"] += 1
            stop = Decimal(intent["stop_price"])
            epoch.stops.append((at, stop))
            self._say(at, symbol, "stop", f"{kind} {number(stop)}")

    def _harvest(self, at: float, epoch: Epoch, name: str, intent: dict[str, Any]) -> None:
        self.counts["harvests"] += 1
        qty, price, r = (Decimal(intent[name]) for name in ("qty", "price", "r_level"))
        harvest = Harvest(at, name, qty, price, r, tuple(Decimal(rung) for rung in intent["rungs"]))
        epoch.harvests.append(harvest)
        self._harvests[name] = epoch, harvest
        if abs(epoch.r(price) - r) > R_TOLERANCE:
            self.faults[SAME_R].append(f"{name}: published {r}, own {epoch.r(price):.3f}")
        asked = sum((h.filled if h.state in ("rejected", "canceled") else h.qty for h in epoch.harvests), ZERO)
        if asked > epoch.peak:
            self.faults[PEAK].append(f"{epoch.symbol}: {asked} of {epoch.peak}")
        verb = "suggests" if intent["intent_type"] == "HARVEST_PARTIAL" else "orders"
        self._say(at, epoch.symbol, "intent", f"{verb} {intent['side']} {number(qty)}: {intent['reason']}")

    def _say(self, at: float, symbol: str, kind: str, text: str) -> None:
        self.happenings.append(Happening(at, symbol, kind, text.strip()))


def number(value: Decimal) -> str:
    """Without trailing zeros and exponents: 0.250 is 0.25, 1E+3 is 1000."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)
