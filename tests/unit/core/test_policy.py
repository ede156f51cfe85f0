"""The ladder's text and sizes, the risk first taken, and where the stop goes."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.world import Way, terms
from tests.unit.core.strategies import decimals, ladders, quantities, steps

from harvest_brain.core.due import share_of
from harvest_brain.core.events import Key, PositionSide
from harvest_brain.core.numbers import ARITHMETIC, ZERO, plain
from harvest_brain.core.policy import (
    Dust,
    Risk,
    Rung,
    Terms,
    break_even,
    least_risk,
    override_terms,
    parse_ladder,
    risk_of,
    trailing_stop,
    worth_moving,
)
from harvest_brain.core.position import Epoch, Holding, Position, Reservation

D = Decimal
DEFAULTS = Terms(ladder=parse_ladder("0.5:0.25,1.0:0.25,1.5:0.25"))


# The ladder's text.


def test_a_ladder_is_pairs_of_level_and_fraction() -> None:
    assert parse_ladder("0.5:0.25, 1.0 : 0.25,1.5:0.5") == (
        Rung(D("0.5"), D("0.25")),
        Rung(D("1"), D("0.25")),
        Rung(D("1.5"), D("0.5")),
    )
    assert parse_ladder("2:1") == (Rung(D(2), D(1)),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "rung '' is not of the form R:fraction, such as 0.5:0.25"),
        ("0.5", "rung '0.5' is not of the form R:fraction, such as 0.5:0.25"),
        ("0.5:0.25,", "rung '' is not of the form R:fraction, such as 0.5:0.25"),
        ("x:0.25", "'x' is not a number"),
        ("0.5:y", "'y' is not a number"),
        ("0.5:0.1:0.1", "'0.1:0.1' is not a number"),
        ("0:0.25", "level 0 of rung '0:0.25' is not above 0"),
        ("-1:0.25", "level -1 of rung '-1:0.25' is not above 0"),
        ("0.5:0", "fraction 0 of rung '0.5:0' is not above 0 and at most 1"),
        ("0.5:-0.1", "fraction -0.1 of rung '0.5:-0.1' is not above 0 and at most 1"),
        ("0.5:1.01", "fraction 1.01 of rung '0.5:1.01' is not above 0 and at most 1"),
        ("0.5:0.2,0.5:0.2", "level 0.5 follows 0.5; levels must increase"),
        ("0.5:0.6,0.4:0.6", "level 0.4 follows 0.5; levels must increase"),
        ("0.5:0.6,0.7:0.6", "the fractions add up to 1.2, more than the whole position (1)"),
        (
            "1:0.5,2:0.500000000000000000000001",
            "the fractions add up to 1.000000000000000000000001, more than the whole position (1)",
        ),
    ],
)
def test_a_wrong_ladder_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        parse_ladder(text)


def test_a_very_long_rung_is_cut_in_the_sentence() -> None:
    for text in ("1" * 70, "0:" + "1" * 70, "1:" + "9" * 10 + "0" * 4 + "." + "0" * 24 + "0" * 40):
        with pytest.raises(ValueError, match=r"…'"):
            parse_ladder(text)


@given(ladders())
def test_every_valid_ladder_is_read_back(ladder: tuple[Rung, ...]) -> None:
    assert parse_ladder(",".join(f"{plain(rung.level)}:{plain(rung.fraction)}" for rung in ladder)) == ladder


# Terms and their overrides.


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert (
        Terms(
            ladder=(Rung(D("0.5"), D("0.25")), Rung(D(1), D("0.25")), Rung(D("1.5"), D("0.25"))),
            min_r=D("0.5"),
            be_at_r=D("0.5"),
            be_fee_rate=D("0.0005"),
            trail_start_r=D(1),
            trail_atr_mult=D(2),
            trail_atr_period=14,
            trail_bar_ms=60_000,
            stop_min_step_bps=D(5),
            fallback_risk=D("0.02"),
            min_risk_bps=D(5),
            qty_step=D("0.0001"),
            price_tick=D("1e-8"),
            min_qty=ZERO,
            min_notional=ZERO,
            dust=Dust.LEAVE,
        )
        == DEFAULTS
    )


def test_no_rung_fires_below_the_least_r() -> None:
    terms = Terms(ladder=(), min_r=D("0.7"))
    assert terms.trigger(Rung(D("0.5"), D("0.25"))) == D("0.7")
    assert terms.trigger(Rung(D("0.9"), D("0.25"))) == D("0.9")


@pytest.mark.parametrize(
    ("qty", "price", "taken"),
    [("0.1", "50", True), ("0.09", "100", False), ("0.1", "49.99", False), ("0.2", "25", True), ("0", "100", False)],
)
def test_an_exchange_takes_orders_from_its_minimum_size_and_value_on(qty: str, price: str, taken: bool) -> None:
    assert terms(min_qty="0.1", min_notional="5").tradeable(D(qty), D(price)) is taken


def test_without_minima_everything_but_nothing_is_tradeable() -> None:
    assert terms().tradeable(D("0.00000001"), D("0.00000001"))
    assert not terms().tradeable(ZERO, D(100))


def test_overrides_replace_any_subset_of_the_terms() -> None:
    changed, faults = override_terms(
        DEFAULTS,
        {
            "ladder": "1:1",
            "min_r": "0",
            "set_be_at_r": "0.75",
            "trail_atr_mult": "0",
            "qty_step": "0.001",
            "price_tick": "0.05",
            "min_qty": "0.001",
            "min_notional": "5",
        },
    )
    assert faults == ()
    assert changed == Terms(
        ladder=(Rung(D(1), D(1)),),
        min_r=ZERO,
        be_at_r=D("0.75"),
        trail_atr_mult=ZERO,
        qty_step=D("0.001"),
        price_tick=D("0.05"),
        min_qty=D("0.001"),
        min_notional=D(5),
    )
    assert override_terms(DEFAULTS, {"min_qty": "3"}) == (Terms(ladder=DEFAULTS.ladder, min_qty=D(3)), ())
    assert override_terms(DEFAULTS, {}) == (DEFAULTS, ())


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("ladder", "nonsense", "ladder='nonsense': rung 'nonsense' is not of the form R:fraction, such as 0.5:0.25"),
        ("min_r", "-0.1", "min_r='-0.1': -0.1 is not at least 0"),
        ("set_be_at_r", "-1", "set_be_at_r='-1': -1 is not at least 0"),
        ("trail_atr_mult", "-2", "trail_atr_mult='-2': -2 is not at least 0"),
        ("qty_step", "0", "qty_step='0': 0 is not above 0"),
        ("price_tick", "0", "price_tick='0': 0 is not above 0"),
        ("price_tick", "-1", "price_tick='-1': -1 is not above 0"),
        ("min_qty", "abc", "min_qty='abc': 'abc' is not a number"),
        ("min_notional", "-5", "min_notional='-5': -5 is not at least 0"),
        (
            "leverage",
            "5",
            "leverage='5': no such override; there are ladder, min_r, set_be_at_r, trail_atr_mult, qty_step, "
            "price_tick, min_qty, min_notional",
        ),
    ],
)
def test_a_bad_override_is_refused_by_name_and_the_rest_holds(name: str, text: str, sentence: str) -> None:
    good = {"min_qty": "7"} if name != "min_qty" else {"min_r": "0.7"}
    changed, faults = override_terms(DEFAULTS, {name: text, **good})
    assert faults == (sentence,)
    assert changed == override_terms(DEFAULTS, good)[0]
    assert changed != DEFAULTS


def test_long_names_and_values_are_cut_in_the_sentence() -> None:
    faults = override_terms(DEFAULTS, {"x" * 70: "y" * 70, "min_r": "z" * 70})[1]
    assert faults == (
        f"min_r='{'z' * 60}…': '{'z' * 60}…' is not a number",
        f"{'x' * 60}…='{'y' * 60}…': no such override; there are ladder, min_r, set_be_at_r, trail_atr_mult, qty_step, "
        "price_tick, min_qty, min_notional",
    )


# Risk.


def test_the_risk_is_the_distance_to_the_stop(way: Way) -> None:
    assert risk_of(way.sign, D(100), way.at(-2), DEFAULTS) == Risk(D(2), "stop", way.at(-2))


@pytest.mark.parametrize("gain", ["0", "2"])
def test_a_stop_on_the_wrong_side_is_as_good_as_none(way: Way, gain: str) -> None:
    assert risk_of(way.sign, D(100), way.at(gain), DEFAULTS) == Risk(D(2), "fallback", None)


def test_without_a_stop_the_risk_is_a_fraction_of_the_entry(way: Way) -> None:
    assert risk_of(way.sign, D(2500), None, DEFAULTS) == Risk(D(50), "fallback", None)


def test_the_least_risk_is_two_ticks_or_some_basis_points_of_the_entry() -> None:
    assert least_risk(D(100), terms(price_tick="0.1", min_risk_bps="5")) == D("0.2")
    assert least_risk(D(1000), terms(price_tick="0.1", min_risk_bps="5")) == D("0.5")


# Sizes.


def share(
    rules: Terms,
    crossed: tuple[int, ...],
    peak: Decimal,
    target: Decimal,
    issued: Decimal,
    free: Decimal,
    price: Decimal,
) -> tuple[Decimal, Decimal]:
    """What the rungs `crossed` come to in a long position of which so much is `free`; the rest of it is on its way."""
    key, held = Key("", "ETHUSDT", PositionSide.NET), 2 * max(free, D(1))
    epoch = replace(
        Epoch.begin(key, "F1", Holding(peak, D(100)), D(98), 0, rules),
        target=target,
        issued=issued,
        reservations=(Reservation("hb-x-r1", held - free, 0),),
    )
    return share_of(Position(key, held, D(100), epoch=epoch), crossed, price)


def shares(rules: Terms, peak: str, *, price: str = "100") -> list[Decimal]:
    """What each rung in turn sells of a position that nothing else touches."""
    target = issued = ZERO
    sizes = []
    for index in range(len(rules.ladder)):
        qty, target = share(rules, (index,), D(peak), target, issued, D(peak) - issued, D(price))
        issued += qty
        sizes.append(qty)
    return sizes


def test_vector_remainders_of_rounding_are_carried() -> None:
    assert shares(terms(qty_step="0.1"), "1.0") == [D("0.2"), D("0.3"), D("0.2")]
    assert shares(terms(qty_step="0.001"), "0.003") == [D(0), D("0.001"), D("0.001")]


def test_a_share_is_never_rounded_up() -> None:
    assert shares(terms(qty_step="0.1", ladder="1:0.99"), "1.0") == [D("0.9")]


def test_all_crossed_rungs_make_one_share() -> None:
    assert share(terms(), (0, 1, 2), D(1), ZERO, ZERO, D(1), D(100)) == (D("0.75"), D("0.75"))


def test_a_share_is_capped_by_what_is_free() -> None:
    assert share(terms(), (0,), D(1), ZERO, ZERO, D("0.1"), D(100))[0] == D("0.1")
    assert share(terms(), (0,), D(1), ZERO, ZERO, ZERO, D(100))[0] == 0
    assert share(terms(), (0,), D(1), ZERO, ZERO, D("-0.1"), D(100))[0] == 0


def test_nothing_is_owed_when_more_was_issued_than_asked_for() -> None:
    assert share(terms(), (1,), D(1), D("0.25"), D("0.6"), D("0.4"), D(100))[0] == 0


def test_a_share_below_the_minimum_is_carried() -> None:
    assert shares(terms(min_qty="0.3"), "1.0") == [D(0), D("0.5"), D(0)]
    assert shares(terms(min_notional="30"), "1.0") == [D(0), D("0.5"), D(0)]
    assert shares(terms(min_notional="25"), "1.0") == [D("0.25"), D("0.25"), D("0.25")]


def test_the_last_rung_leaves_the_dust_by_default() -> None:
    assert shares(terms(ladder="1:0.5,2:0.45", min_qty="0.1"), "1.0") == [D("0.5"), D("0.45")]


def test_the_last_rung_closes_all_when_told_so_and_the_remainder_is_below_the_minimum() -> None:
    closing = {"dust": Dust.CLOSE_ALL, "min_qty": "0.1"}
    assert shares(terms(ladder="1:0.5,2:0.45", **closing), "1.0") == [D("0.5"), D("0.5")]
    assert shares(terms(ladder="1:0.5,2:0.4", **closing), "1.0") == [D("0.5"), D("0.4")], "0.1 is no dust"
    assert shares(terms(ladder="1:0.95,2:0.05", **closing), "1.0") == [D("0.95"), D(0)], "all of it is too little"
    assert shares(terms(ladder="1:0.95,2:0.01", **closing), "2.0") == [D("1.9"), D("0.1")], "the share alone is"
    assert shares(terms(ladder="1:0.5,2:0.5", **closing), "1.0") == [D("0.5"), D("0.5")], "nothing remains"


def test_only_the_last_rung_closes_the_dust() -> None:
    rules = terms(ladder="1:0.45,2:0.45", dust=Dust.CLOSE_ALL, min_qty="0.6")
    assert share(rules, (0,), D(1), ZERO, ZERO, D(1), D(100))[0] == 0
    assert share(rules, (0, 1), D(1), ZERO, ZERO, D(1), D(100))[0] == D(1)


def test_closing_the_dust_stays_on_the_step() -> None:
    rules = terms(ladder="1:0.5", dust=Dust.CLOSE_ALL, qty_step="0.1", min_qty="0.7")
    assert share(rules, (0,), D("1.05"), ZERO, ZERO, D("1.05"), D(100))[0] == D("1.0")


def test_closing_the_dust_does_not_lift_the_sum_of_harvests_above_the_peak() -> None:
    # Nothing of the first 0.5 was filled; the price fell until what remains is worth less than the minimum.
    rules = terms(ladder="1:0.5,2:0.5", dust=Dust.CLOSE_ALL, min_notional="49")
    assert share(rules, (1,), D(1), D("0.5"), D("0.5"), D(1), D(97))[0] == 0
    assert share(rules, (1,), D(2), D("0.5"), D("0.5"), D(2), D(33))[0] == D("1.5")


@given(ladders(), quantities(), steps(), decimals("0", "1", 2), st.sampled_from(Dust))
def test_the_shares_of_a_ladder_never_exceed_the_position(
    ladder: tuple[Rung, ...], peak: Decimal, step: Decimal, min_qty: Decimal, dust: Dust
) -> None:
    rules = Terms(ladder=ladder, qty_step=step, min_qty=min_qty, dust=dust)
    with localcontext(ARITHMETIC):
        sizes = shares(rules, str(peak))
        assert sum(sizes, ZERO) <= peak
        asked = sum((rung.fraction * peak for rung in ladder), ZERO)
        for size in sizes:
            assert size % step == 0
            assert size == 0 or size >= min_qty
        if dust is Dust.LEAVE:
            assert sum(sizes, ZERO) <= asked
            if min_qty <= step:
                assert asked - sum(sizes, ZERO) < step, "what is owed at the end is less than a step"


# Stops.


def test_vector_break_even_pays_for_both_fees(way: Way) -> None:
    expected = {"long": D("100.11"), "short": D("99.90")}
    assert break_even(way.sign, D(100), terms()) == expected[way.name]


@given(
    st.sampled_from([1, -1]),
    decimals("1", "5000", 2),
    decimals("0", "0.01", 5),
    st.sampled_from(["0.01", "0.5", "1e-8"]),
)
def test_break_even_never_loses_and_is_the_nearest_tick_that_does_not(
    sign: int, average: Decimal, fee: Decimal, tick: str
) -> None:
    rules = Terms(ladder=(), be_fee_rate=fee, price_tick=D(tick))

    def earned(price: Decimal) -> Decimal:
        return sign * (price - average) - fee * (price + average)

    with localcontext(ARITHMETIC):
        price = break_even(sign, average, rules)
        assert price % rules.price_tick == 0
        assert earned(price) >= 0
        assert earned(price - sign * rules.price_tick) < 0


def test_the_trailing_stop_is_rounded_away_from_the_price() -> None:
    rules = terms(trail_atr_mult="2", price_tick="0.1")
    assert trailing_stop(1, D("110"), D("1.02"), rules) == D("107.9")
    assert trailing_stop(-1, D("90"), D("1.02"), rules) == D("92.1")
    assert trailing_stop(1, D("110"), D("1.05"), rules) == D("107.9")
    assert trailing_stop(-1, D("90"), D("1.05"), rules) == D("92.1")


def test_a_stop_where_there_was_none_is_worth_announcing(way: Way) -> None:
    assert worth_moving(way.sign, None, way.at(-50), terms())


def test_a_stop_that_is_no_price_is_not(way: Way) -> None:
    assert not worth_moving(way.sign, None, ZERO, terms())
    assert not worth_moving(way.sign, None, D(-1), terms())
    assert worth_moving(way.sign, None, D("0.01"), terms())


@pytest.mark.parametrize(("gain", "worth"), [("-2.1", False), ("-2", False), ("-1.99", False), ("-1.9", True)])
def test_a_stop_moves_by_at_least_a_tick(way: Way, gain: str, worth: bool) -> None:
    assert worth_moving(way.sign, way.at(-2), way.at(gain), terms(price_tick="0.1", stop_min_step_bps="0")) is worth


def test_a_stop_moves_by_at_least_the_smallest_step(way: Way) -> None:
    rules = terms(stop_min_step_bps="100")
    # One percent of the new stop: 99 * 1.01 is 99.99, 99 / 1.01 is 98.0198.
    just, short_of = (D(100), D("99.99")) if way.sign > 0 else (D("98.0198"), D("98.0199"))
    stop = D(99)
    assert worth_moving(way.sign, stop, just, rules)
    assert not worth_moving(way.sign, stop, short_of, rules)
