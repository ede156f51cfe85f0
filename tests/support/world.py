"""What the shell is to the core, without Redis: it makes events, holds the gate open or shut, and adopts decisions.

Prices of one-symbol tests are told by what they gain, so that each test runs for both sides: `LONG.at("1.5")` is 101.5,
`SHORT.at("1.5")` is 98.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from harvest_brain.core.books import Book
from harvest_brain.core.engine import Decision, Gate, State, decide
from harvest_brain.core.events import Event, Fill, Gap, Key, OrderRef, OrderUpdate, PositionSide, Price, Side, Snapshot
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import Policy, Terms, parse_ladder
from harvest_brain.core.position import Epoch, Position

START_MS = 1_800_000_000_000
STEP_MS = 1_000
SYMBOL = "ETHUSDT"
ENTRY = Decimal(100)

Number = str | int | Decimal


@dataclass(frozen=True, slots=True)
class Way:
    """Long or short."""

    name: str
    sign: int
    opening: Side
    closing: Side

    def at(self, gain: Number) -> Decimal:
        """The price at which a unit bought (or sold) at 100 has earned `gain`."""
        return ENTRY + self.sign * Decimal(gain)

    def __str__(self) -> str:
        return self.name


LONG = Way("long", 1, Side.BUY, Side.SELL)
SHORT = Way("short", -1, Side.SELL, Side.BUY)


def terms(**changes: Any) -> Terms:
    """The ladder of the documentation, a step of 0.01, a tick of 0.01, and stops that stay where they are; values of
    `changes` may be text."""
    parsed: dict[str, Any] = {
        name: parse_ladder(value) if name == "ladder" else Decimal(value) if type(value) is str else value
        for name, value in changes.items()
    }
    return replace(
        Terms(
            ladder=parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25"),
            be_at_r=Decimal(1_000),
            trail_atr_mult=ZERO,
            qty_step=Decimal("0.01"),
            price_tick=Decimal("0.01"),
        ),
        **parsed,
    )


def policy(
    *, live: bool = False, allow_fallback: bool = False, spot: bool = False, jump: Number = 0, **terms_: Any
) -> Policy:
    """A policy with `terms`; the guard against jumps is off unless `jump` says how many percent."""
    return Policy(
        terms=terms(**terms_), live=live, live_allow_fallback=allow_fallback, spot=spot, max_jump_pct=Decimal(jump)
    )


class World:
    """State, time and gate. Each event that is made comes a second after the one before; the gate's clock goes with
    them, unless `gate_ms` stops it."""

    def __init__(
        self,
        policy: Policy,
        *,
        kill: str | None = "0",
        tokens: int = 1_000_000,
        overrides: Mapping[str, Terms] | None = None,
        gate_ms: int | None = None,
        book_filter: Callable[[Book], Book] = lambda book: book,
    ) -> None:
        self.policy = policy
        self.kill = kill
        self.tokens = tokens
        self.live_after = (0, 0)
        self.overrides = overrides or {}
        self.state = State()
        self.known_fills: dict[str, str] = {}
        self.published: set[str] = set()
        self.intents: list[Intent] = []
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.now_ms = START_MS
        self.gate_ms = gate_ms
        self.decision = Decision({}, (), {}, (), (), {})
        self._book_filter = book_filter

    # Events.

    def fill(
        self,
        side: Side,
        qty: Number,
        price: Number,
        *,
        stop: Number | None = None,
        order: str = "",
        client: str = "",
        correlation: str = "",
        fill_id: str = "",
        complete: bool = True,
        cumulative: Number | None = None,
        fee: Number = 0,
        fee_asset: str = "",
        symbol: str = SYMBOL,
        account: str = "",
        position_side: PositionSide = PositionSide.NET,
    ) -> Fill:
        self.now_ms += STEP_MS
        return Fill(
            entry_id=f"{self.now_ms}-0",
            time_ms=self.now_ms,
            key=Key(account, symbol, position_side),
            side=side,
            qty=Decimal(qty),
            price=Decimal(price),
            complete=complete,
            order=OrderRef(order, client, correlation),
            fill_id=fill_id,
            stop=None if stop is None else Decimal(stop),
            fee=Decimal(fee),
            fee_asset=fee_asset,
            cumulative=None if cumulative is None else Decimal(cumulative),
        )

    def tick(self, price: Number, *, symbol: str = SYMBOL, after_ms: int = STEP_MS, age_ms: int = 0) -> Price:
        """A price that comes `after_ms` later and is `age_ms` old by then."""
        self.now_ms += after_ms
        time_ms = self.now_ms - age_ms
        return Price(f"{self.now_ms}-0", time_ms, symbol, Decimal(price), self.now_ms)

    def order(
        self, status: str, *, order: str = "", client: str = "", correlation: str = "", symbol: str = SYMBOL
    ) -> OrderUpdate:
        """News of an order; every status but NEW ends it."""
        self.now_ms += STEP_MS
        return OrderUpdate(
            f"{self.now_ms}-0", self.now_ms, symbol, status, status != "NEW", OrderRef(order, client, correlation)
        )

    def snapshot(
        self,
        qty: Number,
        average: Number = ENTRY,
        *,
        mark: Number | None = None,
        stop: Number | None = None,
        after_ms: int = 10_000,
        symbol: str = SYMBOL,
        position_side: PositionSide = PositionSide.NET,
    ) -> Snapshot:
        """What somebody else says the position is, `after_ms` later; `qty` is signed."""
        self.now_ms += after_ms
        return Snapshot(
            f"{self.now_ms}-0",
            self.now_ms,
            Key("", symbol, position_side),
            Decimal(qty),
            Decimal(average),
            None if mark is None else Decimal(mark),
            None if stop is None else Decimal(stop),
        )

    # Deciding.

    @property
    def gate(self) -> Gate:
        return Gate(
            now_ms=self.now_ms if self.gate_ms is None else self.gate_ms,
            kill_switch=self.kill,
            tokens=self.tokens,
            known_fills=self.known_fills,
            published=frozenset(self.published),
            terms=self.overrides,
            live_after=self.live_after,
        )

    def consider(self, *events: Event) -> Decision:
        """What `events` come to, without making it true."""
        return decide(self.state, events, self.gate, self.policy)

    def see(self, *events: Event) -> tuple[Intent, ...]:
        """Decide about `events` in one batch and adopt the decision; returns what was published. Events that were made
        elsewhere bring their time along."""
        times = (int(event.entry_id.partition("-")[0]) for event in events if not isinstance(event, Gap))
        self.now_ms = max(self.now_ms, *times, 0)
        decision = self.decision = self.consider(*events)
        self.state.adopt(replace(decision, books={s: self._book_filter(b) for s, b in decision.books.items()}))
        self.known_fills = {**self.known_fills, **decision.applied}
        self.tokens -= len(decision.intents)
        self.intents += decision.intents
        self.counts.update(decision.counts)
        self.notes += decision.notes
        return decision.intents

    # Shorthand for one symbol.

    def open(self, way: Way, qty: Number = 1, *, stop_at: Number | None = -2, **more: Any) -> tuple[Intent, ...]:
        """Open at 100 with the stop where `stop_at` is gained (None: no stop)."""
        stop = None if stop_at is None else way.at(stop_at)
        return self.see(self.fill(way.opening, qty, ENTRY, stop=stop, **more))

    def price(self, price: Number, **more: Any) -> tuple[Intent, ...]:
        return self.see(self.tick(price, **more))

    def position(self, symbol: str = SYMBOL) -> Position:
        """The one position of `symbol`."""
        [position] = self.state.books[symbol].positions
        return position

    def epoch(self, symbol: str = SYMBOL) -> Epoch:
        return self.position(symbol).open_epoch

    @property
    def is_flat(self) -> bool:
        """Whether nothing at all is remembered."""
        return not self.state.books


def brought_in(fills: Iterable[Fill], positions: Iterable[Position]) -> Fraction:
    """What `fills` have realised (quote currency, before fees) if they left these `positions`: what they paid out, and
    what is held is worth its average entry."""
    paid_out = -sum(fill.side.sign * Fraction(fill.qty) * Fraction(fill.price) for fill in fills)
    return paid_out + sum((Fraction(held.qty) * Fraction(held.average) for held in positions), Fraction(0))


def harvests(intents: tuple[Intent, ...] | list[Intent]) -> list[Decimal]:
    """The quantities of the harvests among `intents`."""
    return [intent.qty for intent in intents if intent.action is Action.HARVEST]


def stops(intents: tuple[Intent, ...] | list[Intent]) -> list[Intent]:
    """The stop moves among `intents`."""
    return [intent for intent in intents if intent.action is not Action.HARVEST]
