"""A stream entry becomes an event: every shape that has been seen in the field, normalised once, at the door.

Shapes: flat fields; `payload`, `data` or `json` holding one JSON object, maybe with a nested `signal` that holds symbol
and side. Names that mean the same are listed below; the first one that is present and not empty wins, matched
exactly and then without regard to case. What the message itself says comes before what a `signal` in it says, and that
before the envelope: the envelope's time is when the message was sent on, which says nothing of how old a price is.

Nothing raises: what can't be used comes back as `Malformed` with a reason that names the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from harvest_brain.core.events import (
    Clear,
    Execution,
    Fill,
    Key,
    Malformed,
    OrderRef,
    OrderUpdate,
    Passed,
    PnlSnapshot,
    PositionSide,
    Price,
    Release,
    Side,
    Snapshot,
    happened_ms,
)
from harvest_brain.core.numbers import ARITHMETIC, MAX_INTEGER_DIGITS, ZERO, parse_decimal, shorten

MAX_ENTRY_BYTES = 64 * 1024

SIDE = ("side", "action")
QUANTITY = ("qty", "quantity", "filled_qty", "executed_qty", "filled_quantity")
PRICE = ("price", "avg_price", "fill_price", "filled_price", "current_price")
ENTRY_PRICE = ("entry_price",)
NOTIONAL = ("position_size_usd",)
STOP = ("stop_loss", "sl", "stop")
FILL_ID = ("fill_id", "trade_id", "exec_id")
ORDER_ID = ("order_id", "orderId")
CLIENT_ORDER_ID = ("client_order_id", "clientOrderId")
CORRELATION_ID = ("correlation_id",)
TIME = ("timestamp", "ts")
FEE_USD = ("fee_usd",)
FEE = ("fee", *FEE_USD, "commission")
FEE_ASSET = ("fee_asset",)
CUMULATIVE = ("cum_qty", "cumulative_qty")
ACCOUNT = ("account", "account_id")
POSITION_SIDE = ("position_side", "positionSide")
SYMBOL = ("symbol",)
STATUS = ("status",)
BID, ASK = ("bid",), ("ask",)
POSITION_QUANTITY = ("position_qty", *QUANTITY)
MARK = ("mark_price",)
UNREALIZED = ("unrealized_pnl",)

_KNOWN_NAMES = frozenset(
    name
    for names in (
        *(SIDE, QUANTITY, PRICE, ENTRY_PRICE, NOTIONAL, STOP, FILL_ID, ORDER_ID, CLIENT_ORDER_ID, CORRELATION_ID, TIME),
        *(FEE, FEE_ASSET, CUMULATIVE, ACCOUNT, POSITION_SIDE, SYMBOL, STATUS, BID, ASK),
    )
    for name in names
)

_SIDES = {"BUY": Side.BUY, "LONG": Side.BUY, "SELL": Side.SELL, "SHORT": Side.SELL}
_POSITION_SIDES = {
    "NET": PositionSide.NET,
    "BOTH": PositionSide.NET,
    "LONG": PositionSide.LONG,
    "SHORT": PositionSide.SHORT,
}
COMPLETE_FILLS = frozenset({"FILLED"})
PARTIAL_FILLS = frozenset({"PARTIAL", "PARTIALLY_FILLED", "PARTIAL_FILL"})
ENDED = frozenset({"REJECTED", "EXPIRED", "CANCELED", "CANCELLED"})
NOTED = frozenset({"NEW", "ACK", "ACCEPTED", "SUBMITTED"})

# Symbols and accounts become parts of key names and of the state's fields, where `|` separates and `_` leads our own.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_IDENTIFIER = re.compile(r"[!-~]{1,128}")
_MAX_DIGITS = 128  # of a number that serves as a name
_STATUS = re.compile(r"[A-Z][A-Z0-9_ -]{0,39}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DERIVED_QUANTITY = Decimal("1e-18")
_MILLISECOND_DIGITS = 13  # from 2001 to 2286
_LATEST_MS = 253_402_300_799_999  # 9999-12-31, the last day that can be written as ISO 8601


E = TypeVar("E")


class _UnusableError(ValueError):
    """Why an entry can't be used."""


def decode(entry_id: str, fields: list[bytes]) -> Execution:
    """The event of an entry of the execution stream. `fields`: name, value, name, value, as Redis holds them."""
    return _usable(_event, entry_id, fields)


def decode_market(entry_id: str, fields: list[bytes]) -> Price | Malformed:
    """The price of an entry of the market price stream: `price`, else the middle of `bid` and `ask`."""
    return _usable(_market, entry_id, fields)


