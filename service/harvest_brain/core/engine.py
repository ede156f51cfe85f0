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
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, NamedTuple

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
    Side,
    Snapshot,
    happened_ms,
)
from harvest_brain.core.intents import Action, Intent, belongs_to, harvest_claim, own_name, stop_claim
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import ARITHMETIC, INFINITY, ZERO, plain
from harvest_brain.core.policy import (
    Policy,
    RungState,
    Terms,
    break_even,
    share_of,
    trailing_stop,
    worth_moving,
)
from harvest_brain.core.position import (
    Epoch,
    Position,
    Reservation,
    ReservationState,
    fold,
    give_up,
    settle_fill,
    settle_update,
    suspected,
    time_out,
)
from harvest_brain.core.reconcile import compare, differs_grossly, excludes, skip_crossed

FUTURE_MS = 5_000
R_PLACES = Decimal("0.0001")

NEVER_MS = 2**63


class Book(NamedTuple):
    """All that is known of one symbol: its price memory while a position is open, and its positions.

    A price strictly between `quiet_above` and `quiet_below` can change nothing but the price memory, unless it closes a
    bar while a stop trails (`trails`), or makes a reservation unknown of which nothing was heard since `silent_since`.
    So a tick that crosses nothing costs three comparisons. That is an optimisation: with an empty quiet range the same
    is decided.
    """

    market: Market | None
    positions: tuple[Position, ...]
    quiet_above: Decimal = -INFINITY
    quiet_below: Decimal = INFINITY
    trails: bool = False
    silent_since: int = NEVER_MS


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
    `terms` the terms of symbols that have overrides.
    """

    now_ms: int
    kill_switch: str | None
    tokens: int
    known_fills: Mapping[str, str] = field(default_factory=dict)
    published: frozenset[str] = frozenset()
    terms: Mapping[str, Terms] = field(default_factory=dict)

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
    """Under which name a fill is remembered, and with which content; an empty name is not remembered."""

    name: str
    content: str


def fill_identity(fill: Fill) -> Identity:
    """What makes two entries the same fill.

    The producer's fill id; else the order, when it counts cumulatively or says that it is complete. Otherwise the entry
    is the only evidence there is, and the cursor guards it: two equal partial fills are legitimate.
    """
    content = f"{fill.side} {plain(fill.qty)} @ {plain(fill.price)}"
    if fill.fill_id:
        return Identity(f"{fill.key}:fill:{fill.fill_id}", content)
    order = fill.order.order_id or fill.order.client_order_id
    if order and fill.cumulative is not None:
        return Identity(f"{fill.key}:cumulative:{order}", plain(fill.cumulative))
    if order and fill.complete:
        return Identity(f"{fill.key}:filled:{order}", content)
    return Identity("", content)


def last_fill_name(key: Key) -> str:
    """The name under which it is remembered when the last fill of a position was, in milliseconds."""
    return f"{key}:last"


def remembered_names(state: State, events: Iterable[Event]) -> list[str]:
    """The names under which something may be remembered that deciding about `events` needs."""
    names: dict[str, None] = {}
    for event in events:
        if type(event) is Fill:
            names[fill_identity(event).name] = None
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


def book_of(market: Market | None, positions: Iterable[Position]) -> Book:
    """The book of a symbol with its quiet range; positions that are flat and trusted are forgotten.

    They stand in the order of their keys. That of their fills would be lost on a restart, and with it the order in
    which the same price is judged by each of them.
    """
    kept = tuple(sorted((p for p in positions if p.epoch is not None or p.suspect or p.adopted_ms), key=_key_of))
    if market is None or all(p.epoch is None for p in kept):
        return Book(None, kept)
    low, high, trails, silent_since = -INFINITY, INFINITY, False, NEVER_MS
    with localcontext(ARITHMETIC):
        for position in kept:
            if position.epoch is None:
                continue
            edge = _next_edge(position, market)
            if position.qty > 0:
                high = min(high, edge)
            else:
                low = max(low, edge)
            trails = trails or position.epoch.extreme is not None
            for reservation in position.epoch.reservations:
                if reservation.state is not ReservationState.UNKNOWN:
                    silent_since = min(silent_since, reservation.heard_ms)
    return Book(market, kept, low, high, trails, silent_since)


def _key_of(position: Position) -> Key:
    return position.key


def _next_edge(position: Position, market: Market) -> Decimal:
    """The nearest price on the winning side from which on this position has something to decide."""
    epoch = position.open_epoch
    terms, sign = epoch.terms, epoch.sign
    if position.why_not_harvested:
        return sign * INFINITY
    if epoch.resize_due:
        return -sign * INFINITY
    edges = [
        position.price_at(terms.trigger(rung))
        for index, (rung, rung_state) in enumerate(zip(terms.ladder, epoch.rungs, strict=True))
        if rung_state is RungState.ARMED or index >= epoch.crossed
    ]
    edges += [sign * max(sign * better.stop, sign * better.since) for better in _better_stops(position, market)]
    if epoch.extreme is not None:
        edges.append(epoch.extreme)
    elif terms.trail_atr_mult:
        edges.append(position.price_at(terms.trail_start_r))
    return sign * min((sign * edge for edge in edges), default=INFINITY)


def enter_live(state: State, *, catch_up: bool = False) -> Decision:
    """What going from shadow to live does to the open epochs: every rung that was crossed by then, fired or not, is
    skipped, and nothing is owed from before, so there is no burst. To `catch_up` instead, the rungs that shadow mode
    passed are armed again, and the next fresh price fires those it reaches; what live mode did before stays done."""
    return _changed_mode(state, _caught_up if catch_up else lambda position: _spent(skip_crossed(position)))


def leave_live(state: State) -> Decision:
    """What going from live to shadow does: the rungs that are through are closed for good, as their orders are out.
    Reservations stay, since those orders are on their way whatever mode is next."""
    return _changed_mode(state, _spent)


def _changed_mode(state: State, change: Callable[[Position], Position]) -> Decision:
    books = {
        symbol: book_of(book.market, [p if p.epoch is None else change(p) for p in book.positions])
        for symbol, book in state.books.items()
    }
    return Decision(books, state.waiting, {}, (), (), {})


def _spent(position: Position) -> Position:
    return _remarked(position, lambda rung: rung if rung is RungState.ARMED else RungState.SKIPPED)


def _caught_up(position: Position) -> Position:
    return _remarked(position, lambda rung: rung if rung is RungState.SKIPPED else RungState.ARMED)


def _remarked(position: Position, mark: Callable[[RungState], RungState]) -> Position:
    epoch = position.open_epoch
    return replace(position, epoch=replace(epoch, rungs=tuple(map(mark, epoch.rungs)), target=ZERO, issued=ZERO))


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

    def book(self, symbol: str) -> Book | None:
        return self.books.get(symbol) or self.before.get(symbol)

    def malformed(self, event: Malformed) -> None:
        self.rejected.append(event)
        self.counts["malformed"] += 1

    def passed(self, event: Passed) -> None:
        self.counts[f"status:{event.status}"] += 1

    # Fills and orders: always tracked.

    def fill(self, fill: Fill) -> None:
        identity = fill_identity(fill)
        stored = self.applied.get(identity.name) or self.gate.known_fills.get(identity.name)
        if stored is not None and fill.cumulative is not None and not fill.fill_id:
            difference = fill.cumulative - Decimal(stored)
            if difference <= 0:
                self.counts["fill:repeated"] += 1
                return
            fill = fill._replace(qty=difference)
        elif stored is not None:
            if stored == identity.content:
                self.counts["fill:repeated"] += 1
            else:
                self._clash(fill, identity, stored)
            return
        elif fill.cumulative is not None and identity.name and not fill.fill_id:
            fill = fill._replace(qty=fill.cumulative)
        if identity.name:
            self.applied[identity.name] = identity.content
        self._apply(
            fill, f"{identity.name}={identity.content}" if identity.name else f"{fill.order.order_id}:{fill.entry_id}"
        )

    def _clash(self, fill: Fill, identity: Identity, stored: str) -> None:
        self.counts["fill:clash"] += 1
        book, position = self._held(fill.key)
        self._put(book, suspected(position, f"{identity.name} came as {stored} and as {identity.content}"))

    def _apply(self, fill: Fill, identity: str) -> None:
        self.counts["fill:applied"] += 1
        time_ms = happened_ms(fill.time_ms, int(fill.entry_id.partition("-")[0]))
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
        book = self.book(update.symbol) or Book(None, ())
        for position in book.positions:
            if position.epoch is None:
                continue
            settled = settle_update(position.epoch, update.order, update.time_ms, ended=update.ended)
            if settled is not position.epoch:
                self._put(book, self._timed_out(replace(position, epoch=settled), update.time_ms))
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
        book = self.book(key.symbol) or Book(None, ())
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
        held = [] if book is None else [p for p in book.positions if p.epoch is not None]
        if book is None or book.market is None or any(self._unsettled(p.key, event.time_ms) for p in held):
            self.counts["pnl:not comparable"] += 1
        elif differs_grossly(held, book.market.last, event):
            self.counts["pnl:mismatch"] += 1
            self.notes.append(f"{event.symbol}: its profit snapshots are far from what its quantity and price come to")
        else:
            self.counts["pnl:agrees"] += 1

    def release(self, event: Release) -> None:
        book = self.book(event.symbol) or Book(None, ())
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
        book = self.book(event.symbol) or Book(None, ())
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
        if book is None or book.market is None:
            self.counts["price:no position"] += 1
            return
        price, before = event.price, book.market
        if not before.believes(price, self.policy.max_jump_pct):
            self.counts["price:jump"] += 1
            self.books[event.symbol] = book._replace(market=before._replace(candidate=price))
            return
        terms = next(p.epoch.terms for p in book.positions if p.epoch is not None)
        time_ms = happened_ms(event.time_ms, event.arrived_ms)
        market = before.tick(price, time_ms, terms.trail_bar_ms, terms.trail_atr_period)
        quiet = book.quiet_above < price < book.quiet_below
        silent = time_ms - book.silent_since > self.policy.pending_ms
        if quiet and not silent and not (book.trails and market.bar != before.bar):
            if self.waiting:
                self._no_longer_waits(*(p.key for p in book.positions))
            _, held, above, below, trails, since = book
            self.books[event.symbol] = Book(market, held, above, below, trails, since)
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
        if position.why_not_harvested:
            self._no_longer_waits(position.key)
            return position
        position = _noted(position, event.price)
        if not refusal and self.policy.live and not self.policy.live_allow_fallback:
            refusal = "fallback risk" if position.open_epoch.risk_source == "fallback" else ""
        harvest = _due_harvest(position, event.price)
        if harvest is not None:
            position = self._publish_or_wait(position, harvest, event, refusal)
        move = _due_stop(position, market, event.price)
        if move is not None:
            position = self._publish_or_wait(position, move, event, refusal)
        if harvest is None and move is None:
            self._no_longer_waits(position.key)
        return position

    def _publish_or_wait(self, position: Position, due: _Due, event: Price, refusal: str) -> Position:
        if refusal:
            self.counts[f"refused:{refusal}"] += 1
            return position
        if due.qty == 0:
            self.counts["rung:carried"] += 1
            return replace(position, epoch=due.after)
        if any(claim in self.gate.published for claim in due.claims):
            # It is out already, so it is marked as if this decision had published it.
            self.counts["refused:already published"] += 1
            return self._marked(position, due, event)
        if not self._may_take_token(position.key, event.time_ms):
            self.counts["refused:rate"] += 1
            return position
        self.intents.append(_intent(position, due, event, self.policy.fresh_ms))
        return self._marked(position, due, event)

    def _marked(self, position: Position, due: _Due, event: Price) -> Position:
        after = due.after
        if due.action is Action.HARVEST and self.policy.live:
            reservation = Reservation(due.claims[-1], due.qty, event.time_ms)
            after = replace(after, reservations=(*after.reservations, reservation))
        return replace(position, epoch=after)

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


def _noted(position: Position, price: Decimal) -> Position:
    """The position having seen `price`: how many rungs were ever reached, and the trail's best price."""
    epoch = position.open_epoch
    terms = epoch.terms
    crossed = max(epoch.crossed, sum(position.has_reached(price, terms.trigger(rung)) for rung in terms.ladder))
    extreme = epoch.extreme
    if extreme is None:
        if terms.trail_atr_mult and position.has_reached(price, terms.trail_start_r):
            extreme = price
    elif epoch.sign * (price - extreme) > 0:
        extreme = price
    if crossed == epoch.crossed and extreme is epoch.extreme:
        return position
    return replace(position, epoch=replace(epoch, crossed=crossed, extreme=extreme))


