"""How it goes, as Redis tells it: works whether the daemon runs or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import redis

from harvest_brain.core.numbers import plain
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position
from harvest_brain.redis.encode import MARKET_PREFIX, META_FIELD, Meta, parse_market, parse_meta, parse_position
from harvest_brain.redis.names import Names
from harvest_brain.redis.store import UnusableError

_RUNG_MARKS = {
    RungState.ARMED: "○",
    RungState.FIRED: "●",
    RungState.CARRIED: "◐",
    RungState.SKIPPED: "x",
    RungState.OWED: "◌",
}


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A harvest on its way: `qty` (base asset) is reserved for it, and for `silent_sec` nothing was heard of it."""

    intent_id: str
    symbol: str
    qty: str
    state: str
    silent_sec: int


@dataclass(frozen=True, slots=True)
class PositionLine:
    """A position for a person to read. Numbers are text, exactly as they are kept but for average and risk, which have
    ten digits. `r` and `money_r`, what the whole epoch has earned so far in R, need a price."""

    key: str
    symbol: str
    qty: str
    average: str
    price: str
    r: str
    money_r: str
    stop: str
    rungs: str
    outstanding: str
    risk: str
    suspect: str
    orders: list[OrderLine]


@dataclass(frozen=True, slots=True)
class Overview:
    """What `harvest-brain status` shows. `mode` is the one the state was last written in, else the configured one;
    `because` says why it is shadow where the daemon was asked to be live; `entries_read` counts the entries of the
    execution stream up to the cursor."""

    mode: str
    configured_mode: str
    because: str
    kill_switch: str
    leader: str
    lease_ms: int
    cursor: str
    entries_read: int
    lag: int | None
    streams: dict[str, int]
    positions: list[PositionLine]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def order(self, intent_id: str) -> OrderLine | None:
        """The order on its way with that id."""
        return next((order for p in self.positions for order in p.orders if order.intent_id == intent_id), None)

    def text(self) -> str:
        leader = f"{self.leader} (lease {self.lease_ms / 1000:.0f} s)" if self.leader else "nobody: no daemon runs"
        lag = "unknown" if self.lag is None else f"{self.lag} entries"
        lines = [
            f"mode         {self.mode}"
            + ("" if self.mode == self.configured_mode else f" (set: {self.configured_mode})"),
            *([f"             in shadow because {self.because}"] if self.because else []),
            f"kill-switch  {self.kill_switch}",
            f"leader       {leader}",
            f"cursor       {self.cursor or 'nothing read yet'}, lag {lag}",
            *(f"stream       {name}: {length} entries" for name, length in self.streams.items()),
            f"positions    {len(self.positions)}",
        ]
        if self.positions:
            rows = [("position", "qty", "entry", "price", "R", "money R", "stop", "rungs", "reserved", "risk per unit")]
            rows += [
                (p.key, p.qty, p.average, p.price, p.r, p.money_r, p.stop, p.rungs, p.outstanding, p.risk)
                for p in self.positions
            ]
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                      for row in rows]  # fmt: skip
            lines.append(
                "  rungs: ● published, ◐ carried to the next, x skipped, ○ armed, ◌ suggested and still to be ordered"
            )
        lines += [
            f"order        {order.intent_id} of {order.symbol}: {order.qty} {order.state}, silent {order.silent_sec} s"
            for position in self.positions
            for order in position.orders
        ]
        lines += [f"suspect      {p.key}: {p.suspect}" for p in self.positions if p.suspect]
        return "\n".join(lines)


def overview(client: redis.Redis, names: Names, configured_mode: str) -> Overview:
    """Read it all. Raises `redis.RedisError` when Redis can't be reached, `UnusableError` for a state that is none."""
    call: Any = client.execute_command
    try:
        meta, prices, positions = _parse(call("HGETALL", names.state))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as fault:
        raise UnusableError(f"{names.state} can't be read: {fault!r}") from None
    lease = call("GET", names.lease)
    seconds, microseconds = (int(part) for part in call("TIME"))
    now_ms = seconds * 1000 + microseconds // 1000
    return Overview(
        mode=meta.mode if meta else configured_mode,
        configured_mode=configured_mode,
        because=meta.because if meta else "",
        kill_switch=_switch(call, names.kill_switch, configured_mode),
        leader=(lease or b"").decode(errors="replace"),
        lease_ms=max(int(call("PTTL", names.lease)), 0),
        cursor=meta.cursors.get(names.executions, "") if meta else "",
        entries_read=meta.entries_read if meta else 0,
        lag=_lag(client, names),
        streams={
            name: int(call("XLEN", name))
            for name in (names.executions, names.suggestions, names.trade_intents, names.stop_intents, names.rejected)
        },
        # What is flat and trusted is kept only to recognise late fills.
        positions=[_line(p, prices, now_ms) for p in positions if p.epoch is not None or p.suspect],
    )


def _parse(raw: Mapping[bytes, bytes]) -> tuple[Meta | None, dict[str, Decimal], list[Position]]:
    fields = {name.decode(): text.decode() for name, text in raw.items()}
    meta_text = fields.pop(META_FIELD, "")
    prices = {
        name.removeprefix(MARKET_PREFIX): parse_market(text).last
        for name, text in fields.items()
        if name.startswith(MARKET_PREFIX)
    }
    positions = [parse_position(text) for name, text in sorted(fields.items()) if not name.startswith(MARKET_PREFIX)]
    return parse_meta(meta_text) if meta_text else None, prices, positions


def _switch(call: Any, key: str, mode: str) -> str:
    try:
        value = call("GET", key)
    except redis.ResponseError:
        return "unreadable: stopped"
    if value is None:
        return "absent: " + (
            "stopped, live mode needs it set to 0 (harvest-brain arm)" if mode == "live" else "running"
        )
    return "0: running" if value == b"0" else f"{value.decode(errors='replace')}: stopped"


def _lag(client: redis.Redis, names: Names) -> int | None:
    if not client.exists(names.executions):
        return None
    groups: Any = client.xinfo_groups(names.executions)
    for group in groups:
        if group["name"] == names.group.encode():
            return None if group["lag"] is None else int(group["lag"])
    return None


def _line(position: Position, prices: Mapping[str, Decimal], now_ms: int) -> PositionLine:
    symbol = position.key.symbol
    epoch, price = position.epoch, prices.get(symbol)
    if epoch is None:
        return PositionLine(str(position.key), symbol, "0", "", "", "", "", "", "", "", "", position.suspect, [])
    return PositionLine(
        key=str(position.key),
        symbol=symbol,
        qty=plain(position.qty),
        average=_ten_digits(position.average),
        price="" if price is None else plain(price),
        r="" if price is None else f"{position.r_at(price):+.2f}",
        money_r="" if price is None else f"{position.money_r(price):+.2f}",
        stop="" if epoch.stop is None else plain(epoch.stop),
        rungs="".join(_RUNG_MARKS[state] for state in epoch.rungs),
        outstanding=plain(epoch.outstanding),
        risk=f"{_ten_digits(epoch.r_unit)} ({epoch.risk_source})"
        + (", too small" if position.why_not_harvested else ""),
        suspect=position.suspect,
        orders=[
            OrderLine(r.intent_id, symbol, plain(r.remaining), r.state.value, max(now_ms - r.heard_ms, 0) // 1000)
            for r in epoch.reservations
        ],
    )


def _ten_digits(value: Decimal) -> str:
    return plain(Decimal(f"{value:.10g}"))
