"""Entries that were never read: whatever was open then can't be trusted any more."""

from __future__ import annotations

from tests.support.world import LONG, SHORT, Way, World, harvests, policy

from harvest_brain.core.events import Gap, PositionSide
from harvest_brain.core.policy import RungState

GAP = Gap(3, "stream gap: 3 entries were trimmed before they were read")


def test_a_gap_makes_every_open_position_suspect_and_says_how_many_entries_were_missed(way: Way, live: bool) -> None:
    world = World(policy(live=live))
    for symbol in ("A", "B"):
        world.open(way, symbol=symbol)
    world.see(GAP)
    assert [p.suspect for p in world.state.positions()] == [GAP.reason] * 2
    assert world.counts["gap:entries"] == 3
    assert world.notes[0] == GAP.reason
    assert world.price(way.at(1), symbol="A") == ()
    assert world.counts["refused:suspect"] == 1


def test_it_holds_for_what_an_earlier_entry_of_the_batch_has_opened_and_not_for_what_a_later_one_does(way: Way) -> None:
    world = World(policy())
    world.see(
        world.fill(way.opening, 1, 100, symbol="A"),
        GAP,
        world.fill(way.opening, 1, 100, symbol="B"),
    )
    assert {p.key.symbol: bool(p.suspect) for p in world.state.positions()} == {"A": True, "B": False}


def test_both_hedge_sides_are_suspect() -> None:
    world = World(policy())
    world.open(LONG, position_side=PositionSide.LONG)
    world.open(SHORT, position_side=PositionSide.SHORT)
    world.see(GAP)
    assert all(p.suspect for p in world.state.positions())


def test_an_earlier_suspicion_keeps_its_reason_and_is_not_said_again(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.see(world.snapshot(way.sign * 2))
    reason = world.position().suspect
    world.see(GAP)
    assert world.position().suspect == reason
    assert sum("is suspect" in note for note in world.notes) == 1


def test_a_position_that_is_flat_has_nothing_to_lose(way: Way) -> None:
    world = World(policy())
    world.see(world.snapshot(way.sign))
    before = world.position()
    world.see(GAP)
    assert world.position() is before


def test_with_nothing_open_a_gap_is_only_counted() -> None:
    world = World(policy())
    world.see(GAP)
    assert world.is_flat
    assert world.counts["gap:entries"] == 3


def test_two_snapshots_show_what_is_true_after_a_gap(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.see(GAP)
    world.price(way.at(1))
    for _ in range(2):
        world.see(world.snapshot(way.sign * 2))
    assert not world.position().suspect
    assert world.epoch().rungs[0] is RungState.SKIPPED
    assert harvests(world.price(way.at(2))) != []
