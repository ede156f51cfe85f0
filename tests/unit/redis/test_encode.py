"""What is written: the intents as the consumers read them, and the state as it comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.world import LONG, SHORT, Way, World, policy

from harvest_brain.core.engine import Gate, State, Waiting, decide
from harvest_brain.core.events import Key, Malformed, OrderRef, PositionSide
from harvest_brain.core.intents import Action, Intent, harvest_claim, stop_claim
from harvest_brain.core.market import Jump, Market
from harvest_brain.core.numbers import ARITHMETIC
from harvest_brain.core.policy import Dust, Policy, Rung, RungState, Terms, parse_ladder
from harvest_brain.core.position import Epoch, Holding, Position, Reservation, ReservationState, epoch_id_of
from harvest_brain.redis.decode import decode
from harvest_brain.redis.encode import (
    SCHEMA,
    Meta,
    intent_entry,
    intent_payload,
    iso,
    letter_entry,
    market_text,
    meta_text,
    number,
    parse_market,
    parse_meta,
    parse_position,
    position_text,
)

NOON_MS = 1_768_737_600_000  # 2026-01-18T12:00:00Z
TERMS = Terms(parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25"))
SIDES = {"long": ("BUY", "2450", "2526"), "short": ("SELL", "2550", "2474")}
both_sides = pytest.mark.parametrize("side", ["long", "short"])
both_modes = pytest.mark.parametrize("live", [False, True], ids=["shadow", "live"])


def intents(side: str, *, live: bool, opening: str = "") -> tuple[Intent, ...]:
    """What 2500 and 0.52 R of a risk of 50 give: the first rung, and the stop to break-even."""
    order, stop, price = SIDES[side]
    entries = (
        f"symbol ETHUSDT side {order} qty 1.0 price 2500.0 status FILLED stop_loss {stop} order_id A1 {opening}",
        f"symbol ETHUSDT price {price} status PRICE_UPDATE",
    )
    events = [decode(f"{NOON_MS}-{index}", text.encode().split()) for index, text in enumerate(entries)]
    gate = Gate(now_ms=NOON_MS, kill_switch="0", tokens=30)
    return decide(State(), events, gate, Policy(TERMS, live=live)).intents


def harvest(side: str, *, live: bool, opening: str = "") -> Intent:
    return next(i for i in intents(side, live=live, opening=opening) if i.action is Action.HARVEST)


def stop_move(side: str, *, live: bool) -> Intent:
    return next(i for i in intents(side, live=live) if i.action is Action.BREAK_EVEN)


def pairs(payload: str) -> list[tuple[str, Any]]:
    """Names and values in the order in which they are written; numbers as their text."""
    found: list[tuple[str, Any]] = json.loads(payload, object_pairs_hook=list, parse_float=str, parse_int=str)
    return found


EPOCH = "2a6b5a7e0d5a3f1c"  # sixteen hex digits stand here; the payloads below are compared with them put in


def with_epoch_of(intent: Intent, text: str) -> str:
    return text.replace(EPOCH, intent.epoch_id)


# Shadow: the payload of the documentation, byte for byte.


def test_a_suggestion_is_written_literally_as_documented() -> None:
    intent = harvest("long", live=False)
    assert intent_payload(intent, live=False) == with_epoch_of(
        intent,
        '{"intent_type":"HARVEST_PARTIAL","symbol":"ETHUSDT","side":"SELL","qty":0.25,"reason":"R=0.52 >= 0.5",'
        '"r_level":0.52,"rungs":["0.5"],"unrealized_pnl":26.0,"reduce_only":true,"dry_run":true,'
        f'"source":"harvest_brain","correlation_id":"hb-{EPOCH}-r1","trace_id":"1768737600000-1","epoch_id":"{EPOCH}",'
        '"position_qty":1.0,"entry_price":2500.0,"price":2526.0,"stop_loss":2450.0,"risk_source":"stop",'
        '"timestamp":"2026-01-18T12:00:00.000Z","expires_at":"2026-01-18T12:00:30.000Z"}',
    )


def test_incident_02_the_suggestion_for_a_short_buys() -> None:
    payload = dict(pairs(intent_payload(harvest("short", live=False), live=False)))
    assert payload["side"] == "BUY"
    assert (payload["position_qty"], payload["unrealized_pnl"], payload["stop_loss"]) == ("-1.0", "26.0", "2550.0")


def test_an_entry_has_the_payload_in_its_envelope() -> None:
    intent = harvest("long", live=False)
    assert intent_entry(intent, live=False) == [
        *("event_type", "harvest.suggestion"),
        *("payload", intent_payload(intent, live=False)),
        *("source", "harvest_brain"),
        *("timestamp", "2026-01-18T12:00:00.000Z"),
        *("correlation_id", intent.intent_id),
    ]


# Live.


def test_an_order_is_written_literally_with_both_names_of_everything() -> None:
    intent = harvest("long", live=True)
    assert intent_payload(intent, live=True) == with_epoch_of(
        intent,
        '{"intent_type":"REDUCE_ONLY","symbol":"ETHUSDT","side":"SELL","qty":0.25,"reason":"R=0.52 >= 0.5",'
        '"r_level":0.52,"rungs":["0.5"],"action":"SELL","quantity":0.25,"reduceOnly":true,'
        f'"client_order_id":"hb-{EPOCH}-r1","confidence":1.0,"unrealized_pnl":26.0,"reduce_only":true,'
        f'"dry_run":false,"source":"harvest_brain","correlation_id":"hb-{EPOCH}-r1","trace_id":"1768737600000-1",'
        f'"epoch_id":"{EPOCH}","position_qty":1.0,"entry_price":2500.0,"price":2526.0,"stop_loss":2450.0,'
        '"risk_source":"stop","timestamp":"2026-01-18T12:00:00.000Z","expires_at":"2026-01-18T12:00:30.000Z"}',
    )
    assert intent_entry(intent, live=True)[:2] == ["event_type", "trade.intent"]


@both_sides
def test_a_stop_move_in_live_has_its_own_type_price_sequence_and_predecessor(side: str) -> None:
    move = stop_move(side, live=True)
    entry = intent_entry(move, live=True)
    payload = dict(pairs(entry[3]))
    assert entry[:2] == ["event_type", "stop.intent"]
    assert payload["intent_type"] == "MOVE_SL_BREAKEVEN"
    assert payload["stop_seq"] == "1"
    assert Decimal(payload["prev_stop"]) == Decimal(SIDES[side][1])
    assert Decimal(payload["stop_price"]) == move.stop
    assert payload["stop_loss"] == payload["stop_price"]
    assert payload["correlation_id"] == stop_claim(move.epoch_id, 1)
    assert (payload["qty"], payload["rungs"]) == ("1.0", [])


@both_sides
def test_a_stop_move_in_shadow_is_a_suggestion(side: str) -> None:
    entry = intent_entry(stop_move(side, live=False), live=False)
    assert entry[1] == "harvest.suggestion"
    assert dict(pairs(entry[3]))["dry_run"] is True


def test_without_a_stop_the_payload_says_so_and_names_the_fallback() -> None:
    entries = (
        b"symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED",
        b"symbol ETHUSDT price 2526 status PRICE_UPDATE",
    )
    events = [decode(f"{NOON_MS}-{index}", text.split()) for index, text in enumerate(entries)]
    decision = decide(State(), events, Gate(now_ms=NOON_MS, kill_switch=None, tokens=30), Policy(TERMS))
    payload = dict(pairs(intent_payload(decision.intents[0], live=False)))
    assert (payload["stop_loss"], payload["risk_source"]) == (None, "fallback")


@both_modes
def test_account_and_position_side_are_there_where_the_position_has_them(live: bool) -> None:
    intent = harvest("long", live=live, opening="account sub1 position_side LONG")
    # Prices have neither, so the position is found by its symbol.
    payload = dict(pairs(intent_payload(intent, live=live)))
    assert (payload["account"], payload["position_side"]) == ("sub1", "LONG")
    plain = dict(pairs(intent_payload(harvest("long", live=live), live=live)))
    assert not {"account", "position_side"} & plain.keys()


@both_sides
@both_modes
def test_no_name_stands_twice_in_a_payload(side: str, live: bool) -> None:
    for intent in intents(side, live=live):
        names = [name for name, _ in pairs(intent_payload(intent, live=live))]
        assert len(names) == len(set(names))


# Contracts: what each consumer that is known looks for, in its own words, and how it reads it.


def read_by_a_bridge(entry: dict[str, str]) -> dict[str, Any]:
    """Camel case and `action`, through float and str. Without its own name for reduce-only, an order may open."""
    payload = json.loads(entry["payload"])
    side = payload.get("action", payload.get("side", "")).upper()
    assert side in ("BUY", "SELL")
    return {
        "symbol": payload["symbol"].upper(),
        "side": side,
        "qty": float(payload["quantity"] if "quantity" in payload else payload["qty"]),
        "reduce_only": str(payload.get("reduceOnly", "false")).lower() in ("true", "1", "yes"),
    }


def read_by_a_typed_executor(entry: dict[str, str]) -> dict[str, Any]:
    """Builds a record of the fields that it knows, and drops what is less than sure."""
    payload = json.loads(entry["payload"])
    known = ("symbol", "action", "confidence", "timestamp", "source", "quantity", "entry_price", "stop_loss")
    record = {name: payload[name] for name in known}
    assert isinstance(record["confidence"], float)
    assert record["confidence"] >= 0.95
    assert isinstance(record["quantity"], float)
    return {
        "symbol": record["symbol"],
        "side": record["action"],
        "qty": record["quantity"],
        "reduce_only": payload["reduce_only"],
    }


def read_by_an_order_gateway(entry: dict[str, str]) -> dict[str, Any]:
    """Snake case, exact numbers, and a client order id as exchanges take it."""
    payload = json.loads(entry["payload"], parse_float=Decimal)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,36}", payload["client_order_id"])
    assert payload["client_order_id"] == payload["correlation_id"] == entry["correlation_id"]
    assert payload["dry_run"] is False
    assert isinstance(payload["qty"], Decimal)
    return {
        "symbol": payload["symbol"],
        "side": payload["side"],
        "qty": payload["qty"],
        "reduce_only": payload["reduce_only"],
    }


@both_sides
@pytest.mark.parametrize("consumer", [read_by_a_bridge, read_by_a_typed_executor, read_by_an_order_gateway])
def test_incident_33_every_known_consumer_reads_the_same_order(
    consumer: Callable[[dict[str, str]], dict[str, Any]], side: str
) -> None:
    entry = intent_entry(harvest(side, live=True), live=True)
    order = consumer(dict(zip(entry[::2], entry[1::2], strict=True)))
    closing = "SELL" if side == "long" else "BUY"
    assert order == {"symbol": "ETHUSDT", "side": closing, "qty": 0.25, "reduce_only": True}


@both_sides
def test_incident_11_reduce_only_is_true_under_both_names(side: str) -> None:
    for intent in intents(side, live=True):
        payload = json.loads(intent_payload(intent, live=True))
        assert payload["reduce_only"] is True
        assert payload["reduceOnly"] is True


@both_sides
def test_incident_33_both_names_of_a_thing_have_the_same_value(side: str) -> None:
    for intent in intents(side, live=True):
        payload = dict(pairs(intent_payload(intent, live=True)))
        for one, other in (
            *(("side", "action"), ("qty", "quantity"), ("reduce_only", "reduceOnly")),
            ("client_order_id", "correlation_id"),
        ):
            assert payload[one] == payload[other]


@given(st.text(), st.text(), st.integers(0, 10**6), st.integers(1, 10**6))
def test_every_id_is_one_that_exchanges_take(symbol: str, identity: str, rung: int, sequence: int) -> None:
    epoch_id = epoch_id_of(Key("", symbol, PositionSide.NET), identity)
    for intent_id in (harvest_claim(epoch_id, rung), stop_claim(epoch_id, sequence)):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,36}", intent_id)


# Dead letters.


def letter_of(*fields: bytes, stream: str = "") -> dict[bytes, bytes]:
    entry = letter_entry(Malformed("5-0", "no side", fields, stream), "executions")
    texts = [text.encode() if isinstance(text, str) else text for text in entry]
    assert len(texts) % 2 == 0
    assert len(set(texts[::2])) == len(texts) // 2, "no name stands twice"
    return dict(zip(texts[::2], texts[1::2], strict=True))


def test_a_dead_letter_says_where_the_entry_stood_and_why_it_is_here_and_holds_its_fields() -> None:
    assert letter_of(b"symbol", b"X", b"\xff", b"\0") == {
        b"stream": b"executions",
        b"id": b"5-0",
        b"reason": b"no side",
        b"symbol": b"X",
        b"\xff": b"\0",
    }
    assert letter_of(stream="ticks")[b"stream"] == b"ticks"


def test_a_field_whose_name_is_one_of_the_letters_own_is_kept_under_another_one() -> None:
    names = (b"stream", b"id", b"reason", b"cut", b"further_fields", b"original:id", b"original:original:id", b"ID")
    letter = letter_of(*(part for name in names for part in (name, b"<" + name + b">")))
    assert (letter[b"id"], letter[b"reason"]) == (b"5-0", b"no side")
    assert {name: letter[b"original:" + name] for name in names[:-1]} == {
        name: b"<" + name + b">" for name in names[:-1]
    }
    assert letter[b"ID"] == b"<ID>"


def test_only_names_are_renamed_and_not_values() -> None:
    assert letter_of(b"a", b"id", b"b", b"original:") == letter_of() | {b"a": b"id", b"b": b"original:"}


def test_a_dead_letter_is_whole_up_to_80_kib_and_cut_beyond_with_a_note_of_its_length() -> None:
    whole = letter_of(b"a", b"x" * (80 * 1024 - 1))
    assert len(whole[b"a"]) == 80 * 1024 - 1
    assert b"cut" not in whole
    cut = letter_of(b"a", b"x" * 80 * 1024, b"b", b"y")
    assert cut[b"cut"] == b"of 81923 bytes the first 81920 are here"
    assert (len(cut[b"a"]), cut[b""]) == (80 * 1024 - 1, b"")


def test_a_name_that_is_cut_to_one_of_the_letters_own_is_kept_under_another_one() -> None:
    letter = letter_of(b"a", b"x" * (80 * 1024 - 3), b"identity", b"y")
    assert (letter[b"id"], letter[b"original:id"]) == (b"5-0", b"")


def test_a_dead_letter_of_many_fields_is_a_bounded_number_of_values_and_bytes() -> None:
    fields = [b"%d" % number for number in range(1_400)]
    letter = letter_of(*fields)
    assert len(letter) == 3 + 500 + 1
    assert json.loads(letter[b"further_fields"]) == [text.decode() for text in fields[1_000:]]
    hostile = letter_of(*fields[:1_000], *([b"\xff" * 100] * 1_000))
    assert len(hostile[b"further_fields"]) == 80 * 1024


# Numbers and times.

FINITE = st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value="-1e15", max_value="1e15").filter(
    lambda value: -24 <= int(value.as_tuple().exponent) <= 15
)


@given(FINITE)
def test_a_number_is_written_exactly_and_always_with_a_point(value: Decimal) -> None:
    text = number(value)
    assert re.fullmatch(r"-?[0-9]+\.[0-9]+", text)
    assert json.loads(text, parse_float=Decimal) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "1.0"),
        ("1.00", "1.0"),
        ("0.250", "0.25"),
        ("1E+3", "1000.0"),
        ("1E-8", "0.00000001"),
        ("-0.0", "0.0"),
        ("-2.50", "-2.5"),
        ("0.10000000000000000000000000000000000001", "0.10000000000000000000000000000000000001"),
    ],
)
def test_numbers_look_like_this(value: str, text: str) -> None:
    assert number(Decimal(value)) == text


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOON_MS + 7, "2026-01-18T12:00:00.007Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_iso_8601_in_utc_with_milliseconds(time_ms: int, text: str) -> None:
    assert iso(time_ms) == text


# The state comes back as it was.

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value="-1e15", max_value="1e15")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.builds(Key, TEXTS, TEXTS, st.sampled_from(PositionSide))
COUNTS = st.integers(0, 10**15)
TERMS_STRATEGY = st.builds(
    Terms,
    st.lists(st.builds(Rung, NUMBERS, NUMBERS), max_size=4).map(tuple),
    *[NUMBERS] * 5,
    COUNTS,
    COUNTS,
    *[NUMBERS] * 7,
    st.sampled_from(Dust),
)
RESERVATIONS = st.builds(Reservation, TEXTS, NUMBERS, COUNTS, st.sampled_from(ReservationState), TEXTS)
EPOCHS = st.builds(
    Epoch,
    epoch_id=TEXTS,
    sign=st.sampled_from([1, -1]),
    opened_ms=COUNTS,
    opening_order=st.builds(OrderRef, TEXTS, TEXTS, TEXTS),
    terms=TERMS_STRATEGY,
    r_unit=NUMBERS,
    risk_source=st.sampled_from(["stop", "fallback"]),
    peak=NUMBERS,
    rungs=st.lists(st.sampled_from(RungState), max_size=4).map(tuple),
    crossed=st.integers(0, 4),
    target=NUMBERS,
    issued=NUMBERS,
    realized=NUMBERS,
    fees=NUMBERS,
    stop=st.none() | NUMBERS,
    stop_seq=COUNTS,
    resize_due=st.booleans(),
    extreme=st.none() | NUMBERS,
    reservations=st.lists(RESERVATIONS, max_size=3).map(tuple),
)
POSITIONS = st.builds(Position, KEYS, NUMBERS, NUMBERS, TEXTS, st.none() | EPOCHS)
MARKETS = st.builds(
    Market,
    NUMBERS,
    st.none() | st.builds(Jump, NUMBERS, COUNTS),
    st.integers(-1, 10**12),
    NUMBERS,
    NUMBERS,
    st.none() | NUMBERS,
    NUMBERS,
    COUNTS,
)
METAS = st.builds(
    Meta,
    st.sampled_from(["shadow", "live"]),
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    COUNTS,
    COUNTS,
    st.lists(st.builds(Waiting, KEYS, COUNTS), max_size=3).map(tuple),
)


@given(POSITIONS)
def test_incident_20_a_position_comes_back_as_it_was_stored(position: Position) -> None:
    again = parse_position(position_text(position))
    assert again == position
    assert position_text(again) == position_text(position)


# What releases so far have written. It must stay readable: an upgrade, and the way back from it, keep the state.
STORED_POSITION = (
    '{"key":["sub","ETHUSDT","SHORT"],"qty":"-0.75","avg":"100.0","suspect":"why","claimed":["-1","99"],'
    '"adopted_ms":9,"epoch":{"id":"00aa","sign":-1,"opened_ms":5,"order":["A1","","c"],"terms":{"ladder":'
    '[["0.5","0.25"],["1.0","0.25"]],"min_r":"0.5","be_at_r":"0.5","be_fee_rate":"0.0005","trail_start_r":"1.0",'
    '"trail_atr_mult":"2.0","trail_atr_period":14,"trail_bar_ms":60000,"stop_min_step_bps":"5",'
    '"fallback_risk":"0.02","min_risk_bps":"5","qty_step":"0.0001","price_tick":"1E-8","min_qty":"0",'
    '"min_notional":"0","dust":"close_all"},"r_unit":"2.50","risk_source":"stop","peak":"1.0","rungs":"fa",'
    '"crossed":1,"target":"0.25","issued":"0.250","realized":"1","fees":"0.1","risk_stop":"102","stop":"100.5",'
    '"stop_seq":2,"resize_due":true,"extreme":"97","reservations":[["hb-00aa-r1","0.1",7,"acked","X"]]}}'
)


def test_a_state_of_the_releases_so_far_is_read_and_written_as_they_wrote_it() -> None:
    position = parse_position(STORED_POSITION)
    assert position == Position(
        Key("sub", "ETHUSDT", PositionSide.SHORT),
        Decimal("-0.75"),
        Decimal("100.0"),
        "why",
        Epoch(
            epoch_id="00aa",
            sign=-1,
            opened_ms=5,
            opening_order=OrderRef("A1", "", "c"),
            terms=Terms(parse_ladder("0.5:0.25,1.0:0.25"), dust=Dust.CLOSE_ALL),
            r_unit=Decimal("2.50"),
            risk_source="stop",
            peak=Decimal("1.0"),
            rungs=(RungState.FIRED, RungState.ARMED),
            crossed=1,
            target=Decimal("0.25"),
            issued=Decimal("0.250"),
            realized=Decimal(1),
            fees=Decimal("0.1"),
            risk_stop=Decimal(102),
            stop=Decimal("100.5"),
            stop_seq=2,
            resize_due=True,
            extreme=Decimal(97),
            reservations=(Reservation("hb-00aa-r1", Decimal("0.1"), 7, ReservationState.ACKED, "X"),),
        ),
        Holding(Decimal(-1), Decimal(99)),
        9,
    )
    assert json.loads(position_text(position)) == json.loads(STORED_POSITION)
    market = '["1.0",null,60000,"2","0.5","0.7","0.123",3]'
    assert market_text(parse_market(market)) == market


@given(MARKETS)
def test_a_price_memory_comes_back_as_it_was_stored(market: Market) -> None:
    assert parse_market(market_text(market)) == market


@given(METAS)
def test_the_meta_comes_back_as_it_was_stored(meta: Meta) -> None:
    assert parse_meta(meta_text(meta)) == meta


def test_digits_that_count_for_nothing_are_kept_so_that_equal_states_have_equal_texts() -> None:
    position = Position(Key("", "ETHUSDT", PositionSide.NET), Decimal("1.0"), Decimal("2500.00"))
    assert parse_position(position_text(position)).qty.as_tuple() == Decimal("1.0").as_tuple()


def test_a_state_of_another_schema_is_refused() -> None:
    text = meta_text(Meta("shadow", "", "", {}, 0)).replace(f'"schema":{SCHEMA}', '"schema":999')
    with pytest.raises(ValueError, match=f"the stored state has schema 999, this release reads {SCHEMA}"):
        parse_meta(text)


@pytest.mark.parametrize("way", [LONG, SHORT], ids=str)
@pytest.mark.parametrize("precision", [9, 28])
def test_the_callers_decimal_context_changes_no_byte(way: Way, precision: int) -> None:
    world = World(policy(live=True))
    world.open(way, order="a")
    world.see(world.fill(way.opening, 2, way.at(1), order="b"))
    [intent] = world.price(way.at(3))
    with localcontext(ARITHMETIC):
        exact = intent_entry(intent, live=True)
    with localcontext() as context:
        context.prec = precision
        assert intent_entry(intent, live=True) == exact


def test_a_huge_r_can_be_written() -> None:
    world = World(policy(live=True, price_tick="0.000000000001"))
    world.see(world.fill(LONG.opening, 1, "0.000000001", stop="0.0000000005"))
    [harvest, *_] = world.price("900000000000000")
    assert intent_entry(harvest, live=True)
