"""A position and its epoch, from fills.

A position is one life at a time. Its epoch runs from flat to flat, or to the flip that turns it round, and
owns all that is remembered of that life: the risk first taken, the peak size, which rungs are through, the
stop, and the quantities that are on their way out (reservations). When it ends, all of that ends with it.

    flat --fill--> open --fill--> flat           one epoch
    long --sell more than held--> short          two: the fill is split, its fee pro rata

The epoch's id comes from the position's key and the identity of the opening fill, never from a counter or a
clock: rebuilding from the same stream gives the same ids, and with them the same client order ids.

The average entry price is cost over size: adding averages, reducing keeps it. The accounting follows the
usual net position of exchanges; nothing here depends on prices other than those of the fills.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from harvest_brain.core.events import Fill, Key, OrderRef, PositionSide
from harvest_brain.core.numbers import ZERO, plain
from harvest_brain.core.policy import RungState, Terms, least_risk, risk_of


class ReservationState(StrEnum):
    """How far an intent has come. Ended ones (filled, rejected, expired) are no longer kept. `unknown` is what silence
    makes of it: still reserved and never retried, since an ambiguous failure is not a failure."""

    PUBLISHED = "published"
    ACKED = "acked"
    PARTIAL = "partial"
    UNKNOWN = "unknown"


class Reservation(NamedTuple):
    """A harvest on its way: `remaining` of its quantity (base asset) is spoken for until it fills or is refused.
    `heard_ms` is the time of the newest that is known of it, at first its publishing."""

    intent_id: str
    remaining: Decimal
    heard_ms: int
    state: ReservationState = ReservationState.PUBLISHED
    order_id: str = ""

    def at(self, time_ms: int, pending_ms: int) -> Reservation:
        """What is known of it at `time_ms`, when a silence of more than `pending_ms` makes it unknown."""
        if self.state is ReservationState.UNKNOWN or time_ms - self.heard_ms <= pending_ms:
            return self
        return self._replace(state=ReservationState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One life of a position. `sign` +1 long, -1 short; prices, `realized` and `fees` in quote currency, quantities in
    base asset. `opening_order` is empty once a fill of another order came. `risk_stop` is its stop, on which `r_unit`
    stands; `stop` is where the stop is now. `target` and `issued` are what the rungs passed so far asked for and what
    was published of it. `crossed` counts the rungs any believed price has reached, fired or not. `extreme` is the best
    price since the trail began."""

    epoch_id: str
    sign: int
    opened_ms: int
    opening_order: OrderRef
    terms: Terms
    r_unit: Decimal
    risk_source: str
    peak: Decimal
    rungs: tuple[RungState, ...]
    crossed: int = 0
    target: Decimal = ZERO
    issued: Decimal = ZERO
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    risk_stop: Decimal | None = None
    stop: Decimal | None = None
    stop_seq: int = 0
    resize_due: bool = False
    extreme: Decimal | None = None
    reservations: tuple[Reservation, ...] = ()

    @classmethod
    def begin(cls, key: Key, identity: str, held: Holding, stop: Decimal | None, time_ms: int, terms: Terms) -> Epoch:
        """The epoch of a position that was flat and now is what is `held`, by the event that `identity` names."""
        sign = 1 if held.qty > 0 else -1
        risk = risk_of(sign, held.average, stop, terms)
        return cls(
            epoch_id=epoch_id_of(key, identity),
            sign=sign,
            opened_ms=time_ms,
            opening_order=OrderRef(),
            terms=terms,
            r_unit=risk.unit,
            risk_source=risk.source,
            peak=abs(held.qty),
            rungs=(RungState.ARMED,) * len(terms.ladder),
            risk_stop=risk.stop,
            stop=risk.stop,
        )

    @property
    def outstanding(self) -> Decimal:
        """What is reserved for harvests on their way, in base asset."""
        return sum((reservation.remaining for reservation in self.reservations), ZERO)


class Holding(NamedTuple):
    """What is held: `qty` signed (base asset), `average` entry (quote currency)."""

    qty: Decimal
    average: Decimal


