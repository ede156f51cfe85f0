"""When to take profit, and where the stop goes.

The terms (ladder, break-even, trail, steps and minima) are copied into an epoch when it opens, so a changed
configuration holds for new epochs only. A rung's life: *armed* until a price reaches it, then *fired* when
its share was published, *carried* when the share was below the exchange's minimum (it is added to the next
rung's), or *skipped* when it was crossed under conditions in which it must not fire. What shadow mode has passed is
*owed* in live mode, on an explicit wish to catch up: like an armed rung there, and not suggested again.

Crossings are compared by the price that a level stands for, `average + s * level * r_unit`, never by dividing: exact
at the rung.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from harvest_brain.core.numbers import BASIS_POINT, ZERO, parse_decimal, plain, round_to_tick, shorten


class Rung(NamedTuple):
    """At `level` R close `fraction` of the peak size of the epoch."""

    level: Decimal
    fraction: Decimal


class RungState(StrEnum):
    """See the module's text; the values are what the stored state holds."""

    ARMED = "a"
    FIRED = "f"
    CARRIED = "c"
    SKIPPED = "s"
    OWED = "o"

    @property
    def may_fire(self) -> bool:
        """Whether a price that reaches the rung makes it due."""
        return self in (RungState.ARMED, RungState.OWED)


class Dust(StrEnum):
    """What the last rung does with a remainder below the exchange's minimum."""

    LEAVE = "leave"
    CLOSE_ALL = "close_all"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an epoch is harvested by. Levels in R, fractions and rates as fractions of one, sizes in base asset,
    ticks and notional in quote currency."""

    ladder: tuple[Rung, ...]
    min_r: Decimal = Decimal("0.5")
    be_at_r: Decimal = Decimal("0.5")
    be_fee_rate: Decimal = Decimal("0.0005")
    trail_start_r: Decimal = Decimal("1.0")
    trail_atr_mult: Decimal = Decimal("2.0")
    trail_atr_period: int = 14
    trail_bar_ms: int = 60_000
    stop_min_step_bps: Decimal = Decimal(5)
    fallback_risk: Decimal = Decimal("0.02")
    min_risk_bps: Decimal = Decimal(5)
    qty_step: Decimal = Decimal("0.0001")
    price_tick: Decimal = Decimal("0.00000001")
    min_qty: Decimal = ZERO
    min_notional: Decimal = ZERO
    dust: Dust = Dust.LEAVE

    def trigger(self, rung: Rung) -> Decimal:
        """The R at which `rung` may fire: nothing fires below `min_r`."""
        return max(rung.level, self.min_r)

    def tradeable(self, qty: Decimal, price: Decimal) -> bool:
        """Whether an exchange would take an order of `qty` at `price`."""
        return qty > 0 and qty >= self.min_qty and qty * price >= self.min_notional


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for all symbols: the default terms, the mode, the bounds of the gates; after how long a silence an
    order's fate is unknown, and how long after a fill a snapshot may still not show it."""

    terms: Terms
    live: bool = False
    live_allow_fallback: bool = False
    fresh_ms: int = 30_000
    max_jump_pct: Decimal = Decimal(20)
    spot: bool = False
    pending_ms: int = 60_000
    settle_ms: int = 5_000


def parse_ladder(text: str) -> tuple[Rung, ...]:
    """The rungs of `0.5:0.25,1.0:0.25`, each R:fraction.

    Raises `ValueError` with one sentence when a part is no pair of numbers, the levels are not strictly
    increasing and > 0, or the fractions are not > 0 with a sum of at most 1.
    """
    rungs: list[Rung] = []
    for part in text.split(","):
        level_text, colon, fraction_text = part.partition(":")
        if not colon:
            raise ValueError(f"rung {shorten(part)!r} is not of the form R:fraction, such as 0.5:0.25")
        level, fraction = parse_decimal(level_text.strip()), parse_decimal(fraction_text.strip())
        if level <= 0:
            raise ValueError(f"level {plain(level)} of rung {shorten(part)!r} is not above 0")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction {plain(fraction)} of rung {shorten(part)!r} is not above 0 and at most 1")
        if rungs and level <= rungs[-1].level:
            raise ValueError(f"level {plain(level)} follows {plain(rungs[-1].level)}; levels must increase")
        rungs.append(Rung(level, fraction))
    total = sum((rung.fraction for rung in rungs), ZERO)
    if total > 1:
        raise ValueError(f"the fractions add up to {plain(total)}, more than the whole position (1)")
    return tuple(rungs)


