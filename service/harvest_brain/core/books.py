"""What memory holds of each symbol, and below which prices nothing in it can change.

A book is a symbol's price memory and its positions. A tick that crosses nothing is the daemon's daily bread, so a book
knows the range of prices that leave its positions as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import NamedTuple

from harvest_brain.core.due import better_stops
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import ARITHMETIC, INFINITY
from harvest_brain.core.policy import Terms
from harvest_brain.core.position import Position, ReservationState

NEVER_MS = 2**63


class Book(NamedTuple):
    """All that is known of one symbol: its price memory while a position is open, and its positions.

    A price strictly between `quiet_above` and `quiet_below` can change nothing but the price memory, unless it closes a
    bar while a stop trails (`trails`), or makes a reservation unknown of which nothing was heard since `silent_since`.
    So a tick that crosses nothing costs three comparisons. That is an optimisation: with an empty quiet range the same
    is decided. The bars are made by `terms`, those of the first position that is open.
    """

    market: Market | None
    positions: tuple[Position, ...]
    quiet_above: Decimal = -INFINITY
    quiet_below: Decimal = INFINITY
    trails: bool = False
    silent_since: int = NEVER_MS
    terms: Terms | None = None


def book_of(market: Market | None, positions: Iterable[Position]) -> Book:
    """The book of a symbol with its quiet range; positions that are flat and trusted are forgotten.

    They stand in the order of their keys. That of their fills would be lost on a restart, and with it the order in
    which the same price is judged by each of them.
    """
    kept = tuple(
        sorted((p for p in positions if p.epoch is not None or p.suspect or p.adopted_ms), key=lambda p: p.key)
    )
    held = [p for p in kept if p.epoch is not None]
    if market is None or not held:
        return Book(None, kept)
    with localcontext(ARITHMETIC):
        low = max((_next_edge(p, market) for p in held if p.qty < 0), default=-INFINITY)
        high = min((_next_edge(p, market) for p in held if p.qty > 0), default=INFINITY)
    trails = any(p.open_epoch.extreme is not None for p in held)
    heard = (r.heard_ms for p in held for r in p.reservations if r.state is not ReservationState.UNKNOWN)
    return Book(market, kept, low, high, trails, min(heard, default=NEVER_MS), held[0].open_epoch.terms)


def _next_edge(position: Position, market: Market) -> Decimal:
    """The nearest price on the winning side from which on this position has something to decide."""
    epoch = position.open_epoch
    terms, sign = epoch.terms, epoch.sign
    if position.why_not_harvested:
        return sign * INFINITY
    if epoch.resize_due:
        return -sign * INFINITY
    edges = [
        position.price_at(terms.trigger(rung))
        for rung, rung_state in zip(terms.ladder, epoch.rungs, strict=True)
        if rung_state.may_fire
    ]
    edges += [sign * max(sign * better.stop, sign * better.since) for better in better_stops(position, market)]
    if terms.trail_atr_mult:
        edges.append(position.price_at(terms.trail_start_r) if epoch.extreme is None else epoch.extreme)
    return sign * min((sign * edge for edge in edges), default=INFINITY)
