"""What is written: intents for the consumers, and the state as JSON.

Numbers go out exactly as the Decimal, always with a point (1.0, 0.25), so that a consumer in a typed language reads the
same type every time. A live order carries each name that a consumer is known to look for, with the same value.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from harvest_brain.core.engine import Waiting
from harvest_brain.core.events import Key, OrderRef, PositionSide
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import plain
from harvest_brain.core.policy import Dust, Rung, RungState, Terms
from harvest_brain.core.position import Epoch, Holding, Position, Reservation, ReservationState

# What is written, and what can be read: a host goes only to a release that can read what is stored.
SCHEMA = 1
READABLE_SCHEMAS = (SCHEMA,)
SOURCE = "harvest_brain"
LIVE_HARVEST = "REDUCE_ONLY"
META_FIELD = "_meta"
MARKET_PREFIX = "_market:"

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


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
    return [
        *("event_type", kind),
        *("payload", intent_payload(intent, live=live)),
        *("source", SOURCE),
        *("timestamp", iso(intent.price_ms)),
        *("correlation_id", intent.intent_id),
    ]


def intent_payload(intent: Intent, *, live: bool) -> str:
    """The JSON object of an intent, names in a fixed order: the same intent is the same bytes."""
    harvest = intent.action is Action.HARVEST
    fields: dict[str, str | bool | Decimal | int | None] = {
        "intent_type": LIVE_HARVEST if live and harvest else intent.action.value,
        "symbol": intent.key.symbol,
        "side": intent.side.value,
        "qty": intent.qty,
        "reason": intent.reason,
        "r_level": intent.r,
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
        "trace_id": intent.trace_id,
        "epoch_id": intent.epoch_id,
        "position_qty": intent.position_qty,
        "entry_price": intent.average,
        "price": intent.price,
        "stop_loss": intent.stop,
        "risk_source": intent.risk_source,
        "timestamp": iso(intent.price_ms),
        "expires_at": iso(intent.expires_ms),
    }
    parts = [f'"{name}":{_json_value(value)}' for name, value in fields.items()]
    parts.insert(6, f'"rungs":{_dumps([plain(level) for level in intent.rungs])}')
    return "{" + ",".join(parts) + "}"


def _json_value(value: str | bool | Decimal | int | None) -> str:
    return number(value) if isinstance(value, Decimal) else _dumps(value)


class Meta(NamedTuple):
    """The `_meta` field: what the state was written under, how far each stream was read, how many entries of the
    execution stream lie behind its cursor, who waits for the rate, and, where the mode is shadow although live was
    asked for, `because` of what.

    `commits` counts what was committed. It makes each meta unlike the one before, so that a commit that was held up on
    a dead connection can't be carried out after another one that started from the same cursor.
    """

    mode: str
    config: str
    cursors: dict[str, str]
    entries_read: int
    commits: int = 0
    waiting: tuple[Waiting, ...] = ()
    because: str = ""


def meta_text(meta: Meta) -> str:
    """The commit compares this text with what is stored, so equal metas must give equal texts."""
    return _dumps(
        {
            "schema": SCHEMA,
            "mode": meta.mode,
            "because": meta.because,
            "config": meta.config,
            "cursors": meta.cursors,
            "read": meta.entries_read,
            "commits": meta.commits,
            "waiting": [[*w.key, w.since_ms] for w in meta.waiting],
        }
    )


def parse_meta(text: str) -> Meta:
    """Raises `ValueError` for a state of another schema version."""
    raw = json.loads(text)
    if raw.get("schema") not in READABLE_SCHEMAS:
        reads = ", ".join(map(str, READABLE_SCHEMAS))
        raise ValueError(f"the stored state has schema {raw.get('schema')!r}, this release reads {reads}")
    waiting = tuple(
        Waiting(Key(account, symbol, PositionSide(side)), since_ms)
        for account, symbol, side, since_ms in raw["waiting"]
    )
    return Meta(raw["mode"], raw["config"], raw["cursors"], raw["read"], raw["commits"], waiting, raw["because"])


def market_text(market: Market) -> str:
    """A symbol's price memory, compact: it is written for each symbol of each batch."""
    candidate, previous = market.candidate, market.prev_close
    return (
        f'["{market.last}",{_quoted(candidate)},{market.bar},"{market.high}","{market.low}",{_quoted(previous)},'
        f'"{market.average}",{market.ranges}]'
    )


def _quoted(value: Decimal | None) -> str:
    return "null" if value is None else f'"{value}"'


def parse_market(text: str) -> Market:
    last, candidate, bar, high, low, previous, average, ranges = json.loads(text)
    return Market(
        Decimal(last),
        _optional(candidate),
        bar,
        Decimal(high),
        Decimal(low),
        _optional(previous),
        Decimal(average),
        ranges,
    )