@dataclass(frozen=True, slots=True)
class _Due:
    """Something to publish: the epoch as it is `after` publishing, and what the intent says. A harvest of quantity 0
    is a carried rung: the epoch remembers it, nothing goes out."""

    action: Action
    after: Epoch
    claims: tuple[str, ...]
    qty: Decimal
    reason: str
    rungs: tuple[Decimal, ...] = ()
    stop: Decimal | None = None


def _due_harvest(position: Position, price: Decimal) -> _Due | None:
    """The one partial close for all rungs that `price` has crossed."""
    epoch = position.open_epoch
    terms = epoch.terms
    crossed = tuple(
        index
        for index, (rung, rung_state) in enumerate(zip(terms.ladder, epoch.rungs, strict=True))
        if rung_state is RungState.ARMED and position.has_reached(price, terms.trigger(rung))
    )
    if not crossed:
        return None
    free = abs(position.qty) - epoch.outstanding
    share = share_of(terms, crossed, epoch.peak, epoch.target, epoch.issued, free, price)
    mark = RungState.FIRED if share.qty else RungState.CARRIED
    after = replace(
        epoch,
        rungs=tuple(mark if index in crossed else rung_state for index, rung_state in enumerate(epoch.rungs)),
        target=share.target,
        issued=epoch.issued + share.qty,
    )
    highest = terms.trigger(terms.ladder[crossed[-1]])
    return _Due(
        Action.HARVEST,
        after,
        tuple(harvest_claim(epoch.epoch_id, index) for index in crossed),
        share.qty,
        f"R={plain(_shown_r(position, price))} >= {plain(highest)}",
        rungs=tuple(terms.ladder[index].level for index in crossed),
    )


