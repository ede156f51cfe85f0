"""The other streams at the door: position snapshots, profit snapshots, and what the operator says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_brain.core.events import Clear, Key, Malformed, PnlSnapshot, PositionSide, Release, Snapshot
from harvest_brain.redis.decode import decode_control, decode_pnl, decode_snapshot

ARRIVED_MS = 1_800_000_000_000
ENTRY_ID = f"{ARRIVED_MS}-3"
FIELD = {
    "symbol": "ETHUSDT",
    "side": "LONG",
    "position_qty": "1.5",
    "entry_price": "2500",
    "mark_price": "2526",
    "stop_loss": "2450",
    "unrealized_pnl": "39",
    "timestamp": str(ARRIVED_MS - 250),
}


def raw(fields: dict[str, Any]) -> list[bytes]:
    return [str(part).encode() for pair in fields.items() for part in pair]


def snapshot(**changes: Any) -> Snapshot | Malformed:
    fields = {name: value for name, value in (FIELD | changes).items() if value is not None}
    return decode_snapshot(ENTRY_ID, raw(fields))


def reason(event: object) -> str:
    assert isinstance(event, Malformed)
    return event.reason


def test_a_snapshot_as_the_field_sends_it() -> None:
    assert snapshot() == Snapshot(
        ENTRY_ID,
        ARRIVED_MS - 250,
        Key("", "ETHUSDT", PositionSide.NET),
        Decimal("1.5"),
        Decimal(2500),
        Decimal(2526),
        Decimal(2450),
    )


def test_it_may_come_as_json_too() -> None:
    assert decode_snapshot(ENTRY_ID, [b"payload", json.dumps(FIELD).encode()]) == snapshot()


@pytest.mark.parametrize(
    ("side", "quantity", "position_side", "signed"),
    [
        ("LONG", "1.5", None, "1.5"),
        ("SHORT", "1.5", None, "-1.5"),
        ("sell", "-1.5", None, "-1.5"),
        (None, "1.5", None, "1.5"),
        (None, "-1.5", None, "-1.5"),
        (None, "1.5", "LONG", "1.5"),
        (None, "1.5", "SHORT", "-1.5"),
        (None, "-1.5", "SHORT", "-1.5"),
        ("SHORT", "1.5", "SHORT", "-1.5"),
        ("LONG", "0", None, "0"),
        ("FLAT", "0.0", None, "0"),
        (None, "0", "SHORT", "0"),
        ("NONE", "-0", "LONG", "0"),
    ],
)
def test_each_way_of_telling_the_direction_is_understood(
    side: str | None, quantity: str, position_side: str | None, signed: str
) -> None:
    event = snapshot(side=side, position_qty=quantity, position_side=position_side)
    assert isinstance(event, Snapshot)
    assert event.qty == Decimal(signed)
    assert event.key.position_side == (position_side or "NET")


@pytest.mark.parametrize(
    ("side", "quantity", "position_side"),
    [("LONG", "-1", None), ("SHORT", "1", "LONG"), (None, "-1", "LONG"), ("BUY", "1", "SHORT")],
)
def test_directions_that_contradict_each_other_are_refused(
    side: str | None, quantity: str, position_side: str | None
) -> None:
    event = snapshot(side=side, position_qty=quantity, position_side=position_side)
    assert "contradict each other" in reason(event)
    assert quantity in reason(event)


def test_a_flat_position_needs_no_price() -> None:
    event = snapshot(position_qty="0", entry_price="0", mark_price="0", stop_loss="0", side=None)
    assert event == Snapshot(ENTRY_ID, ARRIVED_MS - 250, Key("", "ETHUSDT", PositionSide.NET), Decimal(0), Decimal(0))


@pytest.mark.parametrize("name", ["mark_price", "stop_loss"])
@pytest.mark.parametrize("text", [None, "", "0"])
def test_a_mark_or_a_stop_may_be_missing(name: str, text: str | None) -> None:
    event = snapshot(**{name: text})
    assert isinstance(event, Snapshot)
    assert (event.mark if name == "mark_price" else event.stop) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"symbol": None}, "no symbol"),
        ({"position_qty": None}, "no position_qty"),
        ({"position_qty": "much"}, "position_qty 'much' is not a number"),
        ({"entry_price": None}, "no entry_price"),
        ({"entry_price": "0"}, "entry_price 0 is not above 0"),
        ({"mark_price": "-1"}, "mark_price -1 is below 0"),
        ({"stop_loss": "-1"}, "stop -1 is below 0"),
        ({"side": "UP"}, "side 'UP' is none of"),
        ({"position_side": "UP"}, "position side 'UP' is none of"),
        ({"account": "|"}, "account '|' is not a name"),
    ],
)
def test_what_cannot_be_used_says_why(changes: dict[str, str | None], complaint: str) -> None:
    event = snapshot(**changes)
    assert complaint in reason(event)
    assert isinstance(event, Malformed)
    assert event.entry_id == ENTRY_ID
    assert event.fields


def test_the_account_is_part_of_the_key() -> None:
    event = snapshot(account="main")
    assert isinstance(event, Snapshot)
    assert event.key.account == "main"


@pytest.mark.parametrize(("timestamp", "time_ms"), [(ARRIVED_MS + 60_000, ARRIVED_MS), (None, ARRIVED_MS)])
def test_a_snapshot_was_true_at_the_latest_when_it_arrived(timestamp: int | None, time_ms: int) -> None:
    event = snapshot(timestamp=timestamp)
    assert isinstance(event, Snapshot)
    assert event.time_ms == time_ms
    profit = decode_pnl(ENTRY_ID, raw({"symbol": "X", "unrealized_pnl": 1, "timestamp": timestamp or ""}))
    assert isinstance(profit, PnlSnapshot)
    assert profit.time_ms == time_ms


@pytest.mark.parametrize("text", ["39", "-39.25", "0"])
def test_a_profit_snapshot(text: str) -> None:
    fields = {"symbol": "ETHUSDT", "unrealized_pnl": text, "timestamp": ARRIVED_MS}
    assert decode_pnl(ENTRY_ID, raw(fields)) == PnlSnapshot(ENTRY_ID, ARRIVED_MS, "ETHUSDT", Decimal(text))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"symbol": "X"}, "no unrealized_pnl"),
        ({"unrealized_pnl": "1"}, "no symbol"),
        ({"symbol": "X", "unrealized_pnl": "NaN"}, "unrealized_pnl"),
    ],
)
def test_a_profit_snapshot_that_cannot_be_used_says_why(fields: dict[str, str], complaint: str) -> None:
    assert complaint in reason(decode_pnl(ENTRY_ID, raw(fields)))


def test_what_the_operator_says() -> None:
    said = {"action": "release", "symbol": "ETHUSDT", "intent": "hb-0123456789abcdef-r1", "reason": "not there"}
    assert decode_control(ENTRY_ID, raw(said)) == Release(ENTRY_ID, ARRIVED_MS, "ETHUSDT", "hb-0123456789abcdef-r1")
    assert decode_control(ENTRY_ID, raw({"action": "clear", "symbol": "ETHUSDT"})) == Clear(ENTRY_ID, "ETHUSDT")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"action": "buy", "symbol": "X"}, "action 'buy' is neither release nor clear"),
        ({"symbol": "X"}, "action None is neither"),
        ({"action": "clear"}, "no symbol"),
        ({"action": "release", "symbol": "X", "intent": "a b"}, "intent 'a b'"),
    ],
)
def test_what_nobody_can_have_said_is_refused(fields: dict[str, str], complaint: str) -> None:
    assert complaint in reason(decode_control(ENTRY_ID, raw(fields)))


names = st.sampled_from([*FIELD, "account", "position_side", "payload", "action", "intent"])
values = st.one_of(
    st.sampled_from(["", "0", "-1", "1e400", "NaN", "LONG", "SHORT", "release", "clear", '{"symbol":"X"}']), st.text()
)


@given(
    st.lists(st.one_of(st.binary(), st.one_of(names, values).map(str.encode)), max_size=20).filter(
        lambda f: len(f) % 2 == 0
    )
)
def test_nothing_raises_whatever_comes(fields: list[bytes]) -> None:
    for decode in (decode_snapshot, decode_pnl, decode_control):
        event = decode(ENTRY_ID, fields)
        if isinstance(event, Malformed):
            assert event.reason
            assert event.fields == tuple(fields)
