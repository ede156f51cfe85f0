"""What holds of an entry whatever it holds: it becomes exactly one event, and no event can stop the daemon.

An entry that made any step raise would be read again after every restart, for ever. So beside the decoder its event
goes through the decision, alone and followed by a price that is worth a harvest, and what comes of that is written and
read back. Every entry is read as one of each stream. All of it is pure; `AssertionError` or any other exception is a
finding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from harvest_brain.core.engine import Decision, Gate, State, decide, remembered_names
from harvest_brain.core.events import (
    Clear,
    Execution,
    Fill,
    Malformed,
    OrderUpdate,
    Passed,
    PnlSnapshot,
    Price,
    Release,
    Snapshot,
)
from harvest_brain.core.numbers import ARITHMETIC, MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS
from harvest_brain.core.policy import Policy, Terms, parse_ladder
from harvest_brain.redis.decode import decode, decode_control, decode_market, decode_pnl, decode_snapshot
from harvest_brain.redis.encode import (
    intent_entry,
    market_text,
    parse_market,
    parse_position,
    position_text,
)

Read = Execution | Snapshot | PnlSnapshot | Release | Clear

NOW_MS = 1_768_737_600_000
ENTRY_ID = f"{NOW_MS}-7"
GATE = Gate(now_ms=NOW_MS, kill_switch="0", tokens=30)
TERMS = Terms(parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25"))
POLICIES = tuple(
    Policy(TERMS, live=live, live_allow_fallback=True, spot=spot, max_jump_pct=Decimal(0))
    for live in (False, True)
    for spot in (False, True)
)
# A position whose first harvest is on its way, in live mode as RESERVED.
OPENING = b"symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED stop_loss 2450 order_id A1"
HALF_R = b"symbol ETHUSDT price 2526 status PRICE_UPDATE"
RESERVED = "hb-df77efbf26635a4e-r1"


def check_entry(fields: list[bytes], policies: Sequence[Policy] = POLICIES) -> Execution:
    """Raises when anything does not hold of an entry with these fields; returns the event that it became."""
    execution = decode(ENTRY_ID, fields)
    tick, snapshot, pnl = (read(ENTRY_ID, fields) for read in (decode_market, decode_snapshot, decode_pnl))
    control = decode_control(ENTRY_ID, fields)
    assert isinstance(tick, Price | Malformed)
    assert isinstance(snapshot, Snapshot | Malformed)
    assert isinstance(pnl, PnlSnapshot | Malformed)
    assert isinstance(control, Release | Clear | Malformed)
    for event in (execution, tick, snapshot, pnl, control):
        check_event(event, fields)
        for policy in policies if event is execution or not isinstance(event, Malformed) else ():
            for state in (State(), with_position(policy)):
                _check_decisions(state, event, policy)
    return execution


def check_event(event: Read, fields: list[bytes]) -> None:
    """What the decoders promise of an event."""
    assert event.entry_id == ENTRY_ID
    if isinstance(event, Malformed):
        assert event.fields == tuple(fields)
        assert 0 < len(event.reason.encode()) < 1000
    else:
        _PROMISES[type(event)](event)


def _check_fill(fill: Fill) -> None:
    for number in (fill.qty, fill.price, fill.stop, fill.cumulative):
        assert number is None or _within_bounds(number)
    assert fill.fee.is_finite()
    "".join((str(fill.key), *fill.order, fill.fill_id, fill.fee_asset)).encode("ascii")


def _check_price(price: Price) -> None:
    assert price.price > 0
    assert price.price.adjusted() < MAX_INTEGER_DIGITS


def _check_order_update(update: OrderUpdate) -> None:
    "".join((update.symbol, *update.order)).encode("ascii")


def _check_passed(passed: Passed) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_ -]{0,39}", passed.status)


def _check_snapshot(snapshot: Snapshot) -> None:
    assert (snapshot.qty == 0) == (snapshot.average == 0)
    for number in (abs(snapshot.qty) or None, snapshot.average or None, snapshot.mark, snapshot.stop):
        assert number is None or _within_bounds(number)
    str(snapshot.key).encode("ascii")


def _check_pnl(pnl: PnlSnapshot) -> None:
    assert pnl.unrealized.is_finite()


def _check_control(control: Release | Clear) -> None:
    control.symbol.encode("ascii")
    if isinstance(control, Release):
        control.intent_id.encode("ascii")


_PROMISES: dict[type, Callable[[Any], None]] = {
    Fill: _check_fill,
    Price: _check_price,
    OrderUpdate: _check_order_update,
    Passed: _check_passed,
    Snapshot: _check_snapshot,
    PnlSnapshot: _check_pnl,
    Release: _check_control,
    Clear: _check_control,
}


def _within_bounds(number: Decimal) -> bool:
    """Above 0, and of a size and a fineness that sums stay exact with."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return number > 0 and number.adjusted() < MAX_INTEGER_DIGITS and exponent >= -MAX_DECIMAL_PLACES


def with_position(policy: Policy) -> State:
    """A state of its own, whose parts are shared: nothing changes in place."""
    made = _made(policy.live, policy.spot)
    return State(dict(made.books), made.waiting)


@cache
def _made(live: bool, spot: bool) -> State:
    policy = next(policy for policy in POLICIES if (policy.live, policy.spot) == (live, spot))
    state = State()
    events = [decode(f"{NOW_MS}-{number}", text.split()) for number, text in enumerate((OPENING, HALF_R))]
    state.adopt(decide(state, events, GATE, policy))
    return state


def _check_decisions(state: State, event: Read, policy: Policy) -> None:
    remembered_names(state, [event])
    decision = decide(state, [event], GATE, policy)
    _check_written(decision, policy)
    state.adopt(decision)
    if isinstance(event, Fill):
        for factor in ("1.05", "0.95"):
            price = ARITHMETIC.multiply(event.price, Decimal(factor))
            tick = Price(ENTRY_ID, NOW_MS, event.key.symbol, price, NOW_MS)
            _check_written(decide(state, [tick], GATE, policy), policy)


def _check_written(decision: Decision, policy: Policy) -> None:
    for intent in decision.intents:
        entry = intent_entry(intent, live=policy.live)
        payload = json.loads(entry[3], parse_float=Decimal)
        assert payload["qty"] > 0
        assert payload["reduce_only"] is True
    for book in decision.books.values():
        if book.market is not None:
            assert parse_market(market_text(book.market)) == book.market
        for position in book.positions:
            assert parse_position(position_text(position)) == position