class _Better(NamedTuple):
    """A stop that is better than the present one, due from the price `since` on, as long as it protects."""

    stop: Decimal
    since: Decimal
    action: Action
    why: str


def _better_stops(position: Position, market: Market) -> list[_Better]:
    """What break-even and trail come to, where it is worth announcing."""
    epoch = position.open_epoch
    terms, sign = epoch.terms, epoch.sign
    even = break_even(sign, position.average, terms)
    stops = [_Better(even, position.price_at(terms.be_at_r), Action.BREAK_EVEN, "break-even")]
    atr = market.atr(terms.trail_atr_period)
    if epoch.extreme is not None and atr is not None:
        trail = trailing_stop(sign, epoch.extreme, atr, terms)
        stops.append(_Better(trail, trail, Action.TRAIL, f"trailing {plain(epoch.extreme)}"))
    return [better for better in stops if worth_moving(sign, epoch.stop, better.stop, terms)]


def _due_stop(position: Position, market: Market, price: Decimal) -> _Due | None:
    """The best of the stops that are due at `price` and on its protective side, else the same stop for a changed
    size."""
    epoch = position.open_epoch
    sign = epoch.sign
    due = [
        better
        for better in _better_stops(position, market)
        if sign * (price - better.since) >= 0 and sign * (price - better.stop) > 0
    ]
    if due:
        stop, _, action, why = max(due, key=lambda better: sign * better.stop)
    elif epoch.resize_due and epoch.stop is not None:
        stop, action, why = epoch.stop, Action.RESIZE, f"{plain(abs(position.qty))} left to protect"
    else:
        return None
    sequence = epoch.stop_seq + 1
    return _Due(
        action,
        replace(epoch, stop=stop, stop_seq=sequence, resize_due=False),
        (stop_claim(epoch.epoch_id, sequence),),
        abs(position.qty),
        f"R={plain(_shown_r(position, price))}: {why}",
        stop=stop,
    )


def _shown_r(position: Position, price: Decimal) -> Decimal:
    """R cut to four places, never rounded up past a rung."""
    return position.r_at(price).quantize(R_PLACES, ROUND_DOWN)


def _intent(position: Position, due: _Due, event: Price, fresh_ms: int) -> Intent:
    epoch = position.open_epoch
    move = due.action is not Action.HARVEST
    return Intent(
        action=due.action,
        intent_id=due.claims[-1],
        claims=due.claims,
        key=position.key,
        side=Side.SELL if epoch.sign > 0 else Side.BUY,
        qty=due.qty,
        reason=due.reason,
        r=_shown_r(position, event.price),
        rungs=due.rungs,
        unrealized=position.gain(event.price) * abs(position.qty),
        epoch_id=epoch.epoch_id,
        position_qty=position.qty,
        average=position.average,
        price=event.price,
        price_ms=event.time_ms,
        expires_ms=event.time_ms + fresh_ms,
        trace_id=event.entry_id,
        risk_source=epoch.risk_source,
        stop=due.stop if move else epoch.stop,
        prev_stop=epoch.stop if move else None,
        stop_seq=due.after.stop_seq if move else 0,
    )
