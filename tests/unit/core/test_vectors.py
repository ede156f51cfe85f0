"""The worked examples of the specification, number for number, through decide()."""

from __future__ import annotations

from decimal import Decimal

from tests.support.world import LONG, Way, World, brought_in, harvests, policy, stops

from harvest_brain.core.events import Side
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.policy import Policy, Terms, parse_ladder

D = Decimal
LADDER = parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25")


def fill_all(world: World, intents: tuple[Intent, ...]) -> None:
    """An exchange that fills live harvests at once."""
    for intent in intents:
        if world.policy.live and intent.action is Action.HARVEST:
            world.see(world.fill(intent.side, intent.qty, intent.trigger.price, correlation=intent.intent_id))


def climb(world: World, way: Way, *gains: str) -> list[Decimal]:
    """The harvests at prices that have gained so much, one after the other, 0 where there was none."""
    sizes = []
    for gain in gains:
        intents = world.price(way.at(gain))
        sizes.append(sum(harvests(intents), D(0)))
        fill_all(world, intents)
    return sizes


# Positions.


def test_vector_long_1_at_100_sell_3_at_120_realises_20_and_leaves_short_2_at_120(live: bool) -> None:
    world = World(policy(live=live))
    fills = world.fill(Side.BUY, 1, 100), world.fill(Side.SELL, 3, 120)
    world.see(*fills)
    assert brought_in(fills, world.state.positions()) == 20
    assert (world.position().qty, world.position().average) == (D(-2), D(120))


def test_vector_short_1_at_120_buy_3_at_100_realises_20_and_leaves_long_2_at_100(live: bool) -> None:
    world = World(policy(live=live))
    fills = world.fill(Side.SELL, 1, 120), world.fill(Side.BUY, 3, 100)
    world.see(*fills)
    assert brought_in(fills, world.state.positions()) == 20
    assert (world.position().qty, world.position().average) == (D(2), D(100))


# The ladder.


def test_vector_rungs_of_a_long_at_100_with_stop_98_are_101_102_103_and_of_a_short_with_stop_102_99_98_97(
    way: Way, live: bool
) -> None:
    world = World(policy(live=live, qty_step="0.0001"))
    world.open(way)
    prices = (101, 102, 103) if way is LONG else (99, 98, 97)
    for price in prices:
        before = price - way.sign * D("0.01")
        assert harvests(world.price(before)) == []
        intents = world.price(price)
        assert harvests(intents) == [D("0.25")]
        fill_all(world, intents)
    assert harvests(world.price(way.at(50))) == []
    assert abs(world.position().qty) == (D("0.25") if live else 1)


def test_vector_1_0_in_steps_of_0_1_sells_0_2_0_3_0_2_and_0_3_runs_on(way: Way, live: bool) -> None:
    world = World(policy(live=live, qty_step="0.1"))
    world.open(way, "1.0")
    assert climb(world, way, "1", "2", "3", "30") == [D("0.2"), D("0.3"), D("0.2"), D(0)]
    assert abs(world.position().qty) == (D("0.3") if live else 1)


def test_vector_0_003_in_steps_of_0_001_carries_then_sells_0_001_twice(way: Way, live: bool) -> None:
    world = World(policy(live=live, qty_step="0.001"))
    world.open(way, "0.003")
    assert climb(world, way, "1", "2", "3", "30") == [D(0), D("0.001"), D("0.001"), D(0)]
    assert world.counts["rung:carried"] == 1


def test_vector_an_add_after_the_first_harvest_makes_the_next_one_0_4375(way: Way) -> None:
    world = World(policy(live=True, qty_step="0.0001"))
    world.open(way, "1.0")
    assert climb(world, way, "1") == [D("0.25")]
    world.see(world.fill(way.opening, "1.0", 100, order="add"))
    assert world.epoch().peak == D("1.75")
    assert climb(world, way, "1.9", "2") == [D(0), D("0.4375")]


# Stops.


def test_vector_break_even_at_100_with_fees_of_0_05_percent_is_100_11_long_and_99_90_short(
    way: Way, live: bool
) -> None:
    world = World(policy(live=live, be_at_r="0.5", be_fee_rate="0.0005", price_tick="0.01"))
    world.open(way)
    [move] = stops(world.price(way.at(1)))
    assert (move.action, move.stop) == (Action.BREAK_EVEN, D("100.11") if way is LONG else D("99.90"))


