"""What must always hold, on any history: the invariants I1 to I7 as far as the core can hold them, and their kin.

I8, the lease, is the commit's; I9, the accounting, is in test_oracle.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.world import START_MS, World
from tests.unit.core.strategies import (
    Step,
    Told,
    histories,
    play,
    policies,
    terms,
    ticks,
    trades,
)

from harvest_brain.core.books import Book
from harvest_brain.core.events import (
    Event,
    Fill,
    Gap,
    Key,
    Malformed,
    OrderRef,
    OrderUpdate,
    Passed,
    PositionSide,
    Price,
    Side,
)
from harvest_brain.core.intents import Action, Intent, harvest_claim
from harvest_brain.core.numbers import INFINITY, ZERO, plain
from harvest_brain.core.policy import Policy, RungState
from harvest_brain.core.position import Epoch, Position, fold

OPEN_GATES = policies(max_jump_pct=ZERO, live_allow_fallback=True)


def epochs_of(books: dict[str, Book]) -> dict[str, Epoch]:
    """The open epochs, by id."""
    return {p.epoch.epoch_id: p.epoch for book in books.values() for p in book.positions if p.epoch is not None}


def epochs(step: Step) -> dict[str, Epoch]:
    """The epochs that are open after a step."""
    return epochs_of(step.after)


def position_of(books: dict[str, Book], intent: Intent) -> Position:
    [position] = [p for p in books[intent.key.symbol].positions if p.key == intent.key]
    return position


def tracked(world: World) -> set[object]:
    """What is known of positions from fills alone."""
    return {
        (p.key, p.qty, p.average, p.suspect, p.epoch and (p.epoch.peak, p.epoch.realized, p.epoch.fees))
        for p in world.state.positions()
    }


# I1: the kill-switch.


@given(policies(), histories(), st.sampled_from(["1", "", "off", "0 "]))
def test_i1_with_the_kill_switch_on_nothing_comes_out(policy: Policy, history: list[Told], switch: str) -> None:
    world = World(policy, kill=switch)
    for step in play(world, history):
        assert step.intents == ()
        for epoch in epochs(step).values():
            assert epoch.issued == epoch.target == 0
            assert set(epoch.rungs) <= {RungState.ARMED, RungState.SKIPPED}


@given(policies(), histories())
def test_i1_the_kill_switch_changes_nothing_in_the_tracking_of_positions(policy: Policy, history: list[Told]) -> None:
    events = [step.event for step in play(World(policy), history)]
    running, stopped = World(policy), World(policy, kill="1")
    for event in events:
        running.see(event)
        stopped.see(event)
        assert tracked(running) == tracked(stopped)


# I2: at most one entry for each epoch, action and rung.


@given(policies(), histories(), st.data())
def test_i2_each_claim_is_used_once_under_repeated_input(
    policy: Policy, history: list[Told], data: st.DataObject
) -> None:
    """The producer sends entries again, as new ones. The same entry never comes twice: the cursor sees to that."""
    gate_ms = START_MS + 25_000
    events = [step.event for step in play(World(policy, gate_ms=gate_ms), history)]
    again = data.draw(st.lists(st.sampled_from(events), max_size=20))
    events += [
        event._replace(entry_id=f"{START_MS}-{number}")
        for number, event in enumerate(again)
        if not isinstance(event, Gap)
    ]
    world = World(policy, gate_ms=gate_ms)
    for event in events:
        world.see(event)
    uses = Counter(claim for intent in world.intents for claim in intent.claims)
    assert set(uses.values()) <= {1}
    assert len({intent.intent_id for intent in world.intents}) == len(world.intents)


@given(policies(), histories())
def test_i2_a_rung_that_is_through_stays_through(policy: Policy, history: list[Told]) -> None:
    before: dict[str, Epoch] = {}
    for step in play(World(policy), history):
        now = epochs(step)
        for epoch_id in before.keys() & now.keys():
            for was, state in zip(before[epoch_id].rungs, now[epoch_id].rungs, strict=True):
                assert was in (RungState.ARMED, state)
        before = now


# I3: what is due is published, at once.


@given(OPEN_GATES, histories())
def test_i3_with_all_gates_open_no_rung_that_a_fresh_price_has_reached_stays_armed(
    policy: Policy, history: list[Told]
) -> None:
    for step in play(World(policy), history):
        price = step.event
        if not isinstance(price, Price) or not -5_000 <= step.now_ms - price.time_ms <= 30_000:
            continue
        book = step.after.get(price.symbol)
        if book is None or any(position.suspect for position in book.positions):
            continue
        for position in book.positions:
            if position.epoch is None or position.why_not_harvested:
                continue
            epoch = position.open_epoch
            if price.time_ms < epoch.opened_ms:
                continue  # it is from before the entry
            for rung, state in zip(epoch.terms.ladder, epoch.rungs, strict=True):
                if position.has_reached(price.price, epoch.terms.trigger(rung)):
                    assert state is not RungState.ARMED


@given(OPEN_GATES, histories())
def test_i3_marks_and_intents_agree(policy: Policy, history: list[Told]) -> None:
    """A rung is marked as fired by the intent that lists it, and by nothing else."""
    world = World(policy)
    fired: set[str] = set()
    for step in play(world, history):
        fired |= {
            harvest_claim(epoch_id, index)
            for epoch_id, epoch in epochs(step).items()
            for index, state in enumerate(epoch.rungs)
            if state is RungState.FIRED
        }
    assert fired == {claim for i in world.intents if i.action is Action.HARVEST for claim in i.claims}


# I4: never more than the position, always on the closing side.


@given(policies(), histories())
def test_i4_what_is_outstanding_never_exceeds_the_position(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        for position in step.positions:
            if position.epoch is not None:
                assert all(reservation.remaining > 0 for reservation in position.epoch.reservations)
                assert position.epoch.outstanding <= abs(position.qty)


@given(policies(), histories())
def test_incident_02_every_intent_is_above_zero_and_on_the_closing_side(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        for intent in step.intents:
            held = position_of(step.before, intent)
            assert intent.position.qty == held.qty
            assert intent.side is (Side.SELL if held.qty > 0 else Side.BUY)
            assert 0 < intent.qty <= abs(held.qty)


@given(policies(), histories())
def test_incident_02_a_harvest_always_shrinks_the_position(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        for intent in step.intents:
            if intent.action is Action.HARVEST:
                held = position_of(step.before, intent)
                filled = Fill("1-0", 0, intent.key, intent.side, intent.qty, intent.trigger.price, True, _NOBODY)
                left = fold(held, filled, "x", policy.terms)
                assert abs(left.qty) < abs(held.qty)
                assert left.qty * held.qty >= 0


@given(policies(), histories())
def test_incident_14_every_harvest_is_one_that_an_exchange_takes(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        for intent in step.intents:
            if intent.action is Action.HARVEST:
                rules = position_of(step.before, intent).open_epoch.terms
                assert intent.qty % rules.qty_step == 0
                assert intent.qty >= rules.min_qty
                assert intent.qty * intent.trigger.price >= rules.min_notional


@given(policies(), histories())
def test_incident_04_the_sum_of_harvests_never_exceeds_the_peak(policy: Policy, history: list[Told]) -> None:
    """Without what was rejected or has expired: it was never sold and may be tried again."""
    sold: dict[str, Decimal] = {}
    for step in play(World(policy), history):
        for intent in step.intents:
            if intent.action is Action.HARVEST:
                sold[intent.epoch_id] = sold.get(intent.epoch_id, ZERO) + intent.qty
        if step.decision.counts.get("order:ended") or step.decision.counts.get("operator:released"):
            for epoch_id, epoch in epochs(step).items():
                released = epochs_of(step.before)[epoch_id].outstanding - epoch.outstanding
                sold[epoch_id] = sold.get(epoch_id, ZERO) - released
        for epoch_id, epoch in epochs(step).items():
            assert sold.get(epoch_id, ZERO) <= epoch.peak


# I5: every event is accounted for.


@given(policies(), histories())
def test_i5_every_event_is_in_the_state_or_counted_with_its_reason(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        counts, event = step.decision.counts, step.event
        of = {
            name: number
            for name, number in counts.items()
            if not name.startswith(("refused:", "rung:", "reservation:"))
        }
        if isinstance(event, Fill):
            assert of in ({"fill:applied": 1}, {"fill:repeated": 1}, {"fill:clash": 1})
        elif isinstance(event, OrderUpdate):
            assert of in ({"order:ended": 1}, {"order:acknowledged": 1}, {f"status:{event.status}": 1})
        elif isinstance(event, Malformed):
            assert (of, step.decision.rejected) == ({"malformed": 1}, (event,))
        elif isinstance(event, Passed):
            assert of == {f"status:{event.status}": 1}
        elif isinstance(event, Gap):
            assert of == {"gap:entries": event.missed}
        elif not isinstance(event, Price):
            assert sum(of.values()) == 1
            assert next(iter(of)).startswith(("snapshot:", "pnl:", "operator:"))
        elif of:
            assert of in ({"price:no position": 1}, {"price:jump": 1})
        else:
            market = step.after[event.symbol].market
            assert market is not None
            assert market.last == event.price


# I6: a price that is too old fires nothing.


@given(policies(), histories())
def test_i6_every_intent_rests_on_a_fresh_price(policy: Policy, history: list[Told]) -> None:
    for step in play(World(policy), history):
        for intent in step.intents:
            assert isinstance(step.event, Price)
            assert intent.trigger.time_ms == step.event.time_ms
            assert -5_000 <= step.now_ms - intent.trigger.time_ms <= policy.fresh_ms


@given(policies(), histories(), st.integers(30_001, 10**9))
def test_i6_a_backlog_updates_the_state_and_fires_nothing(policy: Policy, history: list[Told], lag_ms: int) -> None:
    events = [step.event for step in play(World(policy, kill="1"), history)]
    newest = max((event.time_ms for event in events if isinstance(event, Price)), default=START_MS)
    world = World(policy, gate_ms=newest + lag_ms)
    assert world.see(*events) == ()


# I7: the same entries, configuration and gates give the same intents.


@given(policies(), histories(), st.integers(0, 10), st.data())
def test_i7_how_entries_are_split_into_batches_makes_no_difference(
    policy: Policy, history: list[Told], tokens: int, data: st.DataObject
) -> None:
    gate_ms = START_MS + 35_000  # some prices are stale by then and some are yet to come
    one_by_one = World(policy, gate_ms=gate_ms, tokens=tokens)
    events = [step.event for step in play(one_by_one, history)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=6)))
    in_batches = World(policy, gate_ms=gate_ms, tokens=tokens)
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        in_batches.see(*events[start:end])
    assert in_batches.intents == one_by_one.intents
    assert in_batches.state == one_by_one.state
    assert in_batches.counts == one_by_one.counts
    assert in_batches.known_fills == one_by_one.known_fills
    assert repr(in_batches.intents) == repr(one_by_one.intents), "to the last byte"


@given(policies(), histories())
def test_i7_deciding_changes_nothing_it_is_given(policy: Policy, history: list[Told]) -> None:
    world = World(policy)
    for told in history:
        event = told.event(world)
        before = repr((world.state, world.gate, event, policy))
        first = world.consider(event)
        assert repr((world.state, world.gate, event, policy)) == before
        assert world.consider(event) == first
        world.see(event)


# The quiet range.


@given(policies(), histories(), st.integers(0, 10))
def test_the_quiet_range_is_an_optimisation_only(policy: Policy, history: list[Told], tokens: int) -> None:
    usual = World(policy, tokens=tokens)
    events = [step.event for step in play(usual, history)]
    usual = World(policy, tokens=tokens)
    alert = World(policy, tokens=tokens, book_filter=lambda book: book._replace(quiet_above=INFINITY))
    for event in events:
        for world in (usual, alert):
            world.see(event)
        assert alert.decision.intents == usual.decision.intents
        assert alert.decision.counts == usual.decision.counts
        assert alert.decision.waiting == usual.decision.waiting
        assert [(b.market, b.positions) for b in alert.state.books.values()] == [
            (b.market, b.positions) for b in usual.state.books.values()
        ]


# Stops.


@given(policies(), histories())
def test_a_stop_is_a_ratchet_with_its_moves_in_order(policy: Policy, history: list[Told]) -> None:
    last: dict[str, Intent] = {}
    for step in play(World(policy), history):
        for intent in step.intents:
            if intent.action is Action.HARVEST:
                continue
            sign = 1 if intent.position.qty > 0 else -1
            before = last.get(intent.epoch_id)
            assert intent.stop is not None
            assert intent.stop > 0
            assert intent.stop_seq == (before.stop_seq + 1 if before else 1)
            if before is not None:
                assert intent.prev_stop == before.stop
            assert intent.qty == abs(intent.position.qty)
            if intent.action is Action.RESIZE:
                assert intent.stop == intent.prev_stop
            else:
                assert sign * (intent.trigger.price - intent.stop) > 0, "it protects"
                assert intent.prev_stop is None or sign * (intent.stop - intent.prev_stop) >= policy.terms.price_tick
            last[intent.epoch_id] = intent


# Independence of size and side.


def told(intent: Intent) -> dict[str, Any]:
    """What an intent says, without the names that are derived from the content of a fill. Averages that are no finite
    fraction differ in their last digits, and a trail's reason names a price."""
    return {
        "action": intent.action,
        "key": intent.key,
        "side": intent.side,
        "qty": intent.qty,
        "reason": intent.reason.partition(": trailing")[0],
        "r": intent.r,
        "rungs": intent.rungs,
        "unrealized": intent.unrealized.quantize(_FINE),
        "position_qty": intent.position.qty,
        "average": intent.position.average.quantize(_FINE),
        "price": intent.trigger.price,
        "price_ms": intent.trigger.time_ms,
        "expires_ms": intent.expires_ms,
        "risk_source": intent.position.open_epoch.risk_source,
        "stop": intent.stop,
        "prev_stop": intent.prev_stop,
        "stop_seq": intent.stop_seq,
    }


