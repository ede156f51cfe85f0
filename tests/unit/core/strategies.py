"""What Hypothesis draws from: numbers, ladders, policies, and whole histories of a trader's account.

A history is a list of actions, told without ids and times. Played in a `World` they become events, one after the other:
what settles a harvest can refer to the intent that the world published.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from tests.support.world import STEP_MS, World

from harvest_brain.core.books import Book
from harvest_brain.core.engine import Decision
from harvest_brain.core.events import (
    Clear,
    Event,
    Execution,
    Gap,
    Key,
    Malformed,
    Passed,
    PnlSnapshot,
    PositionSide,
    Release,
    Side,
)
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import Dust, Policy, Rung, Terms
from harvest_brain.core.position import Position

# Numbers.


def decimals(low: str, high: str, places: int) -> st.SearchStrategy[Decimal]:
    """Numbers of at most `places` decimal places between `low` and `high`."""
    scale = 10**places
    whole = st.integers(int(Decimal(low) * scale), int(Decimal(high) * scale))
    return whole.map(lambda number: Decimal(number) / scale)


def quantities() -> st.SearchStrategy[Decimal]:
    """Sizes in base asset, mostly round, some fine."""
    return st.one_of(decimals("0.1", "9", 1), decimals("0.001", "3", 3), decimals("0.00000001", "100000", 8))


def steps() -> st.SearchStrategy[Decimal]:
    """Steps of an exchange's sizes."""
    return st.sampled_from([Decimal(text) for text in ("1", "0.1", "0.01", "0.001", "0.00001", "0.25", "0.003")])


# Policies.


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Rung, ...]:
    """One to six rungs, levels increasing, fractions adding up to at most 1."""
    levels = draw(st.lists(decimals("0.1", "5", 1), min_size=1, max_size=6, unique=True).map(sorted))
    hundredths = 100
    rungs = []
    for left, level in zip(range(len(levels) - 1, -1, -1), levels, strict=True):
        share = draw(st.integers(1, hundredths - left))
        hundredths -= share
        rungs.append(Rung(level, Decimal(share) / 100))
    return tuple(rungs)


def terms(**fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Terms]:
    """Terms with stops that go to break-even and trail within a few prices; `fixed` replaces single strategies."""
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "ladder": ladders(),
        "min_r": st.sampled_from([ZERO, ZERO, Decimal("0.5"), Decimal("1.2")]),
        "be_at_r": st.sampled_from([ZERO, Decimal("0.5"), Decimal(1), Decimal(100)]),
        "trail_start_r": st.sampled_from([ZERO, Decimal("0.5"), Decimal(1)]),
        "trail_atr_mult": st.sampled_from([ZERO, Decimal("0.5"), Decimal(1), Decimal(2)]),
        "trail_atr_period": st.integers(1, 3),
        "trail_bar_ms": st.sampled_from([STEP_MS, 2 * STEP_MS, 5 * STEP_MS]),
        "stop_min_step_bps": st.sampled_from([ZERO, Decimal(5), Decimal(100)]),
        "min_risk_bps": st.sampled_from([ZERO, ZERO, Decimal(5), Decimal(200)]),
        "qty_step": st.one_of(st.just(Decimal("0.001")), steps()),
        "price_tick": st.sampled_from([Decimal("0.01"), Decimal("0.5"), Decimal("1e-8")]),
        "min_qty": st.sampled_from([ZERO, ZERO, Decimal("0.1"), Decimal(1)]),
        "min_notional": st.sampled_from([ZERO, ZERO, Decimal(5), Decimal(100)]),
        "dust": st.sampled_from(Dust),
        **fixed,
    }
    return st.builds(Terms, **strategies)


def policies(terms: st.SearchStrategy[Terms] = terms(), **fixed: Any) -> st.SearchStrategy[Policy]:  # noqa: B008  # lazy
    """Both modes, with and without what else a policy may hold; `fixed` are values."""
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "live": st.booleans(),
        "live_allow_fallback": st.booleans(),
        "max_jump_pct": st.sampled_from([ZERO, Decimal(5), Decimal(20)]),
        "spot": st.booleans(),
        "pending_ms": st.sampled_from([3 * STEP_MS, 60_000]),
        "settle_ms": st.sampled_from([0, 5_000]),
        **{name: st.just(value) for name, value in fixed.items()},
    }
    return st.builds(Policy, terms=terms, **strategies)