def test_incident_24_every_stop_stands_on_its_protective_side(way: Way, live: bool) -> None:
    world = World(policy(live=live, be_at_r="0.5", trail_atr_mult="2", trail_atr_period=2, allow_fallback=True))
    world.open(way)
    for gain in ("1", "0.5", "1.5", "2", "1.2", "2.5", "3", "4", "3.5", "5"):
        moves = stops(world.price(way.at(gain), after_ms=60_000))
        for move in moves:
            assert move.stop is not None
            assert way.sign * (way.at(gain) - move.stop) > 0
            assert move.side is way.closing
    assert {move.action for move in stops(world.intents)} == {Action.BREAK_EVEN, Action.TRAIL}


# The examples of the documentation: 1.0 ETHUSDT at 2500.0, stop 2450, default settings, a price of 2526.


def default_world(*, live: bool = False, kill: str | None = "0") -> World:
    return World(Policy(terms=Terms(ladder=LADDER), live=live), kill=kill)


def bought(world: World, *, stop: int | None = 2450) -> None:
    assert world.see(world.fill(Side.BUY, "1.0", "2500.0", stop=stop, order="A1")) == ()


def test_example_a_price_of_2526_gives_one_suggestion_of_0_25_at_0_52_r() -> None:
    world = default_world(kill=None)
    bought(world)
    harvest, move = world.price("2526")
    assert (harvest.action.value, harvest.side, harvest.qty) == ("HARVEST_PARTIAL", Side.SELL, D("0.25"))
    assert (harvest.reason, harvest.r, harvest.rungs) == ("R=0.52 >= 0.5", D("0.52"), (D("0.5"),))
    assert (harvest.unrealized, harvest.position.qty, harvest.position.average) == (D(26), D(1), D(2500))
    assert (harvest.trigger.price, harvest.stop, harvest.position.open_epoch.risk_source) == (D(2526), D(2450), "stop")
    assert move.action is Action.BREAK_EVEN
    assert world.price("2526") == ()


def test_example_in_live_the_same_harvest_is_an_order_and_reserved() -> None:
    world = default_world(live=True, kill="0")
    bought(world)
    [harvest] = [intent for intent in world.price("2526") if intent.action is Action.HARVEST]
    assert (harvest.side, harvest.qty, harvest.reason) == (Side.SELL, D("0.25"), "R=0.52 >= 0.5")
    assert world.epoch().outstanding == D("0.25")
    assert world.price("2526") == ()


def test_example_in_live_an_absent_kill_switch_lets_nothing_out() -> None:
    world = default_world(live=True, kill=None)
    bought(world)
    assert world.price("2526") == ()


def test_example_with_the_kill_switch_on_fills_are_tracked_and_nothing_comes_out(live: bool) -> None:
    world = default_world(live=live, kill="1")
    bought(world)
    assert world.price("2526") == ()
    world.see(world.fill(Side.BUY, "1.0", "2500.0", order="A2"))
    assert world.position().qty == 2
    world.kill = "0"
    assert harvests(world.price("2526")) == [D("0.5")]


def test_example_without_a_stop_the_fallback_of_two_percent_gives_the_same_r_and_a_flag() -> None:
    world = default_world()
    bought(world, stop=None)
    harvest = world.price("2526")[0]
    assert (harvest.qty, harvest.r, harvest.reason) == (D("0.25"), D("0.52"), "R=0.52 >= 0.5")
    assert (harvest.position.open_epoch.risk_source, harvest.stop) == ("fallback", None)


def test_example_a_short_is_the_same_upside_down() -> None:
    world = default_world()
    world.see(world.fill(Side.SELL, "1.0", "2500.0", stop=2550, order="A1"))
    harvest = world.price("2474")[0]
    assert (harvest.side, harvest.qty, harvest.reason) == (Side.BUY, D("0.25"), "R=0.52 >= 0.5")
    assert (harvest.unrealized, harvest.position.qty) == (D(26), D(-1))
