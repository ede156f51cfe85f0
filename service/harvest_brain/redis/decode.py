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

# What each thing that is looked for may be called: by its own name alone, or by several.
_OWN_NAMES = (
    *("symbol", "status", "entry_price", "position_size_usd", "fee", "fee_usd", "commission"),
    *("bid", "ask", "position_qty", "mark_price", "unrealized_pnl", "intent"),
)
_NAMES = {name: (name,) for name in _OWN_NAMES} | {
    "side": ("side", "action"),
    "quantity": ("qty", "quantity", "filled_qty", "executed_qty", "filled_quantity"),
    "price": ("price", "avg_price", "fill_price", "filled_price", "current_price"),
    "stop": ("stop_loss", "sl", "stop"),
    "fill id": ("fill_id", "trade_id", "exec_id"),
    "order id": ("order_id", "orderId"),
    "client order id": ("client_order_id", "clientOrderId"),
    "correlation id": ("correlation_id",),
    "time": ("timestamp", "ts"),
    "fee asset": ("fee_asset",),
    "cumulative quantity": ("cum_qty", "cumulative_qty"),
    "account": ("account", "account_id"),
    "position side": ("position_side", "positionSide"),
}
# By name: what it means, and how many names for that come before it. Exact ones come before those in another case.
_EXACT = {name: (thing, place) for thing, names in _NAMES.items() for place, name in enumerate(names)}
_IN_ANY_CASE = {name.lower(): (thing, place + 100) for name, (thing, place) in _EXACT.items()}
_LAST = 1_000

_SIDES = {"BUY": Side.BUY, "LONG": Side.BUY, "SELL": Side.SELL, "SHORT": Side.SELL}
_POSITION_SIDES = {**PositionSide.__members__, "BOTH": PositionSide.NET}
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


Message = dict[str, Any]  # values by what they mean; of those that are present none is empty
E = TypeVar("E")


class _UnusableError(ValueError):
    """Why an entry can't be used."""


def _decoder(read: Callable[[str, Message], E]) -> Callable[[str, list[bytes]], E | Malformed]:
    """The decoder of a stream: from an entry's id and fields (name, value, name, value, as Redis holds them) to what
    `read` makes of them, or `Malformed`."""

    def decode_entry(entry_id: str, fields: list[bytes]) -> E | Malformed:
        try:
            return read(entry_id, _message(fields))
        except RecursionError:
            reason = "nested too deeply"
        except ValueError as fault:
            reason = shorten(str(fault), 200)
        return Malformed(entry_id, reason, tuple(fields))

    return decode_entry


def arrival_ms(entry_id: str) -> int:
    """The server's time in an entry id, in milliseconds since 1970."""
    return int(entry_id.partition("-")[0])


def _message(fields: list[bytes]) -> Message:
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
        if named.get(carrier):
            inner = _object(carrier, named.pop(carrier))
            signal = inner.get("signal")
            around = _understood(named, {})
            return _understood(inner, _understood(signal, around) if isinstance(signal, dict) else around)
    return _understood(named, {})


def _understood(named: Mapping[str, Any], around: Message) -> Message:
    """What `named` says by what it means, before what is said `around` it."""
    message = dict(around)
    places: dict[str, int] = {}
    for name, value in named.items():
        thing, place = _EXACT.get(name) or _IN_ANY_CASE.get(name.lower()) or ("", _LAST)
        if place < places.get(thing, _LAST) and value is not None and value != "":
            places[thing] = place
            message[thing] = value
    return message


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


@_decoder
def decode(entry_id: str, message: Message) -> Execution:
    """An entry of the execution stream."""
    status = _required(message, "status")
    if not isinstance(status, str):
        raise _UnusableError(f"status {shorten(repr(status))} is not a text")
    status = status.strip().upper()
    if status == "PRICE_UPDATE":
        return _priced(entry_id, message, _positive(message, "price"))
    complete = status == "FILLED"
    if complete or status in PARTIAL_FILLS:
        return _fill(entry_id, message, complete)
    ended = status in ENDED
    if ended or status in NOTED:
        time_ms, symbol = _time(entry_id, message), _name(message, "symbol")
        return OrderUpdate(entry_id, time_ms, symbol, status, ended, _order(message), _account(message))
    return Passed(entry_id, status if _STATUS.fullmatch(status) else "UNREADABLE")


@_decoder
def decode_market(entry_id: str, message: Message) -> Price:
    """An entry of the market price stream: `price`, else the middle of `bid` and `ask`."""
    if "price" not in message and "bid" in message and "ask" in message:
        both = ARITHMETIC.add(_positive(message, "bid"), _positive(message, "ask"))
        return _priced(entry_id, message, ARITHMETIC.divide(both, Decimal(2)))
    return _priced(entry_id, message, _positive(message, "price"))


@_decoder
def decode_snapshot(entry_id: str, message: Message) -> Snapshot:
    """An entry of the position snapshots."""
    key, side = _key(message), message.get("side")
    qty = _number(message, _present(message, "position_qty", "quantity"))
    # Some count short positions below zero, some name the side, some do both; a flat one has no side to speak of.
    signs = {1 if qty > 0 else -1} if qty < 0 or (side is None and key.position_side is PositionSide.NET) else set()
    if side is not None and qty:
        signs.add(_one_of(_SIDES, message, "side").sign)
    if key.position_side is not PositionSide.NET:
        signs.add(1 if key.position_side is PositionSide.LONG else -1)
    if qty and len(signs) > 1:
        raise _UnusableError(f"position_qty {qty}, side {side!r} and {key.position_side} contradict each other")
    average = _positive(message, "entry_price") if qty else ZERO
    mark, stop = _optional(message, "mark_price"), _optional(message, "stop")
    time_ms = happened_ms(_time(entry_id, message), arrival_ms(entry_id))
    return Snapshot(entry_id, time_ms, key, signs.pop() * abs(qty) if qty else ZERO, average, mark, stop)


