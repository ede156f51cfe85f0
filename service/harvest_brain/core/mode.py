"""What a change of the mode does to the open epochs.

shadow -> live   every rung crossed by then, fired or not, is skipped: there is no burst. Or, on an explicit wish to
                 catch up, what shadow mode passed is owed: it fires like an armed rung
live -> shadow   the rungs that are through are closed for good, as their orders are out; what is still owed counts as
                 fired again, as it was suggested before
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harvest_brain.core.books import book_of
from harvest_brain.core.engine import Decision, State
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position
from harvest_brain.core.reconcile import skip_crossed


def change_mode(state: State, *, live: bool, catch_up: bool = False) -> Decision:
    """What going live, or back to shadow, does to the open epochs. `catch_up` is the wish to catch up on going live;
    what live mode did before stays done. Reservations stay, since those orders are on their way whatever comes next."""
    change, text = _spent, "what is ordered so far stays on its way, and no rung of it comes again"
    if live and catch_up:
        change, text = _caught_up, "what was only suggested so far is still to be ordered"
    elif live:
        change, text = _skipped, "the rungs crossed so far are skipped in the epochs that are open"
    books = {
        symbol: book_of(book.market, [p if p.epoch is None else change(p) for p in book.positions])
        for symbol, book in state.books.items()
    }
    note = f"from now on {'live' if live else 'shadow'}: {text}"
    return Decision(books, state.waiting, {}, (), (), {}, notes=(note,))


def _skipped(position: Position) -> Position:
    return _spent(skip_crossed(position))


def _spent(position: Position) -> Position:
    return _remarked(position, {RungState.OWED: RungState.FIRED, RungState.ARMED: RungState.ARMED}, RungState.SKIPPED)


def _caught_up(position: Position) -> Position:
    owed = _remarked(position, {rung: rung for rung in (RungState.ARMED, RungState.SKIPPED)}, RungState.OWED)
    epoch = owed.open_epoch
    # The stop was only suggested as well: the next fresh price sends it.
    return replace(owed, epoch=replace(epoch, resize_due=epoch.resize_due or epoch.stop_seq > 0))


def _remarked(position: Position, marks: Mapping[RungState, RungState], others: RungState) -> Position:
    epoch = position.open_epoch
    rungs = tuple(marks.get(rung, others) for rung in epoch.rungs)
    return replace(position, epoch=replace(epoch, rungs=rungs, target=ZERO, issued=ZERO))
