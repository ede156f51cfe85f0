"""Exact arithmetic: what counts as a number, how sizes and prices are rounded, how they are written.

Everything is a `Decimal` parsed from text. The bounds below make sums and differences of quantities exact
in `ARITHMETIC`: a value has at most 15 digits before the point and 24 after it, 39 in all, so 50 digits
leave room for eleven decimal orders of magnitude of additions before anything could be rounded.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

ARITHMETIC = Context(prec=50, traps=[InvalidOperation, DivisionByZero, Overflow])
ZERO = Decimal(0)
INFINITY = Decimal("Infinity")
BASIS_POINT = Decimal("0.0001")

MAX_INTEGER_DIGITS = 15
MAX_DECIMAL_PLACES = 24
_FINEST = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)

# What nearly every number looks like, within the bounds by its very form.
_PLAIN_NUMBER = re.compile(rf"-?[0-9]{{1,{MAX_INTEGER_DIGITS}}}(\.[0-9]{{1,{MAX_DECIMAL_PLACES}}})?")


def parse_decimal(text: str | int | Decimal) -> Decimal:
    """The exact value of a number's text.

    Raises `ValueError`, naming the value, for what is no finite number or exceeds the bounds above.
    """
    if isinstance(text, str) and _PLAIN_NUMBER.fullmatch(text):
        return Decimal(text)
    # Decimal takes "1_000" and Arabic-Indic digits too; a price feed that sends those is broken.
    if isinstance(text, str) and (not text.isascii() or "_" in text):
        raise ValueError(f"{shorten(text)!r} is not a number")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{shorten(str(text))!r} is not a number") from None
    if not value.is_finite():
        raise ValueError(f"{shorten(str(text))!r} is not a finite number")
    if value and value.adjusted() >= MAX_INTEGER_DIGITS:
        raise ValueError(f"{shorten(str(text))!r} is too large, at most {MAX_INTEGER_DIGITS} digits before the point")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_DECIMAL_PLACES:
        within = value.quantize(_FINEST, ROUND_DOWN, ARITHMETIC)
        if within != value:
            raise ValueError(f"{shorten(str(text))!r} has more than {MAX_DECIMAL_PLACES} decimal places")
        return within.normalize(ARITHMETIC)
    return value


def shorten(text: str, limit: int = 60) -> str:
    """`text`, cut where it would flood a log line or a reason."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def plain(value: Decimal) -> str:
    """Canonical text: no exponent, no needless zeros, so that 1.0 and 1.00 are written alike."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def floor_to_step(quantity: Decimal, step: Decimal) -> Decimal:
    """The largest multiple of `step` (base asset) that is not above `quantity` (>= 0)."""
    return (quantity / step).to_integral_value(ROUND_DOWN) * step


def round_to_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    """`price` (quote currency) rounded up or down to a multiple of `tick`."""
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick
