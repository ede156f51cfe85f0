"""Every shape, name, status and time that an entry may come in, and what becomes of one that can't be used."""

from __future__ import annotations

import json
import time
import tracemalloc
from decimal import Decimal

import pytest
from tests.support.world import SYMBOL, World, policy

from harvest_brain.core.events import (
    Execution,
    Fill,
    Key,
    Malformed,
    OrderRef,
    OrderUpdate,
    Passed,
    PositionSide,
    Price,
    Side,
)
from harvest_brain.redis.decode import MAX_ENTRY_BYTES, decode, decode_market

ENTRY_ID = "1768737600000-7"
ARRIVED_MS = 1_768_737_600_000
FILL = {"symbol": "ETHUSDT", "side": "BUY", "qty": "1.0", "price": "2500.0", "status": "FILLED"}


def entry(fields: dict[str, str]) -> list[bytes]:
    return [part.encode() for pair in fields.items() for part in pair]


def flat(text: str) -> Execution:
    """`name value name value`, as in the documentation's examples."""
    return decode(ENTRY_ID, text.encode().split())


def carried(message: object, carrier: str = "payload", **envelope: str) -> Execution:
    return decode(ENTRY_ID, entry({carrier: json.dumps(message), **envelope}))


def fill_with(without: str = "", **fields: object) -> Execution:
    """The plain fill with `fields` set and one left out, as the JSON of a payload."""
    kept = {name: value for name, value in FILL.items() if name != without}
    return carried({**kept, **fields})


def the_fill(event: Execution) -> Fill:
    assert isinstance(event, Fill), event
    return event


def reason(event: Execution) -> str:
    assert isinstance(event, Malformed), event
    return event.reason


# Shapes: literal samples from the field.


def test_incident_01_flat_fields_are_a_fill() -> None:
    assert flat("symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED stop_loss 2450 order_id A1") == Fill(
        entry_id=ENTRY_ID,
        time_ms=ARRIVED_MS,
        key=Key("", "ETHUSDT", PositionSide.NET),
        side=Side.BUY,
        qty=Decimal("1.0"),
        price=Decimal("2500.0"),
        complete=True,
        order=OrderRef("A1", "", ""),
        stop=Decimal(2450),
    )


def test_incident_01_a_payload_in_its_envelope_is_a_fill() -> None:
    fields = {
        "event_type": "execution.result",
        "payload": '{"symbol":"ETHUSDT","side":"BUY","qty":1.0,"price":2500.0,"status":"FILLED","stop_loss":2450.0}',
        "source": "execution_service",
        "timestamp": "2026-01-18T12:00:00.250Z",
        "trace_id": "9d1c",
        "correlation_id": "c-41",
    }
    fill = the_fill(decode(ENTRY_ID, entry(fields)))
    assert (fill.key.symbol, fill.side, fill.qty, fill.price, fill.stop) == (
        "ETHUSDT",
        Side.BUY,
        Decimal("1.0"),
        Decimal("2500.0"),
        Decimal("2450.0"),
    )
    assert fill.order.correlation_id == "c-41"
    assert fill.time_ms == ARRIVED_MS + 250


def test_incident_01_data_with_an_action_a_value_and_an_entry_price_is_a_fill() -> None:
    sample = (
        '{"symbol":"ETHUSDT","action":"BUY","entry_price":2500.0,"position_size_usd":2500,"leverage":2.0,'
        '"timestamp":"2026-01-18T11:59:58.120000Z","order_id":"8389765512345678901","status":"filled",'
        '"slippage_pct":0.01,"fee_usd":1.25}'
    )
    fill = the_fill(decode(ENTRY_ID, [b"data", sample.encode()]))
    assert (fill.order.order_id, fill.fee, fill.fee_asset) == ("8389765512345678901", Decimal("1.25"), "USD")
    assert (fill.side, fill.qty, fill.price, fill.complete) == (Side.BUY, Decimal(1), Decimal(2500), True)
    assert fill.time_ms == ARRIVED_MS - 1880


def test_incident_01_a_nested_signal_gives_symbol_and_side() -> None:
    sample = '{"status":"FILLED","signal":{"symbol":"ETHUSDT","side":"BUY"},"qty":1,"price":2500}'
    fill = the_fill(decode(ENTRY_ID, [b"payload", sample.encode()]))
    assert (fill.key.symbol, fill.side, fill.qty) == ("ETHUSDT", Side.BUY, Decimal(1))