@_decoder
def decode_pnl(entry_id: str, message: Message) -> PnlSnapshot:
    """An entry of the profit snapshots."""
    time_ms = happened_ms(_time(entry_id, message), arrival_ms(entry_id))
    return PnlSnapshot(entry_id, time_ms, _name(message, "symbol"), _number(message, "unrealized_pnl"))


@_decoder
def decode_control(entry_id: str, message: Message) -> Release | Clear:
    """What the operator says."""
    action, symbol = message.get("side"), _name(message, "symbol")  # what is called `action`
    if action == "release":
        return Release(entry_id, arrival_ms(entry_id), symbol, _identifier(message, "intent"))
    if action == "clear":
        return Clear(entry_id, symbol)
    raise _UnusableError(f"action {shorten(repr(action))} is neither release nor clear")


def _priced(entry_id: str, message: Message, price: Decimal) -> Price:
    return Price(entry_id, _time(entry_id, message), _name(message, "symbol"), price, arrival_ms(entry_id))


def _fill(entry_id: str, message: Message, complete: bool) -> Fill:
    key, side = _key(message), _one_of(_SIDES, message, "side")
    price = _positive(message, _present(message, "price", "entry_price"))
    cumulative = _positive(message, "cumulative quantity") if "cumulative quantity" in message else None
    if "quantity" in message:
        qty = _positive(message, "quantity")
    elif cumulative is not None:
        qty = cumulative
    elif "position_size_usd" in message:
        qty = _derived(_positive(message, "position_size_usd"), price)
    else:
        raise _UnusableError("a fill without a quantity")
    order = _order(message)
    # What an order has filled so far is no quantity of one fill, whatever that is called: it counts by its growth.
    grows = "quantity" not in message and cumulative is not None and (order.order_id or order.client_order_id)
    fill_id = "" if grows else _identifier(message, "fill id")
    time_ms, stop, (fee, fee_asset) = _time(entry_id, message), _optional(message, "stop"), _fee(message)
    return Fill(entry_id, time_ms, key, side, qty, price, complete, order, fill_id, stop, fee, fee_asset, cumulative)


def _derived(notional: Decimal, price: Decimal) -> Decimal:
    """The quantity whose value is `notional` at `price`, cut to 18 places."""
    quantity = ARITHMETIC.divide(notional, price)
    if quantity < 10**MAX_INTEGER_DIGITS:
        quantity = quantity.quantize(_DERIVED_QUANTITY, ROUND_DOWN, context=ARITHMETIC)
    return _positive({"position_size_usd / price": quantity}, "position_size_usd / price")


def _fee(message: Message) -> tuple[Decimal, str]:
    """A fill's fee and the asset it was paid in; what is called `fee_usd` is dollars, whatever asset stands beside."""
    for name in ("fee", "fee_usd", "commission"):
        if name in message:
            return _number(message, name), "USD" if name == "fee_usd" else _identifier(message, "fee asset")
    return ZERO, ""


def _order(message: Message) -> OrderRef:
    return OrderRef(*(_identifier(message, name) for name in ("order id", "client order id", "correlation id")))


def _present(message: Message, *names: str) -> str:
    """The first of `names` that the message has, or the first."""
    return next((name for name in names if name in message), names[0])


def _required(message: Message, what: str) -> Any:
    if what not in message:
        raise _UnusableError(f"no {what}")
    return message[what]


def _number(message: Message, what: str) -> Decimal:
    value = _required(message, what)
    if not isinstance(value, (str, Decimal)):
        raise _UnusableError(f"{what} {shorten(repr(value))} is not a number")
    try:
        return parse_decimal(value.strip() if isinstance(value, str) else value)
    except ValueError as fault:
        raise _UnusableError(f"{what} {fault}") from None


def _positive(message: Message, what: str) -> Decimal:
    number = _number(message, what)
    if number <= 0:
        raise _UnusableError(f"{what} {number} is not above 0")
    return number


def _optional(message: Message, what: str) -> Decimal | None:
    """A number above 0 that may be missing, or 0, which is how many producers say that there is none."""
    number = _number(message, what) if what in message else ZERO
    if number < 0:
        raise _UnusableError(f"{what} {number} is below 0")
    return number or None


def _key(message: Message) -> Key:
    account, symbol = _account(message), _name(message, "symbol")
    side = _one_of(_POSITION_SIDES, message, "position side") if "position side" in message else PositionSide.NET
    return Key(account, symbol, side)


def _account(message: Message) -> str:
    return _name(message, "account") if "account" in message else ""


def _one_of(known: Mapping[str, E], message: Message, what: str) -> E:
    value = _required(message, what)
    found = known.get(value.strip().upper()) if isinstance(value, str) else None
    if found is None:
        raise _UnusableError(f"{what} {shorten(repr(value))} is none of {', '.join(known)}")
    return found


def _name(message: Message, what: str) -> str:
    value = _required(message, what)
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


def _identifier(message: Message, what: str) -> str:
    value = message.get(what)
    if value is None:
        return ""
    text = _text(value)
    if not _IDENTIFIER.fullmatch(text):
        raise _UnusableError(f"{what} {shorten(repr(value))} is not 1 to 128 printable characters without spaces")
    return text


def _time(entry_id: str, message: Message) -> int:
    """Event time in milliseconds: ISO 8601, or a number of seconds or milliseconds; else the time in the entry id."""
    value = message.get("time")
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
