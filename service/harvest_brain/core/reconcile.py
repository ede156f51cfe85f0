"""The books against what others say: snapshots, the operator, entries that were never read.

    trusted --a snapshot that differs, or any other contradiction--> suspect: tracked, never harvested
    suspect --two snapshots in a row that say the same--> trusted
                if they agree with the books, these were right: what is due stays due
                if not, the books take over what they say (an *adoption*): what was crossed by then is skipped
    suspect --the operator's word--> trusted, the books as they are: what was crossed by then is skipped

So nothing fires because of an adoption or a clearing; the ladder goes on from where the price is.

An adoption on the side that is held goes on with its epoch: rungs that are through stay through, risk and stop stay
what they were (the stop moves only to a better one). On the other side, or from flat, a new epoch begins; its id is
made from the entry of the second snapshot, so a rebuild gives it the same one. It needs a price, the snapshot's own or
the last one: without any, nobody could say what is crossed, and the position stays suspect.

A snapshot shows the position some time after its last fill, so one that is older than that fill and a settle window is
ignored. A fill from before the snapshot that was adopted is in it already and would count twice: it is tracked, since
fills always are, and makes the position suspect, to be settled by two more snapshots.

A profit snapshot can't tell a wrong quantity from another price, so it never makes anything suspect: it is only said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from harvest_brain.core.events import Key, OrderRef, PnlSnapshot, PositionSide, Snapshot
from harvest_brain.core.numbers import BASIS_POINT, ZERO, plain
from harvest_brain.core.policy import RungState, Terms
from harvest_brain.core.position import Epoch, Holding, Position, suspected
from harvest_brain.core.reservations import capped

# Producers count in binary floating point; what differs by less is the same quantity.
QUANTITY_NOISE = Decimal("1e-9")

# For so long after an adoption a fill from before it may still come; longer than any stream has lagged.
LATE_FILL_MS = 24 * 3_600_000

# Unrealised profit differs grossly when it is off by this fraction of itself and this fraction of the notional value.
GROSS_SHARE, GROSS_NOTIONAL = Decimal("0.5"), Decimal("0.01")


def agree(one: Holding, other: Holding, tick: Decimal) -> bool:
    """Whether both are the same to within the noise of floating point, and averages to within a `tick` or a basis
    point: exchanges round theirs."""
    same_size = abs(one.qty - other.qty) <= QUANTITY_NOISE * max(abs(one.qty), abs(other.qty))
    return same_size and (not one.qty or abs(one.average - other.average) <= max(tick, one.average * BASIS_POINT))


def _shown(holding: Holding) -> str:
    """For a person: `-1.5 @ 100`, or `flat`."""
    return f"{plain(holding.qty)} @ {plain(holding.average)}" if holding.qty else "flat"


def excludes(one: Key, other: Key) -> bool:
    """Whether an account can't hold both: in one-way mode there is one net position, in hedge mode there is none."""
    one_way = PositionSide.NET
    return one.account == other.account and (one.position_side is one_way) != (other.position_side is one_way)


class Verdict(NamedTuple):
    """What a snapshot comes to: its `name`, the position after it (the same object where nothing changed), and what the
    operator should read."""

    name: str
    position: Position
    notes: tuple[str, ...] = ()


def compare(position: Position, snapshot: Snapshot, prices: Sequence[Decimal], terms: Terms) -> Verdict:
    """Hold `snapshot` against `position`, when `prices` are the last ones known (quote currency) and `terms` those of
    an epoch that an adoption begins. See the module's text."""
    books, claimed = Holding(position.qty, position.average), Holding(snapshot.qty, snapshot.average)
    right = agree(books, claimed, terms.price_tick)
    name = "agrees" if right else "mismatch"
    if right and not position.suspect:
        outdated = position.adopted_ms and snapshot.time_ms - position.adopted_ms > LATE_FILL_MS
        return Verdict(name, replace(position, adopted_ms=0) if outdated else position)
    if position.claimed is None or not agree(position.claimed, claimed, terms.price_tick):
        reason = f"snapshot {snapshot.entry_id} says {_shown(claimed)}, the books say {_shown(books)}"
        return Verdict(name, replace(suspected(position, reason), claimed=claimed))
    if right:
        cleared = replace(position, suspect="", claimed=None)
        return Verdict("reconciled", cleared, (f"{position.key}: two snapshots agree with the books: trusted again",))
    if snapshot.qty and not prices:
        return Verdict("no price to adopt at", position)
    said = f"{_shown(claimed)} adopted from snapshot {snapshot.entry_id} instead of {_shown(books)}"
    note = f"{position.key}: {said}; what is crossed by now is skipped"
    return Verdict("adopted", _adopted(position, snapshot, prices, terms), (note,))


def _adopted(position: Position, snapshot: Snapshot, prices: Iterable[Decimal], terms: Terms) -> Position:
    """`position` as `snapshot` has it; what any of `prices` has reached is skipped."""
    if not snapshot.qty:
        return Position(position.key, adopted_ms=snapshot.time_ms)
    epoch = position.epoch
    if epoch is not None and epoch.sign * snapshot.qty > 0:
        epoch = _adjusted(epoch, snapshot, resized=abs(position.qty) != abs(snapshot.qty))
    else:
        identity, held = f"adjustment {snapshot.entry_id}", Holding(snapshot.qty, snapshot.average)
        epoch = Epoch.begin(position.key, identity, held, snapshot.stop, snapshot.time_ms, terms)
        epoch = replace(epoch, stop=snapshot.stop)
    adopted = Position(position.key, snapshot.qty, snapshot.average, epoch=epoch, adopted_ms=snapshot.time_ms)
    return skip_crossed(adopted, prices)


def _adjusted(epoch: Epoch, snapshot: Snapshot, *, resized: bool) -> Epoch:
    size, stop = abs(snapshot.qty), snapshot.stop
    if stop is None or (epoch.stop is not None and epoch.sign * (stop - epoch.stop) < 0):
        stop = epoch.stop
    return replace(
        epoch,
        opening_order=OrderRef(),
        peak=max(epoch.peak, size),
        reservations=capped(epoch.reservations, size),
        stop=stop,
        resize_due=stop is not None and (resized or epoch.resize_due),
    )


def skip_crossed(position: Position, prices: Iterable[Decimal] = ()) -> Position:
    """`position` with every rung skipped that is not through and was crossed before or by one of `prices`, and with
    nothing owed from before."""
    epoch = position.epoch
    if epoch is None:
        return position
    crossed = max([epoch.crossed, *map(position.rungs_reached, prices)])
    rungs = tuple(
        RungState.SKIPPED if index < crossed and rung.may_fire else rung for index, rung in enumerate(epoch.rungs)
    )
    return replace(position, epoch=replace(epoch, rungs=rungs, crossed=crossed, target=epoch.issued))


def differs_grossly(positions: Iterable[Position], price: Decimal, snapshot: PnlSnapshot) -> bool:
    """Whether the open `positions` can't have earned at `price` what `snapshot` says."""
    expected = notional = ZERO
    for position in positions:
        expected += position.gain(price) * abs(position.qty)
        notional += price * abs(position.qty)
    return abs(snapshot.unrealized - expected) > max(GROSS_SHARE * abs(expected), GROSS_NOTIONAL * notional)