def test_incident_01_a_whole_message_in_the_single_field_json_is_a_fill() -> None:
    assert carried(FILL, "json") == flat("symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED")


@pytest.mark.parametrize("carrier", ["payload", "data", "json"])
def test_every_carrier_reads_like_flat_fields(carrier: str) -> None:
    assert carried(FILL, carrier) == decode(ENTRY_ID, entry(FILL))


def test_json_numbers_are_read_exactly() -> None:
    fill = the_fill(
        decode(ENTRY_ID, [b"json", json.dumps(FILL).replace('"1.0"', "0.10000000000000000000001").encode()])
    )
    assert fill.qty == Decimal("0.10000000000000000000001")


def test_what_the_message_says_comes_before_its_signal_and_its_envelope() -> None:
    message = {**FILL, "price": None, "correlation_id": "", "signal": {"side": "SELL", "price": 7, "entry_price": 8}}
    fill = the_fill(carried(message, correlation_id="outer", price="9"))
    assert (fill.side, fill.price, fill.order.correlation_id) == (Side.BUY, Decimal(7), "outer")


def test_an_event_time_counts_and_not_when_the_envelope_was_sent_on() -> None:
    fill = the_fill(carried({**FILL, "ts": ARRIVED_MS - 60_000}, timestamp="2026-01-18T12:00:00Z"))
    assert fill.time_ms == ARRIVED_MS - 60_000


def test_a_signal_that_is_no_object_is_ignored() -> None:
    assert the_fill(carried({**FILL, "signal": "BUY"})).side is Side.BUY


# Names that mean the same.

SYNONYMS = [
    *(("side", name, "SELL", Side.SELL) for name in ("side", "action")),
    *(("qty", name, "3", Decimal(3)) for name in ("qty", "quantity", "filled_qty", "executed_qty", "filled_quantity")),
    *(
        ("price", name, "3", Decimal(3))
        for name in ("price", "avg_price", "fill_price", "filled_price", "current_price", "entry_price")
    ),
    *(("stop", name, "3", Decimal(3)) for name in ("stop_loss", "sl", "stop")),
    *(("fill_id", name, "x9", "x9") for name in ("fill_id", "trade_id", "exec_id")),
    *(("fee", name, "0.3", Decimal("0.3")) for name in ("fee", "fee_usd", "commission")),
    *(("cumulative", name, "3", Decimal(3)) for name in ("cum_qty", "cumulative_qty")),
    *(("time_ms", name, "1768737500000", 1_768_737_500_000) for name in ("timestamp", "ts")),
]
ORDER_SYNONYMS = [
    ("order_id", "order_id"),
    ("order_id", "orderId"),
    ("client_order_id", "client_order_id"),
    ("client_order_id", "clientOrderId"),
    ("correlation_id", "correlation_id"),
]


def without_synonyms_of(attribute: str) -> dict[str, str]:
    return {name: value for name, value in FILL.items() if name != attribute}


@pytest.mark.parametrize(("attribute", "name", "text", "value"), SYNONYMS)
def test_each_name_for_a_thing_is_understood_in_any_case(attribute: str, name: str, text: str, value: object) -> None:
    for spelt in (name, name.upper(), name.title()):
        event = decode(ENTRY_ID, entry({**without_synonyms_of(attribute), spelt: text}))
        assert getattr(the_fill(event), attribute) == value


@pytest.mark.parametrize(("attribute", "name"), ORDER_SYNONYMS)
def test_each_name_for_an_order_is_understood_in_any_case(attribute: str, name: str) -> None:
    for spelt in (name, name.upper(), name.lower()):
        assert getattr(the_fill(fill_with(**{spelt: "o-1"})).order, attribute) == "o-1"


@pytest.mark.parametrize("name", ["account", "account_id", "ACCOUNT_ID"])
def test_an_account_is_part_of_the_key(name: str) -> None:
    assert str(the_fill(fill_with(**{name: "sub1"})).key) == "sub1|ETHUSDT|NET"


def test_the_first_name_in_the_list_wins_whatever_the_order_of_the_fields() -> None:
    assert the_fill(fill_with(without="qty", filled_qty=3, quantity=2)).qty == 2
    assert the_fill(fill_with(without="price", current_price=3, fill_price=2)).price == 2


def test_an_empty_or_missing_value_gives_way_to_the_next_name() -> None:
    for empty in ("", None):
        assert the_fill(fill_with(qty=empty, filled_qty="3")).qty == 3