def decode_snapshot(entry_id: str, fields: list[bytes]) -> Snapshot | Malformed:
    """What an entry of the position snapshots says."""
    return _usable(_snapshot, entry_id, fields)


def decode_pnl(entry_id: str, fields: list[bytes]) -> PnlSnapshot | Malformed:
    """What an entry of the profit snapshots says."""
    return _usable(_pnl, entry_id, fields)


def decode_control(entry_id: str, fields: list[bytes]) -> Release | Clear | Malformed:
    """What the operator says."""
    return _usable(_control, entry_id, fields)


def _usable(read: Callable[[str, _Document], E], entry_id: str, fields: list[bytes]) -> E | Malformed:
    try:
        return read(entry_id, _document(fields))
    except (_UnusableError, ValueError, RecursionError) as fault:
        return Malformed(entry_id, _reason(fault), tuple(fields))


def arrival_ms(entry_id: str) -> int:
    """The server's time in an entry id, in milliseconds since 1970."""
    return int(entry_id.partition("-")[0])


class _Document:
    """The fields of a message by name, with the fall-back to names without regard to case, and then to what is
    `around` it."""

    __slots__ = ("_around", "_folded", "_named")

    def __init__(self, named: Mapping[str, Any], around: _Document | None = None) -> None:
        self._named = named
        self._around = around
        self._folded: dict[str, Any] | None = None
        if not named.keys() <= _KNOWN_NAMES:
            self._folded = {}
            for name, value in named.items():
                if value is not None and value != "":
                    self._folded.setdefault(name.lower(), value)

    def first(self, names: tuple[str, ...]) -> Any:
        """The first value present and not empty under one of `names`, or None."""
        for name in names:
            value = self._named.get(name)
            if value is not None and value != "":
                return value
        if self._folded is not None:
            for name in names:
                value = self._folded.get(name.lower())
                if value is not None:
                    return value
        return None if self._around is None else self._around.first(names)


def _document(fields: list[bytes]) -> _Document:
    # Decoding all fields at once costs a third of decoding each; a field that holds the separator is no text anyway.
    joined = b"\0".join(fields)
    if len(joined) >= MAX_ENTRY_BYTES + len(fields):  # the separators are one fewer than the fields
        raise _UnusableError(f"larger than {MAX_ENTRY_BYTES} bytes")
    try:
        texts = joined.decode().split("\0") if fields else []
    except UnicodeDecodeError as fault:
        raise _UnusableError(f"not UTF-8: {fault.reason} at byte {fault.start}") from None
    if len(texts) != len(fields):
        raise _UnusableError("a field holds a zero byte")
    pairs = iter(texts)
    named: dict[str, Any] = dict(zip(pairs, pairs, strict=True))
    if len(named) * 2 != len(texts):
        raise _UnusableError("a field stands twice")
    for carrier in ("payload", "data", "json"):
        if carrier in named:
            message = _object(carrier, named.pop(carrier))
            around = _Document(named) if named else None
            signal = message.get("signal")
            return _Document(message, _Document(signal, around) if isinstance(signal, dict) else around)
    return _Document(named)


def _object(carrier: str, text: str) -> dict[str, Any]:
    try:
        value = _PARSER.decode(text)
    except InvalidOperation:
        raise _UnusableError(f"{carrier} holds a number with an impossible exponent: {shorten(text)!r}") from None
    except (ValueError, RecursionError) as fault:
        raise _UnusableError(f"{carrier} is not JSON: {shorten(str(fault), 120)}") from None
    if not isinstance(value, dict):
        raise _UnusableError(f"{carrier} is not a JSON object but {shorten(text)!r}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_PARSER = json.JSONDecoder(
    parse_float=Decimal, parse_int=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique
)


def _event(entry_id: str, document: _Document) -> Execution:
    status = document.first(STATUS)
    if not isinstance(status, str):
        raise _UnusableError("no status" if status is None else f"status {shorten(repr(status))} is not a text")
    status = status.strip().upper()
    if status == "PRICE_UPDATE":
        return _priced(entry_id, document, _price(document))
    complete = status in COMPLETE_FILLS
    if complete or status in PARTIAL_FILLS:
        return _fill(entry_id, document, complete)
    if status in ENDED or status in NOTED:
        symbol = _name("symbol", document.first(SYMBOL))
        return OrderUpdate(entry_id, _time(entry_id, document), symbol, status, status in ENDED, _order(document))
    return Passed(entry_id, status if _STATUS.fullmatch(status) else "UNREADABLE")


