"""What holds of an entry whatever it holds: it becomes exactly one event, and no event can stop the daemon.

An entry that made any step raise would be read again after every restart, for ever. So beside the decoder its event
goes through the decision, alone and followed by a price that is worth a harvest, and what comes of that is written and
read back. All of it is pure; `AssertionError` or any other exception is a finding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal

from harvest_brain.core.engine import Decision, Gate, State, decide, remembered_names
from harvest_brain.core.events import Execution, Fill, Malformed, OrderUpdate, Passed, Price
from harvest_brain.core.numbers import ARITHMETIC, MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS
from harvest_brain.core.policy import Policy, Terms, parse_ladder
from harvest_brain.redis.decode import decode, decode_market
from harvest_brain.redis.encode import (
    intent_entry,
    market_text,
    parse_market,
    parse_position,
    position_text,
)

NOW_MS = 1_768_737_600_000
ENTRY_ID = f"{NOW_MS}-7"
GATE = Gate(now_ms=NOW_MS, kill_switch="0", tokens=30)
TERMS = Terms(parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25"))
POLICIES = tuple(
    Policy(TERMS, live=live, live_allow_fallback=True, spot=spot, max_jump_pct=Decimal(0))
    for live in (False, True)
    for spot in (False, True)
)
OPENING = b"symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED stop_loss 2450 order_id A1"


def check_entry(fields: list[bytes], policies: Sequence[Policy] = POLICIES) -> Execution:
    """Raises when anything does not hold of an entry with these fields; returns the event that it became."""
    event = decode(ENTRY_ID, fields)
    check_event(event, fields)
    tick = decode_market(ENTRY_ID, fields)
    assert isinstance(tick, Price | Malformed)
    check_event(tick, fields)
    for policy in policies:
        for state in (State(), _with_position(policy)):
            _check_decisions(state, event, policy)
    return event


def check_event(event: Execution, fields: list[bytes]) -> None:
    """What the decoder promises of an event."""
    assert event.entry_id == ENTRY_ID
    if isinstance(event, Malformed):
        assert event.fields == tuple(fields)
        assert 0 < len(event.reason.encode()) < 1000
    elif isinstance(event, Passed):
        assert re.fullmatch(r"[A-Z][A-Z0-9_ -]{0,39}", event.status)
    elif isinstance(event, OrderUpdate):
        assert event.symbol
    elif isinstance(event, Price):
        assert event.price > 0
        assert event.price.adjusted() < MAX_INTEGER_DIGITS
    else:
        assert isinstance(event, Fill)
        for number in (event.qty, event.price, event.stop, event.cumulative):
            assert number is None or _within_bounds(number)
        assert event.fee.is_finite()
        "".join((str(event.key), *event.order, event.fill_id, event.fee_asset)).encode("ascii")


def _within_bounds(number: Decimal) -> bool:
    """Above 0, and of a size and a fineness that sums stay exact with."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return number > 0 and number.adjusted() < MAX_INTEGER_DIGITS and exponent >= -MAX_DECIMAL_PLACES


def _with_position(policy: Policy) -> State:
    state = State()
    state.adopt(decide(state, [decode(f"{NOW_MS}-1", OPENING.split())], GATE, policy))
    return state


def _check_decisions(state: State, event: Execution, policy: Policy) -> None:
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
