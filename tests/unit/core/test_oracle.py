"""I9: quantities equal a reference accounting exactly, averages within 1e-9.

`make oracle` compares with an implementation of somebody else as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.support.ledger import Ledger
from tests.support.world import World, brought_in, policy
from tests.unit.core.strategies import decimals

from harvest_brain.core.events import Fill, Side
from harvest_brain.core.position import Position

WITHIN = Fraction(1, 10**9)
HISTORIES, FILLS = 200, 60


def assert_equal(position: Position | None, ledger: Ledger) -> None:
    """The book of a symbol against its ledger."""
    if position is None:
        assert ledger.qty == 0
        return
    epoch = position.open_epoch
    assert Fraction(position.qty) == ledger.qty
    assert Fraction(epoch.peak) == ledger.peak
    assert abs(Fraction(position.average) - ledger.average) <= WITHIN
    assert abs(Fraction(epoch.realized) - ledger.realized) <= WITHIN
    assert abs(Fraction(epoch.fees) - ledger.fees) <= WITHIN


def position_in(world: World) -> Position | None:
    return None if world.is_flat else world.position()


def random_fills(seed: int, world: World) -> Iterator[Fill]:
    """A trader without a plan: sizes of any fineness, closing exactly now and then, turning round often."""
    chance = random.Random(seed)
    places = chance.choice([0, 1, 3, 8, 24])
    for _ in range(FILLS):
        side = chance.choice([Side.BUY, Side.SELL])
        qty = Decimal(chance.randint(1, 10**6)).scaleb(-places)
        position = position_in(world)
        if position is not None and chance.random() < 0.15:
            side = Side.SELL if position.qty > 0 else Side.BUY
            qty = abs(position.qty)
        price = Decimal(chance.randint(1, 10**9)).scaleb(-chance.choice([0, 2, 8]))
        yield world.fill(side, qty, price, fee=Decimal(chance.randint(-50, 1000)).scaleb(-4), fee_asset="USDT")


def test_the_accounting_equals_a_reference_on_more_than_ten_thousand_random_fills() -> None:
    count = flips = 0
    for seed in range(HISTORIES):
        world, ledger, epochs, fills = World(policy()), Ledger(), set(), []
        for fill in random_fills(seed, world):
            before = ledger.qty
            world.see(fill)
            fills.append(fill)
            ledger.book(Fraction(fill.side.sign * fill.qty), Fraction(fill.price), Fraction(fill.fee))
            position = position_in(world)
            assert_equal(position, ledger)
            if position is not None:
                epochs.add(position.open_epoch.epoch_id)
            count += 1
            flips += before * ledger.qty < 0
        assert len(epochs) == ledger.openings
        assert abs(brought_in(fills, world.state.positions()) - ledger.banked - ledger.realized) <= WITHIN * FILLS
    assert count >= 10_000
    assert flips >= 1_000


@given(st.lists(st.tuples(st.sampled_from([1, -1]), decimals("0.001", "3", 3), decimals("90", "110", 2)), max_size=30))
def test_quantities_never_drift(trades: list[tuple[int, Decimal, Decimal]]) -> None:
    world, ledger = World(policy()), Ledger()
    for sign, qty, price in trades:
        world.see(world.fill(Side.BUY if sign > 0 else Side.SELL, qty, price))
        ledger.book(Fraction(sign * qty), Fraction(price))
        assert_equal(position_in(world), ledger)


@given(st.lists(st.tuples(st.sampled_from([1, -1]), decimals("0.001", "3", 3)), min_size=1, max_size=20))
def test_base_fees_on_spot_reduce_what_is_held_exactly(trades: list[tuple[int, Decimal]]) -> None:
    world, ledger = World(policy(spot=True)), Ledger()
    for sign, qty in trades:
        fee = qty / 1000
        world.see(world.fill(Side.BUY if sign > 0 else Side.SELL, qty, 100, fee=fee, fee_asset="ETH"))
        ledger.book(Fraction(sign * qty - fee), Fraction(100), Fraction(fee * 100))
        assert_equal(position_in(world), ledger)