# Histories. Entry prices lie near 100, risks are about 2, so prices between 90 and 110 cross rungs and stops.

KEYS = (
    *[("A", PositionSide.NET)] * 5,
    *[("B", PositionSide.NET)] * 2,
    *(("C", PositionSide.LONG), ("C", PositionSide.SHORT)),
)


@dataclass(frozen=True, slots=True)
class Trade:
    """A fill of the trader's own order."""

    key: tuple[str, PositionSide]
    side: Side
    qty: Decimal
    price: Decimal
    risk: Decimal | None
    identity: str
    number: int
    complete: bool
    base_fee: bool

    def event(self, world: World) -> Execution:
        symbol, position_side = self.key
        named: dict[str, dict[str, Any]] = {
            "none": {},
            "fill": {"fill_id": f"F{world.now_ms}"},
            "order": {"order": f"O{self.number}"},
            "new order": {"order": f"N{world.now_ms}"},
            "cumulative": {"order": f"C{self.number}", "cumulative": self.qty},
        }
        return world.fill(
            self.side,
            self.qty,
            self.price,
            stop=None if self.risk is None else self.price - self.side.sign * self.risk,
            complete=self.complete,
            fee=self.qty / 1000,
            fee_asset=symbol if self.base_fee else "USDT",
            symbol=f"{symbol}USDT",
            position_side=position_side,
            **named[self.identity],
        )


@dataclass(frozen=True, slots=True)
class Tick:
    """A price, `age_ms` old when it comes."""

    symbol: str
    price: Decimal
    age_ms: int

    def event(self, world: World) -> Execution:
        return world.tick(self.price, symbol=f"{self.symbol}USDT", age_ms=self.age_ms)


@dataclass(frozen=True, slots=True)
class Settle:
    """News of a harvest that was published: of which one, in what way it is named, and how it went."""

    number: int
    naming: str
    outcome: str

    def event(self, world: World) -> Execution:
        published = [intent for intent in world.intents if intent.action is Action.HARVEST]
        if not published:
            return Passed(f"{world.now_ms}-1", "NOTHING_TO_SETTLE")
        intent = published[-1 - self.number % len(published)]
        names: dict[str, Any] = {
            "correlation": {"correlation": intent.intent_id},
            "client": {"client": intent.intent_id, "order": f"X{intent.intent_id}"},
            "order": {"order": f"X{intent.intent_id}"},
            "none": {},
        }[self.naming]
        if self.outcome in ("FILLED", "PARTIAL"):
            complete = self.outcome == "FILLED"
            return world.fill(
                intent.side,
                intent.qty if complete else intent.qty / 2,
                intent.trigger.price,
                complete=complete,
                symbol=intent.key.symbol,
                position_side=intent.key.position_side,
                fill_id=f"H{world.now_ms}",
                **names,
            )
        return world.order(self.outcome, symbol=intent.key.symbol, **names)


