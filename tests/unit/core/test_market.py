"""The price memory: the guard against bad ticks, and Wilder's average true range."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.strategies import decimals

from harvest_brain.core.market import LONG_GAP_BARS, Jump, Market

BAR_MS = 60_000
D = Decimal
PERIOD = 3


def run(
    *ticks: tuple[int, str | Decimal], bar_ms: int = BAR_MS, period: int = PERIOD, market: Market | None = None
) -> Market:
    """The memory after prices at so many milliseconds."""
    memory = market or Market(D(100))
    for time_ms, price in ticks:
        memory = memory.tick(D(price), time_ms, bar_ms, period)
    return memory


# The guard against bad ticks.


@pytest.mark.parametrize(("price", "believed"), [("120", True), ("120.01", False), ("80", True), ("79.99", False)])
def test_a_price_up_to_the_bound_is_believed_at_once(price: str, believed: bool) -> None:
    assert Market(D(100)).believes(D(price), 0, D(20)) is believed


def test_a_second_tick_near_the_first_confirms_a_jump() -> None:
    jumped = Market(D(100), candidate=Jump(D(150), 7))
    assert jumped.believes(D(170), 8, D(20))
    assert jumped.believes(D(180), 8, D(20))
    assert not jumped.believes(Decimal("180.01"), 8, D(20))
    assert not jumped.believes(Decimal("119.99"), 8, D(10))


def test_a_jump_that_is_delivered_twice_does_not_confirm_itself() -> None:
    jumped = Market(D(100), candidate=Jump(D(150), 7))
    assert not jumped.believes(D(150), 7, D(20))
    assert jumped.believes(D(150), 6, D(20)), "one from before it is another one"


def test_a_bound_of_zero_switches_the_guard_off() -> None:
    assert Market(D(100)).believes(D(10_000), 0, D(0))


def test_a_believed_price_forgets_the_candidate() -> None:
    jumped = Market(D(100), candidate=Jump(D(150), 7))
    assert run((0, "101"), market=jumped).candidate is None
    opened = run((BAR_MS, "101"))._replace(candidate=Jump(D(150), 7))
    assert run((BAR_MS + 1, "101"), market=opened).candidate is None
    assert run((2 * BAR_MS, "101"), market=opened).candidate is None
    assert run((0, "101"), market=opened).candidate is None
    assert run((99 * BAR_MS, "101"), market=opened).candidate is None


# Bars.


def test_the_first_price_opens_a_bar() -> None:
    assert run((61_234, "101")) == Market(D(101), None, 60_000, D(101), D(101))


def test_a_bar_keeps_its_extremes_and_last_price() -> None:
    market = run((0, "101"), (10_000, "105"), (20_000, "99"), (59_999, "102"))
    assert (market.bar, market.high, market.low, market.last) == (0, D(105), D(99), D(102))
    assert market.ranges == 0


def test_the_first_closed_bar_gives_no_true_range() -> None:
    market = run((0, "100"), (BAR_MS, "103"))
    assert (market.ranges, market.prev_close) == (0, D(100))
    assert (market.bar, market.high, market.low) == (BAR_MS, D(103), D(103))


def test_the_true_range_spans_the_close_before() -> None:
    below = run((0, "100"), (BAR_MS, "104"), (BAR_MS + 1, "103"), (2 * BAR_MS, "103"))
    assert (below.ranges, below.average) == (1, D(4)), "from the close at 100 to the high at 104"
    above = run((0, "100"), (BAR_MS, "96"), (BAR_MS + 1, "97"), (2 * BAR_MS, "97"))
    assert (above.ranges, above.average) == (1, D(4)), "from the close at 100 to the low at 96"
    around = run((0, "100"), (BAR_MS, "98"), (BAR_MS + 1, "103"), (2 * BAR_MS, "101"))
    assert (around.ranges, around.average) == (1, D(5)), "from the low at 98 to the high at 103"


def test_the_average_true_range_needs_a_bar_more_than_its_period() -> None:
    ticks = [(index * BAR_MS, str(100 + index % 2 * 2)) for index in range(PERIOD + 2)]
    assert run(*ticks[:-1]).atr(PERIOD) is None
    assert run(*ticks).atr(PERIOD) == 2


def test_the_first_average_is_the_mean_and_then_wilders() -> None:
    # True ranges 1, 2, 6: their mean is 3. Then one of 9: (3 * 2 + 9) / 3 = 5. Then one of 2: (5 * 2 + 2) / 3 = 4.
    closes = ["100", "101", "103", "109", "100", "102", "102"]
    ticks = [(index * BAR_MS, close) for index, close in enumerate(closes)]
    assert [run(*ticks[: count + 1]).atr(PERIOD) for count in (4, 5, 6)] == [3, 5, 4]


def test_the_number_of_true_ranges_stops_at_the_period() -> None:
    assert run(*[(index * BAR_MS, "100") for index in range(10)]).ranges == PERIOD


def test_a_short_gap_is_bridged() -> None:
    market = run((0, "100"), (BAR_MS, "102"), ((1 + LONG_GAP_BARS) * BAR_MS, "105"))
    assert (market.ranges, market.average, market.prev_close) == (1, D(2), D(102))


def test_a_long_gap_restarts_the_warm_up() -> None:
    market = run((0, "100"), (BAR_MS, "102"), ((2 + LONG_GAP_BARS) * BAR_MS, "105"))
    assert market == Market(D(105), None, (2 + LONG_GAP_BARS) * BAR_MS, D(105), D(105))


def test_a_late_price_changes_no_closed_bar() -> None:
    before = run((0, "100"), (BAR_MS, "102"), (2 * BAR_MS, "104"))
    after = run((BAR_MS + 1, "500"), market=before)
    assert after == before._replace(last=D(500))


def test_a_changed_bar_length_goes_on_in_the_next_bar() -> None:
    before = run((600_000, "100"), (660_000, "102"), (720_000, "103"))
    longer = run((730_000, "104"), (900_000, "105"), (1_200_000, "106"), bar_ms=300_000, market=before)
    assert (longer.bar, longer.ranges) == (1_200_000, 3)
    shorter = run((725_000, "104"), (730_000, "106"), bar_ms=5_000, market=before)
    assert (shorter.bar, shorter.ranges) == (730_000, 3)


@given(
    st.lists(st.tuples(st.integers(0, 3 * BAR_MS), decimals("90", "110", 2)), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_the_average_equals_wilders_over_bars_made_independently(steps: list[tuple[int, Decimal]], period: int) -> None:
    bars: dict[int, list[Decimal]] = {}
    market, now = Market(D(100)), 0
    for step, price in steps:
        now += step
        bars.setdefault(now // BAR_MS, []).append(price)
        market = market.tick(price, now, BAR_MS, period)
    closed = [bars[index] for index in sorted(bars)][:-1]
    ranges = [max(*bar, before[-1]) - min(*bar, before[-1]) for before, bar in pairwise(closed)]
    if len(ranges) < period:
        assert market.atr(period) is None
        return
    expected = sum(ranges[:period], D(0)) / period
    for true_range in ranges[period:]:
        expected = (expected * (period - 1) + true_range) / period
    average = market.atr(period)
    assert average is not None
    assert abs(average - expected) < Decimal("1e-20")
