"""decide(state, events, gate, policy) -> Decision: the whole of what HarvestBrain decides.

The rules, and why they are like this:

* `decide` changes nothing it is given. It returns the books that changed, the intents to publish, the dead letters and
  the new cursor; the shell commits all of them in one atomic script and only then adopts them. A decision that was not
  committed never happened, so a rung can't be marked by something that wasn't published.
* Fills are always tracked. Only publishing asks the gate: kill-switch, freshness, rate, what is already published, the
  health of the position. A closed gate marks nothing, so what is due stays due for the next fresh price. Each refusal
  is counted by its reason.
* A price moves the market memory whether it is fresh or not (a backlog is true history), but fires nothing when stale.
* A rung is compared exactly at its trigger; all rungs that a price has crossed make one intent and are marked together.
* A silence makes a reservation unknown by the time of the entries of its symbol, not by a clock, so the same entries
  make the same state.
* What the rate holds back waits in order: a position that waits has the next token, as long as its price stays fresh.

Thought of and left out: prices of fills as triggers (a fill of another order is no quote one could trade at; it only
serves the guard against bad ticks as the first price known), and retrying what an exchange did not answer (an ambiguous
failure is not a failure).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from harvest_brain.core.books import Book, book_of
from harvest_brain.core.due import Due, due_harvest, due_stop, noted
from harvest_brain.core.events import (
    Clear,
    Event,
    Fill,
    Gap,
    Key,
    Malformed,
    OrderUpdate,
    Passed,
    PnlSnapshot,
    Price,
    Release,
    Snapshot,
    happened_ms,
    parse_id,
)
from harvest_brain.core.identity import last_fill_name, marks_of
from harvest_brain.core.intents import Intent, belongs_to, own_name
from harvest_brain.core.market import Jump, Market
from harvest_brain.core.numbers import ARITHMETIC, plain
from harvest_brain.core.policy import Policy, Terms
from harvest_brain.core.position import Position, fold, suspected
from harvest_brain.core.reconcile import compare, differs_grossly, excludes, skip_crossed
from harvest_brain.core.reservations import give_up, settle_fill, settle_update, time_out

FUTURE_MS = 5_000


class Waiting(NamedTuple):
    """A position that the rate has held back, and when its price last said so (milliseconds)."""

    key: Key
    since_ms: int


@dataclass(slots=True)
class State:
    """What memory holds of the durable state: a cache of what Redis says. Only `adopt` changes it."""

    books: dict[str, Book] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()

    def adopt(self, decision: Decision) -> None:
        """Make a committed decision the state."""
        for symbol, book in decision.books.items():
            if book.positions:
                self.books[symbol] = book
            else:
                self.books.pop(symbol, None)
        self.waiting = decision.waiting

    def positions(self) -> Iterator[Position]:
        for book in self.books.values():
            yield from book.positions


@dataclass(frozen=True, slots=True)
class Gate:
    """What the world permits at this moment, as the shell last saw it; the commit checks it again.

    `now_ms` is the Redis server's clock; `tokens` how many intents the rate still allows; `known_fills` what is stored
    under each of the `remembered_names` of this batch; `published` the claims that exist;
    `terms` the terms of symbols that have overrides; `live_after` the last entry that was there when live mode began.
    """

    now_ms: int
    kill_switch: str | None
    tokens: int
    known_fills: Mapping[str, str] = field(default_factory=dict)
    published: frozenset[str] = frozenset()
    terms: Mapping[str, Terms] = field(default_factory=dict)
    live_after: tuple[int, int] = (0, 0)

    def running(self, *, live: bool) -> bool:
        """Whether the kill-switch lets anything out. Absent: yes in shadow, no in live, where an emptied Redis must
        not re-arm trading."""
        return self.kill_switch == "0" or (self.kill_switch is None and not live)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to commit. `applied` maps identities of fills to what is stored under them; `counts` says what was seen,
    passed over and refused, by reason; `notes` are sentences that the operator should read."""

    books: Mapping[str, Book]
    waiting: tuple[Waiting, ...]
    applied: Mapping[str, str]
    intents: tuple[Intent, ...]
    rejected: tuple[Malformed, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()


def remembered_names(state: State, events: Iterable[Event]) -> list[str]:
    """The names under which something may be remembered that deciding about `events` needs."""
    names: dict[str, None] = {}
    for event in events:
        if type(event) is Fill:
            names |= dict.fromkeys(marks_of(event))
        elif type(event) is Snapshot:
            names[last_fill_name(event.key)] = None
        elif type(event) is PnlSnapshot and event.symbol in state.books:
            names |= dict.fromkeys(last_fill_name(position.key) for position in state.books[event.symbol].positions)
    return list(names)


def decide(state: State, events: Sequence[Event], gate: Gate, policy: Policy) -> Decision:
    """What `events`, in stream order, come to. Pure; see the module's text."""
    with localcontext(ARITHMETIC):
        batch = _Batch(state, gate, policy)
        for event in events:
            _HANDLERS[type(event)](batch, event)
        return batch.decision()


class _Batch:
    """The decision in the making: an overlay over a state that stays as it is."""

    def __init__(self, state: State, gate: Gate, policy: Policy) -> None:
        self.before = state.books
        self.gate = gate
        self.policy = policy
        self.books: dict[str, Book] = {}
        self.waiting = [w for w in state.waiting if gate.now_ms - w.since_ms <= policy.fresh_ms]
        self.applied: dict[str, str] = {}
        self.intents: list[Intent] = []
        self.rejected: list[Malformed] = []
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []

    def decision(self) -> Decision:
        return Decision(
            self.books,
            tuple(self.waiting),
            self.applied,
            tuple(self.intents),
            tuple(self.rejected),
            self.counts,
            tuple(self.notes),
        )

    def book(self, symbol: str) -> Book:
        return self.books.get(symbol) or self.before.get(symbol) or Book(None, ())

    def malformed(self, event: Malformed) -> None:
        self.rejected.append(event)
        self.counts["malformed"] += 1

    def passed(self, event: Passed) -> None:
        self.counts[f"status:{event.status}"] += 1

    def _held(self, key: Key) -> Position:
        """The position, which may be flat."""
        return next((p for p in self.book(key.symbol).positions if p.key == key), Position(key))

    def _put(self, new: Position, price: Decimal | None = None) -> None:
        """Put `new` in the place of the position with its key; `price` is the first one known where there is none."""
        book = self.book(new.key.symbol)
        if new.suspect and not self._held(new.key).suspect:
            self.notes.append(f"{new.key} is suspect and not harvested: {new.suspect}")
        if new.epoch is None:
            self._no_longer_waits(new.key)
        market = book.market or (None if price is None else Market(price))
        self.books[new.key.symbol] = book_of(market, (*(p for p in book.positions if p.key != new.key), new))

    def _suspect_rivals(self, key: Key, witness: str) -> list[Position]:
        """Suspect the positions that the account can't hold beside that of `key`, which `witness` has it hold."""
        rivals = [p for p in self.book(key.symbol).positions if p.epoch is not None and excludes(p.key, key)]
        for rival in rivals:
            self._put(suspected(rival, f"{witness} has a {key.position_side} position beside it"))
        return rivals

    # Fills and orders: always tracked.

    def fill(self, fill: Fill) -> None:
        marks = marks_of(fill)
        name = next(iter(marks), "")
        if not fill.fill_id:
            # An order is FILLED once, also where an entry doesn't count what was filled and the one before it did.
            name = next((mark for mark in marks if self._remembered(mark) is not None), name)
        content, stored = marks.get(name, ""), self._remembered(name)
        if fill.cumulative is not None and content == plain(fill.cumulative):
            fill = fill._replace(qty=fill.cumulative - Decimal(stored or 0))
        elif stored is not None and stored != content:
            self.counts["fill:clash"] += 1
            self._put(suspected(self._held(fill.key), f"{name} came as {stored} and as {content}"))
            return
        if fill.qty <= 0 or stored == content:
            self.counts["fill:repeated"] += 1
            return
        self.applied |= marks
        self._apply(fill, f"{name}={content}" if name else f"{fill.order.order_id}:{fill.entry_id}")

    def _remembered(self, name: str) -> str | None:
        return self.applied.get(name) or self.gate.known_fills.get(name)

    def _apply(self, fill: Fill, identity: str) -> None:
        self.counts["fill:applied"] += 1
        fill = fill._replace(time_ms=happened_ms(fill.time_ms, parse_id(fill.entry_id)[0]))
        self.applied[last_fill_name(fill.key)] = str(fill.time_ms)
        before = self._held(fill.key)
        after = fold(before, fill, identity, self._terms(fill.key), spot=self.policy.spot)
        reduced = after.qty * before.qty > 0 and abs(after.qty) < abs(before.qty)
        if reduced:
            after = settle_fill(after, fill)
        own = own_name(fill.order)
        in_its_epoch = before.epoch is not None and belongs_to(before.epoch.epoch_id, own)
        if own and not (in_its_epoch and (reduced or after.epoch is None)):
            after = suspected(after, f"late fill across zero: {own}")
        if fill.time_ms <= before.adopted_ms:
            after = suspected(after, f"fill {identity} is from before the snapshot that the position was adopted from")
        if after.epoch is not None and (rivals := self._suspect_rivals(fill.key, f"fill {fill.entry_id}")):
            after = suspected(after, f"fill {fill.entry_id} has it beside a {rivals[0].key.position_side} position")
        self._put(self._timed_out(replace(after, claimed=None), fill.time_ms), fill.price)

    def order_update(self, update: OrderUpdate) -> None:
        time_ms = happened_ms(update.time_ms, parse_id(update.entry_id)[0])
        for position in self.book(update.symbol).positions:
            order = update.order
            if update.account not in ("", position.key.account):
                # Our own names are nobody else's; the exchange's number may be.
                order = order._replace(order_id="")
            settled = settle_update(position, order, time_ms, ended=update.ended)
            if settled is not position:
                self._put(self._timed_out(settled, time_ms))
                self.counts["order:ended" if update.ended else "order:acknowledged"] += 1
                return
        self.counts[f"status:{update.status}"] += 1

    def _timed_out(self, position: Position, time_ms: int) -> Position:
        after = time_out(position, time_ms, self.policy.pending_ms)
        for reservation in after.reservations:
            if reservation not in position.reservations:
                self.counts["reservation:unknown"] += 1
                self.notes.append(
                    f"{position.key}: nothing was heard of {reservation.intent_id} for "
                    f"{self.policy.pending_ms // 1000} s; its {plain(reservation.remaining)} stay reserved"
                )
        return after

    def _terms(self, key: Key) -> Terms:
        return self.gate.terms.get(key.symbol, self.policy.terms)

    # What others say: see `reconcile`.

    def snapshot(self, event: Snapshot) -> None:
        book, position = self.book(event.key.symbol), self._held(event.key)
        if self._unsettled(event.key, event.time_ms):
            self.counts["snapshot:too soon after a fill"] += 1
        elif event.qty and self._suspect_rivals(event.key, f"snapshot {event.entry_id}"):
            self.counts["snapshot:mismatch"] += 1
        else:
            prices = [price for price in (event.mark, book.market and book.market.last) if price is not None]
            verdict = compare(position, event, prices, self._terms(event.key))
            self.counts[f"snapshot:{verdict.name}"] += 1
            self.notes += verdict.notes
            if verdict.position is not position:
                self._put(verdict.position, prices[0] if prices else None)

    def _unsettled(self, key: Key, time_ms: int) -> bool:
        """Whether a snapshot of `time_ms` may not show the last fill yet."""
        last = self._remembered(last_fill_name(key))
        return last is not None and time_ms < int(last) + self.policy.settle_ms

    def pnl_snapshot(self, event: PnlSnapshot) -> None:
        book = self.book(event.symbol)
        held = [p for p in book.positions if p.epoch is not None]
        if book.market is None or any(self._unsettled(p.key, event.time_ms) for p in held):
            self.counts["pnl:not comparable"] += 1
        elif differs_grossly(held, book.market.last, event):
            self.counts["pnl:mismatch"] += 1
            self.notes.append(f"{event.symbol}: its profit snapshots are far from what its quantity and price come to")
        else:
            self.counts["pnl:agrees"] += 1

    def release(self, event: Release) -> None:
        for position in self.book(event.symbol).positions:
            released = give_up(position, event.intent_id, event.time_ms, self.policy.pending_ms)
            if released is not position:
                self._put(released)
                self.counts["operator:released"] += 1
                self.notes.append(f"{position.key}: the operator released {event.intent_id}; the next rung carries it")
                return
        self.counts["operator:refused"] += 1
        self.notes.append(f"{event.symbol}: there is no reservation {event.intent_id} of unknown fate to release")

    def clear(self, event: Clear) -> None:
        suspects = [p for p in self.book(event.symbol).positions if p.suspect]
        for position in suspects:
            self._put(skip_crossed(replace(position, suspect="", claimed=None)))
            self.notes.append(f"{position.key}: cleared by the operator, was: {position.suspect}")
        self.counts["operator:cleared" if suspects else "operator:refused"] += 1

    def gap(self, event: Gap) -> None:
        self.counts["gap:entries"] += event.missed
        self.notes.append(event.reason)
        for position in State({**self.before, **self.books}).positions():
            if position.epoch is not None:
                self._put(suspected(position, event.reason))

    # Prices: tracked, and judged.

    def price(self, event: Price) -> None:
        book = self.book(event.symbol)
        if book.market is None or book.terms is None:
            self.counts["price:no position"] += 1
            return
        price, before, terms = event.price, book.market, book.terms
        if not before.believes(price, event.time_ms, self.policy.max_jump_pct):
            self.counts["price:jump"] += 1
            self.books[event.symbol] = book._replace(market=before._replace(candidate=Jump(price, event.time_ms)))
            return
        time_ms = happened_ms(event.time_ms, event.arrived_ms)
        market = before.tick(price, time_ms, terms.trail_bar_ms, terms.trail_atr_period)
        quiet = book.quiet_above < price < book.quiet_below
        silent = time_ms - book.silent_since > self.policy.pending_ms
        if quiet and not silent and not (book.trails and market.bar != before.bar):
            if self.waiting:
                self._no_longer_waits(*(p.key for p in book.positions))
            self.books[event.symbol] = Book(market, *book[1:])
            return
        refusal = self._refusal(event, book.positions)
        judged = [self._judge(self._timed_out(p, time_ms), market, event, refusal) for p in book.positions]
        self.books[event.symbol] = book_of(market, judged)

    def _refusal(self, event: Price, positions: Iterable[Position]) -> str:
        """Why nothing may be published on this price, or nothing."""
        reasons = {
            "kill-switch": not self.gate.running(live=self.policy.live),
            "stale price": self.gate.now_ms - event.time_ms > self.policy.fresh_ms,
            "price from the future": event.time_ms - happened_ms(self.gate.now_ms, event.arrived_ms) > FUTURE_MS,
            "suspect": any(position.suspect for position in positions),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _judge(self, position: Position, market: Market, event: Price, refusal: str) -> Position:
        """The position after `event`: what it has reached is noted, what is due and permitted is published."""
        epoch, policy = position.epoch, self.policy
        # A price from before the entry says nothing of what the position has earned.
        if epoch is None or position.why_not_harvested or event.time_ms < epoch.opened_ms:
            self._no_longer_waits(position.key)
            return position
        position = noted(position, event.price)
        if parse_id(event.entry_id) <= self.gate.live_after:
            # It was on the stream before live mode began, and so was crossed by then.
            self._no_longer_waits(position.key)
            return skip_crossed(position)
        if policy.live and epoch.risk_source == "fallback" and not policy.live_allow_fallback:
            refusal = refusal or "fallback risk"
        while harvest := due_harvest(position, event, policy, self.gate.published):
            position = self._publish_or_wait(position, harvest, refusal)
            if refusal or (harvest.intent.qty and not self._is_out(harvest.intent)):
                break
            # The rungs that are out already, or carried, are marked; now come the others of this price.
        move = due_stop(position, market, event, policy)
        if move is not None:
            position = self._publish_or_wait(position, move, refusal)
        if harvest is None and move is None:
            self._no_longer_waits(position.key)
        return position

    def _publish_or_wait(self, position: Position, due: Due, refusal: str) -> Position:
        if refusal:
            self.counts[f"refused:{refusal}"] += 1
            self._no_longer_waits(position.key)
            return position
        if due.intent.qty == 0:
            self.counts["rung:carried"] += 1
        elif self._is_out(due.intent):
            # It is out already, so it is marked as if this decision had published it.
            self.counts["refused:already published"] += 1
        elif self._may_be_next(position.key, due.intent.trigger.time_ms):
            self.intents.append(due.intent)
        else:
            self.counts["refused:rate"] += 1
            return position
        return due.after

    def _is_out(self, intent: Intent) -> bool:
        return any(claim in self.gate.published for claim in intent.claims)

    def _may_be_next(self, key: Key, time_ms: int) -> bool:
        """Whether the rate has a token for `key`, unless those that have waited longer need them all; else it waits
        behind them."""
        place = next((i for i, w in enumerate(self.waiting) if w.key == key), len(self.waiting))
        allowed = place < self.gate.tokens - len(self.intents)
        self.waiting[place : place + 1] = [] if allowed else [Waiting(key, time_ms)]
        return allowed

    def _no_longer_waits(self, *keys: Key) -> None:
        self.waiting = [w for w in self.waiting if w.key not in keys]


_HANDLERS: Mapping[type, Callable[[_Batch, Any], None]] = {
    Price: _Batch.price,
    Fill: _Batch.fill,
    OrderUpdate: _Batch.order_update,
    Snapshot: _Batch.snapshot,
    PnlSnapshot: _Batch.pnl_snapshot,
    Release: _Batch.release,
    Clear: _Batch.clear,
    Gap: _Batch.gap,
    Passed: _Batch.passed,
    Malformed: _Batch.malformed,
}
