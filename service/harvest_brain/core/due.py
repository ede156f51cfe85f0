"""What a price makes due for a position: one harvest for all rungs it has crossed, and one move of the stop.

Nothing here asks whether it may be published; the engine does, with the gate in hand. What is due comes as the intent
and the position as it is after publishing it.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from harvest_brain.core.events import Price
from harvest_brain.core.intents import Action, Intent, harvest_claim, shown_r, stop_claim
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import ZERO, floor_to_step, plain
from harvest_brain.core.policy import Dust, Policy, RungState, break_even, trailing_stop, worth_moving
from harvest_brain.core.position import Position, Reservation


class Due(NamedTuple):
    """`intent` to publish, and the position `after` it. A harvest of quantity 0 is a carried rung: the epoch remembers
    it, nothing goes out."""

    intent: Intent
    after: Position


def noted(position: Position, price: Decimal) -> Position:
    """The position having seen `price`: how many rungs were ever reached, and the trail's best price. The same object
    where neither is new, so that it need not be written."""
    epoch = position.open_epoch
    terms, extreme = epoch.terms, epoch.extreme
    crossed = max(epoch.crossed, position.rungs_reached(price))
    trails = extreme is not None or (terms.trail_atr_mult and position.has_reached(price, terms.trail_start_r))
    if trails and (extreme is None or epoch.sign * (price - extreme) > 0):
        extreme = price
    if crossed == epoch.crossed and extreme is epoch.extreme:
        return position
    return replace(position, epoch=replace(epoch, crossed=crossed, extreme=extreme))


def due_harvest(position: Position, trigger: Price, policy: Policy, published: frozenset[str]) -> Due | None:
    """The one partial close for all rungs that the price has crossed; where some of them are `published` already, for
    these alone, so that the others can still come. In live mode its quantity is reserved. It expires when its price is
    not fresh any more."""
    epoch, price = position.open_epoch, trigger.price
    terms = epoch.terms
    claims = {
        index: harvest_claim(epoch.epoch_id, index)
        for index, state in enumerate(epoch.rungs[: position.rungs_reached(price)])
        if state.may_fire
    }
    if not claims:
        return None
    claims = {index: claim for index, claim in claims.items() if claim in published} or claims
    crossed = tuple(claims)
    qty, target = share_of(position, crossed, price)
    mark = RungState.FIRED if qty else RungState.CARRIED
    reserved = (Reservation(claims[crossed[-1]], qty, trigger.time_ms),) if qty and policy.live else ()
    after = replace(
        epoch,
        rungs=tuple(mark if index in crossed else state for index, state in enumerate(epoch.rungs)),
        target=target,
        issued=epoch.issued + qty,
        reservations=epoch.reservations + reserved,
    )
    highest = terms.trigger(terms.ladder[crossed[-1]])
    intent = Intent(
        Action.HARVEST,
        tuple(claims.values()),
        position,
        trigger,
        qty,
        f"R={plain(shown_r(position, price))} >= {plain(highest)}",
        trigger.time_ms + policy.fresh_ms,
        rungs=tuple(terms.ladder[index].level for index in crossed),
        stop=epoch.stop,
    )
    return Due(intent, replace(position, epoch=after))


def share_of(position: Position, crossed: tuple[int, ...], price: Decimal) -> tuple[Decimal, Decimal]:
    """The one partial close for all `crossed` rungs, with carried rounding, capped by what is free: the size to close
    now (0: carried), and the target of the epoch after it, both in base asset.

    The target accumulates fraction * peak, `issued` is what was published; their difference is what is owed, remainders
    of earlier roundings included. Never rounded up. Closing the dust as well doesn't lift the sum of all harvests above
    the peak either, be it that nothing of them was filled, as in shadow mode.
    """
    epoch = position.open_epoch
    terms, free = epoch.terms, abs(position.qty) - epoch.outstanding
    target = epoch.target
    for index in crossed:
        target += terms.ladder[index].fraction * epoch.peak
    qty = floor_to_step(max(min(target - epoch.issued, free), ZERO), terms.qty_step)
    last = crossed[-1] == len(terms.ladder) - 1
    if last and terms.dust is Dust.CLOSE_ALL and not terms.tradeable(free - qty, price):
        qty = floor_to_step(min(free, epoch.peak - epoch.issued), terms.qty_step)
    return (qty if terms.tradeable(qty, price) else ZERO), target


class BetterStop(NamedTuple):
    """A stop that is better than the present one, due from the price `since` on, as long as it protects."""

    stop: Decimal
    since: Decimal
    action: Action
    why: str


def better_stops(position: Position, market: Market) -> list[BetterStop]:
    """What break-even and trail come to, where it is worth announcing."""
    epoch = position.open_epoch
    terms, sign = epoch.terms, epoch.sign
    even = break_even(sign, position.average, terms)
    stops = [BetterStop(even, position.price_at(terms.be_at_r), Action.BREAK_EVEN, "break-even")]
    atr = market.atr(terms.trail_atr_period)
    if epoch.extreme is not None and atr is not None:
        trail = trailing_stop(sign, epoch.extreme, atr, terms)
        stops.append(BetterStop(trail, trail, Action.TRAIL, f"trailing {plain(epoch.extreme)}"))
    return [better for better in stops if worth_moving(sign, epoch.stop, better.stop, terms)]


def due_stop(position: Position, market: Market, trigger: Price, policy: Policy) -> Due | None:
    """The best of the stops that are due at the price and on its protective side, else the same stop for a changed
    size. It expires when its price is not fresh any more."""
    epoch, price = position.open_epoch, trigger.price
    sign = epoch.sign
    due = [
        better
        for better in better_stops(position, market)
        if sign * (price - better.since) >= 0 and sign * (price - better.stop) > 0
    ]
    if due:
        stop, _, action, why = max(due, key=lambda better: sign * better.stop)
    elif epoch.resize_due and epoch.stop is not None:
        stop, action, why = epoch.stop, Action.RESIZE, f"{plain(abs(position.qty))} left to protect"
    else:
        return None
    sequence = epoch.stop_seq + 1
    intent = Intent(
        action,
        (stop_claim(epoch.epoch_id, sequence),),
        position,
        trigger,
        abs(position.qty),
        f"R={plain(shown_r(position, price))}: {why}",
        trigger.time_ms + policy.fresh_ms,
        stop=stop,
        prev_stop=epoch.stop,
        stop_seq=sequence,
    )
    after = replace(epoch, stop=stop, stop_seq=sequence, resize_due=False)
    return Due(intent, replace(position, epoch=after))
