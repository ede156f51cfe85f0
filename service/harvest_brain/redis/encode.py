"""What is written: intents for the consumers, and the state as JSON.

Numbers go out exactly as the Decimal, always with a point (1.0, 0.25), so that a consumer in a typed language reads the
same type every time. A live order carries each name that a consumer is known to look for, with the same value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

from harvest_brain.core.engine import Waiting
from harvest_brain.core.events import Key, Malformed, PositionSide
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import ARITHMETIC, plain
from harvest_brain.core.position import Epoch, Position

# What is written, and what can be read: a host goes only to a release that can read what is stored.
SCHEMA = 1
READABLE_SCHEMAS = (SCHEMA,)
SOURCE = "harvest_brain"
META_FIELD = "_meta"
MARKET_PREFIX = "_market:"

# A Lua call takes some thousands of arguments: a dead letter with more values carries the rest as one JSON list. Its
# length is bounded so that the dead letters of the largest batch (5,000) fit into Redis's query buffer (1 GB).
MAX_LETTER_VALUES = 1_000
MAX_LETTER_BYTES = 80 * 1024
_LETTER_NAMES = frozenset({b"stream", b"id", b"reason", b"cut", b"further_fields"})
_ORIGINAL = b"original:"

# The records are stored under the names of their fields, but for these.
_STORED_AS = {"average": "avg", "epoch_id": "id", "opening_order": "order", "entries_read": "read"}


def number(value: Decimal) -> str:
    """A JSON number with the exact value and always a decimal point."""
    text = plain(value)
    return text if "." in text else f"{text}.0"


def iso(time_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def intent_entry(intent: Intent, *, live: bool) -> list[str]:
    """The stream entry of an intent: field, value, field, value."""
    harvest = intent.action is Action.HARVEST
    kind = "harvest.suggestion" if not live else "trade.intent" if harvest else "stop.intent"
    with localcontext(ARITHMETIC):  # as where it was decided: the same intent is the same bytes, whoever calls
        payload = intent_payload(intent, live=live)
    return [
        *("event_type", kind),
        *("payload", payload),
        *("source", SOURCE),
        *("timestamp", iso(intent.trigger.time_ms)),
        *("correlation_id", intent.intent_id),
    ]


def intent_payload(intent: Intent, *, live: bool) -> str:
    """The JSON object of an intent, names in a fixed order: the same intent is the same bytes."""
    harvest = intent.action is Action.HARVEST
    fields: dict[str, Any] = {
        "intent_type": "REDUCE_ONLY" if live and harvest else intent.action.value,
        "symbol": intent.key.symbol,
        "side": intent.side.value,
        "qty": intent.qty,
        "reason": intent.reason,
        "r_level": intent.r,
        "rungs": [plain(level) for level in intent.rungs],
    }
    if live:
        fields |= {
            "action": intent.side.value,
            "quantity": intent.qty,
            "reduceOnly": True,
            "client_order_id": intent.intent_id,
            "confidence": Decimal(1),
        }
    if intent.key.account:
        fields["account"] = intent.key.account
    if intent.key.position_side is not PositionSide.NET:
        fields["position_side"] = intent.key.position_side.value
    if not harvest:
        fields |= {"stop_price": intent.stop, "prev_stop": intent.prev_stop, "stop_seq": intent.stop_seq}
    fields |= {
        "unrealized_pnl": intent.unrealized,
        "reduce_only": True,
        "dry_run": not live,
        "source": SOURCE,
        "correlation_id": intent.intent_id,
        "trace_id": intent.trigger.entry_id,
        "epoch_id": intent.epoch_id,
        "position_qty": intent.position.qty,
        "entry_price": intent.position.average,
        "price": intent.trigger.price,
        "stop_loss": intent.stop,
        "risk_source": intent.position.open_epoch.risk_source,
        "timestamp": iso(intent.trigger.time_ms),
        "expires_at": iso(intent.expires_ms),
    }
    parts = (
        f'"{name}":{number(value) if isinstance(value, Decimal) else _dumps(value)}' for name, value in fields.items()
    )
    return "{" + ",".join(parts) + "}"


def letter_entry(letter: Malformed, stream: str) -> list[str | bytes]:
    """A dead letter: in which stream the entry stood, its id, why it is here, and its own fields as they came.

    One of its own fields whose name is one of ours comes as `original:` and that name. What is long is cut, with a note
    of how long it was.
    """
    size, room = sum(map(len, letter.fields)), MAX_LETTER_BYTES
    entry: list[str | bytes] = ["stream", letter.stream or stream, "id", letter.entry_id, "reason", letter.reason]
    if size > MAX_LETTER_BYTES:
        entry += ("cut", f"of {size} bytes the first {MAX_LETTER_BYTES} are here")
    direct, further = letter.fields[:MAX_LETTER_VALUES], letter.fields[MAX_LETTER_VALUES:]
    for number, text in enumerate(direct):
        part = text[:room]
        room -= len(part)
        ours = number % 2 == 0 and (part in _LETTER_NAMES or part.startswith(_ORIGINAL))
        entry.append(_ORIGINAL + part if ours else part)
    if further:
        listed = _dumps([text.decode(errors="backslashreplace") for text in further])
        entry += ("further_fields", listed.encode()[:MAX_LETTER_BYTES])
    return entry


class Meta(NamedTuple):
    """The `_meta` field: what the state was written under; where the mode is shadow although live was asked for,
    `because` of what; how far each stream was read, how many entries of the execution stream lie behind its cursor, who
    waits for the rate, and in live mode the last entry of that stream from before it was live.

    `commits` counts what was committed. It makes each meta unlike the one before, so that a commit that was held up on
    a dead connection can't be carried out after another one that started from the same cursor.
    """

    mode: str
    because: str
    config: str
    cursors: dict[str, str]
    entries_read: int
    commits: int = 0
    waiting: tuple[Waiting, ...] = ()
    live_after: str = "0-0"


def meta_text(meta: Meta) -> str:
    """The commit compares this text with what is stored, so equal metas must give equal texts."""
    values = meta._asdict() | {"waiting": [[*w.key, w.since_ms] for w in meta.waiting]}
    return _dumps({"schema": SCHEMA} | {_stored_name(name): value for name, value in values.items()})


def parse_meta(text: str) -> Meta:
    """Raises `ValueError` for a state of another schema version."""
    raw = json.loads(text)
    if raw.get("schema") not in READABLE_SCHEMAS:
        reads = ", ".join(map(str, READABLE_SCHEMAS))
        raise ValueError(f"the stored state has schema {raw.get('schema')!r}, this release reads {reads}")
    raw.setdefault("live_after", "0-0")  # states from before it was kept lack it
    raw["waiting"] = tuple(
        Waiting(Key(account, symbol, PositionSide(side)), since_ms)
        for account, symbol, side, since_ms in raw["waiting"]
    )
    return Meta(*(raw[_stored_name(name)] for name in Meta._fields))


def market_text(market: Market) -> str:
    """A symbol's price memory: a list, since it is written for each symbol of each batch."""
    return _dumps(market)