@given(policies(), histories(said=False), st.sampled_from([2, 3, 10, 1000]))
def test_incident_03_r_does_not_depend_on_the_quantity(policy: Policy, history: list[Told], factor: int) -> None:
    """With everything that is a size or a value so many times larger, so are the harvests, and nothing else changes."""
    small = World(policy)
    steps = play(small, history)
    rules = policy.terms
    rules = replace(
        rules,
        qty_step=rules.qty_step * factor,
        min_qty=rules.min_qty * factor,
        min_notional=rules.min_notional * factor,
    )
    large = World(replace(policy, terms=rules))
    names: dict[str, str] = {}
    for step in steps:
        event = step.event
        intents = large.see(_scaled(event, factor, names))
        names |= {mine.intent_id: theirs.intent_id for mine, theirs in zip(step.intents, intents, strict=True)}
        assert [told(intent) for intent in intents] == [
            told(intent._replace(qty=intent.qty * factor, reason=reason_of(intent, factor)))
            | {
                "unrealized": (intent.unrealized * factor).quantize(_FINE),
                "position_qty": intent.position.qty * factor,
            }
            for intent in step.intents
        ]


def reason_of(intent: Intent, factor: int) -> str:
    """A resize names the quantity that is left."""
    if intent.action is not Action.RESIZE:
        return intent.reason
    r, _, text = intent.reason.partition(": ")
    left, _, rest = text.partition(" ")
    return f"{r}: {plain(Decimal(left) * factor)} {rest}"