def test_an_exact_name_wins_over_one_in_another_case() -> None:
    assert the_fill(fill_with(without="qty", QTY="1", filled_quantity="2")).qty == 2


def test_of_names_that_differ_in_case_only_the_first_filled_one_wins() -> None:
    assert the_fill(fill_with(without="qty", Qty="", QTY="4", qTY="5")).qty == 4


def test_an_entry_price_is_a_fills_price_only_when_there_is_no_other() -> None:
    assert the_fill(fill_with(entry_price=9)).price == Decimal("2500.0")
    assert the_fill(fill_with(without="price", Price=3, entry_price=9)).price == 3
    assert reason(flat("symbol ETHUSDT status PRICE_UPDATE entry_price 2500")) == "no price"


def test_a_value_in_dollars_gives_the_quantity_only_when_there_is_none() -> None:
    assert the_fill(fill_with(without="qty", position_size_usd="1250")).qty == Decimal("0.5")
    assert the_fill(fill_with(position_size_usd="1250")).qty == 1


def test_a_quantity_from_a_value_is_cut_to_18_places() -> None:
    fill = the_fill(fill_with(without="qty", price=3, position_size_usd=2))
    assert fill.qty == Decimal("0.666666666666666666")


def test_a_cumulative_quantity_alone_is_the_quantity() -> None:
    fill = the_fill(fill_with(without="qty", cum_qty="0.4"))
    assert (fill.qty, fill.cumulative) == (Decimal("0.4"), Decimal("0.4"))


def test_fee_usd_is_in_dollars_whatever_asset_stands_beside_it() -> None:
    fill = the_fill(fill_with(fee_usd="1.25", fee_asset="ETH"))
    assert (fill.fee, fill.fee_asset) == (Decimal("1.25"), "USD")
    fill = the_fill(fill_with(fee="0.001", fee_usd="1.25", fee_asset="ETH"))
    assert (fill.fee, fill.fee_asset) == (Decimal("0.001"), "ETH")


def test_a_rebate_is_a_fee_below_0() -> None:
    assert the_fill(fill_with(commission="-0.02", fee_asset="USDT")).fee == Decimal("-0.02")


def test_ids_that_are_numbers_are_taken_by_their_digits() -> None:
    fill = the_fill(fill_with(order_id=8389765512345678901, trade_id=17, account=42))
    assert (fill.order.order_id, fill.fill_id, fill.key.account) == ("8389765512345678901", "17", "42")


# Sides and position sides.


@pytest.mark.parametrize(
    ("text", "side"), [("BUY", Side.BUY), ("LONG", Side.BUY), ("SELL", Side.SELL), ("SHORT", Side.SELL)]
)
def test_incident_02_a_side_has_one_meaning_from_the_door_on(text: str, side: Side) -> None:
    for spelt in (text, text.lower(), text.title(), f" {text} "):
        assert the_fill(fill_with(side=spelt)).side is side


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("BOTH", PositionSide.NET),
        ("net", PositionSide.NET),
        ("", PositionSide.NET),
        ("long", PositionSide.LONG),
        ("SHORT", PositionSide.SHORT),
    ],
)
@pytest.mark.parametrize("name", ["position_side", "positionSide"])
def test_a_position_side_is_net_unless_it_is_given(name: str, text: str, side: PositionSide) -> None:
    assert the_fill(fill_with(**{name: text})).key.position_side is side


# Statuses.


@pytest.mark.parametrize(
    ("status", "complete"),
    [("FILLED", True), ("PARTIAL", False), ("PARTIALLY_FILLED", False), ("PARTIAL_FILL", False)],
)
def test_the_four_fill_statuses_are_fills_in_any_case(status: str, complete: bool) -> None:
    for spelt in (status, status.lower(), f" {status.title()} "):
        assert the_fill(fill_with(status=spelt)).complete is complete


@pytest.mark.parametrize("status", ["REJECTED", "EXPIRED", "CANCELED", "CANCELLED", "cancelled"])
def test_these_statuses_end_an_order(status: str) -> None:
    expected = OrderUpdate(ENTRY_ID, ARRIVED_MS, "ETHUSDT", status.upper(), True, OrderRef("A1", "c", "hb-1"))
    assert flat(f"symbol ETHUSDT status {status} order_id A1 client_order_id c correlation_id hb-1") == expected