def parse_market(text: str) -> Market:
    """The price memory stored as `text`. Raises `ValueError`, `TypeError` or `ArithmeticError` for anything else."""
    market: Market = _parser(Market)(json.loads(text))
    return market


def position_text(position: Position) -> str:
    """A position with its epoch, as the state hash holds it: an object per record, numbers as text."""
    return _dumps(position)


def parse_position(text: str) -> Position:
    """The position stored as `text`. Raises as `parse_market` does, and `KeyError` for a missing field."""
    position: Position = _parser(Position)(json.loads(text))
    return position


def _storable(value: Any) -> str | dict[str, Any]:
    """What the JSON of the state holds for what JSON does not know: a number or a record."""
    if isinstance(value, Decimal):
        return str(value)
    record: Any = type(value)
    raw = {stored: getattr(value, name) for name, stored, _ in _fields(record)}
    if isinstance(value, Epoch):
        raw["rungs"] = "".join(value.rungs)
    return raw


_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_storable).encode


def _stored_name(name: str) -> str:
    return _STORED_AS.get(name, name)


@cache
def _fields(record: Any) -> list[tuple[str, str, Any]]:
    """Each field of a dataclass: its name, its name in the state, and its type."""
    types = get_type_hints(record)
    return [(spec.name, _stored_name(spec.name), types[spec.name]) for spec in fields(record)]


@cache
def _parser(kind: Any) -> Callable[[Any], Any]:
    """What makes a `kind` of its stored form. Follows the types of the records' fields."""
    if is_dataclass(kind):
        record: Any = kind
        by_name = [(stored, _parser(field)) for _, stored, field in _fields(record)]
        return lambda raw: record(*(parse(raw[stored]) for stored, parse in by_name))
    if get_origin(kind) is tuple:
        parse_item = _parser(get_args(kind)[0])
        return lambda raw: tuple(map(parse_item, raw))
    if get_origin(kind) is UnionType:
        parse_value = _parser(get_args(kind)[0])
        return lambda raw: None if raw is None else parse_value(raw)
    if issubclass(kind, tuple):
        in_order = [_parser(field) for field in get_type_hints(kind).values()]
        return lambda raw: kind(*(parse(part) for parse, part in zip(in_order, raw, strict=True)))
    return cast("Callable[[Any], Any]", kind)