def _scaled(event: Event, factor: int, names: dict[str, str]) -> Event:
    if isinstance(event, (Fill, OrderUpdate)):
        renamed = type(event.order)(*(_renamed(name, names) for name in event.order))
        event = event._replace(order=renamed)
    if isinstance(event, Fill):
        cumulative = None if event.cumulative is None else event.cumulative * factor
        event = event._replace(qty=event.qty * factor, fee=event.fee * factor, cumulative=cumulative)
    return event


def _renamed(name: str, names: dict[str, str]) -> str:
    for mine, theirs in names.items():
        name = name.replace(mine, theirs)
    return name


# Without what is measured in parts of the price, a short is a long upside down. The fallback risk is one of these; so
# small a one is never harvested.
MIRRORED_TERMS = terms(
    fallback_risk=st.just(Decimal("1e-9")),
    be_at_r=st.sampled_from([ZERO, Decimal("0.5"), Decimal(1)]),
    be_fee_rate=st.just(ZERO),
    stop_min_step_bps=st.just(ZERO),
    min_risk_bps=st.just(ZERO),
    min_notional=st.just(ZERO),
    price_tick=st.sampled_from([Decimal("0.01"), Decimal("0.5")]),
)
MIRRORED_TRADES = trades(
    risk=st.one_of(st.just(Decimal(2)), st.just(Decimal("2.5"))),
    identity=st.sampled_from(["none", "fill"]),
    base_fee=st.just(False),
)
MIDDLE = Decimal(100)


