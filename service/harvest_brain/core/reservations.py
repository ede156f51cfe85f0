"""What becomes of a harvest that was ordered: its quantity is reserved until it fills or is refused.

    published -> acked -> partial -> filled | rejected | expired
        silence makes it unknown: still reserved and never retried, until it is heard of or the operator gives it up

Fills are matched by correlation id or client order id, then by order id; failing that a reducing fill consumes the
oldest reservation that it may belong to. Only an explicit end releases a quantity: an ambiguous failure is not a
failure.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from harvest_brain.core.events import Fill, OrderRef
from harvest_brain.core.intents import own_name
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.position import Epoch, Reservation, ReservationState


def settle_fill(epoch: Epoch, fill: Fill, left: Decimal) -> tuple[Epoch, bool]:
    """The epoch after a reducing fill, which has `left` so much of the position (base asset), has used up its
    reservation; and whether the fill was a harvest's.

    By correlation or client order id, then by order id; failing that the oldest reservation is consumed, but none that
    is known to be another order, which is still on its way. A complete order has nothing outstanding any more, and more
    than what is left can't be outstanding: a reduce-only order has nothing else to reduce.
    """
    named = _meant(epoch.reservations, fill.order)
    if named is None and own_name(fill.order):
        # Given up too early, so its share was carried; it is not owed any more.
        return replace(epoch, issued=epoch.issued + fill.qty, reservations=capped(epoch.reservations, left)), True
    order_id = fill.order.order_id
    reservation = named or next((r for r in epoch.reservations if not (order_id and r.order_id)), None)
    if reservation is None:
        return replace(epoch, reservations=capped(epoch.reservations, left)), False
    remaining = reservation.remaining - fill.qty
    if remaining <= 0 or (named is not None and fill.complete):
        kept = tuple(r for r in epoch.reservations if r is not reservation)
    else:
        partial = reservation._replace(
            remaining=remaining,
            heard_ms=fill.time_ms,
            state=ReservationState.PARTIAL,
            order_id=reservation.order_id or (fill.order.order_id if named is not None else ""),
        )
        kept = tuple(partial if r is reservation else r for r in epoch.reservations)
    return replace(epoch, reservations=capped(kept, left)), True


def settle_update(epoch: Epoch, order: OrderRef, time_ms: int, *, ended: bool) -> Epoch:
    """The epoch after news of an order at `time_ms`: an acknowledgement is noted, an end without a fill releases what
    remained. Only an order that is recognised by name releases anything."""
    reservation = _meant(epoch.reservations, order)
    if reservation is None:
        return epoch
    if ended:
        return _released(epoch, reservation)
    acked = reservation._replace(
        heard_ms=time_ms,
        state=reservation.state if reservation.state is ReservationState.PARTIAL else ReservationState.ACKED,
        order_id=reservation.order_id or order.order_id,
    )
    return replace(epoch, reservations=tuple(acked if r is reservation else r for r in epoch.reservations))


def _released(epoch: Epoch, reservation: Reservation) -> Epoch:
    """The epoch without `reservation`, whose remainder is carried to the next rung."""
    kept = tuple(r for r in epoch.reservations if r is not reservation)
    return replace(epoch, reservations=kept, issued=epoch.issued - reservation.remaining)


def give_up(epoch: Epoch, intent_id: str, time_ms: int, pending_ms: int) -> Epoch:
    """The epoch after the operator said that nothing comes of an intent any more: its reservation is released, if it is
    unknown by `time_ms`. While an answer may still come, it stays."""
    unknown = (r for r in time_out(epoch, time_ms, pending_ms).reservations if r.state is ReservationState.UNKNOWN)
    if intent_id not in {r.intent_id for r in unknown}:
        return epoch
    return _released(epoch, next(r for r in epoch.reservations if r.intent_id == intent_id))


def time_out(epoch: Epoch, time_ms: int, pending_ms: int) -> Epoch:
    """The epoch at `time_ms`: reservations of which nothing was heard for more than `pending_ms` are unknown."""
    reservations = tuple(r.at(time_ms, pending_ms) for r in epoch.reservations)
    return epoch if reservations == epoch.reservations else replace(epoch, reservations=reservations)


def _meant(reservations: tuple[Reservation, ...], order: OrderRef) -> Reservation | None:
    """The reservation that `order` names: by our own id before the exchange's."""
    ours = (order.correlation_id, order.client_order_id)
    by_intent = next((r for r in reservations if r.intent_id in ours), None)
    return by_intent or next((r for r in reservations if r.order_id and r.order_id == order.order_id), None)


def capped(reservations: tuple[Reservation, ...], left: Decimal) -> tuple[Reservation, ...]:
    """`reservations` with the oldest ones cut where all of them together exceed `left`."""
    excess = sum((r.remaining for r in reservations), ZERO) - left
    kept = []
    for reservation in reservations:
        cut = min(max(excess, ZERO), reservation.remaining)
        excess -= cut
        if cut < reservation.remaining:
            kept.append(reservation._replace(remaining=reservation.remaining - cut))
    return tuple(kept)
