"""What a change of the mode does to the open epochs.

shadow -> live   every rung crossed by then, fired or not, is skipped: there is no burst. Or, on an explicit wish to
                 catch up, what shadow mode passed is owed: it fires like an armed rung
live -> shadow   the rungs that are through are closed for good, as their orders are out; what is still owed counts as
                 fired again, as it was suggested before
"""

from __future__ import annotations

from dataclasses import replace

from harvest_brain.core.books import book_of
from harvest_brain.core.engine import Decision, State
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position
from harvest_brain.core.reconcile import skip_crossed

# What becomes of a rung: where what is ordered is done with, and where catching up has it still to be ordered.
_AFTERWARDS = {
    RungState.ARMED: (RungState.ARMED, RungState.ARMED),
    RungState.FIRED: (RungState.SKIPPED, RungState.OWED),
    RungState.CARRIED: (RungState.SKIPPED, RungState.OWED),
    RungState.SKIPPED: (RungState.SKIPPED, RungState.SKIPPED),
    RungState.OWED: (RungState.FIRED, RungState.OWED),
}


def change_mode(state: State, *, live: bool, catch_up: bool = False) -> Decision:
    """What going live, or back to shadow, does to the open epochs. `catch_up` is the wish to catch up on going live;
    what live mode did before stays done. Reservations stay, since those orders are on their way whatever comes next."""
    catch_up = catch_up and live
    if catch_up:
        text = "what was only suggested so far is still to be ordered"
    elif live:
        text = "the rungs crossed so far are skipped in the epochs that are open"
    else:
        text = "what is ordered so far stays on its way, and no rung of it comes again"
    books = {}
    for symbol, book in state.books.items():
        positions = map(skip_crossed, book.positions) if live and not catch_up else book.positions
        books[symbol] = book_of(book.market, [_changed(position, catch_up=catch_up) for position in positions])
    note = f"from now on {'live' if live else 'shadow'}: {text}"
    return Decision(books, state.waiting, {}, (), (), {}, notes=(note,))


def _changed(position: Position, *, catch_up: bool) -> Position:
    epoch = position.epoch
    if epoch is None:
        return position
    rungs = tuple(_AFTERWARDS[rung][catch_up] for rung in epoch.rungs)
    # When catching up, the stop was only suggested as well: the next fresh price sends it.
    resize_due = epoch.resize_due or (catch_up and epoch.stop_seq > 0)
    return replace(position, epoch=replace(epoch, rungs=rungs, target=ZERO, issued=ZERO, resize_due=resize_due))