def _at_least(bound: Decimal, text: str, *, strictly: bool = False) -> Decimal:
    value = parse_decimal(text)
    if value < bound or (strictly and value == bound):
        raise ValueError(f"{plain(value)} is not {'above' if strictly else 'at least'} {plain(bound)}")
    return value


def _not_negative(text: str) -> Decimal:
    return _at_least(ZERO, text)


def _positive(text: str) -> Decimal:
    return _at_least(ZERO, text, strictly=True)


# The fields of a symbol's override hash: which of the terms each replaces, and how its text is read.
_OVERRIDES: Mapping[str, tuple[str, Callable[[str], Decimal | tuple[Rung, ...]]]] = {
    "ladder": ("ladder", parse_ladder),
    "min_r": ("min_r", _not_negative),
    "set_be_at_r": ("be_at_r", _not_negative),
    "trail_atr_mult": ("trail_atr_mult", _not_negative),
    "qty_step": ("qty_step", _positive),
    "price_tick": ("price_tick", _positive),
    "min_qty": ("min_qty", _not_negative),
    "min_notional": ("min_notional", _not_negative),
}


def override_terms(terms: Terms, fields: Mapping[str, str]) -> tuple[Terms, tuple[str, ...]]:
    """The terms of a symbol whose override hash holds `fields`, and one sentence per refused field.

    A bad value refuses that field, never the rest.
    """
    changes: dict[str, Any] = {}
    faults: list[str] = []
    for name, text in sorted(fields.items()):
        if name not in _OVERRIDES:
            faults.append(f"{shorten(name)}={shorten(text)!r}: no such override; there are {', '.join(_OVERRIDES)}")
            continue
        term, parse = _OVERRIDES[name]
        try:
            changes[term] = parse(text)
        except ValueError as fault:
            faults.append(f"{name}={shorten(text)!r}: {fault}")
    return replace(terms, **changes), tuple(faults)


class Risk(NamedTuple):
    """`unit` is the risk per unit in quote currency; `source` is "stop" or "fallback"; `stop` is the usable stop
    that it stands on, if there is one."""

    unit: Decimal
    source: str
    stop: Decimal | None = None


def risk_of(sign: int, average: Decimal, stop: Decimal | None, terms: Terms) -> Risk:
    """The risk first taken: from the stop where it stands on the losing side, else the fallback percentage."""
    if stop is not None and sign * (average - stop) > 0:
        return Risk(sign * (average - stop), "stop", stop)
    return Risk(average * terms.fallback_risk, "fallback")


def least_risk(average: Decimal, terms: Terms) -> Decimal:
    """A risk per unit must exceed this (quote currency), or R is noise and nothing is harvested."""
    return max(2 * terms.price_tick, average * terms.min_risk_bps * BASIS_POINT)


def break_even(sign: int, average: Decimal, terms: Terms) -> Decimal:
    """The price (quote currency) at which closing pays for both fees: long `a(1+f)/(1-f)` rounded up to the tick,
    short `a(1-f)/(1+f)` rounded down, from setting the profit after two fees of rate f to zero."""
    fee = sign * terms.be_fee_rate
    return round_to_tick(average * (1 + fee) / (1 - fee), terms.price_tick, up=sign > 0)


def trailing_stop(sign: int, extreme: Decimal, atr: Decimal, terms: Terms) -> Decimal:
    """The best price since activation, less (long) or plus (short) a multiple of ATR, rounded away from the price."""
    return round_to_tick(extreme - sign * terms.trail_atr_mult * atr, terms.price_tick, up=sign < 0)


def worth_moving(sign: int, stop: Decimal | None, candidate: Decimal, terms: Terms) -> bool:
    """Whether `candidate` is better than the present stop by at least a tick and the smallest step (basis points of
    `candidate`). A stop never loosens."""
    least = max(terms.price_tick, candidate * terms.stop_min_step_bps * BASIS_POINT)
    return candidate > 0 and (stop is None or sign * (candidate - stop) >= least)
