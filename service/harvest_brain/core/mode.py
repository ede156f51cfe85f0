"""What a change of the mode does to the open epochs.

shadow -> live   every rung crossed by then, fired or not, is skipped: there is no burst. Or, on an explicit wish to
                 catch up, what shadow mode passed is owed: it fires like an armed rung
live -> shadow   the rungs that are through are closed for good, as their orders are out; what is still owed counts as
                 fired again, as it was suggested before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from harvest_brain.core.books import book_of
from harvest_brain.core.engine import Decision, State
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position
from harvest_brain.core.reconcile import skip_crossed


def enter_live(state: State, *, catch_up: bool = False) -> Decision:
    """What going from shadow to live does to the open epochs: every rung that was crossed by then, fired or not, is
    skipped, and nothing is owed from before, so there is no burst. To `catch_up` instead, the rungs that shadow mode
    passed are owed, and the next fresh price fires those it reaches; what live mode did before stays done."""
    return _changed_mode(state, _caught_up if catch_up else lambda position: _spent(skip_crossed(position)))


def leave_live(state: State) -> Decision:
    """What going from live to shadow does: the rungs that are through are closed for good, as their orders are out, and
    what is owed is not suggested a second time. Reservations stay, since those orders are on their way whatever mode is
    next."""
    return _changed_mode(state, _spent)


def _changed_mode(state: State, change: Callable[[Position], Position]) -> Decision:
    books = {
        symbol: book_of(book.market, [p if p.epoch is None else change(p) for p in book.positions])
        for symbol, book in state.books.items()
    }
    return Decision(books, state.waiting, {}, (), (), {})


def _spent(position: Position) -> Position:
    return _remarked(position, {RungState.OWED: RungState.FIRED, RungState.ARMED: RungState.ARMED}, RungState.SKIPPED)


def _caught_up(position: Position) -> Position:
    return _remarked(position, {rung: rung for rung in (RungState.ARMED, RungState.SKIPPED)}, RungState.OWED)


def _remarked(position: Position, marks: Mapping[RungState, RungState], others: RungState) -> Position:
    epoch = position.open_epoch
    rungs = tuple(marks.get(rung, others) for rung in epoch.rungs)
    return replace(position, epoch=replace(epoch, rungs=rungs, target=ZERO, issued=ZERO))
