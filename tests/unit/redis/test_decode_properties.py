"""The door holds whatever comes: arbitrary bytes, hostile JSON, and values that only look like what they should be.

What is checked of each entry stands in `tests/fuzz/invariants.py`, which the fuzzing shares.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.invariants import check_entry

from harvest_brain.core import numbers
from harvest_brain.core.numbers import parse_decimal
from harvest_brain.redis.decode import _EXACT, MAX_ENTRY_BYTES

STATUSES = (
    *("FILLED", "PARTIAL", "PARTIALLY_FILLED", "PARTIAL_FILL", "PRICE_UPDATE", "REJECTED", "EXPIRED", "CANCELED"),
    *("CANCELLED", "NEW", "ACK", "ACCEPTED", "SUBMITTED", "skipped_low_confidence", "filled", "", "\ud800"),
)
HOSTILE_NUMBERS = (
    *("0", "-0", "1", "-1", "0.1", "1e400", "1E-400", "NaN", "sNaN123", "-Infinity", "1e99999999999999999999", "1_0"),
    *("9" * 15, "9" * 16, "0." + "0" * 23 + "1", "0." + "0" * 24 + "1", " 5 ", "+5", "5.", ".5", "٣", "", " "),
    *("1768737600", "1768737600000", "2026-01-18T12:00:00Z", "2026-01-18T12:00:00\ud80000:00", "0001-01-01"),
)
NAMES = st.sampled_from([*sorted(_EXACT), "signal", "payload", "data", "json", "Qty", "PRICE", "x"])
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.sampled_from([*STATUSES, *HOSTILE_NUMBERS, "ETHUSDT", "BUY", "sell", "LONG", "a|b", "_meta", "x" * 200])
)
MESSAGES = st.dictionaries(
    NAMES,
    SCALARS | st.dictionaries(NAMES, SCALARS, max_size=4) | st.lists(SCALARS, max_size=2),
    max_size=12,
).flatmap(lambda rest: st.sampled_from(STATUSES).map(lambda status: {"symbol": "ETHUSDT", **rest, "status": status}))


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_arbitrary_bytes_give_exactly_one_event(parts: list[bytes]) -> None:
    fields = parts[: len(parts) // 2 * 2]
    check_entry(fields)


@given(st.sampled_from(["payload", "data", "json"]), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_in_a_carrier_give_exactly_one_event(carrier: str, body: bytes) -> None:
    fields = [carrier.encode(), body]
    check_entry(fields)


@settings(max_examples=500)
@given(st.sampled_from(["payload", "data", "json"]), MESSAGES)
def test_hostile_messages_give_exactly_one_event(carrier: str, message: dict[str, Any]) -> None:
    fields = [carrier.encode(), json.dumps(message).encode()]
    check_entry(fields)


@settings(max_examples=500)
@given(st.dictionaries(NAMES, st.sampled_from(HOSTILE_NUMBERS) | st.text(max_size=20), max_size=12))
def test_hostile_flat_fields_give_exactly_one_event(message: dict[str, str]) -> None:
    named = {"symbol": "ETHUSDT", "status": "FILLED", "side": "BUY", "qty": "1", "price": "1", **message}
    fields = [text.encode(errors="surrogatepass") for pair in named.items() for text in pair]
    check_entry(fields)


@given(st.text(alphabet='[]{}":,0123456789eE+-.truefalsn\\u', max_size=60))
def test_what_looks_like_json_gives_exactly_one_event(body: str) -> None:
    fields = [b"payload", body.encode()]
    check_entry(fields)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"signal":{"a":'])
def test_json_as_deep_as_an_entry_can_be_gives_exactly_one_event(opening: str) -> None:
    fields = [b"payload", (opening * (MAX_ENTRY_BYTES // len(opening) - 2)).encode()]
    check_entry(fields)


@settings(max_examples=500)
@given(
    st.from_regex(r"\A[+-]?[0-9]{0,17}(\.[0-9]{0,26})?([eE][+-]?[0-9]{1,3})?\Z")
    | st.sampled_from(HOSTILE_NUMBERS)
    | st.text(alphabet="0123456789.-+eE_ \n٣", max_size=30)
)
def test_the_quick_look_at_a_number_agrees_with_the_thorough_one(text: str) -> None:
    def parsed() -> object:
        try:
            value = parse_decimal(text)
        except ValueError:
            return "refused"
        return value.as_tuple()

    quick = parsed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "_PLAIN_NUMBER", re.compile(r"(?!)"))
        assert parsed() == quick
