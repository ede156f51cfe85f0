"""A second accounting of positions, written from the specification and in another way: with exact fractions.

Average entry = cost / |quantity|; adding adds cost, reducing takes a share of it; a reduction larger than the position
closes it and opens the other side with the rest. Fees are paid pro rata when a fill is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(slots=True)
class Ledger:
    """What is held and what it cost: `qty` signed; `peak`, `fees` and `realized` since it was last flat or turned, and
    `banked`, what all that ended brought in."""

    qty: Fraction = Fraction(0)
    cost: Fraction = Fraction(0)
    peak: Fraction = Fraction(0)
    fees: Fraction = Fraction(0)
    realized: Fraction = Fraction(0)
    banked: Fraction = Fraction(0)
    openings: int = 0

    @property
    def average(self) -> Fraction:
        """The entry price; 0 when nothing is held."""
        return self.cost / abs(self.qty) if self.qty else Fraction(0)

    def book(self, signed_qty: Fraction, price: Fraction, fee: Fraction = Fraction(0)) -> None:
        """A fill of `signed_qty` (negative: sold) at `price`."""
        closing = Fraction(0)
        if self.qty * signed_qty < 0:
            closing = min(abs(signed_qty), abs(self.qty))
            direction = 1 if self.qty > 0 else -1
            self.realized += direction * closing * (price - self.average)
            self.fees += fee * closing / abs(signed_qty)
            self.cost -= self.cost * closing / abs(self.qty)
            self.qty -= direction * closing
            if self.qty == 0:
                self.banked += self.realized
                self.peak = self.fees = self.realized = Fraction(0)
        opening = abs(signed_qty) - closing
        if opening:
            self.openings += self.qty == 0
            self.qty += opening if signed_qty > 0 else -opening
            self.cost += opening * price
            self.fees += fee * opening / abs(signed_qty)
            self.peak = max(self.peak, abs(self.qty))