def _market(entry_id: str, document: _Document) -> Price:
    bid, ask = document.first(BID), document.first(ASK)
    if document.first(PRICE) is None and bid is not None and ask is not None:
        price = ARITHMETIC.divide(ARITHMETIC.add(_positive("bid", bid), _positive("ask", ask)), Decimal(2))
    else:
        price = _price(document)
    return _priced(entry_id, document, price)


def _snapshot(entry_id: str, document: _Document) -> Snapshot:
    symbol, account, side = _name("symbol", document.first(SYMBOL)), document.first(ACCOUNT), document.first(SIDE)
    key = Key(_name("account", account) if account is not None else "", symbol, _position_side(document))
    quantity = document.first(POSITION_QUANTITY)
    if quantity is None:
        raise _UnusableError("no position_qty")
    qty = _number("position_qty", quantity)
    # Some count short positions below zero, some name the side, some do both; a flat one has no side to speak of.
    signs = {1 if qty > 0 else -1} if qty < 0 or (side is None and key.position_side is PositionSide.NET) else set()
    if side is not None and qty:
        signs.add(_side(side).sign)
    if key.position_side is not PositionSide.NET:
        signs.add(1 if key.position_side is PositionSide.LONG else -1)
    if qty and len(signs) > 1:
        raise _UnusableError(f"position_qty {qty}, side {side!r} and {key.position_side} contradict each other")
    return Snapshot(
        entry_id,
        happened_ms(_time(entry_id, document), arrival_ms(entry_id)),
        key,
        signs.pop() * abs(qty) if qty else ZERO,
        _positive("entry_price", document.first(ENTRY_PRICE)) if qty else ZERO,
        _not_negative("mark_price", document.first(MARK)) or None,
        _not_negative("stop", document.first(STOP)) or None,
    )


def _pnl(entry_id: str, document: _Document) -> PnlSnapshot:
    unrealized = document.first(UNREALIZED)
    if unrealized is None:
        raise _UnusableError("no unrealized_pnl")
    time_ms = happened_ms(_time(entry_id, document), arrival_ms(entry_id))
    symbol = _name("symbol", document.first(SYMBOL))
    return PnlSnapshot(entry_id, time_ms, symbol, _number("unrealized_pnl", unrealized))


def _control(entry_id: str, document: _Document) -> Release | Clear:
    action, symbol = document.first(("action",)), _name("symbol", document.first(SYMBOL))
    if action == "release":
        return Release(entry_id, arrival_ms(entry_id), symbol, _identifier(document.first(("intent",))))
    if action == "clear":
        return Clear(entry_id, symbol)
    raise _UnusableError(f"action {shorten(repr(action))} is neither release nor clear")


def _priced(entry_id: str, document: _Document, price: Decimal) -> Price:
    symbol = _name("symbol", document.first(SYMBOL))
    return Price(entry_id, _time(entry_id, document), symbol, price, arrival_ms(entry_id))


def _fill(entry_id: str, document: _Document, complete: bool) -> Fill:
    symbol = _name("symbol", document.first(SYMBOL))
    account = document.first(ACCOUNT)
    side = _side(document.first(SIDE))
    price = document.first(PRICE)
    price = _positive("price", document.first(ENTRY_PRICE) if price is None else price)
    cumulative = document.first(CUMULATIVE)
    if cumulative is not None:
        cumulative = _positive("cumulative quantity", cumulative)
    quantity = document.first(QUANTITY)
    notional = document.first(NOTIONAL)
    if quantity is not None:
        qty = _positive("quantity", quantity)
    elif cumulative is not None:
        qty = cumulative
    elif notional is not None:
        qty = _derived(_positive("position_size_usd", notional), price)
    else:
        raise _UnusableError("a fill without a quantity")
    stop = _not_negative("stop", document.first(STOP))
    fee, fee_asset = _fee(document)
    return Fill(
        entry_id,
        _time(entry_id, document),
        Key(_name("account", account) if account is not None else "", symbol, _position_side(document)),
        side,
        qty,
        price,
        complete,
        _order(document),
        _identifier(document.first(FILL_ID)),
        stop or None,
        fee,
        fee_asset,
        cumulative,
    )


def _derived(notional: Decimal, price: Decimal) -> Decimal:
    """The quantity whose value is `notional` at `price`, cut to 18 places."""
    quantity = ARITHMETIC.divide(notional, price)
    if quantity < 10**MAX_INTEGER_DIGITS:
        quantity = quantity.quantize(_DERIVED_QUANTITY, ROUND_DOWN, context=ARITHMETIC)
    return _positive("position_size_usd / price", quantity)


