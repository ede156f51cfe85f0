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

from harvest_brain.core.books import EMPTY_BOOK, Book, book_of
from harvest_brain.core.due import Due, due_harvest, due_stop, noted
from harvest_brain.core.events import (
    PLAUSIBLE_ARRIVAL_MS,
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
from harvest_brain.core.intents import Action, Intent, belongs_to, own_name
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import ARITHMETIC, ZERO, plain
from harvest_brain.core.policy import Policy, Terms
from harvest_brain.core.position import Position, Reservation, fold, suspected
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
    passed over and refused, by reason; `realized` sums what the fills brought in (quote currency, before fees); `notes`
    are sentences that the operator should read."""

    books: Mapping[str, Book]
    waiting: tuple[Waiting, ...]
    applied: Mapping[str, str]
    intents: tuple[Intent, ...]
    rejected: tuple[Malformed, ...]
    counts: Mapping[str, int]
    realized: Decimal = ZERO
    notes: tuple[str, ...] = ()


class Identity(NamedTuple):
    """Under which name a fill is remembered, and with which content; an empty name is not remembered. Where the order
    counts what was filled so far, that is the content, as a number in `cumulative`."""

    name: str
    content: str
    cumulative: Decimal | None = None


def fill_identity(fill: Fill) -> Identity:
    """What makes two entries the same fill.

    The producer's fill id; else the order, when it counts cumulatively or says that it is complete. Otherwise the entry
    is the only evidence there is, and the cursor guards it: two equal partial fills are legitimate.
    """
    content = f"{fill.side} {plain(fill.qty)} @ {plain(fill.price)}"
    if fill.fill_id:
        return Identity(f"{fill.key}:fill:{fill.fill_id}", content)
    name, told = next(iter(order_marks(fill).items()), ("", content))
    return Identity(name, told, fill.cumulative if name else None)


def order_marks(fill: Fill) -> dict[str, str]:
    """What a fill says of its order as a whole, by the name under which that is remembered, whatever the fill's own
    identity is: so an entry of the same order that says less is recognised."""
    marks: dict[str, str] = {}
    order = fill.order.order_id or fill.order.client_order_id
    if order and fill.cumulative is not None:
        marks[f"{fill.key}:cumulative:{order}"] = plain(fill.cumulative)
    if order and fill.complete:
        total = fill.qty if fill.cumulative is None else fill.cumulative
        marks[f"{fill.key}:filled:{order}"] = f"{fill.side} {plain(total)} @ {plain(fill.price)}"
    return marks


def last_fill_name(key: Key) -> str:
    """The name under which it is remembered when the last fill of a position was, in milliseconds."""
    return f"{key}:last"


def remembered_names(state: State, events: Iterable[Event]) -> list[str]:
    """The names under which something may be remembered that deciding about `events` needs."""
    names: dict[str, None] = {}
    for event in events:
        if type(event) is Fill:
            names[fill_identity(event).name] = None
            names.update(dict.fromkeys(order_marks(event)))
        elif type(event) is Snapshot:
            names[last_fill_name(event.key)] = None
        elif type(event) is PnlSnapshot and event.symbol in state.books:
            names.update((last_fill_name(position.key), None) for position in state.books[event.symbol].positions)
    names.pop("", None)
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
        self.running = gate.running(live=policy.live)
        self.books: dict[str, Book] = {}
        self.tokens = gate.tokens
        self.waiting = [w for w in state.waiting if gate.now_ms - w.since_ms <= policy.fresh_ms]
        self.applied: dict[str, str] = {}
        self.intents: list[Intent] = []
        self.rejected: list[Malformed] = []
        self.counts: Counter[str] = Counter()
        self.realized = ZERO
        self.notes: list[str] = []

    def decision(self) -> Decision:
        return Decision(
            self.books,
            tuple(self.waiting),
            self.applied,
            tuple(self.intents),
            tuple(self.rejected),
            self.counts,
            self.realized,
            tuple(self.notes),
        )

    def book(self, symbol: str) -> Book:
        return self.books.get(symbol) or self.before.get(symbol) or EMPTY_BOOK

    def malformed(self, event: Malformed) -> None:
        self.rejected.append(event)
        self.counts["malformed"] += 1

    def passed(self, event: Passed) -> None:
        self.counts[f"status:{event.status}"] += 1

    # Fills and orders: always tracked.

    def fill(self, fill: Fill) -> None:
        identity, marks = fill_identity(fill), order_marks(fill)
        stored = self._remembered(identity.name)
        if stored is None and not fill.fill_id:
            # Told by a fill id, or without what was filled so far: an order is FILLED once all the same.
            for name, content in marks.items():
                if (told := self._remembered(name)) is not None:
                    identity, stored = Identity(name, content), told
        if identity.cumulative is not None:
            fill = fill._replace(qty=identity.cumulative - Decimal(stored or 0))
        elif stored is not None and stored != identity.content:
            self._clash(fill, identity, stored)
            return
        if fill.qty <= 0 or stored == identity.content:
            self.counts["fill:repeated"] += 1
            return
        if identity.name:
            self.applied |= {**marks, identity.name: identity.content}
        self._apply(
            fill, f"{identity.name}={identity.content}" if identity.name else f"{fill.order.order_id}:{fill.entry_id}"
        )

    def _remembered(self, name: str) -> str | None:
        return self.applied.get(name) or self.gate.known_fills.get(name)

    def _clash(self, fill: Fill, identity: Identity, stored: str) -> None:
        self.counts["fill:clash"] += 1
        book, position = self._held(fill.key)
        self._put(book, suspected(position, f"{identity.name} came as {stored} and as {identity.content}"))

    def _apply(self, fill: Fill, identity: str) -> None:
        self.counts["fill:applied"] += 1
        time_ms = happened_ms(fill.time_ms, parse_id(fill.entry_id)[0])
        fill = fill._replace(time_ms=time_ms)
        self.applied[last_fill_name(fill.key)] = str(time_ms)
        book, position = self._held(fill.key)
        folded = fold(position, fill, identity, self._terms(fill.key), spot=self.policy.spot)
        after = folded.position
        self.realized += folded.realized
        was, now = position.epoch, after.epoch
        same_epoch = was is not None and now is not None and was.epoch_id == now.epoch_id
        reduced = same_epoch and abs(after.qty) < abs(position.qty)
        if now is not None and reduced:
            settled, by_harvest = settle_fill(now, fill, abs(after.qty))
            if by_harvest:
                settled = replace(settled, resize_due=settled.stop is not None)
            after = replace(after, epoch=settled)
        if now is None:
            self._no_longer_waits(fill.key)
        own = own_name(fill.order)
        in_its_epoch = was is not None and belongs_to(was.epoch_id, own)
        if own and not (in_its_epoch and (now is None or reduced)):
            after = suspected(after, f"late fill across zero: {own}")
        if time_ms <= position.adopted_ms:
            after = suspected(after, f"fill {identity} is from before the snapshot that the position was adopted from")
        if after.claimed is not None:
            after = replace(after, claimed=None)
        after = self._timed_out(after, time_ms)
        self._put(book._replace(market=book.market or Market(fill.price)), after)

    def order_update(self, update: OrderUpdate) -> None:
        time_ms = happened_ms(update.time_ms, parse_id(update.entry_id)[0])
        book = self.book(update.symbol)
        for position in book.positions:
            if position.epoch is None:
                continue
            order = update.order
            if update.account not in ("", position.key.account):
                # Our own names are nobody else's; the exchange's number may be.
                order = order._replace(order_id="")
            settled = settle_update(position.epoch, order, time_ms, ended=update.ended)
            if settled is not position.epoch:
                self._put(book, self._timed_out(replace(position, epoch=settled), time_ms))
                self.counts["order:ended" if update.ended else "order:acknowledged"] += 1
                return
        self.counts[f"status:{update.status}"] += 1

    def _timed_out(self, position: Position, time_ms: int) -> Position:
        if position.epoch is None:
            return position
        epoch = time_out(position.epoch, time_ms, self.policy.pending_ms)
        if epoch is position.epoch:
            return position
        for reservation in epoch.reservations:
            if reservation in position.epoch.reservations:
                continue
            self.counts["reservation:unknown"] += 1
            self.notes.append(
                f"{position.key}: nothing was heard of {reservation.intent_id} for {self.policy.pending_ms // 1000} s; "
                f"its {plain(reservation.remaining)} stay reserved"
            )
        return replace(position, epoch=epoch)

    def _held(self, key: Key) -> tuple[Book, Position]:
        """The book of the symbol and the position, which may be flat."""
        book = self.book(key.symbol)
        return book, next((p for p in book.positions if p.key == key), None) or Position(key)

    def _terms(self, key: Key) -> Terms:
        return self.gate.terms.get(key.symbol, self.policy.terms)

    def _put(self, book: Book, new: Position) -> None:
        """Put `new` into `book` in the place of the position with its key."""
        was_suspect = any(p.suspect for p in book.positions if p.key == new.key)
        if new.suspect and not was_suspect:
            self.notes.append(f"{new.key} is suspect and not harvested: {new.suspect}")
        others = tuple(p for p in book.positions if p.key != new.key)
        self.books[new.key.symbol] = book_of(book.market, (*others, new))

    # What others say: see `reconcile`.

    def snapshot(self, event: Snapshot) -> None:
        book, position = self._held(event.key)
        rivals = [p for p in book.positions if p.epoch is not None and excludes(p.key, event.key)]
        if self._unsettled(event.key, event.time_ms):
            self.counts["snapshot:too soon after a fill"] += 1
        elif rivals and event.qty:
            self.counts["snapshot:mismatch"] += 1
            for rival in rivals:
                reason = f"snapshot {event.entry_id} has a {event.key.position_side} position beside it"
                self._put(self.books.get(event.key.symbol, book), suspected(rival, reason))
        else:
            prices = [price for price in (event.mark, book.market and book.market.last) if price is not None]
            verdict = compare(position, event, prices, self._terms(event.key))
            self.counts[f"snapshot:{verdict.name}"] += 1
            self.notes += verdict.notes
            if verdict.position is not position:
                market = book.market or (Market(prices[0]) if prices else None)
                self._put(book._replace(market=market), verdict.position)
                if verdict.position.epoch is None:
                    self._no_longer_waits(event.key)

    def _unsettled(self, key: Key, time_ms: int) -> bool:
        """Whether a snapshot of `time_ms` may not show the last fill yet."""
        name = last_fill_name(key)
        last = self.applied.get(name) or self.gate.known_fills.get(name)
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
        book = self.book(event.symbol)
        for position in book.positions:
            epoch = position.epoch and give_up(position.epoch, event.intent_id, event.time_ms, self.policy.pending_ms)
            if epoch is not position.epoch:
                self._put(book, replace(position, epoch=epoch))
                self.counts["operator:released"] += 1
                self.notes.append(f"{position.key}: the operator released {event.intent_id}; the next rung carries it")
                return
        self.counts["operator:refused"] += 1
        self.notes.append(f"{event.symbol}: there is no reservation {event.intent_id} of unknown fate to release")

    def clear(self, event: Clear) -> None:
        book = self.book(event.symbol)
        suspects = [p for p in book.positions if p.suspect]
        for position in suspects:
            cleared = skip_crossed(replace(position, suspect="", claimed=None))
            self._put(self.books.get(event.symbol, book), cleared)
            self.notes.append(f"{position.key}: cleared by the operator, was: {position.suspect}")
        self.counts["operator:cleared" if suspects else "operator:refused"] += 1

    def gap(self, event: Gap) -> None:
        self.counts["gap:entries"] += event.missed
        self.notes.append(event.reason)
        for symbol, book in {**self.before, **self.books}.items():
            for position in book.positions:
                if position.epoch is not None:
                    self._put(self.books.get(symbol, book), suspected(position, event.reason))

    # Prices: tracked, and judged.

    def price(self, event: Price) -> None:
        book = self.book(event.symbol)
        if book.market is None or book.terms is None:
            self.counts["price:no position"] += 1
            return
        price, before, terms = event.price, book.market, book.terms
        if not before.believes(price, self.policy.max_jump_pct):
            self.counts["price:jump"] += 1
            self.books[event.symbol] = book._replace(market=before._replace(candidate=price))
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
        positions = [self._timed_out(p, time_ms) for p in book.positions] if silent else book.positions
        refusal = self._refusal(event) or ("suspect" if any(p.suspect for p in book.positions) else "")
        self.books[event.symbol] = book_of(
            market,
            [p if p.epoch is None else self._judge(p, market, event, refusal) for p in positions],
        )

    def _refusal(self, event: Price) -> str:
        """Why nothing may be published on this price, or nothing."""
        if not self.running:
            return "kill-switch"
        if self.gate.now_ms - event.time_ms > self.policy.fresh_ms:
            return "stale price"
        latest = self.gate.now_ms
        if event.arrived_ms >= PLAUSIBLE_ARRIVAL_MS:
            latest = min(latest, event.arrived_ms)
        if event.time_ms - latest > FUTURE_MS:
            return "price from the future"
        return ""

    def _judge(self, position: Position, market: Market, event: Price, refusal: str) -> Position:
        """The position after `event`: what it has reached is noted, what is due and permitted is published."""
        # A price from before the entry says nothing of what the position has earned.
        if position.why_not_harvested or event.time_ms < position.open_epoch.opened_ms:
            self._no_longer_waits(position.key)
            return position
        position = noted(position, event.price)
        if parse_id(event.entry_id) <= self.gate.live_after:
            # It was on the stream before live mode began, and so was crossed by then.
            self._no_longer_waits(position.key)
            return skip_crossed(position)
        if not refusal and self.policy.live and not self.policy.live_allow_fallback:
            refusal = "fallback risk" if position.open_epoch.risk_source == "fallback" else ""
        harvest = due_harvest(position, event, self.policy.fresh_ms, self.gate.published)
        if harvest is not None and not refusal and self._is_out(harvest.intent):
            # The rungs that are out already are marked first, the others of this price come after them.
            position = self._publish_or_wait(position, harvest, refusal)
            harvest = due_harvest(position, event, self.policy.fresh_ms)
        if harvest is not None:
            position = self._publish_or_wait(position, harvest, refusal)
        move = due_stop(position, market, event, self.policy.fresh_ms)
        if move is not None:
            position = self._publish_or_wait(position, move, refusal)
        if harvest is None and move is None:
            self._no_longer_waits(position.key)
        return position

    def _publish_or_wait(self, position: Position, due: Due, refusal: str) -> Position:
        intent = due.intent
        if refusal:
            self.counts[f"refused:{refusal}"] += 1
            self._no_longer_waits(position.key)
            return position
        if intent.qty == 0:
            self.counts["rung:carried"] += 1
            return replace(position, epoch=due.after)
        if self._is_out(intent):
            # It is out already, so it is marked as if this decision had published it.
            self.counts["refused:already published"] += 1
        elif self._may_take_token(position.key, intent.trigger.time_ms):
            self.intents.append(intent)
        else:
            self.counts["refused:rate"] += 1
            return position
        after = due.after
        if intent.action is Action.HARVEST and self.policy.live:
            reservation = Reservation(intent.intent_id, intent.qty, intent.trigger.time_ms)
            after = replace(after, reservations=(*after.reservations, reservation))
        return replace(position, epoch=after)

    def _is_out(self, intent: Intent) -> bool:
        return any(claim in self.gate.published for claim in intent.claims)

    def _may_take_token(self, key: Key, time_ms: int) -> bool:
        """Take a token unless those that have waited longer need them all; then wait behind them."""
        place = next((i for i, w in enumerate(self.waiting) if w.key == key), len(self.waiting))
        allowed = place < self.tokens
        if allowed:
            self.tokens -= 1
            del self.waiting[place : place + 1]
        else:
            self.waiting[place : place + 1] = [Waiting(key, time_ms)]
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