@pytest.mark.parametrize("status", ["NEW", "ACK", "ACCEPTED", "SUBMITTED", "accepted"])
def test_these_statuses_are_noted(status: str) -> None:
    expected = OrderUpdate(ENTRY_ID, ARRIVED_MS, "ETHUSDT", status.upper(), False, OrderRef("A1"))
    assert flat(f"symbol ETHUSDT status {status} order_id A1") == expected


def test_a_price_needs_symbol_and_price_only() -> None:
    assert flat("symbol ETHUSDT price 2526 status PRICE_UPDATE") == Price(
        ENTRY_ID, ARRIVED_MS, "ETHUSDT", Decimal(2526), ARRIVED_MS
    )


@pytest.mark.parametrize("status", ["skipped_low_confidence", "skipped_", "SIMULATED", "Pending New"])
def test_skipped_and_unknown_statuses_are_passed_over_by_name(status: str) -> None:
    assert carried({"status": status}) == Passed(ENTRY_ID, status.upper())


def test_a_status_that_is_no_word_is_passed_over_without_its_text() -> None:
    for status in ("💥", "7", "A" * 41, "a\nb", "\ud800"):
        assert carried({"status": status}) == Passed(ENTRY_ID, "UNREADABLE")


# Times.


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        ("2026-01-18T12:00:00Z", ARRIVED_MS),
        ("2026-01-18T12:00:00.500Z", ARRIVED_MS + 500),
        ("2026-01-18T12:00:00.999999+00:00", ARRIVED_MS + 999),
        ("2026-01-18T13:00:00+01:00", ARRIVED_MS),
        ("2026-01-18T12:00:00", ARRIVED_MS),
        ("2026-01-18 12:00:00.25", ARRIVED_MS + 250),
        (" 2026-01-18T12:00:01Z ", ARRIVED_MS + 1000),
        ("1768737601", ARRIVED_MS + 1000),
        ("1768737601.5", ARRIVED_MS + 1500),
        ("1768737601500", ARRIVED_MS + 1500),
        ("1768737601500.25", ARRIVED_MS + 1500),
        (" 1768737601500 ", ARRIVED_MS + 1500),
        (1768737601, ARRIVED_MS + 1000),
        (1768737601.5, ARRIVED_MS + 1500),
        (1768737601500, ARRIVED_MS + 1500),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
    ],
)
def test_a_time_is_iso_8601_or_seconds_or_milliseconds(value: object, time_ms: int) -> None:
    assert the_fill(fill_with(timestamp=value)).time_ms == time_ms


def test_a_time_without_a_zone_is_utc_wherever_the_daemon_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert the_fill(fill_with(timestamp="2026-01-18T12:00:00")).time_ms == ARRIVED_MS
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "yesterday", "-5", -5, True, {}, [], "1e400", 1e300, "0001-01-01T00:00:00+14:00", "2026-13-01"),
        *(1768737601500000, "1768737601500000000", "١٧٦٨٧٣٧٦٠١٥٠٠", "9999-12-31T23:59:59-12:00"),
    ],
)
def test_a_time_that_is_none_is_the_time_in_the_entry_id(value: object) -> None:
    assert the_fill(fill_with(timestamp=value)).time_ms == ARRIVED_MS


def test_a_carrier_that_is_empty_carries_nothing() -> None:
    flat = [str(part).encode() for pair in FILL.items() for part in pair]
    plain = the_fill(decode(ENTRY_ID, flat))
    assert the_fill(decode(ENTRY_ID, [b"payload", b"", *flat, b"json", b""])) == plain
    assert the_fill(decode(ENTRY_ID, [b"payload", b"", b"data", json.dumps(FILL).encode()])) == plain


