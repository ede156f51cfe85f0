"""What is remembered of a symbol's price while a position in it is open: the last price, the guard against
bad ticks, and the bars of which Wilder's average true range (ATR) is made.

Bars are built from event time. A bar is known by the time it opens at, not by a number, so that a changed bar length
goes on in the next bar. It counts when it is closed, that is when a price of a later bar arrives;
the first bar has no previous close and gives no true range, so `period + 1` bars are needed. Short gaps are
bridged (a bar without a trade does not exist); a long one restarts the warm-up, since the true range across
it would measure the gap.

Wilder, New Concepts in Technical Trading Systems, 1978: ATR_n = (ATR_{n-1} * (period - 1) + TR_n) / period,
the first one being the mean of the first `period` true ranges.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from harvest_brain.core.numbers import ZERO

LONG_GAP_BARS = 5


class Jump(NamedTuple):
    """A price (quote currency) too far from the last one to be believed, and its event time (milliseconds)."""

    price: Decimal
    time_ms: int


class Market(NamedTuple):
    """`last`: last believed price; `candidate`: a jump that waits for a second tick; `bar`: when the bar in the
    making opened (event time in milliseconds), with its `high` and `low` (its close is `last`); `prev_close`: close of
    the bar before it; `average`: mean or Wilder average of `ranges` true ranges so far. Prices in quote currency."""

    last: Decimal
    candidate: Jump | None = None
    bar: int = -1
    high: Decimal = ZERO
    low: Decimal = ZERO
    prev_close: Decimal | None = None
    average: Decimal = ZERO
    ranges: int = 0

    def atr(self, period: int) -> Decimal | None:
        """The average true range in quote currency, or None while it warms up."""
        return self.average if self.ranges >= period else None

    def believes(self, price: Decimal, time_ms: int, max_jump_pct: Decimal) -> bool:
        """False for a first tick that is more than `max_jump_pct` percent off the last price. One of the same event
        time may be the first one again, delivered twice, and confirms nothing."""
        first = self.candidate
        confirmed = first is not None and first.time_ms != time_ms and _near(price, first.price, max_jump_pct)
        return not max_jump_pct or confirmed or _near(price, self.last, max_jump_pct)

    def tick(self, price: Decimal, time_ms: int, bar_ms: int, period: int) -> Market:
        """This memory after a believed `price` at `time_ms`."""
        bar = time_ms - time_ms % bar_ms
        if bar == self.bar:
            # Nearly every tick ends here, and `_replace` takes more than twice the time.
            high, low = max(self.high, price), min(self.low, price)
            return Market(price, None, bar, high, low, self.prev_close, self.average, self.ranges)
        if bar < self.bar:  # late: its bar is closed and stays so
            return self._replace(last=price, candidate=None)
        if self.bar < 0 or bar - self.bar > LONG_GAP_BARS * bar_ms:
            return Market(price, None, bar, price, price)
        average, ranges = self.average, self.ranges
        if self.prev_close is not None:
            true_range = max(self.high, self.prev_close) - min(self.low, self.prev_close)
            weight = min(ranges, period - 1)
            average = (average * weight + true_range) / (weight + 1)
            ranges = min(ranges + 1, period)
        return Market(price, None, bar, price, price, self.last, average, ranges)


def _near(price: Decimal, reference: Decimal, percent: Decimal) -> bool:
    return abs(price - reference) * 100 <= reference * percent