def _fee(document: _Document) -> tuple[Decimal, str]:
    """A fill's fee and the asset it was paid in; what is called `fee_usd` is dollars, whatever asset stands beside."""
    fee = document.first(FEE)
    if fee is None:
        return ZERO, ""
    in_usd = document.first(("fee",)) is None and document.first(FEE_USD) is not None
    return _number("fee", fee), "USD" if in_usd else _identifier(document.first(FEE_ASSET))


def _price(document: _Document) -> Decimal:
    return _positive("price", document.first(PRICE))


def _order(document: _Document) -> OrderRef:
    return OrderRef(
        _identifier(document.first(ORDER_ID)),
        _identifier(document.first(CLIENT_ORDER_ID)),
        _identifier(document.first(CORRELATION_ID)),
    )


def _number(what: str, value: object) -> Decimal:
    if not isinstance(value, (str, Decimal)):
        raise _UnusableError(f"{what} {shorten(repr(value))} is not a number")
    try:
        return parse_decimal(value.strip() if isinstance(value, str) else value)
    except ValueError as fault:
        raise _UnusableError(f"{what} {fault}") from None


def _positive(what: str, value: object) -> Decimal:
    if value is None:
        raise _UnusableError(f"no {what}")
    number = _number(what, value)
    if number <= 0:
        raise _UnusableError(f"{what} {number} is not above 0")
    return number


def _not_negative(what: str, value: object) -> Decimal:
    """A number that may be missing, or 0, which is how many producers say that there is none."""
    number = ZERO if value is None else _number(what, value)
    if number < 0:
        raise _UnusableError(f"{what} {number} is below 0")
    return number


def _side(value: object) -> Side:
    side = _SIDES.get(value.strip().upper()) if isinstance(value, str) else None
    if side is None:
        raise _UnusableError(
            "no side" if value is None else f"side {shorten(repr(value))} is none of BUY, LONG, SELL, SHORT"
        )
    return side


def _position_side(document: _Document) -> PositionSide:
    value = document.first(POSITION_SIDE)
    if value is None:
        return PositionSide.NET
    side = _POSITION_SIDES.get(value.strip().upper()) if isinstance(value, str) else None
    if side is None:
        raise _UnusableError(f"position side {shorten(repr(value))} is none of NET, BOTH, LONG, SHORT")
    return side


def _name(what: str, value: object) -> str:
    if value is None:
        raise _UnusableError(f"no {what}")
    text = _text(value)
    if not _is_name(text):
        raise _UnusableError(f"{what} {shorten(repr(value))} is not a name of at most 64 letters, digits and . _ : / -")
    return text


def _text(value: object) -> str:
    """A name as text; producers that keep theirs as numbers send the digits."""
    if isinstance(value, str):
        return value.strip()
    is_name = isinstance(value, Decimal) and abs(value.adjusted()) < _MAX_DIGITS
    return format(value, "f") if is_name else ""


@lru_cache(maxsize=4096)  # the same symbols come again and again
def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _identifier(value: object) -> str:
    if value is None:
        return ""
    text = _text(value)
    if not _IDENTIFIER.fullmatch(text):
        raise _UnusableError(f"identifier {shorten(repr(value))} is not 1 to 128 printable characters without spaces")
    return text


def _time(entry_id: str, document: _Document) -> int:
    """Event time in milliseconds: ISO 8601, or a number of seconds or milliseconds; else the time in the entry id."""
    value = document.first(TIME)
    if value is None:
        return arrival_ms(entry_id)
    if isinstance(value, str):
        value = value.strip()
        if len(value) == _MILLISECOND_DIGITS and value.isascii() and value.isdecimal():
            return int(value)
    try:
        if isinstance(value, Decimal) or value.replace(".", "", 1).isdecimal():
            number = parse_decimal(value)
            # 10^11 seconds lie 3,000 years ahead, 10^11 milliseconds in 1973.
            time_ms = int(number if number >= 10**11 else number * 1000)
        else:
            moment = datetime.fromisoformat(value)
            time_ms = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, AttributeError, OverflowError):
        return arrival_ms(entry_id)
    return time_ms if 0 <= time_ms <= _LATEST_MS else arrival_ms(entry_id)


def _reason(fault: Exception) -> str:
    return "nested too deeply" if isinstance(fault, RecursionError) else shorten(str(fault), 200)
