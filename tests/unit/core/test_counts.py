"""Everything is counted as often as it happens, also within one batch: an operator reads these figures."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from tests.support.world import SYMBOL, Way, World, policy

from harvest_brain.core.events import Clear, Event, Gap, Malformed, Passed, PnlSnapshot, PositionSide, Release, Side
from harvest_brain.core.mode import change_mode


def counted(world: World, *events: Event) -> Mapping[str, int]:
    """What `events` in one batch are counted as."""
    world.see(*events)
    return world.decision.counts


def test_fills(way: Way) -> None:
    world = World(policy())
    fills = [world.fill(way.opening, qty, 100, fill_id=name) for name in ("F1", "F2") for qty in (1, 1, 2)]
    assert counted(world, *fills) == {"fill:applied": 2, "fill:repeated": 2, "fill:clash": 2}


def test_cumulative_fills(way: Way) -> None:
    world = World(policy())
    fills = [world.fill(way.opening, 1, 100, order="A1", cumulative=total) for total in (2, 2, 1, 3)]
    assert counted(world, *fills) == {"fill:applied": 2, "fill:repeated": 2}


def test_reservations_that_silence_makes_unknown(way: Way) -> None:
    world = World(policy(live=True))
    for account in "ab":
        world.open(way, account=account)
    world.price(way.at(1))
    assert counted(world, world.tick(way.at("0.5"), after_ms=61_000)) == {"reservation:unknown": 2}


def test_news_of_orders(way: Way) -> None:
    world = World(policy(live=True))
    for account in "abcd":
        world.open(way, account=account)
    names = [intent.intent_id for intent in world.price(way.at(1))]
    statuses = ("NEW", "NEW", "REJECTED", "EXPIRED")
    news = [world.order(status, correlation=name) for status, name in zip(statuses, names, strict=True)]
    strangers = [world.order(status, order="Z") for status in ("NEW", "NEW", "REJECTED")]
    assert counted(world, *news, *strangers) == {
        "order:acknowledged": 2,
        "order:ended": 2,
        "status:NEW": 2,
        "status:REJECTED": 1,
    }


def test_entries_that_are_passed_over_or_refused() -> None:
    noise: list[Event] = [
        Passed("1-0", "X"),
        Passed("2-0", "X"),
        Malformed("3-0", "why", ()),
        Malformed("4-0", "why", ()),
    ]
    assert counted(World(policy()), *noise) == {"status:X": 2, "malformed": 2}


def test_prices(way: Way) -> None:
    world = World(policy(jump=20))
    world.open(way)
    ticks = [world.tick(price) for price in (way.at(50), way.at(-50), way.at(0))]
    strangers = [world.tick(1, symbol="OTHER") for _ in range(2)]
    assert counted(world, *ticks, *strangers) == {"price:jump": 2, "price:no position": 2}


def test_what_is_carried_and_what_is_refused(way: Way) -> None:
    world = World(policy(min_qty="0.3"))
    for symbol in ("A", "B"):
        world.open(way, symbol=symbol)
    assert counted(world, *(world.tick(way.at(1), symbol=symbol) for symbol in "AB")) == {"rung:carried": 2}
    world = World(policy(), tokens=0)
    for symbol in ("A", "B"):
        world.open(way, symbol=symbol)
    assert counted(world, *(world.tick(way.at(1), symbol=symbol) for symbol in "AB")) == {"refused:rate": 2}
    world.published = {f"hb-{world.epoch(symbol).epoch_id}-r1" for symbol in "AB"}
    assert counted(world, *(world.tick(way.at(1), symbol=symbol) for symbol in "AB")) == {
        "refused:already published": 2
    }
    world.kill = "1"
    assert counted(world, *(world.tick(way.at(2), symbol=symbol) for symbol in "AB")) == {"refused:kill-switch": 2}


def test_snapshots(way: Way) -> None:
    world = World(policy())
    world.open(way)
    early = [world.snapshot(way.sign, after_ms=1) for _ in range(2)]
    good = [world.snapshot(way.sign) for _ in range(2)]
    rivals = [world.snapshot(1, position_side=PositionSide.LONG) for _ in range(2)]
    assert counted(world, *early, *good, *rivals) == {
        "snapshot:too soon after a fill": 2,
        "snapshot:agrees": 2,
        "snapshot:mismatch": 2,
    }


def test_a_snapshot_beside_two_sides_makes_both_suspect() -> None:
    world = World(policy())
    world.see(
        world.fill(Side.BUY, 1, 100, position_side=PositionSide.LONG),
        world.fill(Side.SELL, 1, 100, position_side=PositionSide.SHORT),
    )
    assert counted(world, world.snapshot(1)) == {"snapshot:mismatch": 1}
    assert [bool(position.suspect) for position in world.state.positions()] == [True, True]


def test_profit_snapshots(way: Way) -> None:
    world = World(policy())
    world.open(way)
    world.price(way.at(2), after_ms=10_000)
    snapshots = [
        PnlSnapshot(f"{world.now_ms}-0", world.now_ms, symbol, Decimal(profit))
        for symbol, profit in ((SYMBOL, 2), (SYMBOL, 2), (SYMBOL, 50), (SYMBOL, 50), ("OTHER", 1), ("OTHER", 1))
    ]
    assert counted(world, *snapshots) == {"pnl:agrees": 2, "pnl:mismatch": 2, "pnl:not comparable": 2}


def test_the_operators_word(way: Way) -> None:
    world = World(policy(live=True))
    for account in "ab":
        world.open(way, account=account)
    names = [intent.intent_id for intent in world.price(way.at(1))]
    world.now_ms += 61_000
    at = world.now_ms
    words: list[Event] = [Release(f"{at}-0", at, SYMBOL, name) for name in (*names, "hb-x", "hb-y")]
    assert counted(world, *words) == {"operator:released": 2, "operator:refused": 2}
    world.see(Gap(2, "why"))
    clears: list[Event] = [Clear(f"{at}-0", SYMBOL) for _ in range(3)]
    assert counted(world, *clears) == {"operator:cleared": 1, "operator:refused": 2}
    assert [position.suspect for position in world.state.positions()] == ["", ""]
    world.see(Gap(2, "why"))
    world.open(way, symbol="OTHER")
    world.see(Gap(2, "why"))
    clears = [Clear(f"{at}-0", symbol) for symbol in (SYMBOL, "OTHER")]
    assert counted(world, *clears) == {"operator:cleared": 2}


def test_gaps() -> None:
    assert counted(World(policy()), Gap(2, "why"), Gap(3, "why")) == {"gap:entries": 5}


def test_a_change_of_mode_has_nothing_to_publish_to_remember_or_to_count(way: Way) -> None:
    world = World(policy())
    world.open(way)
    decision = change_mode(world.state, live=True)
    assert (decision.applied, decision.intents, decision.rejected, decision.counts) == ({}, (), (), {})
    assert decision.waiting == world.state.waiting
