"""What counts as a number, how it is rounded and how it is written."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.strategies import quantities, steps

from harvest_brain.core.numbers import ARITHMETIC, floor_to_step, parse_decimal, plain, round_to_tick, shorten


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("2500.0", "2500"),
        ("-1.5", "-1.5"),
        ("+1.5", "1.5"),
        (".5", "0.5"),
        ("5.", "5"),
        (" 7 ", "7"),
        ("1e3", "1000"),
        ("2.5E-3", "0.0025"),
        ("999999999999999", "999999999999999"),
        ("1E+14", "100000000000000"),
        ("0.000000000000000000000001", "1E-24"),
        ("1e-24", "1E-24"),
        ("1.0000000000000000000000000000000", "1"),
        ("0E+999999", "0"),
        ("0e-99", "0"),
    ],
)
def test_a_number_is_what_its_text_says(text: str, value: str) -> None:
    assert parse_decimal(text) == Decimal(value)


def test_integers_and_decimals_are_numbers_too() -> None:
    assert parse_decimal(12) == 12
    assert parse_decimal(Decimal("1.50")) == Decimal("1.5")


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "1,5", "0x10", "1 000", "--1", "1e", "1_000", "١٢", "½", "1e1000000000000000000000"]
)
def test_what_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number$") as fault:
        parse_decimal(text)
    assert repr(text) in str(fault.value)


@pytest.mark.parametrize("text", ["NaN", "-nan", "sNaN", "Infinity", "-inf"])
def test_what_is_not_finite_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{text}' is not a finite number$"):
        parse_decimal(text)


@pytest.mark.parametrize("text", ["1000000000000000", "1e15", "1e400", "-1e15"])
def test_what_has_too_many_digits_before_the_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is too large, at most 15 digits before the point$"):
        parse_decimal(text)


@pytest.mark.parametrize(
    "text", ["1e-25", "0.0000000000000000000000001", "1.0000000000000000000000001", "1e-400", "1e-99999999", "-1e-25"]
)
def test_what_has_too_many_decimal_places_is_refused_and_never_taken_for_zero(text: str) -> None:
    with pytest.raises(ValueError, match=r"has more than 24 decimal places$"):
        parse_decimal(text)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"^'x{60}…' is not a number$"):
        parse_decimal("x" * 61)


def test_short_text_stays_whole() -> None:
    assert shorten("x" * 60) == "x" * 60
    assert shorten("abc", 2) == "ab…"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.0", "1"),
        ("1.00", "1"),
        ("0.250", "0.25"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("1E-8", "0.00000001"),
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("-2.50", "-2.5"),
    ],
)
def test_equal_values_are_written_alike_without_exponent(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


def test_a_size_is_floored_to_its_step() -> None:
    assert floor_to_step(Decimal("0.4375"), Decimal("0.1")) == Decimal("0.4")
    assert floor_to_step(Decimal("0.4"), Decimal("0.1")) == Decimal("0.4")
    assert floor_to_step(Decimal("0.0999"), Decimal("0.1")) == 0
    assert floor_to_step(Decimal(7), Decimal("2.5")) == Decimal(5)


def test_a_price_is_rounded_to_its_tick_up_or_down() -> None:
    assert round_to_tick(Decimal("100.101"), Decimal("0.01"), up=True) == Decimal("100.11")
    assert round_to_tick(Decimal("100.109"), Decimal("0.01"), up=False) == Decimal("100.10")
    assert round_to_tick(Decimal("100.10"), Decimal("0.01"), up=True) == Decimal("100.10")
    assert round_to_tick(Decimal("100.10"), Decimal("0.01"), up=False) == Decimal("100.10")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12))
def test_writing_and_reading_gives_the_same_value(value: Decimal) -> None:
    assert parse_decimal(plain(value)) == value


@given(st.text(alphabet="0123456789.eE+-_ nNaAiIfF", max_size=12))
def test_a_parsed_text_is_finite_and_within_bounds(text: str) -> None:
    try:
        value = parse_decimal(text)
    except ValueError:
        return
    assert value.is_finite()
    assert abs(value) < 10**15
    assert value * 10**24 == int(value * 10**24)


@given(quantities(), steps())
def test_flooring_gives_the_largest_multiple_that_is_not_above(quantity: Decimal, step: Decimal) -> None:
    with localcontext(ARITHMETIC):
        floored = floor_to_step(quantity, step)
        assert floored % step == 0
        assert 0 <= quantity - floored < step
