"""decide(): fills by identity, prices through the gates, harvests, stops, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.world import LONG, SHORT, START_MS, SYMBOL, Way, World, harvests, policy, stops, terms

from harvest_brain.core.books import Book, book_of
from harvest_brain.core.engine import (
    FUTURE_MS,
    Decision,
    Gate,
    State,
    Waiting,
    remembered_names,
)
from harvest_brain.core.events import Clear, Fill, Key, Malformed, Passed, PositionSide, Price, Side
from harvest_brain.core.identity import last_fill_name, marks_of
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.market import Market
from harvest_brain.core.mode import change_mode
from harvest_brain.core.numbers import INFINITY, ZERO
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position, ReservationState

D = Decimal


# The state and what a decision does to it.


def test_deciding_nothing_changes_nothing() -> None:
    assert World(policy()).consider() == Decision({}, (), {}, (), (), {})


def test_a_book_without_positions_is_forgotten(way: Way) -> None:
    world = World(policy())
    world.open(way)
    assert list(world.state.positions()) == [world.position()]
    world.see(world.fill(way.closing, 1, 100))
    assert world.is_flat
    assert list(world.state.positions()) == []


def test_a_position_that_opens_and_closes_in_one_batch_leaves_nothing(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, 1, 100), world.fill(way.closing, 1, 103))
    assert world.is_flat


def test_the_quiet_range_is_that_of_all_open_positions_whatever_stands_before_them(way: Way) -> None:
    world = World(policy())
    world.open(way)
    market, held = Market(D(100)), world.position()
    doubted = Position(Key("", SYMBOL, PositionSide.LONG), suspect="why")
    assert doubted.key < held.key
    alone, beside = book_of(market, [held]), book_of(market, [doubted, held])
    assert (alone.quiet_above, alone.quiet_below) != (-INFINITY, INFINITY)
    assert (beside.quiet_above, beside.quiet_below) == (alone.quiet_above, alone.quiet_below)


def test_positions_of_a_symbol_are_judged_in_the_order_of_their_keys_whatever_was_filled_last(way: Way) -> None:
    """The order of the fills is not stored, so after a restart the intents of one price would come in another one."""
    world = World(policy())
    for account in ("b", "c", "a"):
        world.open(way, account=account)
    world.see(world.fill(way.opening, 1, 100, account="a"))
    assert [p.key.account for p in world.state.positions()] == ["a", "b", "c"]
    intents = world.price(way.at(1))
    assert [i.key.account for i in intents if i.action is Action.HARVEST] == ["a", "b", "c"]


# The identity of fills.


def identity(fill: Fill) -> tuple[str, str] | None:
    """Under which name a fill is remembered, and as what."""
    return next(iter(marks_of(fill).items()), None)


def test_a_fill_is_known_by_its_id(way: Way) -> None:
    fill = World(policy()).fill(way.opening, "1.0", "100.00", fill_id="F1", order="A1", cumulative=1)
    assert identity(fill) == ("ETHUSDT#fill#F1", f"{way.opening} 1 @ 100")


def test_without_an_id_a_cumulative_quantity_is_known_by_its_order(way: Way) -> None:
    world = World(policy())
    fill = world.fill(way.opening, 1, 100, order="A1", client="C1", cumulative="1.50")
    assert identity(fill) == ("ETHUSDT#cumulative#A1", "1.5")
    fill = world.fill(way.opening, 1, 100, client="C1", cumulative="1.50")
    assert identity(fill) == ("ETHUSDT#cumulative#C1", "1.5")


def test_a_complete_order_is_known_by_its_id(way: Way) -> None:
    world = World(policy())
    fill = world.fill(way.opening, 1, 100, order="A1", client="C1")
    assert identity(fill) == ("ETHUSDT#filled#A1", f"{way.opening} 1 @ 100")
    fill = world.fill(way.opening, 1, 100, client="C1")
    assert identity(fill) == ("ETHUSDT#filled#C1", f"{way.opening} 1 @ 100")


def test_otherwise_the_entry_is_the_only_evidence(way: Way) -> None:
    world = World(policy())
    partial = world.fill(way.opening, 1, 100, order="A1", complete=False)
    nameless = world.fill(way.opening, 1, 100)
    counting = world.fill(way.opening, 1, 100, cumulative=1)
    for fill in (partial, nameless, counting):
        assert identity(fill) is None


def test_the_identity_of_a_fill_belongs_to_its_key() -> None:
    world = World(policy())
    names = {
        name
        for symbol in ("ETHUSDT", "BTCUSDT")
        for account in ("", "main")
        for name in marks_of(world.fill(Side.BUY, 1, 100, fill_id="F1", symbol=symbol, account=account))
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"symbol": "ETH", "fill_id": "a:fill:b"}, {"symbol": "ETH:fill:a", "fill_id": "b"}),
        ({"symbol": "ETH", "fill_id": "a#fill#b"}, {"symbol": "ETH:fill:a", "fill_id": "b"}),
        ({"symbol": "ETH", "order": "x:filled:y", "cumulative": 1}, {"symbol": "ETH:cumulative:x", "order": "y"}),
        ({"symbol": "ETH", "order": "x#filled#y", "cumulative": 1}, {"symbol": "ETH", "order": "x"}),
        ({"symbol": "ETH", "fill_id": "1:last"}, {"symbol": "ETH:fill:1"}),
    ],
)
def test_no_fill_is_taken_for_another_whatever_stands_in_its_symbol_and_its_ids(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    world = World(policy())
    for names in (one, other):
        world.see(world.fill(Side.BUY, 1, 100, complete="cumulative" not in names, **names))
    assert world.counts["fill:applied"] == 2
    assert world.counts["fill:repeated"] == world.counts["fill:clash"] == 0
    key = Key("", other["symbol"], PositionSide.NET)
    assert last_fill_name(key) not in marks_of(world.fill(Side.BUY, 1, 100, **one))


@pytest.mark.parametrize("names", [{"fill_id": "F1"}, {"order": "A1"}, {"order": "A1", "cumulative": 1}])
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "later"])
def test_incident_07_a_repeated_fill_is_counted_and_ignored(way: Way, names: dict[str, Any], together: bool) -> None:
    world = World(policy())
    first, again = (world.fill(way.opening, 1, 100, **names) for _ in range(2))
    if together:
        world.see(first, again)
    else:
        world.see(first)
        world.see(again)
    assert world.position().qty == way.sign
    assert world.counts == {"fill:applied": 1, "fill:repeated": 1}


def test_incident_07_the_same_content_may_be_written_in_another_way(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, "1.0", "100.00", fill_id="F1"))
    world.see(world.fill(way.opening, "1", "1E+2", fill_id="F1"))
    assert world.counts == {"fill:applied": 1, "fill:repeated": 1}


def test_equal_partial_fills_without_an_identity_are_legitimate(way: Way) -> None:
    world = World(policy())
    world.see(*(world.fill(way.opening, 1, 100, order="A1", complete=False) for _ in range(2)))
    assert world.position().qty == way.sign * 2
    assert world.known_fills == {"ETHUSDT#last": str(world.now_ms)}


def test_a_cumulative_quantity_counts_by_its_growth(way: Way) -> None:
    world = World(policy())
    for cumulative, price in (("0.4", 100), ("0.4", 100), ("1", 103), ("0.7", 100), ("1.0", 100)):
        world.see(world.fill(way.opening, "9", price, order="A1", cumulative=cumulative, complete=False))
    position = world.position()
    assert (position.qty, position.average) == (way.sign * D(1), D("101.8"))
    assert world.counts == {"fill:applied": 2, "fill:repeated": 3}
    assert world.known_fills["ETHUSDT#cumulative#A1"] == "1"


def test_a_cumulative_quantity_grows_within_a_batch_too(way: Way) -> None:
    world = World(policy())
    world.see(*(world.fill(way.opening, 9, 100, order="A1", cumulative=total) for total in (1, 3, 2, 4)))
    assert world.position().qty == way.sign * 4
    assert world.counts == {"fill:applied": 3, "fill:repeated": 1}


def test_a_fill_id_goes_before_a_cumulative_quantity(way: Way) -> None:
    world = World(policy())
    for number, total in enumerate((2, 4)):
        world.see(world.fill(way.opening, 2, 100, order="A1", fill_id=f"F{number}", cumulative=total))
    assert world.position().qty == way.sign * 4
    world.see(world.fill(way.opening, 2, 100, order="A1", fill_id="F1", cumulative=4))
    assert world.position().qty == way.sign * 4
    assert world.counts == {"fill:applied": 2, "fill:repeated": 1}


def test_a_cumulative_quantity_without_an_order_says_nothing(way: Way) -> None:
    world = World(policy())
    world.see(*(world.fill(way.opening, 1, 100, cumulative=5) for _ in range(2)))
    assert world.position().qty == way.sign * 2


def test_what_is_remembered_of_fills_is_asked_for_by_name_and_of_nameless_ones_is_not(way: Way) -> None:
    world = World(policy())
    named, nameless = world.fill(way.opening, 1, 100, fill_id="F1"), world.fill(way.opening, 1, 100)
    assert remembered_names(world.state, [named, named]) == ["ETHUSDT#fill#F1"]
    assert remembered_names(world.state, [nameless]) == []


def test_applied_fills_are_remembered_with_their_content(way: Way) -> None:
    world = World(policy())
    decision = world.consider(
        world.fill(way.opening, 1, 100, fill_id="F1"),
        world.fill(way.opening, 2, 100, order="A1"),
        world.fill(way.opening, 3, 100),
    )
    assert decision.applied == {
        "ETHUSDT#fill#F1": f"{way.opening} 1 @ 100",
        "ETHUSDT#filled#A1": f"{way.opening} 2 @ 100",
        "ETHUSDT#last": str(world.now_ms),
    }


@pytest.mark.parametrize("names", [{"fill_id": "F1"}, {"order": "A1"}])
def test_the_same_identity_with_other_content_makes_the_symbol_suspect(way: Way, names: dict[str, Any]) -> None:
    world = World(policy())
    first, other = (world.fill(way.opening, qty, 100, stop=way.at(-2), **names) for qty in (1, 2))
    world.see(first)
    world.see(other)
    position = world.position()
    assert position.qty == way.sign
    name = "ETHUSDT#fill#F1" if "fill_id" in names else "ETHUSDT#filled#A1"
    assert position.suspect == f"{name} came as {way.opening} 1 @ 100 and as {way.opening} 2 @ 100"
    assert world.counts == {"fill:applied": 1, "fill:clash": 1}
    assert world.price(way.at(3)) == ()
    assert world.counts["refused:suspect"] == 1


def test_the_first_clash_is_the_one_that_is_told(way: Way) -> None:
    world = World(policy())
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1") for qty in (1, 2, 3)))
    assert world.position().suspect.endswith("2 @ 100")


def test_a_clash_while_flat_is_remembered_for_the_next_epoch(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, 1, 100, fill_id="F1"), world.fill(way.closing, 1, 100, fill_id="F2"))
    world.see(world.fill(way.closing, 2, 100, fill_id="F2"))
    position = world.position()
    assert (position.qty, position.epoch) == (ZERO, None)
    assert world.state.books[SYMBOL].market is None
    world.open(way)
    assert world.position().suspect
    assert world.price(way.at(3)) == ()


def test_a_clash_leaves_the_other_positions_of_the_symbol_alone() -> None:
    world = World(policy())
    world.see(world.fill(Side.BUY, 1, 100, fill_id="F1", account="a"), world.fill(Side.BUY, 1, 100, account="b"))
    world.see(world.fill(Side.BUY, 2, 100, fill_id="F1", account="a"))
    suspects = {p.key.account: bool(p.suspect) for p in world.state.positions()}
    assert suspects == {"a": True, "b": False}


# One-way and hedge mode: an account has one net position of a symbol, or a long and a short side.

NET, HEDGED = PositionSide.NET, PositionSide.LONG


def suspicions(world: World) -> dict[PositionSide, str]:
    return {p.key.position_side: p.suspect for p in world.state.positions()}


@pytest.mark.parametrize(
    ("held", "said", "side"),
    [(NET, HEDGED, Side.BUY), (HEDGED, NET, Side.BUY), (HEDGED, NET, Side.SELL)],
    ids=["a side beside net", "net beside a side", "meant to close a side"],
)
def test_a_fill_that_opens_what_an_account_cannot_hold_beside_the_rest_is_tracked_and_makes_both_suspect(
    live: bool, held: PositionSide, said: PositionSide, side: Side
) -> None:
    world = World(policy(live=live))
    world.open(LONG, position_side=held)
    fill = world.fill(side, "0.5", 101, stop=99 if side is Side.BUY else 103, position_side=said)
    assert world.see(fill) == ()
    assert {p.key.position_side: p.qty for p in world.state.positions()} == {held: 1, said: side.sign * D("0.5")}
    assert suspicions(world) == {
        held: f"fill {fill.entry_id} has a {said} position beside it",
        said: f"fill {fill.entry_id} has it beside a {held} position",
    }
    assert len(world.notes) == 2
    assert world.counts["fill:applied"] == 2
    assert world.price(102) == world.price(98) == ()
    assert world.counts["refused:suspect"] > 0


def test_both_hedge_sides_are_suspect_when_a_net_position_opens_beside_them() -> None:
    world = World(policy())
    for way, side in ((LONG, PositionSide.LONG), (SHORT, PositionSide.SHORT)):
        world.open(way, position_side=side)
    assert not any(suspicions(world).values()), "which an account can hold"
    world.open(LONG, account="other")
    assert not any(suspicions(world).values()), "what another one holds is no matter"
    world.see(world.fill(Side.SELL, 1, 101))
    assert [bool(p.suspect) for p in world.state.positions() if not p.key.account] == [True, True, True]
    assert [p.suspect for p in world.state.positions() if p.key.account] == [""]


@pytest.mark.parametrize(("before", "after"), [(NET, HEDGED), (HEDGED, NET)], ids=["to hedge", "to one-way"])
@pytest.mark.parametrize("remembered", [True, False], ids=["suspect", "forgotten"])
def test_an_account_that_is_flat_may_change_between_one_way_and_hedge_mode(
    before: PositionSide, after: PositionSide, remembered: bool
) -> None:
    """Also when the flat position is remembered, since it is suspect: it is not held any more."""
    world = World(policy())
    world.open(LONG, position_side=before, fill_id="F1")
    if remembered:
        world.see(world.fill(Side.BUY, 2, 100, position_side=before, fill_id="F1"))
    world.see(world.fill(Side.SELL, 1, 100, position_side=before))
    world.open(LONG, position_side=after)
    assert {side: bool(suspect) for side, suspect in suspicions(world).items()} == (
        {before: True, after: False} if remembered else {after: False}
    )


def test_a_fill_that_leaves_nothing_contradicts_nothing() -> None:
    world = World(policy())
    world.open(LONG, position_side=HEDGED)
    world.open(LONG)
    world.see(Clear("1-0", SYMBOL))
    world.see(world.fill(Side.SELL, 1, 101, position_side=HEDGED))
    assert suspicions(world) == {NET: ""}


def test_what_was_cleared_is_suspect_again_when_a_fill_repeats_the_contradiction() -> None:
    world = World(policy())
    world.open(LONG, position_side=HEDGED)
    world.open(LONG)
    world.see(Clear("1-0", SYMBOL))
    assert suspicions(world) == {NET: "", HEDGED: ""}
    world.open(LONG)
    assert all(suspicions(world).values())


def test_beside_what_it_cannot_be_held_with_a_position_is_right_again_when_two_snapshots_have_the_other_flat() -> None:
    world = World(policy())
    world.open(LONG, position_side=HEDGED)
    world.see(world.fill(Side.SELL, 1, 101))
    world.see(*(world.snapshot(0) for _ in range(2)))
    world.see(*(world.snapshot(1, position_side=HEDGED) for _ in range(2)))
    [position] = [p for p in world.state.positions() if p.epoch is not None]
    assert (position.key.position_side, position.qty, position.suspect) == (HEDGED, D(1), "")


IDS = st.text("a0:#|/._-", min_size=1, max_size=6)


@given(
    st.from_regex(r"[a0][a0._:/-]{0,5}", fullmatch=True),
    st.sampled_from(["", "a", "a:fill"]),
    st.sampled_from(PositionSide),
    IDS,
    IDS,
)
def test_the_name_of_a_fill_can_be_read_in_one_way_only(
    symbol: str, account: str, side: PositionSide, fill_id: str, order: str
) -> None:
    fill = World(policy()).fill(
        Side.BUY, 1, 100, fill_id=fill_id, order=order, cumulative=1, symbol=symbol, account=account, position_side=side
    )
    read = [tuple(name.split("#", 2)) for name in marks_of(fill)]
    key = str(Key(account, symbol, side))
    assert read == [(key, "fill", fill_id), (key, "cumulative", order), (key, "filled", order)]
    assert last_fill_name(fill.key).split("#", 2) == [key, "last"]


def test_rebuilding_from_the_same_stream_gives_the_same_epoch_ids(way: Way) -> None:
    names: tuple[dict[str, Any], ...] = ({"fill_id": "F1"}, {"order": "A1"}, {"order": "A1", "cumulative": 1}, {})
    ids = set()
    for more in names:
        first, second = World(policy()), World(policy())
        first.open(way, **more)
        second.see(Passed("1-0", "NOISE"))
        second.open(way, **more)
        assert first.epoch().epoch_id == second.epoch().epoch_id
        ids.add(first.epoch().epoch_id)
    assert len(ids) == len(names)


def test_each_fill_that_opens_gives_an_epoch_of_its_own(way: Way) -> None:
    world = World(policy())
    ids = []
    for number in range(1, 4):
        world.open(way, order="A1", complete=False)
        ids.append(world.epoch().epoch_id)
        world.see(world.fill(way.closing, 1, 100))
        world.see(world.fill(way.opening, 1, 100, order="A9", cumulative=number))
        ids.append(world.epoch().epoch_id)
        world.see(world.fill(way.closing, 1, 100))
    assert len(set(ids)) == 6


# Books, markets, terms.


def test_the_price_memory_begins_with_the_first_fill_and_ends_with_the_last(way: Way) -> None:
    world = World(policy())
    world.see(world.fill(way.opening, 1, 100, account="a"))
    assert world.state.books[SYMBOL].market == Market(D(100))
    world.see(world.fill(way.opening, 1, 150, account="b"))
    assert world.state.books[SYMBOL].market == Market(D(100)), "a fill is no price"
    world.see(world.fill(way.closing, 1, 100, account="a"))
    assert world.state.books[SYMBOL].market == Market(D(100))
    world.see(world.fill(way.closing, 1, 100, account="b"))
    assert world.is_flat


def test_a_price_without_a_position_is_counted_and_leaves_nothing() -> None:
    world = World(policy())
    world.price(100)
    assert world.is_flat
    assert world.counts == {"price:no position": 1}


def test_a_price_of_a_flat_but_suspect_symbol_is_counted_and_leaves_nothing() -> None:
    world = World(policy())
    world.see(world.fill(Side.SELL, 1, 100, position_side=PositionSide.LONG))
    before = dict(world.state.books)
    world.price(100)
    assert world.state.books == before
    assert world.counts["price:no position"] == 1


def test_an_epoch_takes_the_overrides_of_its_symbol(way: Way) -> None:
    world = World(policy(), overrides={SYMBOL: terms(ladder="2:1")})
    world.open(way)
    world.open(way, symbol="BTCUSDT")
    assert world.epoch().terms.ladder == terms(ladder="2:1").ladder
    assert world.epoch("BTCUSDT").terms == policy().terms


def test_changed_terms_hold_for_new_epochs(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.policy = policy(ladder="2:1")
    world.see(world.fill(way.opening, 1, 100))
    assert world.epoch().terms == policy().terms
    assert harvests(world.price(way.at(1))) == [D("0.5")]


# What is passed over, and what is refused at the door.


def test_passed_entries_are_counted_by_status() -> None:
    world = World(policy())
    world.see(Passed("1-0", "SKIPPED_X"), Passed("2-0", "SKIPPED_X"), Passed("3-0", "OTHER"))
    assert world.counts == {"status:SKIPPED_X": 2, "status:OTHER": 1}


def test_malformed_entries_become_dead_letters_in_order() -> None:
    world = World(policy())
    letters = tuple(Malformed(f"{n}-0", "why", (b"a", b"b")) for n in range(2))
    decision = world.consider(*letters)
    assert decision.rejected == letters
    assert decision.counts == {"malformed": 2}
    assert not decision.books


# Harvests.


def test_a_rung_is_published_with_all_that_a_consumer_needs(way: Way, live: bool) -> None:
    world = World(policy(live=live))
    world.open(way, "1.0", order="A1")
    tick = world.tick(way.at("1.04"))
    [intent] = world.see(tick)
    epoch_id = world.epoch().epoch_id
    assert intent == Intent(
        action=Action.HARVEST,
        claims=(f"hb-{epoch_id}-r1",),
        position=intent.position,
        trigger=tick,
        qty=D("0.25"),
        reason="R=0.52 >= 0.5",
        expires_ms=tick.time_ms + 30_000,
        rungs=(D("0.5"),),
        stop=way.at(-2),
        prev_stop=None,
        stop_seq=0,
    )
    assert intent.key == Key("", SYMBOL, PositionSide.NET)
    assert (intent.position.qty, intent.position.average, intent.epoch_id) == (D(way.sign), D(100), epoch_id)
    assert (intent.intent_id, intent.side, intent.r, intent.unrealized) == (
        f"hb-{epoch_id}-r1",
        way.closing,
        D("0.52"),
        D("1.04"),
    )


def test_a_rung_fires_exactly_at_its_price_and_not_a_hair_before(way: Way) -> None:
    world = World(policy())
    world.open(way)
    assert world.price(way.at("0.99999999")) == ()
    assert harvests(world.price(way.at(1))) == [D("0.25")]


def test_the_shown_r_is_cut_and_never_rounded_up(way: Way) -> None:
    world = World(policy())
    world.open(way)
    [intent] = world.price(way.at("1.99999"))
    assert (intent.r, intent.reason) == (D("0.9999"), "R=0.9999 >= 0.5")


def test_nothing_fires_below_the_least_r(way: Way) -> None:
    world = World(policy(min_r="1.2"))
    world.open(way)
    assert world.price(way.at("2.3")) == ()
    [intent] = world.price(way.at("2.4"))
    assert (intent.qty, intent.rungs, intent.reason) == (D("0.5"), (D("0.5"), D(1)), "R=1.2 >= 1.2")


def test_incident_04_the_same_price_again_gives_nothing(way: Way, live: bool) -> None:
    world = World(policy(live=live))
    world.open(way)
    assert harvests(world.price(way.at(1))) == [D("0.25")]
    for gain in ("1", "1.01", "1", "0", "1.5", "1"):
        assert world.price(way.at(gain)) == ()


def test_incident_05_a_jump_past_all_rungs_gives_one_intent_that_lists_them_all(way: Way, live: bool) -> None:
    world = World(policy(live=live))
    world.open(way)
    [intent] = world.price(way.at(7))
    epoch = world.epoch()
    assert intent.qty == D("0.75")
    assert intent.rungs == (D("0.5"), D(1), D("1.5"))
    assert intent.claims == tuple(f"hb-{epoch.epoch_id}-r{n}" for n in (1, 2, 3))
    assert intent.intent_id == f"hb-{epoch.epoch_id}-r3"
    assert intent.reason == "R=3.5 >= 1.5"
    assert epoch.rungs == (RungState.FIRED,) * 3
    assert (epoch.target, epoch.issued) == (D("0.75"), D("0.75"))
    assert world.price(way.at(8)) == ()


def test_incident_08_a_new_epoch_has_its_own_entry_and_does_not_fire_at_once(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(3))
    world.see(world.fill(way.closing, 1, way.at(3)))
    world.see(world.fill(way.opening, 1, way.at(3), stop=way.at(1)))
    assert world.position().average == way.at(3)
    assert world.price(way.at("3.5")) == ()
    assert harvests(world.price(way.at(4))) == [D("0.25")]


def test_a_flip_starts_the_ladder_anew_on_the_other_side(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(2))
    world.see(world.fill(way.closing, 3, way.at(2), stop=way.at(4)))
    assert world.price(way.at(2)) == ()
    [intent] = world.price(way.at(1))
    assert (intent.side, intent.qty, intent.rungs) == (way.opening, D("0.5"), (D("0.5"),))


def test_adds_do_not_rearm_fired_rungs_and_cause_no_catch_up(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(1))
    world.see(world.fill(way.opening, 3, 100))
    assert world.price(way.at("1.5")) == ()
    assert harvests(world.price(way.at(2))) == [D("1.00")]


def test_incident_14_a_share_below_the_minimum_is_carried_into_the_next_rung(way: Way, live: bool) -> None:
    world = World(policy(live=live, min_qty="0.3"))
    world.open(way)
    assert world.price(way.at(1)) == ()
    assert world.counts["rung:carried"] == 1
    assert world.epoch().rungs[0] is RungState.CARRIED
    assert (world.epoch().target, world.epoch().issued) == (D("0.25"), ZERO)
    [intent] = world.price(way.at(2))
    assert (intent.qty, intent.rungs) == (D("0.5"), (D(1),))
    assert world.epoch().rungs == (RungState.CARRIED, RungState.FIRED, RungState.ARMED)


def test_a_carried_rung_needs_no_token(way: Way) -> None:
    world = World(policy(min_qty="0.3"), tokens=0)
    world.open(way)
    world.price(way.at(1))
    assert world.epoch().rungs[0] is RungState.CARRIED
    assert world.state.waiting == ()


def test_a_risk_that_is_too_small_is_tracked_and_never_harvested(way: Way) -> None:
    world = World(policy(min_risk_bps="5", be_at_r="0.5"))
    world.open(way, stop_at="-0.05")
    assert world.price(way.at(5)) == ()
    book = world.state.books[SYMBOL]
    assert (book.quiet_above, book.quiet_below) == (-INFINITY, INFINITY)
    assert book.market is not None
    assert book.market.last == way.at(5)
    assert world.position().why_not_harvested


def test_a_position_becomes_harvestable_when_its_opening_order_brings_enough_risk(way: Way) -> None:
    world = World(policy(min_risk_bps="5"))
    world.open(way, stop_at="-0.05", order="A1", complete=False)
    assert world.price(way.at(1)) == ()
    world.see(world.fill(way.opening, 1, 100, stop=way.at(-2), order="A1", complete=False))
    assert harvests(world.price(way.at(1))) == [D("0.5")]


def test_live_never_harvests_on_fallback_risk_unless_it_is_allowed(way: Way) -> None:
    for allowed, expected in ((False, []), (True, [D("0.25")])):
        world = World(policy(live=True, allow_fallback=allowed, be_at_r="0.5"))
        world.open(way, stop_at=None)
        intents = world.price(way.at(1))
        assert harvests(intents) == expected
        assert len(stops(intents)) == len(expected)
        assert world.counts["refused:fallback risk"] == (0 if allowed else 2)
        assert world.epoch().risk_source == "fallback"


def test_shadow_harvests_on_fallback_risk_and_says_so(way: Way) -> None:
    world = World(policy())
    world.open(way, stop_at=None)
    [intent] = world.price(way.at(1))
    assert (intent.position.open_epoch.risk_source, intent.stop) == ("fallback", None)


# Reservations.


def test_incident_32_what_is_on_its_way_is_not_sold_twice(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:0.6,1:0.4"))
    world.open(way)
    world.price(way.at(1))
    [reservation] = world.epoch().reservations
    assert (reservation.intent_id, reservation.remaining) == (world.intents[0].intent_id, D("0.6"))
    assert (reservation.heard_ms, reservation.state) == (world.now_ms, ReservationState.PUBLISHED)
    world.see(world.fill(way.closing, "0.3", 100, order="manual", correlation="theirs"))
    assert world.epoch().outstanding == D("0.3"), "in doubt it was the harvest's fill"
    assert harvests(world.price(way.at(2))) == [D("0.4")]
    assert world.epoch().outstanding == abs(world.position().qty) == D("0.7")


def test_in_shadow_mode_nothing_is_reserved(way: Way) -> None:
    world = World(policy(live=False))
    world.open(way)
    world.price(way.at(3))
    assert world.epoch().reservations == ()
    assert world.epoch().rungs == (RungState.FIRED,) * 3


def test_quantities_are_exact_to_the_last_of_the_digits_that_may_come(way: Way) -> None:
    world = World(policy(qty_step="1"))
    finest = D("100000.000000000000000000000001")
    world.open(way, finest)
    world.see(world.fill(way.opening, finest, 100))
    assert world.position().qty.copy_abs() == D("200000.000000000000000000000002")


def test_a_fill_of_which_its_fee_leaves_nothing_uses_up_no_reservation() -> None:
    world = World(policy(live=True, spot=True))
    world.open(SHORT)
    world.price(SHORT.at(1))
    world.see(world.fill(SHORT.closing, "0.1", SHORT.at(1))._replace(fee=D("0.1"), fee_asset="ETH"))
    assert "leaves nothing" in world.position().suspect
    assert world.epoch().outstanding == D("0.25")


def test_what_is_on_its_way_is_not_free(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:0.4,1.0:0.4,1.5:0.2"))
    world.open(way)
    assert harvests(world.price(way.at(1))) == harvests(world.price(way.at(2))) == [D("0.4")]
    world.see(world.fill(way.closing, "0.5", way.at(2)))
    assert (world.position().qty, world.epoch().outstanding) == (way.sign * D("0.5"), D("0.4"))
    assert harvests(world.price(way.at(3))) == [D("0.1")]
    assert world.epoch().outstanding == D("0.5")


def test_a_share_is_capped_by_what_is_free(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:0.5,1:0.5"))
    world.open(way)
    world.price(way.at(1))
    world.see(world.fill(way.closing, "0.2", 100, order="manual"))
    world.see(world.fill(way.closing, "0.2", 100, order="manual-2"))
    assert (world.position().qty, world.epoch().outstanding) == (way.sign * D("0.6"), D("0.1"))
    assert harvests(world.price(way.at(2))) == [D("0.5")]


def test_a_rejection_releases_the_quantity_and_the_next_rung_carries_it(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.order("REJECTED", correlation=first.intent_id))
    assert world.epoch().reservations == ()
    assert (world.epoch().target, world.epoch().issued) == (D("0.25"), ZERO)
    assert world.price(way.at(1)) == (), "a fired rung stays fired"
    assert harvests(world.price(way.at(2))) == [D("0.5")]
    assert world.counts["order:ended"] == 1


def test_an_expiry_after_a_partial_fill_releases_the_rest(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.1", way.at(1), client=first.intent_id, order="X1", complete=False))
    world.see(world.order("EXPIRED", order="X1"))
    assert (world.epoch().reservations, world.epoch().issued) == ((), D("0.1"))
    assert harvests(world.price(way.at(2))) == [D("0.4")]


def test_an_acknowledgement_is_counted_and_noted(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.order("NEW", client=first.intent_id, order="X1"))
    assert world.epoch().reservations[0].state is ReservationState.ACKED
    assert world.counts["order:acknowledged"] == 1


def test_news_of_an_order_that_nobody_knows_is_counted_by_status(way: Way) -> None:
    world = World(policy(live=True))
    world.see(world.order("REJECTED", order="X"))
    world.open(way)
    world.price(way.at(1))
    before = world.position()
    world.see(world.order("NEW", order="X"))
    assert world.position() is before
    assert world.counts["status:REJECTED"] == world.counts["status:NEW"] == 1


def test_news_of_an_order_finds_its_position_among_several(way: Way) -> None:
    world = World(policy(live=True))
    for account in ("a", "b"):
        world.open(way, account=account)
    world.see(world.fill(way.opening, 1, 100, account="c"), world.fill(way.closing, 1, 100, account="c"))
    world.price(way.at(1))
    second = world.intents[1]
    world.see(world.fill(Side.SELL, 1, 100, account="aa", position_side=PositionSide.LONG))
    world.see(world.fill(way.opening, 1, 100, account="b"))
    world.see(world.order("CANCELED", correlation=second.intent_id))
    held = {p.key.account: len(p.epoch.reservations) for p in world.state.positions() if p.epoch is not None}
    assert held == {"a": 1, "b": 0}


def test_the_fill_of_a_harvest_lowers_position_and_reservation_together(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=first.intent_id))
    assert (world.position().qty, world.epoch().outstanding) == (way.sign * D("0.75"), ZERO)
    assert (world.position().suspect, world.epoch().issued) == ("", D("0.25"))


def test_the_fill_of_a_harvest_that_closes_the_position_is_expected(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:1"))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.fill(way.closing, 1, way.at(1), correlation=first.intent_id))
    assert world.is_flat


# A late fill across zero.


def harvested_and_closed(way: Way) -> tuple[World, str]:
    """A world that is flat while the order of a harvest is still out."""
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.fill(way.closing, 1, way.at(1), order="manual"))
    assert world.is_flat
    return world, first.intent_id


def test_a_late_fill_that_opens_a_position_is_a_contradiction(way: Way) -> None:
    world, intent_id = harvested_and_closed(way)
    world.see(world.fill(way.closing, "0.25", way.at(1), client=intent_id))
    assert world.position().qty == -way.sign * D("0.25")
    assert world.position().suspect == f"late fill across zero: {intent_id}"


def test_a_late_fill_that_adds_to_the_other_side_is_a_contradiction(way: Way) -> None:
    world, intent_id = harvested_and_closed(way)
    world.see(world.fill(way.closing, 1, way.at(1)))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=intent_id))
    assert world.position().suspect == f"late fill across zero: {intent_id}"


def test_a_late_fill_that_reduces_a_later_epoch_is_a_contradiction(way: Way) -> None:
    world, intent_id = harvested_and_closed(way)
    world.open(way)
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=intent_id))
    assert world.position().qty == way.sign * D("0.75")
    assert world.position().suspect == f"late fill across zero: {intent_id}"


def test_a_late_fill_that_closes_a_later_epoch_is_a_contradiction(way: Way) -> None:
    world, intent_id = harvested_and_closed(way)
    world.open(way, "0.25")
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=intent_id))
    assert (world.position().epoch, world.position().suspect) == (None, f"late fill across zero: {intent_id}")


def test_the_fill_of_a_harvest_that_flips_the_position_is_a_contradiction(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.fill(way.closing, 2, way.at(1), correlation=first.intent_id))
    assert world.position().suspect == f"late fill across zero: {first.intent_id}"


def test_a_late_fill_does_not_hide_an_earlier_contradiction(way: Way) -> None:
    world, intent_id = harvested_and_closed(way)
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1") for qty in (1, 2)))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=intent_id))
    assert "came as" in world.position().suspect


# Gates.


@pytest.mark.parametrize(
    ("switch", "in_shadow", "in_live"),
    [
        ("0", True, True),
        ("1", False, False),
        (None, True, False),
        ("", False, False),
        ("off", False, False),
        ("00", False, False),
    ],
)
def test_the_kill_switch_lets_out_only_what_is_safe(switch: str | None, in_shadow: bool, in_live: bool) -> None:
    gate = Gate(now_ms=0, kill_switch=switch, tokens=1)
    assert (gate.running(live=False), gate.running(live=True)) == (in_shadow, in_live)


def test_incident_10_the_kill_switch_stops_publishing_and_never_the_tracking(way: Way, live: bool) -> None:
    world = World(policy(live=live), kill="1")
    world.open(way)
    assert world.price(way.at(1)) == ()
    assert world.counts["refused:kill-switch"] == 1
    assert world.epoch().rungs[0] is RungState.ARMED
    world.see(world.fill(way.opening, 1, 100))
    assert world.position().qty == way.sign * 2
    world.kill = "0"
    assert harvests(world.price(way.at(1))) == [D("0.50")], "what is due comes on the next fresh price"


def test_a_rung_that_is_due_but_not_reached_any_more_waits_for_its_price(way: Way) -> None:
    world = World(policy(), kill="1")
    world.open(way)
    world.price(way.at(1))
    world.kill = "0"
    assert world.price(way.at("0.9")) == ()
    assert harvests(world.price(way.at(1))) == [D("0.25")]


@pytest.mark.parametrize(("age_ms", "fires"), [(0, True), (30_000, True), (30_001, False), (10**9, False)])
def test_incident_11_a_price_fires_only_while_it_is_fresh_so_a_backlog_fires_nothing(
    way: Way, live: bool, age_ms: int, fires: bool
) -> None:
    world = World(policy(live=live))
    world.open(way)
    assert bool(world.price(way.at(1), after_ms=10**9 + 1, age_ms=age_ms)) is fires
    assert world.counts["refused:stale price"] == (not fires)
    assert world.epoch().crossed == 1, "history is history"
    assert harvests(world.price(way.at(1))) == ([] if fires else [D("0.25")])


@pytest.mark.parametrize(("ahead_ms", "fires"), [(FUTURE_MS, True), (FUTURE_MS + 1, False)])
def test_a_price_from_the_future_fires_nothing(way: Way, ahead_ms: int, fires: bool) -> None:
    world = World(policy())
    world.open(way)
    assert bool(world.price(way.at(1), age_ms=-ahead_ms)) is fires
    assert world.counts["refused:price from the future"] == (not fires)


@pytest.mark.parametrize(("arrived_ms", "fires"), [(START_MS, False), (10**12, False), (10**12 - 1, True), (5, True)])
def test_how_far_ahead_a_price_is_shows_at_its_arrival_where_that_looks_like_a_time(
    way: Way, arrived_ms: int, fires: bool
) -> None:
    world = World(policy())
    world.open(way)
    world.now_ms = START_MS + 20_000
    tick = Price("1-0", START_MS + 10_000, SYMBOL, way.at(1), arrived_ms)
    assert bool(world.see(tick)) is fires


def test_freshness_is_judged_before_suspicion_and_the_kill_switch_before_both(way: Way) -> None:
    world = World(policy(live=True), kill="1")
    world.open(way, stop_at=None)
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1") for qty in (1, 2)))
    world.price(way.at(1), after_ms=50_000, age_ms=40_000)
    assert world.counts["refused:kill-switch"] == 1
    world.kill = "0"
    world.price(way.at(1), after_ms=50_000, age_ms=40_000)
    assert world.counts["refused:stale price"] == 1
    world.price(way.at(1))
    assert (world.counts["refused:suspect"], world.counts["refused:fallback risk"]) == (1, 0)


def test_one_suspect_position_stops_its_whole_symbol_and_no_other(way: Way) -> None:
    world = World(policy())
    for symbol, account in ((SYMBOL, "a"), (SYMBOL, "b"), ("BTCUSDT", "a")):
        world.open(way, symbol=symbol, account=account)
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1", account="a") for qty in (1, 2)))
    assert world.price(way.at(1)) == ()
    assert world.counts["refused:suspect"] == 2
    assert harvests(world.price(way.at(1), symbol="BTCUSDT")) == [D("0.25")]


def test_a_suspect_symbol_is_stopped_even_while_the_suspect_position_is_flat(way: Way) -> None:
    world = World(policy())
    world.open(way, account="a")
    world.see(world.fill(Side.SELL, 1, 100, account="b", position_side=PositionSide.LONG))
    assert world.price(way.at(1)) == ()
    assert world.counts["refused:suspect"] == 1


def test_a_suspect_position_is_still_tracked(way: Way) -> None:
    world = World(policy(trail_atr_mult="2"))
    world.open(way)
    world.see(*(world.fill(way.opening, qty, 100, fill_id="F1") for qty in (1, 2)))
    world.price(way.at(5))
    assert (world.epoch().crossed, world.epoch().extreme) == (3, way.at(5))


def test_what_is_out_already_is_marked_as_if_this_decision_had_published_it(way: Way, live: bool) -> None:
    world = World(policy(live=live))
    world.open(way)
    world.published.add(f"hb-{world.epoch().epoch_id}-r1")
    assert world.price(way.at(1)) == ()
    assert world.counts["refused:already published"] == 1
    assert (world.epoch().rungs[0], world.epoch().issued) == (RungState.FIRED, D("0.25"))
    assert world.epoch().outstanding == (D("0.25") if live else 0)
    assert world.tokens == 1_000_000
    assert harvests(world.price(way.at(2))) == [D("0.25")]


@pytest.mark.parametrize(
    ("out", "rungs", "qty"),
    [
        ((1,), ("1.0", "1.5"), "0.5"),
        ((2,), ("0.5", "1.5"), "0.5"),
        ((1, 2), ("1.5",), "0.25"),
        ((1, 3), ("1.0",), "0.25"),
    ],
    ids=str,
)
def test_of_several_rungs_those_that_are_out_are_marked_and_the_others_are_published(
    way: Way, live: bool, out: tuple[int, ...], rungs: tuple[str, ...], qty: str
) -> None:
    world = World(policy(live=live))
    world.open(way)
    epoch_id = world.epoch().epoch_id
    world.published.update(f"hb-{epoch_id}-r{number}" for number in out)
    [intent] = world.price(way.at(3))
    assert (intent.rungs, intent.qty) == (tuple(D(rung) for rung in rungs), D(qty))
    assert world.published.isdisjoint(intent.claims)
    assert world.counts["refused:already published"] == 1
    assert (world.epoch().rungs, world.epoch().issued) == ((RungState.FIRED,) * 3, D("0.75"))
    reserved = {f"hb-{epoch_id}-r{out[-1]}": D("0.75") - D(qty), intent.intent_id: D(qty)} if live else {}
    assert {r.intent_id: r.remaining for r in world.epoch().reservations} == reserved
    assert world.price(way.at(3)) == ()


def test_of_several_rungs_of_which_one_is_out_none_is_marked_while_the_gate_is_closed(way: Way) -> None:
    world = World(policy(), kill="1")
    world.open(way)
    world.published.add(f"hb-{world.epoch().epoch_id}-r1")
    assert world.price(way.at(3)) == ()
    assert world.counts["refused:kill-switch"] == 1
    assert world.epoch().rungs == (RungState.ARMED,) * 3


def test_of_several_rungs_of_which_one_is_out_the_others_wait_for_the_rate(way: Way) -> None:
    world = World(policy(), tokens=0)
    world.open(way)
    world.published.add(f"hb-{world.epoch().epoch_id}-r1")
    assert world.price(way.at(3)) == ()
    assert world.epoch().rungs == (RungState.FIRED, RungState.ARMED, RungState.ARMED)
    world.tokens = 1
    assert harvests(world.price(way.at(3))) == [D("0.5")]


# The guard against bad ticks.


def test_a_jump_fires_nothing_until_a_second_tick_confirms_it(way: Way) -> None:
    world = World(policy(jump=20))
    world.open(way)
    assert world.price(way.at("20.01")) == ()
    book = world.state.books[SYMBOL]
    assert book.market is not None
    assert book.market._replace(candidate=None) == Market(D(100))
    assert book.market.candidate is not None
    assert book.market.candidate.price == way.at("20.01")
    assert world.counts["price:jump"] == 1
    assert harvests(world.price(way.at(21))) == [D("0.75")]


def test_a_bad_tick_that_is_delivered_twice_fires_nothing(way: Way) -> None:
    world = World(policy(jump=20))
    world.open(way)
    tick = world.tick(way.at("20.01"))
    assert world.see(tick) == ()
    assert world.see(tick._replace(entry_id=world.tick(1).entry_id)) == ()
    assert world.counts["price:jump"] == 2


def test_a_bad_tick_between_good_ones_fires_nothing(way: Way) -> None:
    world = World(policy(jump=20))
    world.open(way)
    for gain in ("0.1", "50", "0.2", "60", "0.3"):
        assert world.price(way.at(gain)) == ()
    assert world.epoch().crossed == 0
    assert world.counts["price:jump"] == 2


def test_a_price_within_the_bound_is_believed_at_once(way: Way) -> None:
    world = World(policy(jump=20))
    world.open(way)
    assert harvests(world.price(way.at(20))) == [D("0.75")]


# The rate.


def test_what_is_over_the_rate_waits_and_is_decided_again_on_a_fresh_price(way: Way) -> None:
    world = World(policy(), tokens=0)
    world.open(way)
    assert world.price(way.at(1)) == ()
    assert world.counts["refused:rate"] == 1
    assert world.epoch().rungs[0] is RungState.ARMED
    assert world.state.waiting == (Waiting(world.position().key, world.now_ms),)
    world.tokens = 1
    assert harvests(world.price(way.at(2))) == [D("0.5")]
    assert not world.state.waiting


def waiting_world(way: Way, *symbols: str, **more: Any) -> World:
    """A world in which `symbols` wait in this order."""
    world = World(policy(**more), tokens=0)
    for symbol in symbols:
        world.open(way, symbol=symbol)
    for symbol in symbols:
        world.price(way.at(1), symbol=symbol)
    assert waiting(world) == list(symbols)
    return world


def waiting(world: World) -> list[str]:
    return [w.key.symbol for w in world.state.waiting]


def test_those_who_wait_are_served_in_order(way: Way) -> None:
    world = waiting_world(way, "A", "B", "C")
    world.tokens = 1
    assert world.price(way.at(1), symbol="C") == ()
    assert world.price(way.at(1), symbol="B") == ()
    assert waiting(world) == ["A", "B", "C"]
    assert len(world.price(way.at(1), symbol="A")) == 1
    assert waiting(world) == ["B", "C"]
    world.tokens = 2
    assert len(world.price(way.at(1), symbol="C")) == 1, "there is a token for each"
    assert waiting(world) == ["B"]


def test_a_newcomer_does_not_take_the_token_of_one_who_waits(way: Way) -> None:
    world = waiting_world(way, "A")
    world.open(way, symbol="B")
    world.tokens = 1
    assert world.price(way.at(1), symbol="B") == ()
    assert waiting(world) == ["A", "B"]
    world.tokens = 2
    assert len(world.price(way.at(1), symbol="B")) == 1


def test_a_place_in_the_queue_is_kept_as_long_as_its_price_stays_fresh(way: Way) -> None:
    world = waiting_world(way, "A")
    since = world.now_ms
    world.open(way, symbol="B")
    world.now_ms = since + 30_000 - 1_000
    world.tokens = 1
    assert world.price(way.at(1), symbol="B") == ()
    assert len(world.price(way.at(1), symbol="B")) == 1, "A's price is stale by now"
    assert world.state.waiting == ()


def test_a_price_from_before_the_entry_ends_the_waiting(way: Way) -> None:
    world = waiting_world(way, "A", "B")
    assert world.price(way.at(1), symbol="A", age_ms=60_000) == ()
    assert waiting(world) == ["B"]


def test_a_waiting_place_is_renewed_by_each_price_that_says_so(way: Way) -> None:
    world = waiting_world(way, "A", "B")
    first = world.state.waiting[0].since_ms
    world.price(way.at(1), symbol="A", after_ms=20_000)
    assert waiting(world) == ["A", "B"]
    assert world.state.waiting[0].since_ms > first + 20_000


def test_who_has_nothing_due_any_more_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B")
    world.price(way.at("0.4"), symbol="A")
    assert waiting(world) == ["B"]


def test_who_has_nothing_due_at_the_close_of_a_bar_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B", trail_atr_mult="2", trail_start_r="0.25", trail_bar_ms=1_000)
    assert world.state.books["A"].trails
    world.price(way.at("0.9"), symbol="A")
    assert waiting(world) == ["B"]


def test_whose_rung_is_carried_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B", min_qty="0.2")
    world.see(world.fill(way.closing, "0.9", 100, symbol="A"))
    assert waiting(world) == ["A", "B"]
    assert world.price(way.at(1), symbol="A") == ()
    assert world.counts["rung:carried"] == 1
    assert waiting(world) == ["B"]


def test_whose_price_was_there_before_live_mode_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B", live=True)
    world.live_after = (world.now_ms + 1_000, 0)
    assert world.price(way.at(1), symbol="A", after_ms=1_000) == ()
    assert waiting(world) == ["B"]


def test_who_is_flat_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B")
    world.see(world.fill(way.closing, 1, 100, symbol="A"))
    assert waiting(world) == ["B"]


def test_who_was_flipped_waits_no_longer(way: Way) -> None:
    world = waiting_world(way, "A", "B")
    world.see(world.fill(way.closing, 2, way.at(1), symbol="A", stop=way.at(3)))
    world.price(way.at(1), symbol="A")
    assert waiting(world) == ["B"]


def test_who_is_not_to_be_harvested_any_more_waits_no_longer(way: Way) -> None:
    world = World(policy(ladder="3:1", be_at_r="0.5"), tokens=0)
    world.open(way, order="A1", complete=False)
    world.price(way.at(1))
    assert waiting(world) == [SYMBOL]
    world.see(world.fill(way.opening, 1, 100, stop=way.at("-0.01"), order="A1", complete=False))
    assert world.position().why_not_harvested
    world.price(way.at(1))
    assert waiting(world) == []


def test_who_is_not_to_be_harvested_any_more_waits_no_longer_where_another_one_is(way: Way) -> None:
    world = World(policy(ladder="3:1", be_at_r="0.5"), tokens=0)
    world.open(way, account="a", order="A1", complete=False)
    world.open(way, account="b")
    world.price(way.at(1))
    assert [w.key.account for w in world.state.waiting] == ["a", "b"]
    world.see(world.fill(way.opening, 1, 100, stop=way.at("-0.01"), account="a", order="A1", complete=False))
    world.price(way.at(1))
    assert [w.key.account for w in world.state.waiting] == ["b"]


def test_a_harvest_and_a_stop_move_each_take_a_token(way: Way) -> None:
    world = World(policy(be_at_r="0.5"), tokens=1)
    world.open(way)
    assert [i.action for i in world.price(way.at(1))] == [Action.HARVEST]
    assert waiting(world) == [SYMBOL]
    world.tokens = 1
    assert [i.action for i in world.price(way.at(1))] == [Action.BREAK_EVEN]
    assert world.state.waiting == ()


def test_tokens_are_counted_within_a_batch(way: Way) -> None:
    world = World(policy(), tokens=2)
    for symbol in "ABC":
        world.open(way, symbol=symbol)
    intents = world.see(*(world.tick(way.at(1), symbol=symbol) for symbol in "ABC"))
    assert [intent.key.symbol for intent in intents] == ["A", "B"]
    assert waiting(world) == ["C"]


# Stops.


def test_the_stop_goes_to_break_even(way: Way, live: bool) -> None:
    world = World(policy(live=live, be_at_r="0.5", ladder="9:1"))
    world.open(way, "1.5")
    assert world.price(way.at("0.99")) == ()
    tick = world.tick(way.at(1))
    [move] = world.see(tick)
    epoch = world.epoch()
    even = D("100.11") if way is LONG else D("99.90")
    assert move == Intent(
        action=Action.BREAK_EVEN,
        claims=(f"hb-{epoch.epoch_id}-s1",),
        position=move.position,
        trigger=tick,
        qty=D("1.5"),
        reason="R=0.5: break-even",
        expires_ms=tick.time_ms + 30_000,
        rungs=(),
        stop=even,
        prev_stop=way.at(-2),
        stop_seq=1,
    )
    assert (move.position.qty, move.position.open_epoch.stop) == (way.sign * D("1.5"), way.at(-2))
    assert (move.intent_id, move.side, move.r, move.unrealized) == (
        f"hb-{epoch.epoch_id}-s1",
        way.closing,
        D("0.5"),
        D("1.5"),
    )
    assert (epoch.stop, epoch.stop_seq, epoch.reservations) == (even, 1, ())
    assert world.price(way.at("1.5")) == ()


def test_break_even_waits_for_a_price_that_it_protects(way: Way) -> None:
    world = World(policy(be_at_r="0", ladder="9:1"))
    world.open(way)
    assert world.price(way.at(0)) == ()
    edge = D("100.11") if way is LONG else D("99.90")
    assert world.price(edge) == ()
    [move] = world.price(edge + way.sign * D("0.01"))
    assert move.stop == edge


def test_a_stop_is_announced_where_there_was_none(way: Way) -> None:
    world = World(policy(be_at_r="0.5", ladder="9:1"))
    world.open(way, stop_at=None)
    [move] = world.price(way.at(1))
    assert (move.prev_stop, move.stop_seq) == (None, 1)


def trailing_world(way: Way, *, live: bool = False, kill: str = "0", **more: Any) -> World:
    """A trail of one ATR over two bars of a minute, from 1 R on; the ATR is 1 and a bar has just begun."""
    changes: dict[str, Any] = {"trail_atr_mult": "1", "trail_atr_period": 2, "ladder": "9:1", **more}
    world = World(policy(live=live, **changes), kill=kill)
    world.open(way)
    world.now_ms = START_MS + 60_000 - START_MS % 60_000
    for gain in ("0", "1", "0", "1"):
        world.price(way.at(gain), after_ms=60_000)
    market = world.state.books[SYMBOL].market
    assert market is not None
    assert market.atr(2) == 1
    assert world.intents == []
    return world


def test_the_stop_trails_the_best_price_from_its_start_on(way: Way) -> None:
    world = trailing_world(way)
    assert world.price(way.at("1.99"), after_ms=1) == ()
    assert world.epoch().extreme is None
    [move] = world.price(way.at(2), after_ms=1)
    assert (move.action, move.stop, move.prev_stop, move.stop_seq) == (Action.TRAIL, way.at(1), way.at(-2), 1)
    assert move.reason == f"R=1: trailing {way.at(2)}"
    assert world.price(way.at("1.5"), after_ms=1) == (), "a ratchet"
    [move] = world.price(way.at(3), after_ms=1)
    assert (move.stop, move.prev_stop, move.stop_seq) == (way.at(2), way.at(1), 2)
    assert world.epoch().extreme == way.at(3)


def test_the_stop_never_loosens(way: Way) -> None:
    world = trailing_world(way)
    world.price(way.at(3), after_ms=1)
    for gain in ("1.5", "4", "1", "5", "0"):  # wilder bars, a wider range
        world.price(way.at(gain), after_ms=60_000)
    numbers = [way.sign * intent.stop for intent in world.intents if intent.stop is not None]
    assert numbers == sorted(numbers)
    assert [intent.stop_seq for intent in world.intents] == list(range(1, len(numbers) + 1))


def test_a_narrower_range_moves_the_stop_when_its_bar_closes(way: Way) -> None:
    world = trailing_world(way)
    world.price(way.at(2), after_ms=1)
    assert world.price(way.at("1.9"), after_ms=60_000) == (), "a true range of 2 lifts the average to 1.5"
    [move] = world.price(way.at("1.9"), after_ms=60_000)  # one of 0.1 lowers it to 0.8
    assert (move.stop, move.prev_stop) == (way.at("1.2"), way.at(1))


def test_the_smallest_step_keeps_small_moves_back(way: Way) -> None:
    world = trailing_world(way, stop_min_step_bps="50")
    world.price(way.at(2), after_ms=1)
    assert world.price(way.at("2.4"), after_ms=1) == ()
    [move] = world.price(way.at("2.6"), after_ms=1)
    assert (move.stop, move.prev_stop) == (way.at("1.6"), way.at(1))


def test_a_harvest_after_a_stop_move_names_the_stop_and_no_number(way: Way) -> None:
    world = World(policy(be_at_r="0.5"))
    world.open(way)
    move = world.price(way.at(1))[1]
    [harvest] = world.price(way.at(2))
    assert (harvest.stop, harvest.prev_stop, harvest.stop_seq) == (move.stop, None, 0)


def test_the_better_of_break_even_and_trail_is_announced(way: Way) -> None:
    world = trailing_world(way, be_at_r="1")
    [move] = world.price(way.at(2), after_ms=1)
    assert (move.action, move.stop) == (Action.TRAIL, way.at(1))
    world = trailing_world(way, be_at_r="1", trail_atr_mult="3")
    [move] = world.price(way.at(2), after_ms=1)
    assert (move.action, move.stop) == (Action.BREAK_EVEN, D("100.11") if way is LONG else D("99.90"))


def test_break_even_is_announced_where_the_price_has_fallen_through_the_trail(way: Way) -> None:
    world = trailing_world(way, kill="1", be_at_r="0.1")
    world.price(way.at(5), after_ms=1)
    world.kill = "0"
    [move] = world.price(way.at(3), after_ms=1)
    assert (move.action, move.stop) == (Action.BREAK_EVEN, D("100.11") if way is LONG else D("99.90"))
    [move] = world.price(way.at("4.5"), after_ms=1)
    assert (move.action, move.stop) == (Action.TRAIL, way.at(4))


def test_a_trailing_stop_that_a_gate_held_back_comes_with_the_next_price(way: Way) -> None:
    world = trailing_world(way, kill="1")
    world.price(way.at(3), after_ms=1)
    world.kill = "0"
    [move] = world.price(way.at("2.5"), after_ms=1)
    assert move.stop == way.at(2)


def test_without_a_multiple_nothing_trails(way: Way) -> None:
    world = trailing_world(way, trail_atr_mult="0")
    assert world.price(way.at(5), after_ms=1) == ()
    assert world.epoch().extreme is None


def test_without_enough_bars_nothing_trails_but_the_best_price_is_noted(way: Way) -> None:
    world = World(policy(trail_atr_mult="1", ladder="9:1"))
    world.open(way)
    assert world.price(way.at(3)) == ()
    assert world.epoch().extreme == way.at(3)


def test_incident_31_the_best_price_belongs_to_the_epoch(way: Way) -> None:
    world = trailing_world(way)
    world.price(way.at(5), after_ms=1)
    world.see(world.fill(way.closing, 1, way.at(5)), world.fill(way.opening, 1, 100, stop=way.at(-2)))
    epoch = world.epoch()
    assert (epoch.extreme, epoch.stop, epoch.stop_seq) == (None, way.at(-2), 0)


def test_incident_30_the_stop_is_emitted_again_for_the_smaller_quantity(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [harvest] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=harvest.intent_id))
    assert world.epoch().resize_due
    [move] = world.price(way.at("0.2"))
    assert (move.action, move.qty, move.stop_seq) == (Action.RESIZE, D("0.75"), 1)
    assert (move.stop, move.prev_stop) == (way.at(-2), way.at(-2))
    assert move.reason == "R=0.1: 0.75 left to protect"
    assert not world.epoch().resize_due
    assert world.price(way.at("0.2")) == ()


def test_incident_30_a_stop_move_after_a_harvest_carries_the_smaller_quantity_itself(way: Way) -> None:
    world = World(policy(live=True, be_at_r="0.6"))
    world.open(way)
    [harvest] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=harvest.intent_id))
    [move] = world.price(way.at("1.2"))
    assert (move.action, move.qty) == (Action.BREAK_EVEN, D("0.75"))
    assert world.price(way.at("1.2")) == ()


def test_without_a_stop_there_is_nothing_to_resize(way: Way) -> None:
    world = World(policy(live=True, allow_fallback=True))
    world.open(way, stop_at=None)
    [harvest] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=harvest.intent_id))
    assert not world.epoch().resize_due
    assert world.price(way.at("0.2")) == ()


def test_a_reduction_that_is_no_harvest_does_not_resize_the_stop(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.see(world.fill(way.closing, "0.25", 100))
    assert world.price(way.at("0.2")) == ()


def test_a_stop_move_that_is_out_already_is_marked_and_reserves_nothing(way: Way) -> None:
    world = World(policy(live=True, be_at_r="0.5", ladder="9:1"))
    world.open(way)
    world.published.add(f"hb-{world.epoch().epoch_id}-s1")
    assert world.price(way.at(1)) == ()
    assert (world.epoch().stop_seq, world.epoch().reservations) == (1, ())


def test_a_harvest_goes_out_before_the_stop_move_of_the_same_price(way: Way) -> None:
    world = World(policy(be_at_r="0.5"))
    world.open(way)
    assert [i.action for i in world.price(way.at(1))] == [Action.HARVEST, Action.BREAK_EVEN]


# The quiet range.


def quiet(world: World, way: Way) -> Decimal:
    """The edge of the quiet range on the winning side; the other side is open."""
    book = world.state.books[SYMBOL]
    assert (book.quiet_above if way is LONG else book.quiet_below) == (-INFINITY if way is LONG else INFINITY)
    return book.quiet_below if way is LONG else book.quiet_above


@pytest.mark.parametrize("qty", [1, "0.5"])
def test_the_next_rung_bounds_the_quiet_range(way: Way, qty: int | str) -> None:
    world = World(policy())
    world.open(way, qty)
    assert quiet(world, way) == way.at(1)
    world.price(way.at(1))
    assert quiet(world, way) == way.at(2)
    world.price(way.at(9))
    assert quiet(world, way) == way.at(2000), "break-even, which these tests put at 1000 R"


def test_who_has_nothing_left_to_decide_is_quiet_for_ever(way: Way) -> None:
    world = World(policy(ladder="0.5:0.5", be_at_r="0.5"))
    world.open(way)
    world.price(way.at(1))
    assert quiet(world, way) == way.sign * INFINITY


def test_break_even_the_start_of_the_trail_and_its_best_price_bound_the_quiet_range(way: Way) -> None:
    world = World(policy(ladder="9:1", be_at_r="0.25", trail_atr_mult="1", trail_start_r="0.75"))
    world.open(way)
    assert quiet(world, way) == way.at("0.5")
    world.price(way.at("0.5"))
    assert quiet(world, way) == way.at("1.5")
    world.price(way.at("1.6"))
    assert quiet(world, way) == way.at("1.6")


def test_a_stop_to_be_resized_leaves_no_quiet_range(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    [harvest] = world.price(way.at(1))
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=harvest.intent_id))
    assert quiet(world, way) == -way.sign * INFINITY


def test_a_quiet_price_moves_the_price_memory_only(way: Way) -> None:
    world = World(policy())
    world.open(way)
    before = world.state.books[SYMBOL]
    world.price(way.at("0.5"))
    after = world.state.books[SYMBOL]
    assert after.positions is before.positions
    assert after.market is not None
    assert after.market.last == way.at("0.5")
    assert after == before._replace(market=after.market)


def test_long_and_short_of_one_symbol_bound_the_quiet_range_from_both_sides() -> None:
    world = World(policy())
    world.see(
        world.fill(Side.BUY, 1, 100, stop=98, position_side=PositionSide.LONG),
        world.fill(Side.SELL, 1, 100, stop=102, position_side=PositionSide.SHORT),
        world.fill(Side.BUY, 1, 90, stop=80, account="x"),
    )
    book = world.state.books[SYMBOL]
    assert (book.quiet_above, book.quiet_below) == (D(99), D(95))
    assert not book.trails


def test_a_book_without_open_positions_keeps_only_the_suspect_ones() -> None:
    key = Key("", SYMBOL, PositionSide.NET)
    doubted = Position(key, suspect="why")
    assert book_of(Market(D(1)), [Position(key), doubted]) == Book(None, (doubted,))
    assert book_of(None, []) == Book(None, ())


def test_the_quiet_range_is_the_same_in_any_arithmetic_context(way: Way) -> None:
    """The state is also loaded outside of `decide`, in whatever context the thread has."""
    world = World(policy())
    world.open(way, 3, stop_at="-2.000000000000000000000007", order="A1", complete=False)
    world.see(world.fill(way.opening, 4, way.at("0.000000000000000000000011"), order="A1", complete=False))
    book = world.state.books[SYMBOL]
    assert book_of(book.market, book.positions) == book


# Going from shadow to live.


def test_going_live_skips_every_rung_that_was_crossed_fired_or_not(way: Way) -> None:
    world = World(policy(min_qty="0.3"))
    world.open(way)
    world.price(way.at(1))  # carried
    world.kill = "1"
    world.price(way.at(2))  # crossed, not fired
    world.open(way, symbol="BTCUSDT")
    world.see(world.fill(Side.SELL, 1, 100, symbol="XRPUSDT", position_side=PositionSide.LONG))
    before = replace(world.state, books=dict(world.state.books))
    decision = change_mode(world.state, live=True)
    assert world.state == before
    world.state.adopt(decision)
    epoch = world.epoch()
    assert epoch.rungs == (RungState.SKIPPED, RungState.SKIPPED, RungState.ARMED)
    assert epoch.target == epoch.issued == 0
    assert world.epoch("BTCUSDT").rungs == (RungState.ARMED,) * 3
    assert world.state.books["XRPUSDT"].positions[0].suspect
    world.kill, world.policy = "0", policy(live=True, min_qty="0.3")
    assert world.price(way.at(2)) == ()
    assert world.price(way.at(3)) == (), "a quarter is below the minimum, and nothing is owed from before"


def test_going_live_skips_fired_rungs_and_owes_nothing(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(1))
    world.state.adopt(change_mode(world.state, live=True))
    assert world.epoch().rungs == (RungState.SKIPPED, RungState.ARMED, RungState.ARMED)
    assert world.epoch().target == world.epoch().issued == 0
    world.policy = policy(live=True)
    assert harvests(world.price(way.at(2))) == [D("0.25")]


def test_a_state_is_made_of_books_and_those_who_wait() -> None:
    assert (State().books, State().waiting) == ({}, ())


@pytest.mark.parametrize(
    "known", [{"fill_id": "F1"}, {"cumulative": 1}], ids=["by a fill id", "by what is filled so far"]
)
def test_a_second_filled_of_an_order_is_a_repeat_though_it_says_less(known: dict[str, str | int]) -> None:
    world = World(policy())
    world.see(world.fill(Side.BUY, 1, 100, order="A1", **known))  # type: ignore[arg-type]
    world.see(world.fill(Side.BUY, 1, 100, order="A1"))
    assert world.position().qty == 1
    assert not world.position().suspect
    assert world.counts["fill:repeated"] == 1


@pytest.mark.parametrize(("cumulative", "suspect"), [(1, False), (2, True)], ids=["repeat", "clash"])
def test_a_second_filled_of_an_order_is_a_repeat_or_a_clash_though_it_says_more(cumulative: int, suspect: bool) -> None:
    world = World(policy())
    world.see(world.fill(Side.BUY, 1, 100, order="A1"))
    world.see(world.fill(Side.BUY, 1, 100, order="A1", cumulative=cumulative))
    assert world.position().qty == 1
    assert bool(world.position().suspect) is suspect


def test_a_price_from_before_the_entry_fires_nothing(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    assert harvests(world.price(way.at(3), after_ms=100, age_ms=400)) == []
    assert harvests(world.price(way.at(1), after_ms=400)) != []


def test_a_price_of_the_very_moment_of_the_entry_counts(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    assert harvests(world.price(way.at(1), after_ms=400, age_ms=400)) != []


def test_a_position_that_became_suspect_does_not_hold_up_those_behind_it() -> None:
    world = World(policy(live=True), tokens=0)
    for symbol in ("AAAUSDT", "BBBUSDT"):
        world.see(world.fill(Side.BUY, 1, 100, stop=98, symbol=symbol))
    for symbol in ("AAAUSDT", "BBBUSDT"):
        world.price(101, symbol=symbol)
    world.see(world.snapshot(5, symbol="AAAUSDT", after_ms=6_000))
    world.tokens = 1
    assert world.price(101, symbol="AAAUSDT") == ()
    assert harvests(world.price(101, symbol="BBBUSDT")) != []
