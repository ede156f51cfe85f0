"""What others say of a position is compared, not believed at once; see `harvest_brain.core.reconcile`."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from tests.support.world import LONG, SHORT, START_MS, SYMBOL, Way, World, harvests, policy, stops

from harvest_brain.core.engine import remembered_names
from harvest_brain.core.events import Clear, Event, Gap, OrderRef, PnlSnapshot, PositionSide, Release
from harvest_brain.core.market import Market
from harvest_brain.core.numbers import plain
from harvest_brain.core.policy import RungState

PREFIXES = ("snapshot", "pnl", "operator", "gap")


def adopt(world: World, qty: Decimal | int | str, average: Decimal | int | str = 100, **more: object) -> None:
    """Two equal snapshots in a row."""
    for _ in range(2):
        world.see(world.snapshot(qty, average, **more))  # type: ignore[arg-type]  # handed through


def clear(world: World, symbol: str = SYMBOL) -> None:
    world.see(Clear(f"{world.now_ms}-0", symbol))


@pytest.fixture
def world(way: Way, live: bool) -> World:
    """A position of 1 at 100 with a risk of 2, nothing crossed yet."""
    world = World(policy(live=live))
    world.open(way)
    return world


# Comparing.


def test_a_snapshot_that_agrees_changes_nothing(world: World, way: Way) -> None:
    before = world.state.books[SYMBOL]
    world.see(world.snapshot(way.sign))
    assert world.state.books[SYMBOL] is before
    assert world.counts["snapshot:agrees"] == 1
    assert not world.notes


@pytest.mark.parametrize("qty", ["1.0000000001", "0.9999999999"])
@pytest.mark.parametrize("average", ["100.01", "99.99"])
def test_the_noise_of_floating_point_and_a_rounded_average_are_no_mismatch(
    world: World, way: Way, qty: str, average: str
) -> None:
    world.see(world.snapshot(way.sign * Decimal(qty), average))
    assert not world.position().suspect


@pytest.mark.parametrize(
    ("qty", "average"), [("0.5", 100), ("1.1", 100), ("0", 0), ("-1", 100), ("1", 101), ("1.00000001", 100)]
)
def test_a_mismatch_makes_the_position_suspect_at_once_and_is_not_believed(
    world: World, way: Way, qty: str, average: int
) -> None:
    event = world.snapshot(way.sign * Decimal(qty), average)
    world.see(event)
    said = "flat" if event.qty == 0 else f"{plain(event.qty)} @ {average}"
    assert world.position().suspect == f"snapshot {event.entry_id} says {said}, the books say {way.sign} @ 100"
    assert world.counts["snapshot:mismatch"] == 1
    assert abs(world.position().qty) == 1
    assert world.notes == [f"{SYMBOL} is suspect and not harvested: {world.position().suspect}"]
    assert world.price(way.at(2)) == ()
    assert world.counts["refused:suspect"] == 1


def test_a_snapshot_that_may_not_show_the_last_fill_yet_is_ignored(world: World) -> None:
    world.see(world.snapshot(0, after_ms=4_999))
    assert world.counts["snapshot:too soon after a fill"] == 1
    assert not world.position().suspect
    world.see(world.snapshot(0, after_ms=1))
    assert world.position().suspect


def test_so_it_is_within_a_batch(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, 1, 100), world.snapshot(0, after_ms=4_999))
    assert not world.position().suspect


def test_a_fill_from_the_future_does_not_shut_snapshots_out(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, 1, 100)._replace(time_ms=START_MS * 2))
    world.see(world.snapshot(0))
    assert world.position().suspect


def test_incident_20_a_lagging_snapshot_does_not_revive_a_closed_position(world: World, way: Way) -> None:
    world.see(world.fill(way.closing, 1, way.at(1)))
    assert world.is_flat
    world.see(world.snapshot(way.sign, after_ms=2_000), world.snapshot(way.sign, after_ms=2_000))
    assert world.is_flat


def test_the_shell_is_asked_for_the_last_fills_of_what_snapshots_speak_of(world: World, way: Way) -> None:
    fill = world.fill(way.opening, 1, 100, order="A1")
    events: list[Event] = [
        fill,
        world.fill(way.opening, 1, 100, complete=False),
        world.snapshot(1, symbol="OTHER"),
        PnlSnapshot("1-0", 1, SYMBOL, Decimal(0)),
        PnlSnapshot("1-1", 1, "UNHEARD", Decimal(0)),
    ]
    assert remembered_names(world.state, events) == [f"{SYMBOL}#filled#A1", "OTHER#last", f"{SYMBOL}#last"]


# Two in a row.


@pytest.mark.parametrize("qty", ["0.5", "1.5"])
def test_two_equal_mismatching_snapshots_in_a_row_are_adopted(world: World, way: Way, qty: str) -> None:
    epoch = world.epoch()
    adopt(world, way.sign * Decimal(qty), way.at("0.2"))
    position = world.position()
    assert (position.qty, position.average) == (way.sign * Decimal(qty), way.at("0.2"))
    assert not position.suspect
    assert position.claimed is None
    assert world.epoch().epoch_id == epoch.epoch_id
    assert world.epoch().r_unit == epoch.r_unit
    assert world.epoch().peak == max(Decimal(1), Decimal(qty))
    assert world.counts["snapshot:adopted"] == 1
    assert "adopted from snapshot" in world.notes[-1]


def test_two_that_differ_are_not(world: World, way: Way) -> None:
    for qty in ("0.5", "0.6", "0.5", "0.6"):
        world.see(world.snapshot(way.sign * Decimal(qty)))
    assert abs(world.position().qty) == 1
    assert world.position().suspect


def test_a_fill_between_them_starts_anew(world: World, way: Way) -> None:
    world.see(world.snapshot(way.sign * 3))
    world.see(world.fill(way.opening, 1, 100))
    world.see(world.snapshot(way.sign * 3))
    assert abs(world.position().qty) == 2
    world.see(world.snapshot(way.sign * 3))
    assert abs(world.position().qty) == 3


def test_two_that_agree_with_the_books_make_a_suspect_position_trusted_and_what_is_due_stays_due(
    world: World, way: Way
) -> None:
    world.see(world.snapshot(way.sign * 2))
    assert world.price(way.at(1)) == ()
    world.see(world.snapshot(way.sign))
    assert world.position().suspect
    world.see(world.snapshot(way.sign))
    assert world.position().suspect == ""
    assert world.position().claimed is None
    assert world.counts["snapshot:reconciled"] == 1
    assert world.notes[-1] == f"{SYMBOL}: two snapshots agree with the books: trusted again"
    assert harvests(world.price(way.at(1))) == [Decimal("0.25")]


def test_a_flat_position_that_two_snapshots_agree_with_is_forgotten(way: Way) -> None:
    world = World(policy())
    world.see(world.snapshot(way.sign))
    assert world.position().suspect
    adopt(world, 0)
    assert world.is_flat


def test_an_average_that_alone_differs_is_adopted_too(world: World, way: Way) -> None:
    adopt(world, way.sign, way.at(1))
    assert world.position().average == way.at(1)
    assert world.price(way.at("1.9")) == ()
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]


# What an adoption does to the epoch.


def test_an_adoption_never_fires_a_rung_what_is_crossed_by_then_is_skipped(world: World, way: Way) -> None:
    world.see(world.snapshot(way.sign * 2))
    world.price(way.at(2))
    world.see(world.snapshot(way.sign * 2))
    assert world.epoch().rungs == (RungState.SKIPPED, RungState.SKIPPED, RungState.ARMED)
    assert world.epoch().crossed == 2
    assert harvests(world.price(way.at(2))) == []
    # Nothing is owed of the two: the third takes its own quarter of the new peak.
    assert harvests(world.price(way.at(3))) == [Decimal("0.5")]


def test_what_a_carried_rung_was_owed_is_forgotten(way: Way) -> None:
    world = World(policy(min_qty="0.3"))
    world.open(way)
    world.price(way.at(1))
    assert world.epoch().target == Decimal("0.25")
    adopt(world, way.sign, way.at("0.5"))
    assert harvests(world.price(way.at("2.5"))) == []


def test_what_only_the_snapshots_own_price_has_crossed_is_skipped_too(world: World, way: Way) -> None:
    adopt(world, way.sign * 2, mark=way.at(2))
    assert world.epoch().crossed == 2
    assert harvests(world.price(way.at(2))) == []
    assert harvests(world.price(way.at(3))) == [Decimal("0.5")]


def test_what_only_the_adopted_average_makes_crossed_is_skipped_too(world: World, way: Way) -> None:
    world.price(way.at("0.9"))
    adopt(world, way.sign * 2, way.at("-0.5"))
    assert world.epoch().rungs[0] is RungState.SKIPPED
    assert harvests(world.price(way.at("0.9"))) == []


def test_rungs_that_are_through_stay_through(world: World, way: Way) -> None:
    assert harvests(world.price(way.at(1))) == [Decimal("0.25")]
    adopt(world, way.sign * 4)
    assert world.epoch().rungs[0] is RungState.FIRED
    assert harvests(world.price(way.at(1))) == []


def test_what_is_reserved_stays_reserved_as_far_as_there_is_something_left(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.price(way.at(1))
    adopt(world, way.sign * Decimal("0.2"))
    assert world.epoch().outstanding == Decimal("0.2")
    adopt(world, way.sign * 3)
    assert world.epoch().outstanding == Decimal("0.2")


def test_the_stop_is_sent_again_for_the_adopted_size(world: World, way: Way) -> None:
    adopt(world, way.sign * Decimal("0.4"))
    [resize] = stops(world.price(way.at(0)))
    assert (resize.qty, resize.stop) == (Decimal("0.4"), way.at(-2))


def test_an_average_that_alone_differs_sends_no_stop(world: World, way: Way) -> None:
    adopt(world, way.sign, way.at("0.2"))
    assert world.price(way.at("0.2")) == ()


@pytest.mark.parametrize(("said", "stands"), [("-1", "-1"), ("-1.5", "-1.5"), ("-2", "-2"), ("-3", "-2")])
def test_the_snapshots_stop_is_taken_where_it_is_better_and_never_loosens_ours(
    world: World, way: Way, said: str, stands: str
) -> None:
    adopt(world, way.sign * 2, stop=way.at(said))
    assert world.epoch().stop == way.at(stands)
    assert world.epoch().r_unit == 2


def test_a_stop_where_none_was_known_is_taken(way: Way) -> None:
    world = World(policy())
    world.open(way, stop_at=None)
    adopt(world, way.sign * 2)
    assert world.epoch().stop is None
    assert not world.epoch().resize_due
    adopt(world, way.sign * 3, stop=way.at(-1))
    assert world.epoch().stop == way.at(-1)


def test_a_later_fill_of_the_opening_order_no_longer_moves_the_risk(way: Way) -> None:
    world = World(policy())
    world.open(way, order="A1", complete=False)
    adopt(world, way.sign * 2)
    world.see(world.fill(way.opening, 1, 103, order="A1", stop=way.at(-1), complete=False))
    assert world.epoch().r_unit == 2


def test_a_position_that_was_unknown_is_adopted_with_the_risk_of_its_stop(way: Way) -> None:
    world = World(policy())
    adopt(world, way.sign * 2, 100, mark=way.at("0.5"), stop=way.at(-2))
    epoch = world.epoch()
    assert world.state.books[SYMBOL].market == Market(way.at("0.5"))
    assert world.position().qty == way.sign * epoch.peak == way.sign * 2
    assert epoch.r_unit == 2
    assert epoch.risk_source == "stop"
    assert epoch.risk_stop == epoch.stop == way.at(-2)
    assert epoch.opened_ms == world.now_ms
    assert epoch.opening_order == OrderRef()
    assert world.price(way.at("0.9")) == ()
    assert harvests(world.price(way.at(1))) == [Decimal("0.5")]


def test_without_a_usable_stop_its_risk_is_the_fallback_and_a_stop_in_profit_still_never_loosens(way: Way) -> None:
    world = World(policy(be_at_r="0.5"))
    adopt(world, way.sign, 100, mark=way.at(8), stop=way.at(5))
    assert world.epoch().risk_source == "fallback"
    assert world.epoch().r_unit == 2
    assert world.epoch().stop == way.at(5)
    assert stops(world.price(way.at(8))) == []


def test_a_position_that_was_unknown_fires_nothing_that_is_crossed_at_its_adoption(way: Way) -> None:
    world = World(policy())
    adopt(world, way.sign, 100, mark=way.at(2), stop=way.at(-2))
    assert world.price(way.at("2.5")) == ()
    assert harvests(world.price(way.at(3))) == [Decimal("0.25")]


def test_without_any_price_an_unknown_position_stays_suspect(way: Way) -> None:
    world = World(policy())
    adopt(world, way.sign)
    assert world.position().epoch is None
    assert world.position().suspect
    assert world.counts["snapshot:no price to adopt at"] == 1
    world.see(world.snapshot(way.sign, mark=100))
    assert world.position().qty == way.sign


def test_the_epoch_of_an_adoption_is_named_by_the_second_snapshot(way: Way) -> None:
    ids = set()
    for _ in range(2):
        world = World(policy())
        adopt(world, way.sign, mark=100)
        ids.add(world.epoch().epoch_id)
    assert len(ids) == 1
    world = World(policy())
    world.now_ms += 1
    adopt(world, way.sign, mark=100)
    assert world.epoch().epoch_id not in ids
    world = World(policy())
    adopt(world, way.sign, mark=100, symbol="OTHER")
    assert world.epoch("OTHER").epoch_id not in ids


def test_overrides_of_the_symbol_hold_for_an_adopted_epoch(way: Way) -> None:
    overridden = policy(ladder="1:1").terms
    world = World(policy(), overrides={SYMBOL: overridden})
    adopt(world, way.sign, mark=100)
    assert world.epoch().terms == overridden


def test_the_other_side_is_adopted_as_a_new_epoch(world: World, way: Way) -> None:
    before = world.epoch()
    world.price(way.at(1))
    adopt(world, -way.sign * 2, stop=way.at(2))
    after = world.epoch()
    assert after.epoch_id != before.epoch_id
    assert after.sign == -way.sign
    assert after.peak == after.r_unit == 2
    assert after.reservations == ()
    assert set(after.rungs) == {RungState.ARMED}


def test_flat_is_adopted_and_the_price_is_forgotten(world: World) -> None:
    adopt(world, 0)
    assert world.position().epoch is None
    assert world.state.books[SYMBOL].market is None
    assert not world.position().suspect


def test_what_is_adopted_as_flat_no_longer_waits_for_the_rate(way: Way) -> None:
    world = World(policy(), tokens=0)
    world.open(way)
    world.price(way.at(1))
    world.see(world.snapshot(0))
    assert world.state.waiting, "what is only suspect keeps its place"
    world.see(world.snapshot(0))
    assert not world.state.waiting


def test_a_position_that_an_adoption_leaves_open_keeps_its_place_in_the_queue(way: Way) -> None:
    world = World(policy(), tokens=0)
    world.open(way)
    world.price(way.at(1))
    before = world.state.waiting
    world.now_ms += 1_000
    for _ in range(2):
        world.see(world.snapshot(way.sign * 2, mark=way.at(1), after_ms=5_000))
    assert world.position().qty == way.sign * 2
    assert world.state.waiting == before


def test_the_price_memory_of_an_adopted_position_begins_with_the_snapshots_price(way: Way) -> None:
    world = World(policy(jump=20))
    adopt(world, way.sign, 100, mark=way.at(1))
    market = world.state.books[SYMBOL].market
    assert market is not None
    assert market.last == way.at(1)


# Fills that come after the snapshot that holds them.


def test_a_fill_from_before_flat_was_adopted_is_noticed_after_a_new_position_was_opened(way: Way) -> None:
    world = World(policy())
    world.open(way)
    adopt(world, 0, 0)
    adopted_ms = world.position().adopted_ms
    world.open(way)
    assert not world.position().suspect
    world.see(world.fill(way.opening, 1, 100)._replace(time_ms=adopted_ms))
    assert "is from before the snapshot" in world.position().suspect


@pytest.mark.parametrize("qty", [0, 2])
def test_a_fill_from_before_the_adopted_snapshot_is_tracked_and_makes_it_suspect(
    world: World, way: Way, qty: int
) -> None:
    late = world.fill(way.opening, 1, 100)
    adopt(world, way.sign * qty)
    world.see(late)
    assert abs(world.position().qty) == qty + 1
    assert "is from before the snapshot" in world.position().suspect
    adopt(world, way.sign * 2)
    assert abs(world.position().qty) == 2
    assert not world.position().suspect


def test_a_fill_from_after_it_is_an_ordinary_fill(world: World, way: Way) -> None:
    adopt(world, 0)
    world.open(way)
    assert not world.position().suspect


def test_a_day_after_the_adoption_a_snapshot_that_agrees_ends_the_watch_for_such_fills(world: World) -> None:
    adopt(world, 0)
    world.see(world.snapshot(0, after_ms=24 * 3_600_000))
    assert not world.is_flat
    world.see(world.snapshot(0, after_ms=1))
    assert world.is_flat


def test_so_it_is_with_a_position_that_is_open(world: World, way: Way) -> None:
    adopt(world, way.sign * 2)
    assert world.position().adopted_ms == world.now_ms
    world.see(world.snapshot(way.sign * 2, after_ms=24 * 3_600_000 + 1))
    assert world.position().adopted_ms == 0


# Both sides at once.


def test_hedge_sides_are_compared_each_for_itself() -> None:
    world = World(policy())
    for way, side in ((LONG, PositionSide.LONG), (SHORT, PositionSide.SHORT)):
        world.open(way, position_side=side)
    world.see(world.snapshot(1, position_side=PositionSide.LONG), world.snapshot(-1, position_side=PositionSide.SHORT))
    assert not any(p.suspect for p in world.state.positions())
    adopt(world, -3, position_side=PositionSide.SHORT)
    assert {p.key.position_side: p.qty for p in world.state.positions()} == {
        PositionSide.LONG: 1,
        PositionSide.SHORT: -3,
    }


@pytest.mark.parametrize(
    ("held", "said"),
    [(PositionSide.NET, PositionSide.LONG), (PositionSide.LONG, PositionSide.NET)],
)
def test_a_net_position_beside_a_hedge_side_is_never_adopted(held: PositionSide, said: PositionSide) -> None:
    world = World(policy())
    world.open(LONG, position_side=held)
    adopt(world, 1, mark=100, position_side=said)
    [position] = world.state.positions()
    assert position.key.position_side is held
    assert re.fullmatch(rf"snapshot \d+-0 has a {said} position beside it", position.suspect)


def test_a_net_position_beside_both_hedge_sides_makes_both_suspect() -> None:
    world = World(policy())
    world.open(LONG, position_side=PositionSide.LONG)
    world.open(SHORT, position_side=PositionSide.SHORT)
    world.see(*(world.snapshot(1, mark=100) for _ in range(2)))
    assert [bool(p.suspect) for p in world.state.positions()] == [True, True]
    assert world.counts["snapshot:mismatch"] == 2


def test_a_flat_net_entry_beside_hedge_sides_says_nothing() -> None:
    world = World(policy())
    world.open(LONG, position_side=PositionSide.LONG)
    adopt(world, 0)
    assert not any(p.suspect for p in world.state.positions())


# Profit snapshots, and counting.


def test_everything_that_is_seen_in_a_batch_is_counted(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(2))
    early = [world.snapshot(way.sign, after_ms=1) for _ in range(2)]
    profits = [PnlSnapshot("1-0", world.now_ms + 10_000, SYMBOL, Decimal(gain)) for gain in (2, 2, 9, 9)]
    nothing = [PnlSnapshot("1-0", 1, "OTHER", Decimal(1))] * 2
    refused = [Clear("1-0", SYMBOL)] * 2 + [Release("1-0", 1, SYMBOL, "hb-1-r1")] * 2
    world.see(
        *early, *(world.snapshot(way.sign) for _ in range(2)), *profits, *nothing, *refused, Gap(2, ""), Gap(3, "")
    )
    seen = {name: number for name, number in world.counts.items() if name.partition(":")[0] in PREFIXES}
    assert seen == {
        "snapshot:too soon after a fill": 2,
        "snapshot:agrees": 2,
        "pnl:agrees": 2,
        "pnl:mismatch": 2,
        "pnl:not comparable": 2,
        "operator:refused": 4,
        "gap:entries": 5,
    }
    cleared: list[Event] = [Clear("1-0", SYMBOL), world.snapshot(way.sign * 2), Clear("1-0", SYMBOL)]
    world.see(world.snapshot(way.sign * 2), *cleared)
    assert world.counts["operator:cleared"] == world.counts["snapshot:mismatch"] == 2


def pnl(world: World, unrealized: Decimal | int | str, *, after_ms: int = 10_000, symbol: str = SYMBOL) -> None:
    world.now_ms += after_ms
    world.see(PnlSnapshot(f"{world.now_ms}-0", world.now_ms, symbol, Decimal(unrealized)))


@pytest.mark.parametrize("unrealized", ["2", "3", "1"])
def test_a_profit_snapshot_within_bounds_agrees(world: World, way: Way, unrealized: str) -> None:
    world.price(way.at(2))
    pnl(world, unrealized)
    assert world.counts["pnl:agrees"] == 1


@pytest.mark.parametrize("unrealized", ["4", "-2", "0.5"])
def test_a_profit_snapshot_that_differs_grossly_is_counted_and_said_and_nothing_else_happens(
    world: World, way: Way, unrealized: str
) -> None:
    world.price(way.at(2))
    before = world.state.books[SYMBOL]
    pnl(world, unrealized)
    assert world.counts["pnl:mismatch"] == 1
    assert world.notes == [f"{SYMBOL}: its profit snapshots are far from what its quantity and price come to"]
    assert world.state.books[SYMBOL] is before


def test_both_hedge_sides_earn_together() -> None:
    world = World(policy())
    world.open(LONG, 2, position_side=PositionSide.LONG)
    world.open(SHORT, 1, position_side=PositionSide.SHORT)
    world.price(110)
    pnl(world, 10)
    assert world.counts["pnl:agrees"] == 1
    pnl(world, 30)
    assert world.counts["pnl:mismatch"] == 1


@pytest.mark.parametrize(("unrealized", "seen"), [("4.4", "agrees"), ("4.41", "mismatch"), ("-4.41", "mismatch")])
def test_a_hundredth_of_the_value_of_all_sides_is_no_gross_difference(unrealized: str, seen: str) -> None:
    world = World(policy())
    world.open(LONG, 2, position_side=PositionSide.LONG)
    world.open(SHORT, 2, position_side=PositionSide.SHORT)
    world.price(110)
    pnl(world, unrealized)
    assert world.counts[f"pnl:{seen}"] == 1


def test_a_profit_snapshot_of_nothing_or_too_soon_is_not_compared(world: World) -> None:
    pnl(world, 10**6, symbol="OTHER")
    pnl(world, 10**6, after_ms=-6_000)
    world.see(world.snapshot(1, symbol="FLAT"))
    pnl(world, 10**6, symbol="FLAT")
    assert world.counts["pnl:not comparable"] == 3


# The operator's word.


def test_what_the_operator_clears_is_trusted_and_what_was_crossed_is_skipped(world: World, way: Way) -> None:
    world.see(world.snapshot(way.sign * 2))
    world.price(way.at(1))
    clear(world)
    assert world.position().suspect == ""
    assert world.position().claimed is None
    assert world.epoch().rungs == (RungState.SKIPPED, RungState.ARMED, RungState.ARMED)
    assert world.price(way.at(1)) == ()
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]
    assert "cleared by the operator" in world.notes[-1]


def test_clearing_a_symbol_clears_all_its_sides() -> None:
    world = World(policy())
    for way, side in ((LONG, PositionSide.LONG), (SHORT, PositionSide.SHORT)):
        world.open(way, position_side=side)
        world.see(world.snapshot(way.sign * 2, position_side=side))
    assert all(p.suspect for p in world.state.positions())
    clear(world)
    assert not any(p.suspect for p in world.state.positions())


def test_a_flat_suspect_that_is_cleared_is_forgotten(way: Way) -> None:
    world = World(policy())
    world.see(world.snapshot(way.sign))
    clear(world)
    assert world.is_flat
    assert world.counts["operator:cleared"] == 1


@pytest.mark.parametrize("symbol", [SYMBOL, "OTHER"])
def test_clearing_what_is_not_suspect_changes_nothing(world: World, symbol: str) -> None:
    before = world.state.books[SYMBOL]
    clear(world, symbol)
    assert world.state.books == {SYMBOL: before}
    assert world.counts["operator:refused"] == 1


@pytest.mark.parametrize("way", [LONG, SHORT], ids=str)
@pytest.mark.parametrize("closed", ["2", "3"], ids=["closed", "flipped"])
def test_a_fill_from_before_the_adoption_is_noticed_after_the_close_too(way: Way, closed: str) -> None:
    world = World(policy(live=True))
    world.open(way)
    late = world.fill(way.opening, Decimal("0.5"), 100, stop=way.at(-2), order="late")
    for _ in range(2):
        world.see(world.snapshot(way.sign * 2))
    world.see(world.fill(way.closing, closed, 101, order="close"))
    world.see(late)
    assert "is from before the snapshot" in world.position().suspect