# Dead letters.


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"payload", b"{oops"], "payload is not JSON: Expecting property name"),
        ([b"data", b" "], "data is not JSON: Expecting value"),
        ([b"data", b""], "no status"),
        ([b"json", b"[1,2]"], "json is not a JSON object but '[1,2]'"),
        ([b"payload", b'{"qty":NaN}'], "payload is not JSON: NaN is not a number"),
        ([b"payload", b'{"qty":-Infinity}'], "payload is not JSON: -Infinity is not a number"),
        ([b"payload", b'{"qty":1,"qty":2}'], "payload is not JSON: a name stands twice"),
        ([b"payload", b'{"qty":1e99999999999999999999}'], "payload holds a number with an impossible exponent"),
        ([b"payload", b"[" * 60_000], "payload is not JSON: maximum recursion depth exceeded"),
        ([b"symbol", b"A\0B", b"status", b"FILLED"], "a field holds a zero byte"),
        ([b"symbol", b"\xff", b"status", b"FILLED"], "not UTF-8: invalid start byte at byte 7"),
        ([b"symbol", b"A", b"symbol", b"B"], "a field stands twice"),
        ([], "no status"),
    ],
)
def test_an_entry_that_is_no_message_is_a_dead_letter(fields: list[bytes], expected: str) -> None:
    event = decode(ENTRY_ID, fields)
    assert reason(event).startswith(expected)
    assert event == Malformed(ENTRY_ID, reason(event), tuple(fields))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"symbol": ""}, "no symbol"),
        ({"symbol": "ETH USDT"}, "symbol 'ETH USDT' is not a name of at most 64 letters, digits and . _ : / -"),
        ({"symbol": "_meta"}, "symbol '_meta' is not a name"),
        ({"symbol": "A|B"}, "symbol 'A|B' is not a name"),
        ({"symbol": "A" * 65}, "symbol 'AAAA"),
        ({"symbol": True}, "symbol True is not a name"),
        ({"symbol": {"base": "ETH"}}, "symbol {'base': 'ETH'} is not a name"),
        ({"account": "a|b"}, "account 'a|b' is not a name"),
        ({"side": ""}, "no side"),
        ({"side": "HOLD"}, "side 'HOLD' is none of BUY, LONG, SELL, SHORT"),
        ({"side": 1}, "side Decimal('1') is none of BUY, LONG, SELL, SHORT"),
        ({"position_side": "MIDDLE"}, "position side 'MIDDLE' is none of NET, LONG, SHORT, BOTH"),
        ({"position_side": False}, "position side False is none of NET, LONG, SHORT, BOTH"),
        ({"status": None}, "no status"),
        ({"status": 200}, "status Decimal('200') is not a text"),
        ({"qty": None}, "a fill without a quantity"),
        ({"qty": 0}, "quantity 0 is not above 0"),
        ({"qty": "-1"}, "quantity -1 is not above 0"),
        ({"qty": "one"}, "quantity 'one' is not a number"),
        ({"qty": "NaN"}, "quantity 'NaN' is not a finite number"),
        ({"qty": "sNaN"}, "quantity 'sNaN' is not a finite number"),
        ({"qty": "Infinity"}, "quantity 'Infinity' is not a finite number"),
        ({"qty": "1e400"}, "quantity '1e400' is too large, at most 15 digits before the point"),
        ({"qty": "1e-400"}, "quantity '1e-400' has more than 24 decimal places"),
        ({"qty": "1e9999999999999999999"}, "quantity '1e9999999999999999999' is not a number"),
        ({"qty": "1_000"}, "quantity '1_000' is not a number"),
        ({"qty": "１"}, "quantity '１' is not a number"),
        ({"qty": "1,5"}, "quantity '1,5' is not a number"),
        ({"qty": True}, "quantity True is not a number"),
        ({"qty": [1]}, "quantity [Decimal('1')] is not a number"),
        ({"cum_qty": 0}, "cumulative quantity 0 is not above 0"),
        ({"price": None}, "no price"),
        ({"price": "0.00"}, "price 0.00 is not above 0"),
        ({"price": -5}, "price -5 is not above 0"),
        ({"price": "1e400"}, "price '1e400' is too large"),
        ({"stop_loss": "tight"}, "stop 'tight' is not a number"),
        ({"stop_loss": -1}, "stop -1 is below 0"),
        ({"fee": "free"}, "fee 'free' is not a number"),
        ({"fee": "1", "fee_asset": "E T H"}, "fee asset 'E T H' is not 1 to 128 printable characters without spaces"),
        ({"order_id": "a b"}, "order id 'a b' is not 1 to 128 printable characters"),
        ({"order_id": "x" * 129}, "order id 'xxx"),
        ({"fill_id": ["a"]}, "fill id ['a'] is not 1 to 128 printable characters"),
        ({"correlation_id": "é"}, "correlation id 'é' is not 1 to 128 printable characters"),
        ({"client_order_id": "\ud800"}, "client order id '\\ud800' is not 1 to 128 printable characters"),
    ],
)
def test_a_fill_that_cannot_be_used_is_a_dead_letter_that_names_the_value(
    change: dict[str, object], expected: str
) -> None:
    assert reason(carried({**FILL, **change})).startswith(expected)