@dataclass(frozen=True, slots=True)
class Noise:
    """An entry that can't be used, or means nothing."""

    usable: bool

    def event(self, world: World) -> Execution:
        entry_id = f"{world.now_ms}-2"
        return Passed(entry_id, "SKIPPED_X") if self.usable else Malformed(entry_id, "why", (b"a", b"b"))


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody else says: a snapshot that is right, or holds this or that; the operator; or a gap."""

    symbol: str
    what: str

    def event(self, world: World) -> Event:
        symbol = f"{self.symbol}USDT"
        held = next((p for p in world.state.positions() if p.key.symbol == symbol), Position(NOWHERE))
        if self.what == "right":
            return world.snapshot(held.qty, held.average or 100, mark=100, symbol=symbol, after_ms=STEP_MS)
        if self.what in CLAIMED:
            qty, mark = CLAIMED[self.what]
            return world.snapshot(qty, 100, mark=mark, stop=99, symbol=symbol, after_ms=STEP_MS)
        if self.what == "profit":
            return PnlSnapshot(f"{world.now_ms}-3", world.now_ms, symbol, held.qty)
        if self.what == "clear":
            return Clear(f"{world.now_ms}-4", symbol)
        if self.what == "release":
            reservations = held.epoch.reservations if held.epoch is not None else ()
            intent_id = reservations[0].intent_id if reservations else "hb-unknown"
            return Release(f"{world.now_ms}-5", world.now_ms, symbol, intent_id)
        return Gap(1, "why")


CLAIMED: dict[str, tuple[str, int | None]] = {"some": ("0.7", 100), "turned": ("-1.5", 103), "flat": ("0", None)}
NOWHERE = Key("", "NOWHERE", PositionSide.NET)

Told = Trade | Tick | Settle | Noise | Said


def trades(**fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Trade]:
    """Fills; `fixed` replaces single strategies."""
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "key": st.sampled_from(KEYS),
        "side": st.sampled_from(Side),
        "qty": st.one_of(decimals("0.5", "4", 1), decimals("0.001", "2", 3)),
        "price": decimals("97", "103", 2),
        "risk": st.one_of(st.none(), decimals("0.5", "2", 1), decimals("-0.5", "2", 2)),
        "identity": st.sampled_from(["none", "fill", "fill", "fill", "order", "new order", "new order", "cumulative"]),
        "number": st.integers(0, 9),
        "complete": st.booleans(),
        "base_fee": st.booleans(),
        **fixed,
    }
    return st.builds(Trade, **strategies)


# One choice among all combinations is drawn faster than each part by itself.
TICKS = [(symbol, age_ms) for symbol in "AAAAAABC" for age_ms in (*[0] * 10, 500, 29_000, 31_000, -4_000, -6_000)]
NAMINGS = ("correlation", "client", "client", "order", "none")
OUTCOMES = ("FILLED", "FILLED", "PARTIAL", "REJECTED", "EXPIRED", "NEW")
SETTLEMENTS = [Settle(number, naming, outcome) for number in range(3) for naming in NAMINGS for outcome in OUTCOMES]
NOISE = [Noise(True), Noise(False)]
SAID = [Said(symbol, what) for symbol in "AAB" for what in ("right", *CLAIMED, "profit", "clear", "release")]
SAID += [Said("", "gap")]


def prices() -> st.SearchStrategy[Decimal]:
    """Prices of three or four risks to either side of 100."""
    return st.one_of(decimals("92", "108", 2), decimals("97", "103", 1), decimals("85", "115", 0))


def ticks(price: st.SearchStrategy[Decimal] = prices()) -> st.SearchStrategy[Tick]:  # noqa: B008  # lazy
    """Prices, mostly fresh."""
    return st.builds(lambda what, at: Tick(what[0], at, what[1]), st.sampled_from(TICKS), price)


@st.composite
def histories(
    draw: st.DrawFn,
    trade: st.SearchStrategy[Trade] = trades(),  # noqa: B008  # lazy
    tick: st.SearchStrategy[Tick] = ticks(),  # noqa: B008  # lazy
    *,
    said: bool = True,
) -> list[Told]:
    """What happens to an account: a position with a stop, then trades, mostly prices, news of harvests, noise, and what
    others say, unless `said` is false."""
    opening = draw(trade)
    risk = Decimal(2) if opening.risk is None or opening.risk <= 0 else opening.risk
    history = [replace(opening, key=KEYS[0], risk=risk)]
    choices: dict[str, st.SearchStrategy[Any]] = {
        "F": trade,
        "P": tick,
        "S": st.sampled_from(SETTLEMENTS),
        "N": st.sampled_from(NOISE),
        "O": st.sampled_from(SAID),
    }
    kinds = draw(st.lists(st.sampled_from("PPPPPPPPPPFFFSSN" + "O" * said), min_size=12, max_size=40))
    return [*history, *(draw(choices[kind]) for kind in kinds)]


@dataclass(frozen=True, slots=True)
class Step:
    """One event: when the gate looked, what was known before and after it, and what was decided."""

    now_ms: int
    event: Event
    before: dict[str, Book]
    decision: Decision
    after: dict[str, Book]

    @property
    def intents(self) -> tuple[Intent, ...]:
        return self.decision.intents

    @property
    def positions(self) -> list[Position]:
        """All positions after it."""
        return [position for book in self.after.values() for position in book.positions]


def play(world: World, history: Iterable[Told]) -> list[Step]:
    """What `history` comes to, one event a batch."""
    steps = []
    for told in history:
        event = told.event(world)
        before = dict(world.state.books)
        world.see(event)
        steps.append(Step(world.gate.now_ms, event, before, world.decision, dict(world.state.books)))
    return steps