@dataclass(frozen=True, slots=True)
class Position:
    """`qty` is signed (base asset), `average` the entry price (quote currency). `suspect` says, where not empty, by
    which contradiction it can't be trusted; then it is tracked and never harvested, and remembered even when flat.
    `claimed` is what the last snapshot made of a suspect position, and `adopted_ms` the time of the snapshot that the
    position was adopted from, which holds every fill before it; see `reconcile`."""

    key: Key
    qty: Decimal = ZERO
    average: Decimal = ZERO
    suspect: str = ""
    epoch: Epoch | None = None
    claimed: Holding | None = None
    adopted_ms: int = 0

    def gain(self, price: Decimal) -> Decimal:
        """Profit per unit at `price`, in quote currency: s * (price - average entry)."""
        return price - self.average if self.qty > 0 else self.average - price

    def r_at(self, price: Decimal) -> Decimal:
        """R = s * (price - average entry) / risk per unit. Independent of quantity and leverage."""
        return self.gain(price) / self.open_epoch.r_unit

    def price_at(self, r: Decimal) -> Decimal:
        """The price at which R is `r`, in quote currency."""
        epoch = self.open_epoch
        return self.average + epoch.sign * r * epoch.r_unit

    def has_reached(self, price: Decimal, r: Decimal) -> bool:
        """Whether R is at least `r` at `price`."""
        return self.open_epoch.sign * (price - self.price_at(r)) >= 0

    def rungs_reached(self, price: Decimal) -> int:
        """How many rungs of the ladder, from the lowest on, may fire at `price`."""
        terms = self.open_epoch.terms
        return sum(self.has_reached(price, terms.trigger(rung)) for rung in terms.ladder)

    def money_r(self, price: Decimal) -> Decimal:
        """(realised + unrealised - fees) / (risk per unit * peak size): what the whole epoch earned, in R."""
        epoch = self.open_epoch
        return (epoch.realized + self.gain(price) * abs(self.qty) - epoch.fees) / (epoch.r_unit * epoch.peak)

    @property
    def open_epoch(self) -> Epoch:
        """The epoch of a position that is open. Raises `ValueError` for a flat one."""
        if self.epoch is None:
            raise ValueError(f"{self.key} is flat")
        return self.epoch

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """What is on its way out; nothing of a flat position is."""
        return () if self.epoch is None else self.epoch.reservations

    @property
    def why_not_harvested(self) -> str:
        """The standing reason why this position's risk gives no usable R, or nothing."""
        epoch = self.open_epoch
        least = least_risk(self.average, epoch.terms)
        return "" if epoch.r_unit > least else f"risk per unit {plain(epoch.r_unit)} does not exceed {plain(least)}"


def epoch_id_of(key: Key, identity: str) -> str:
    """Sixteen hex digits from the key and the identity of the fill that opened the epoch."""
    return blake2b(f"{key}\n{identity}".encode(), digest_size=8).hexdigest()


def fold(position: Position, fill: Fill, identity: str, terms: Terms, *, spot: bool = False) -> Position:
    """`position` after `fill`; `terms` are those of an epoch that this fill opens.

    A fill that its hedge side cannot hold (selling more than a LONG side has) closes that side and makes it suspect.
    """
    base_fee, quote_fee = _split_fee(fill)
    delta = fill.side.sign * fill.qty - (base_fee if spot else ZERO)
    fees = quote_fee + base_fee * fill.price
    if delta * fill.side.sign <= 0:
        reason = f"a fee of {plain(base_fee)} leaves nothing of a {fill.side} of {plain(fill.qty)}"
        return suspected(position, reason)
    held, left = position.qty, position.qty + delta
    if held * delta >= 0:
        return _grown(position, fill, identity, delta, fees, terms)
    if left * held > 0:
        epoch = position.open_epoch
        realized = epoch.realized + position.gain(fill.price) * abs(delta)
        epoch = replace(epoch, realized=realized, fees=epoch.fees + fees, opening_order=OrderRef())
        return replace(position, qty=left, epoch=epoch)
    after = Position(position.key, suspect=position.suspect, adopted_ms=position.adopted_ms)
    if left:
        after = _grown(after, fill, identity, left, fees * left / delta, terms)
    return after


def _split_fee(fill: Fill) -> tuple[Decimal, Decimal]:
    """The fee as (base asset, quote currency). A fee in a third asset has no known value here and counts as neither."""
    symbol, asset = fill.key.symbol.upper(), fill.fee_asset.upper()
    if not asset or symbol.endswith(asset) or asset == "USD":
        return ZERO, fill.fee
    return (fill.fee, ZERO) if symbol.startswith(asset) else (ZERO, ZERO)


def suspected(position: Position, reason: str) -> Position:
    """`position` with `reason` to distrust it, unless there is one already."""
    return replace(position, suspect=position.suspect or reason)


def _grown(position: Position, fill: Fill, identity: str, delta: Decimal, fees: Decimal, terms: Terms) -> Position:
    key, side = position.key, position.key.position_side
    if side is not PositionSide.NET and (delta > 0) != (side is PositionSide.LONG):
        return suspected(position, f"a {fill.side} of {plain(fill.qty)} is more than the {side} side holds")
    if position.epoch is None:
        epoch = Epoch.begin(key, identity, Holding(delta, fill.price), fill.stop, fill.time_ms, terms)
        epoch = replace(epoch, opening_order=fill.order, fees=fees)
        return replace(position, qty=delta, average=fill.price, epoch=epoch)
    return _added(position, fill, delta, fees)


def _added(position: Position, fill: Fill, delta: Decimal, fees: Decimal) -> Position:
    epoch = position.open_epoch
    qty = position.qty + delta
    average = (position.average * abs(position.qty) + fill.price * abs(delta)) / abs(qty)
    epoch = replace(epoch, peak=max(epoch.peak, abs(qty)), fees=epoch.fees + fees)
    if not any(mine and mine == theirs for mine, theirs in zip(epoch.opening_order, fill.order, strict=True)):
        epoch = replace(epoch, opening_order=OrderRef())
    elif all(state is RungState.ARMED for state in epoch.rungs):
        # The risk follows the opening order until a rung is through; then it stands for the epoch.
        risk = risk_of(epoch.sign, average, fill.stop if fill.stop is not None else epoch.risk_stop, epoch.terms)
        # A stop that was announced stands; then only the risk follows the opening order.
        stop = epoch.stop if epoch.stop_seq else risk.stop
        epoch = replace(epoch, r_unit=risk.unit, risk_source=risk.source, risk_stop=risk.stop, stop=stop)
    return replace(position, qty=qty, average=average, epoch=epoch)
