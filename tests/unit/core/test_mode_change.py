"""Going from shadow to live makes no burst; catching up is a wish of its own; going back closes what was ordered."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from tests.support.world import LONG, SHORT, SYMBOL, Way, World, harvests, policy, stops

from harvest_brain.core.engine import Decision
from harvest_brain.core.events import Clear
from harvest_brain.core.mode import change_mode
from harvest_brain.core.policy import RungState

SYMBOLS = [f"SYM{number}" for number in range(10)]


def change(world: World, decision: Decision, *, live: bool) -> None:
    world.state.adopt(decision)
    world.policy = replace(world.policy, live=live)


def shadow_with_ten(way: Way, *, kill: str) -> World:
    """Ten open positions with all rungs crossed; with the kill-switch thrown none of them has fired."""
    world = World(policy(), kill=kill)
    for symbol in SYMBOLS:
        world.open(way, symbol=symbol)
        world.price(way.at(4), symbol=symbol)
    world.kill = "0"
    return world


@pytest.mark.parametrize(
    ("live", "catch_up", "note"),
    [
        (True, False, "from now on live: the rungs crossed so far are skipped in the epochs that are open"),
        (True, True, "from now on live: what was only suggested so far is still to be ordered"),
        (False, False, "from now on shadow: what is ordered so far stays on its way, and no rung of it comes again"),
        (False, True, "from now on shadow: what is ordered so far stays on its way, and no rung of it comes again"),
    ],
)
def test_a_change_says_what_it_means_for_what_is_open(live: bool, catch_up: bool, note: str) -> None:
    assert change_mode(World(policy()).state, live=live, catch_up=catch_up).notes == (note,)


@pytest.mark.parametrize("kill", ["0", "1"], ids=["fired", "due"])
def test_ten_open_positions_with_all_rungs_crossed_give_no_burst(way: Way, kill: str) -> None:
    world = shadow_with_ten(way, kill=kill)
    change(world, change_mode(world.state, live=True), live=True)
    for symbol in SYMBOLS:
        assert world.price(way.at(4), symbol=symbol) == ()
        assert world.price(way.at(8), symbol=symbol) == ()
        assert set(world.epoch(symbol).rungs) == {RungState.SKIPPED}


def test_new_epochs_run_the_whole_ladder(way: Way) -> None:
    world = shadow_with_ten(way, kill="0")
    change(world, change_mode(world.state, live=True, catch_up=False), live=True)
    symbol = SYMBOLS[0]
    world.see(world.fill(way.closing, 1, way.at(4), symbol=symbol))
    world.open(way, symbol=symbol)
    for gain in (1, 2, 3):
        assert harvests(world.price(way.at(gain), symbol=symbol)) == [Decimal("0.25")]


@pytest.mark.parametrize("kill", ["0", "1"], ids=["fired", "due"])
def test_rungs_that_were_not_crossed_take_their_own_share_and_nothing_of_the_skipped_ones(way: Way, kill: str) -> None:
    world = World(policy(), kill=kill)
    world.open(way)
    world.price(way.at(1))
    world.kill = "0"
    change(world, change_mode(world.state, live=True, catch_up=False), live=True)
    assert harvests(world.price(way.at(1))) == []
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]
    assert world.epoch().outstanding == Decimal("0.25")


def test_what_a_carried_rung_was_owed_is_not_ordered_later(way: Way) -> None:
    world = World(policy(min_qty="0.5"))
    world.open(way)
    assert world.price(way.at(1)) == ()
    assert world.epoch().rungs[0] is RungState.CARRIED
    change(world, change_mode(world.state, live=True, catch_up=False), live=True)
    assert world.price(way.at(2)) == ()
    assert world.counts["rung:carried"] == 2


def test_catching_up_orders_what_shadow_mode_only_suggested_in_one_intent(way: Way) -> None:
    world = World(policy(live=False))
    world.open(way)
    world.price(way.at(1))
    world.price(way.at(2))
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    assert harvests(world.price(way.at("0.5"))) == []
    [order] = world.price(way.at(2))
    assert (order.qty, order.rungs) == (Decimal("0.5"), (Decimal("0.5"), Decimal("1.0")))
    assert world.price(way.at(2)) == ()


def test_catching_up_never_repeats_what_live_mode_has_ordered(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    assert harvests(world.price(way.at(1))) == [Decimal("0.25")]
    change(world, change_mode(world.state, live=False), live=False)
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]
    assert world.epoch().outstanding == Decimal("0.5")
    assert harvests(world.price(way.at(3))) == [Decimal("0.25")]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "not reached again"])
def test_what_was_suggested_is_not_suggested_again_after_catching_up_whatever_became_of_it(
    way: Way, ordered: bool
) -> None:
    """No claim is known here: what stands in the state must do, for ever."""
    world = World(policy())
    world.open(way)
    assert harvests(world.price(way.at(2))) == [Decimal("0.5")]
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    assert world.epoch().rungs == (RungState.OWED, RungState.OWED, RungState.ARMED)
    assert harvests(world.price(way.at(2 if ordered else "0.1"))) == ([Decimal("0.5")] if ordered else [])
    change(world, change_mode(world.state, live=False), live=False)
    assert harvests(world.price(way.at(2))) == []
    assert harvests(world.price(way.at(3))) == [Decimal("0.25")]

    # What was not ordered can still be, and what was ordered is not again.
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    assert harvests(world.price(way.at(3))) == [Decimal("0.25" if ordered else "0.75")]


def test_what_is_owed_is_skipped_where_a_crossed_rung_is(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(1))
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1") for qty in (1, 2)))
    world.see(Clear(f"{world.now_ms}-0", SYMBOL))
    assert world.epoch().rungs[0] is RungState.SKIPPED
    assert harvests(world.price(way.at(1))) == []


def test_the_risk_stays_frozen_by_what_is_owed(way: Way) -> None:
    world = World(policy())
    world.open(way, order="A1", complete=False)
    world.price(way.at(1))
    risk = world.epoch().r_unit
    change(world, change_mode(world.state, live=True, catch_up=True), live=True)
    world.see(world.fill(way.opening, 1, way.at(1), order="A1"))
    assert world.epoch().r_unit == risk


def test_going_back_to_shadow_reservations_stay_and_are_settled(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [order] = world.price(way.at(1))
    change(world, change_mode(world.state, live=False), live=False)
    assert world.epoch().outstanding == Decimal("0.25")
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=order.intent_id))
    assert world.epoch().reservations == ()
    assert not world.position().suspect


def test_an_order_that_is_refused_after_going_back_is_carried_to_the_next_suggestion(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [order] = world.price(way.at(1))
    change(world, change_mode(world.state, live=False), live=False)
    world.see(world.order("REJECTED", correlation=order.intent_id))
    assert harvests(world.price(way.at(2))) == [Decimal("0.5")]


def test_flat_positions_that_are_only_remembered_stay_as_they_are(way: Way) -> None:
    world = World(policy())
    world.see(world.snapshot(way.sign))
    before = world.position()
    change(world, change_mode(world.state, live=True, catch_up=False), live=True)
    change(world, change_mode(world.state, live=False), live=False)
    assert world.position() == before


def test_a_change_of_mode_keeps_the_price_and_who_waits(way: Way) -> None:
    world = World(policy(), tokens=0)
    world.open(way)
    world.price(way.at(1))
    waiting, market = world.state.waiting, next(iter(world.state.books.values())).market
    assert waiting
    decision = change_mode(world.state, live=True)
    assert (decision.intents, decision.rejected, decision.applied, decision.counts) == ((), (), {}, {})
    change(world, decision, live=True)
    assert world.state.waiting == waiting
    assert next(iter(world.state.books.values())).market == market


@pytest.mark.parametrize("way", [LONG, SHORT], ids=str)
def test_the_stop_that_was_only_suggested_is_sent_when_live_catches_up(way: Way) -> None:
    world = World(policy(be_at_r="0.5"))
    world.open(way)
    assert stops(world.price(way.at(1))) != []
    world.policy = replace(world.policy, live=True)
    world.state.adopt(change_mode(world.state, live=True, catch_up=True))
    assert stops(world.price(way.at("1.1"))) != []


@pytest.mark.parametrize("way", [LONG, SHORT], ids=str)
def test_what_a_price_crossed_that_was_there_before_live_mode_is_skipped_when_it_is_read(way: Way) -> None:
    world = World(policy())
    world.open(way)
    change(world, change_mode(world.state, live=True), live=True)
    world.live_after = (world.now_ms + 1_000, 0)
    assert world.price(way.at(2), after_ms=1_000) == ()
    assert world.epoch().rungs == (RungState.SKIPPED, RungState.SKIPPED, RungState.ARMED)
    assert harvests(world.price(way.at(2), after_ms=1)) == []
    assert harvests(world.price(way.at(3), after_ms=1)) == [Decimal("0.25")]
