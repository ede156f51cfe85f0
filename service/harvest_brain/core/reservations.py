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
from harvest_brain.core.position import Position, Reservation, ReservationState


def settle_fill(position: Position, fill: Fill) -> Position:
    """`position`, which `fill` has reduced, after the fill has used up its reservation.

    By correlation or client order id, then by order id; failing that the oldest reservation is consumed, but none that
    is known to be another order, which is still on its way. A complete order has nothing outstanding any more, and more
    than what is left can't be outstanding: a reduce-only order has nothing else to reduce. After a harvest the stop is
    due again, for the smaller quantity.
    """
    epoch, order = position.open_epoch, fill.order
    issued, reservations = epoch.issued, epoch.reservations
    used = named = _meant(reservations, order)
    given_up = named is None and own_name(order) != ""
    if given_up:
        # Too early, so its share was carried; it is not owed any more.
        issued += fill.qty
    elif named is None:
        used = next((r for r in reservations if not (order.order_id and r.order_id)), None)
    if used is not None:
        partial = used._replace(
            remaining=ZERO if named is not None and fill.complete else max(used.remaining - fill.qty, ZERO),
            heard_ms=fill.time_ms,
            state=ReservationState.PARTIAL,
            order_id=used.order_id or (order.order_id if named is not None else ""),
        )
        reservations = tuple(partial if r is used else r for r in reservations)
    resize_due = epoch.stop is not None and (given_up or used is not None or epoch.resize_due)
    reservations = capped(reservations, abs(position.qty))
    return replace(position, epoch=replace(epoch, issued=issued, reservations=reservations, resize_due=resize_due))


def settle_update(position: Position, order: OrderRef, time_ms: int, *, ended: bool) -> Position:
    """The position after news of an order at `time_ms`: an acknowledgement is noted, an end without a fill releases
    what remained. Only an order that is recognised by name releases anything."""
    reservation = _meant(position.reservations, order)
    if reservation is None:
        return position
    if ended:
        return _released(position, reservation)
    acked = reservation._replace(
        heard_ms=time_ms,
        state=reservation.state if reservation.state is ReservationState.PARTIAL else ReservationState.ACKED,
        order_id=reservation.order_id or order.order_id,
    )
    return _with_reservations(position, tuple(acked if r is reservation else r for r in position.reservations))


def give_up(position: Position, intent_id: str, time_ms: int, pending_ms: int) -> Position:
    """The position after the operator said that nothing comes of an intent any more: its reservation is released, if it
    is unknown by `time_ms`. While an answer may still come, it stays."""
    for reservation in position.reservations:
        if reservation.intent_id == intent_id and reservation.at(time_ms, pending_ms).state is ReservationState.UNKNOWN:
            return _released(position, reservation)
    return position


def time_out(position: Position, time_ms: int, pending_ms: int) -> Position:
    """The position at `time_ms`: reservations of which nothing was heard for more than `pending_ms` are unknown."""
    reservations = tuple(r.at(time_ms, pending_ms) for r in position.reservations)
    return position if reservations == position.reservations else _with_reservations(position, reservations)


def _released(position: Position, reservation: Reservation) -> Position:
    """The position without `reservation`, whose remainder is carried to the next rung."""
    epoch = position.open_epoch
    kept = tuple(r for r in epoch.reservations if r is not reservation)
    return replace(position, epoch=replace(epoch, reservations=kept, issued=epoch.issued - reservation.remaining))


def _with_reservations(position: Position, reservations: tuple[Reservation, ...]) -> Position:
    return replace(position, epoch=replace(position.open_epoch, reservations=reservations))


def _meant(reservations: tuple[Reservation, ...], order: OrderRef) -> Reservation | None:
    """The reservation that `order` names: by our own id before the exchange's."""
    ours = (order.correlation_id, order.client_order_id)
    by_intent = next((r for r in reservations if r.intent_id in ours), None)
    return by_intent or next((r for r in reservations if r.order_id and r.order_id == order.order_id), None)


def capped(reservations: tuple[Reservation, ...], left: Decimal) -> tuple[Reservation, ...]:
    """`reservations` with the oldest ones cut where all of them together exceed `left`; used up ones go."""
    kept: list[Reservation] = []
    for reservation in reversed(reservations):
        remaining = min(reservation.remaining, left)
        left -= remaining
        if remaining:
            kept.insert(0, reservation._replace(remaining=remaining))
    return tuple(kept)
