"""Where the demo's prices come from: a seeded path that tells a story, or somebody's real trades.

Either way it is a `Market`: ticks in order, the positions that a small scripted trader opens in it, and the
steps in which the exchange counts. Times are seconds since the market opened. The same seed, or the same
file, gives the same market.
"""

from __future__ import annotations

import csv
import gzip
import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path

from harvest_brain.core.numbers import shorten

TICKS_PER_SEC = 8  # of each symbol of the seeded market: quick enough to look alive, slow enough to follow
NOISE = 0.10  # of the seeded path between two waypoints, in percent of the price
CLOSING = 0.965  # of the run: by then the trader closes what is left, so that every result is realised
MIN_TRADES = 100  # fewer make no market
MAX_TICKS_PER_SEC = 1000  # a longer file is thinned evenly
MAX_NOTIONAL = Decimal("1e15")

COLUMNS = {
    "time": ("timestamp_ms", "timestamp", "time", "ts", "date", "datetime"),
    "price": ("price", "trade_price", "px"),
    "quantity": ("quantity", "qty", "amount", "size", "volume"),
}


class InputError(Exception):
    """What was given can't be used; the text says where and why."""


@dataclass(frozen=True)
class Tick:
    at: float
    symbol: str
    price: Decimal


@dataclass(frozen=True)
class Plan:
    """What the trader does: enter at `at`, stop at `risk` (a share of the entry price), leave at `until`."""

    at: float
    until: float
    symbol: str
    side: str
    qty: Decimal
    risk: Decimal


@dataclass(frozen=True)
class Market:
    name: str
    quote: str
    ticks: tuple[Tick, ...]
    plans: tuple[Plan, ...]
    qty_step: Decimal
    price_tick: Decimal

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(plan.symbol for plan in self.plans))


# Waypoints: (share of the run, percent away from the base price).
# A long that climbs through every rung, the second one while the kill-switch is on, and is trailed out.
ETH = (
    *((0, -0.3), (0.05, 0), (0.2, 1.4), (0.3, 0.7), (0.46, 1.5)),
    *((0.5, 2.8), (0.6, 2.7), (0.76, 3.9), (0.9, 2.0), (1, 1.7)),
)
# A short that earns its first rung and comes all the way back: the stop at break-even keeps the rest whole.
BTC = ((0, 0.4), (0.1, 0), (0.28, -1.1), (0.4, -0.7), (0.56, 0.4), (0.75, 1.1), (1, 0.9))
# A long that is simply wrong, then a short that falls through two rungs in one step.
SOL = (
    (0, 0.2),
    (0.08, 0),
    (0.2, -0.8),
    (0.36, -2.3),
    (0.6, -2.0),
    (0.7, -2.6),
    (0.705, -4.8),
    (0.88, -5.6),
    (1, -5.0),
)


def seeded(seed: int, seconds: float) -> Market:
    """Three symbols in USDT, four positions, long and short; the seed makes the noise around the story."""
    cent = Decimal("0.01")
    ticks = [
        *_path("ETHUSDT", 2500, ETH, seed, seconds, cent),
        *_path("BTCUSDT", 68000, BTC, seed, seconds, cent),
        *_path("SOLUSDT", 180, SOL, seed, seconds, cent),
    ]
    end = CLOSING * seconds
    plans = (
        Plan(0.05 * seconds, end, "ETHUSDT", "BUY", Decimal(1), Decimal("0.02")),
        Plan(0.08 * seconds, end, "SOLUSDT", "BUY", Decimal(12), Decimal("0.02")),
        Plan(0.10 * seconds, end, "BTCUSDT", "SELL", Decimal("0.04"), Decimal("0.015")),
        Plan(0.62 * seconds, end, "SOLUSDT", "SELL", Decimal(12), Decimal("0.02")),
    )
    ticks.sort(key=lambda tick: tick.at)
    return Market(f"seeded path, seed {seed}", "USDT", tuple(ticks), plans, Decimal("0.001"), cent)