def position_text(position: Position) -> str:
    """A position with its epoch, as the state hash holds it."""
    return _dumps(
        {
            "key": position.key,
            "qty": str(position.qty),
            "avg": str(position.average),
            "suspect": position.suspect,
            "claimed": None if position.claimed is None else [str(number) for number in position.claimed],
            "adopted_ms": position.adopted_ms,
            "epoch": None if position.epoch is None else _epoch_raw(position.epoch),
        }
    )


def parse_position(text: str) -> Position:
    raw = json.loads(text)
    account, symbol, side = raw["key"]
    return Position(
        Key(account, symbol, PositionSide(side)),
        Decimal(raw["qty"]),
        Decimal(raw["avg"]),
        raw["suspect"],
        None if raw["epoch"] is None else _parse_epoch(raw["epoch"]),
        None if raw["claimed"] is None else Holding(*map(Decimal, raw["claimed"])),
        raw["adopted_ms"],
    )


def _epoch_raw(epoch: Epoch) -> dict[str, Any]:
    return {
        "id": epoch.epoch_id,
        "sign": epoch.sign,
        "opened_ms": epoch.opened_ms,
        "order": epoch.opening_order,
        "terms": _terms_raw(epoch.terms),
        "r_unit": str(epoch.r_unit),
        "risk_source": epoch.risk_source,
        "peak": str(epoch.peak),
        "rungs": "".join(epoch.rungs),
        "crossed": epoch.crossed,
        "target": str(epoch.target),
        "issued": str(epoch.issued),
        "realized": str(epoch.realized),
        "fees": str(epoch.fees),
        "risk_stop": _text(epoch.risk_stop),
        "stop": _text(epoch.stop),
        "stop_seq": epoch.stop_seq,
        "resize_due": epoch.resize_due,
        "extreme": _text(epoch.extreme),
        "reservations": [
            [r.intent_id, str(r.remaining), r.heard_ms, r.state.value, r.order_id] for r in epoch.reservations
        ],
    }


def _parse_epoch(raw: dict[str, Any]) -> Epoch:
    return Epoch(
        epoch_id=raw["id"],
        sign=raw["sign"],
        opened_ms=raw["opened_ms"],
        opening_order=OrderRef(*raw["order"]),
        terms=_parse_terms(_dumps(raw["terms"])),
        r_unit=Decimal(raw["r_unit"]),
        risk_source=raw["risk_source"],
        peak=Decimal(raw["peak"]),
        rungs=tuple(map(RungState, raw["rungs"])),
        crossed=raw["crossed"],
        target=Decimal(raw["target"]),
        issued=Decimal(raw["issued"]),
        realized=Decimal(raw["realized"]),
        fees=Decimal(raw["fees"]),
        risk_stop=_optional(raw["risk_stop"]),
        stop=_optional(raw["stop"]),
        stop_seq=raw["stop_seq"],
        resize_due=raw["resize_due"],
        extreme=_optional(raw["extreme"]),
        reservations=tuple(
            Reservation(intent_id, Decimal(remaining), heard_ms, ReservationState(state), order_id)
            for intent_id, remaining, heard_ms, state, order_id in raw["reservations"]
        ),
    )


@lru_cache(maxsize=1024)  # a handful of terms serves all epochs
def _terms_raw(terms: Terms) -> dict[str, Any]:
    return {
        "ladder": [[str(rung.level), str(rung.fraction)] for rung in terms.ladder],
        "min_r": str(terms.min_r),
        "be_at_r": str(terms.be_at_r),
        "be_fee_rate": str(terms.be_fee_rate),
        "trail_start_r": str(terms.trail_start_r),
        "trail_atr_mult": str(terms.trail_atr_mult),
        "trail_atr_period": terms.trail_atr_period,
        "trail_bar_ms": terms.trail_bar_ms,
        "stop_min_step_bps": str(terms.stop_min_step_bps),
        "fallback_risk": str(terms.fallback_risk),
        "min_risk_bps": str(terms.min_risk_bps),
        "qty_step": str(terms.qty_step),
        "price_tick": str(terms.price_tick),
        "min_qty": str(terms.min_qty),
        "min_notional": str(terms.min_notional),
        "dust": terms.dust.value,
    }


@lru_cache(maxsize=1024)  # shared by all epochs that have them
def _parse_terms(text: str) -> Terms:
    raw = json.loads(text)
    return Terms(
        ladder=tuple(Rung(Decimal(level), Decimal(fraction)) for level, fraction in raw["ladder"]),
        trail_atr_period=raw["trail_atr_period"],
        trail_bar_ms=raw["trail_bar_ms"],
        dust=Dust(raw["dust"]),
        **{name: Decimal(raw[name]) for name in _DECIMAL_TERMS},
    )


_DECIMAL_TERMS = (
    *("min_r", "be_at_r", "be_fee_rate", "trail_start_r", "trail_atr_mult", "stop_min_step_bps", "fallback_risk"),
    *("min_risk_bps", "qty_step", "price_tick", "min_qty", "min_notional"),
)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _optional(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