@given(
    policies(MIRRORED_TERMS, max_jump_pct=ZERO, spot=False),
    histories(MIRRORED_TRADES, ticks(st.sampled_from([Decimal(n) / 4 for n in range(360, 441)])), said=False),
)
def test_incident_24_a_short_is_a_long_upside_down(policy: Policy, history: list[Told]) -> None:
    upright = World(policy)
    steps = play(upright, history)
    flipped = World(policy)
    names: dict[str, str] = {}
    for step in steps:
        event = step.event
        # Long and short of one symbol are judged in the order of their keys, so here the other way round.
        intents = sorted(flipped.see(_mirrored(event, names)), key=lambda intent: _across_from(intent.key))
        names |= {mine.intent_id: theirs.intent_id for mine, theirs in zip(step.intents, intents, strict=True)}
        assert [told(i) for i in intents] == [mirrored(told(i)) for i in step.intents]


def _across(price: Decimal) -> Decimal:
    return 2 * MIDDLE - price


def _across_from(key: Key) -> Key:
    return key._replace(position_side=_OTHER[key.position_side])


def _mirrored(event: Event, names: dict[str, str]) -> Event:
    event = _scaled(event, 1, names)
    if isinstance(event, Price):
        return event._replace(price=_across(event.price))
    if isinstance(event, Fill):
        key = _across_from(event.key)
        stop = None if event.stop is None else _across(event.stop)
        return event._replace(key=key, side=_OTHER_WAY[event.side], price=_across(event.price), stop=stop)
    return event


def mirrored(said: dict[str, Any]) -> dict[str, Any]:
    """What an intent says, for the position upside down."""
    across = {name: None if said[name] is None else _across(said[name]) for name in ("price", "stop", "prev_stop")}
    return (
        said
        | across
        | {
            "side": _OTHER_WAY[said["side"]],
            "key": _across_from(said["key"]),
            "position_qty": -said["position_qty"],
            "average": _across(said["average"]),
        }
    )


_OTHER = {
    PositionSide.NET: PositionSide.NET,
    PositionSide.LONG: PositionSide.SHORT,
    PositionSide.SHORT: PositionSide.LONG,
}
_OTHER_WAY = {Side.BUY: Side.SELL, Side.SELL: Side.BUY}
_FINE = Decimal("1e-12")
_NOBODY = OrderRef()