def test_incident_16_a_market_acknowledgement_without_price_is_a_dead_letter() -> None:
    sample = (
        '{"symbol":"ETHUSDT","side":"BUY","orderId":8389765512345678901,"status":"FILLED","price":"0.00",'
        '"avg_price":"2500.10","executed_qty":"1.000","cum_qty":"1.000"}'
    )
    assert reason(decode(ENTRY_ID, [b"payload", sample.encode()])) == "price 0.00 is not above 0"
    assert reason(flat("symbol ETHUSDT price 0 status PRICE_UPDATE")) == "price 0 is not above 0"


def test_a_stop_of_0_says_that_there_is_none() -> None:
    assert the_fill(fill_with(stop_loss="0.0")).stop is None


def test_a_value_too_small_for_any_quantity_is_a_dead_letter() -> None:
    event = fill_with(without="qty", price="999999999999999", position_size_usd="1e-24")
    assert reason(event).startswith("position_size_usd / price 0E-18 is not above 0")


def test_a_value_too_large_for_its_price_is_a_dead_letter() -> None:
    event = fill_with(without="qty", price="1e-24", position_size_usd="999999999999999")
    assert reason(event).startswith("position_size_usd / price '9.99999999999999E+38' is too large")


def test_an_id_with_a_huge_exponent_is_refused_without_being_written_out() -> None:
    fields = [b"json", json.dumps(FILL).replace('"BUY"', '"BUY","order_id":1e9999999').encode()]
    tracemalloc.start()
    try:
        event = decode(ENTRY_ID, fields)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason(event).startswith("order id Decimal('1E+9999999') is not 1 to 128 printable characters")
    assert peak < 1_000_000


def test_an_entry_may_have_64_kib_and_not_a_byte_more() -> None:
    known = entry({**FILL, "note": ""})
    room = MAX_ENTRY_BYTES - sum(map(len, known))
    known[-1] = b"x" * room
    the_fill(decode(ENTRY_ID, known))
    known[-1] += b"x"
    assert reason(decode(ENTRY_ID, known)) == "larger than 65536 bytes"


def test_a_long_value_is_cut_in_the_reason() -> None:
    assert len(reason(fill_with(qty="9" * 60_000))) < 200


def test_every_status_that_needs_a_symbol_says_so() -> None:
    for status in ("PRICE_UPDATE price 1", "NEW", "REJECTED"):
        assert reason(flat(f"status {status}")) == "no symbol"


# The market price stream.


def market(fields: dict[str, str]) -> Price | Malformed:
    return decode_market(ENTRY_ID, entry(fields))


def test_a_market_tick_is_a_price() -> None:
    tick = market({"symbol": "ETHUSDT", "price": "2526.5", "bid": "1", "ask": "2", "timestamp": "1768737599000"})
    assert tick == Price(ENTRY_ID, ARRIVED_MS - 1000, "ETHUSDT", Decimal("2526.5"), ARRIVED_MS)


def test_a_market_tick_without_a_price_is_the_middle_of_bid_and_ask() -> None:
    tick = market({"symbol": "ETHUSDT", "bid": "2526.0", "ask": "2526.000000000000000000000001"})
    assert isinstance(tick, Price)
    assert tick.price == Decimal("2526.0000000000000000000000005")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"symbol": "ETHUSDT"}, "no price"),
        ({"symbol": "ETHUSDT", "bid": "2526"}, "no price"),
        ({"symbol": "ETHUSDT", "price": "0"}, "price 0 is not above 0"),
        ({"symbol": "ETHUSDT", "bid": "0", "ask": "1"}, "bid 0 is not above 0"),
        ({"symbol": "ETHUSDT", "bid": "1", "ask": "NaN"}, "ask 'NaN' is not a finite number"),
        ({"price": "1"}, "no symbol"),
        ({"payload": "{"}, "payload is not JSON"),
    ],
)
def test_a_market_tick_that_cannot_be_used_says_why(fields: dict[str, str], expected: str) -> None:
    tick = market(fields)
    assert isinstance(tick, Malformed)
    assert tick.reason.startswith(expected)


def test_a_cumulative_quantity_beside_a_fill_id_counts_by_its_growth() -> None:
    world = World(policy())
    for number, total in enumerate((b"0.5", b"1.0")):
        fields = {b"symbol": SYMBOL.encode(), b"side": b"BUY", b"price": b"100", b"status": b"PARTIAL"}
        fields |= {b"order_id": b"A1", b"trade_id": b"T%d" % number, b"cum_qty": total}
        world.see(decode(f"180000000{number}000-0", [part for pair in fields.items() for part in pair]))
    assert world.position().qty == Decimal(1)