def _path(
    symbol: str,
    base: int,
    waypoints: tuple[tuple[float, float], ...],
    seed: int,
    seconds: float,
    tick: Decimal,
) -> Iterator[Tick]:
    rng = random.Random(f"{seed}:{symbol}")
    steps = int(seconds * TICKS_PER_SEC)
    noise = 0.0
    for step in range(steps):
        at = step / steps
        (t0, y0), (t1, y1) = next(pair for pair in pairwise(waypoints) if pair[0][0] <= at < pair[1][0])
        noise += rng.gauss(0, NOISE / 3) - 0.1 * noise
        percent = y0 + (y1 - y0) * (at - t0) / (t1 - t0) + noise
        price = (Decimal(base) * Decimal(1 + percent / 100)).quantize(tick, ROUND_HALF_EVEN)
        yield Tick(at * seconds, symbol, price)


def from_csv(path: Path, symbol: str, seconds: float) -> Market:
    """The trades of a file, paced evenly over `seconds` (each trade takes the same time).

    The trader is not clever: long, short and long again, each with a stop 2 % away.
    """
    trades = sorted(_trades(path), key=lambda trade: trade[0])
    if len(trades) < MIN_TRADES:
        raise InputError(f"{path}: {len(trades)} trades are too few for a demo, at least {MIN_TRADES} are needed")
    prices = trades[:: math.ceil(len(trades) / (seconds * MAX_TICKS_PER_SEC))]
    ticks = tuple(Tick(n * seconds / len(prices), symbol, price) for n, (_, price, _) in enumerate(prices))
    lowest, highest = min(price for _, price, _ in prices), max(price for _, price, _ in prices)
    # As fine as the prices are, and in any case fine enough for a stop 2 % away.
    finest = min(int(price.as_tuple().exponent) for _, price, _ in prices)
    price_tick = Decimal(1).scaleb(min(finest, lowest.adjusted() - 4, 0))
    typical = sorted(quantity for _, _, quantity in trades)[len(trades) // 2]
    qty = Decimal(10) ** (typical.adjusted() + 1)
    if qty * highest > MAX_NOTIONAL:
        raise InputError(f"{path}: positions of {qty:f} at up to {highest:f} are too large for a demo")
    plans = tuple(
        Plan(start * seconds, end * seconds, symbol, side, qty, Decimal("0.02"))
        for start, end, side in ((0.04, 0.34, "BUY"), (0.38, 0.60, "SELL"), (0.64, CLOSING, "BUY"))
    )
    return Market(f"{path.name}, {len(trades)} trades", "quote currency", ticks, plans, qty / 1000, price_tick)


def _trades(path: Path) -> Iterator[tuple[float, Decimal, Decimal]]:
    """(time, price, quantity) of every line; the unit of time doesn't matter, only the order."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", newline="")
        ) as file:
            rows = csv.reader(file)
            place = _columns(path, next(rows, []))
            for row in rows:
                if row:
                    where = f"{path}, line {rows.line_num}"
                    time, price, quantity = (row[n].strip() if n < len(row) else "" for n in place)
                    yield (
                        _time(where, time),
                        _positive(where, "price", price),
                        _positive(where, "quantity", quantity),
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None


def _columns(path: Path, header: list[str]) -> list[int]:
    names = [name.strip().lower().lstrip("\ufeff") for name in header]
    place = []
    for meaning, accepted in COLUMNS.items():
        found = [names.index(name) for name in accepted if name in names]
        if not found:
            raise InputError(
                f"{path}, line 1: no column for the {meaning}; found {', '.join(names) or 'nothing'}, "
                f"accepted is one of {', '.join(accepted)}"
            )
        place.append(found[0])
    return place


def _time(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        try:
            value = datetime.fromisoformat(text).timestamp()
        except ValueError:
            value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: time {shorten(text)!r} is neither a number nor an ISO 8601 time")
    return value


def _positive(where: str, name: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 < value < Decimal("1e12") and int(value.as_tuple().exponent) >= -12):
        raise InputError(
            f"{where}: {name} {shorten(text)!r} is not a number above 0 with at most 12 digits on either side"
        )
    return value
