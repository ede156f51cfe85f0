"""A position and its epoch, from fills: accounting, risk, peak, and the reservations of harvests on their way."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from tests.support.world import LONG, Number, Way, brought_in, terms

from harvest_brain.core.events import Fill, Key, OrderRef, PositionSide, Side
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import RungState, Terms
from harvest_brain.core.position import Position, Reservation, ReservationState, epoch_id_of, fold
from harvest_brain.core.reservations import settle_fill, settle_update, time_out

D = Decimal
A1 = OrderRef("A1")
NET = Key("", "ETHUSDT", PositionSide.NET)


def fill(
    side: Side,
    qty: Number,
    price: Number,
    *,
    stop: Number | None = None,
    order: OrderRef = A1,
    key: Key = NET,
    complete: bool = True,
    fee: Number = 0,
    fee_asset: str = "",
) -> Fill:
    return Fill(
        "1-0",
        1_000,
        key,
        side,
        D(qty),
        D(price),
        complete,
        order,
        stop=None if stop is None else D(stop),
        fee=D(fee),
        fee_asset=fee_asset,
    )


def after(*fills: Fill, key: Key = NET, rules: Terms | None = None, spot: bool = False) -> Position:
    """The position after `fills`, each with an identity of its own."""
    position = Position(key)
    for number, one in enumerate(fills):
        position = fold(position, one, f"fill-{number}", rules or terms(), spot=spot)
    return position


def opened(way: Way, qty: Number = 1, *, stop_at: Number | None = -2, order: OrderRef = A1) -> Fill:
    return fill(way.opening, qty, 100, stop=None if stop_at is None else way.at(stop_at), order=order)


# Accounting.


def test_a_first_fill_opens_the_position(way: Way) -> None:
    position = after(opened(way, "1.5"))
    assert (position.qty, position.average) == (way.sign * D("1.5"), D(100))
    epoch = position.open_epoch
    assert (epoch.sign, epoch.opened_ms, epoch.peak) == (way.sign, 1_000, D("1.5"))
    assert epoch.rungs == (RungState.ARMED,) * 3
    assert (epoch.crossed, epoch.target, epoch.issued, epoch.realized, epoch.fees) == (0, ZERO, ZERO, ZERO, ZERO)
    assert (epoch.stop_seq, epoch.resize_due, epoch.extreme, epoch.reservations) == (0, False, None, ())


def test_adding_averages_by_cost(way: Way) -> None:
    position = after(opened(way), fill(way.opening, 3, way.at(4)))
    assert (position.qty, position.average) == (way.sign * D(4), way.at(3))


def test_reducing_keeps_the_average_and_realises(way: Way) -> None:
    position = after(opened(way, 2))
    reduced = fold(position, fill(way.closing, "0.5", way.at(4)), "x", terms())
    assert (reduced.qty, reduced.average, reduced.open_epoch.realized) == (way.sign * D("1.5"), D(100), D(2))


def test_closing_ends_the_epoch_and_everything_that_belongs_to_it(way: Way) -> None:
    position = after(opened(way, 2))
    assert fold(position, fill(way.closing, 2, way.at(-1)), "x", terms()) == Position(NET)


def test_vector_a_flip_is_split_in_two(way: Way) -> None:
    """Long 1 @ 100, sell 3 @ 120: realised 20, then short 2 @ 120."""
    opening, flip = opened(way), fill(way.closing, 3, way.at(20), stop=way.at(22))
    position = after(opening)
    turned = fold(position, flip, "flip", terms())
    assert brought_in([opening, flip], [turned]) == 20
    assert (turned.qty, turned.average) == (-way.sign * D(2), way.at(20))
    epoch = turned.open_epoch
    assert (epoch.sign, epoch.peak, epoch.realized, epoch.r_unit) == (-way.sign, D(2), ZERO, D(2))
    assert epoch.epoch_id == epoch_id_of(NET, "flip") != position.open_epoch.epoch_id


def test_the_fee_of_a_flip_is_split_pro_rata(way: Way) -> None:
    position = after(opened(way))
    turned = fold(position, fill(way.closing, 4, way.at(20), fee=2), "flip", terms())
    assert turned.open_epoch.fees == D("1.5")


def test_fees_in_quote_currency_go_to_money_r_only(way: Way) -> None:
    for asset in ("", "USDT", "usdt", "USD"):
        position = after(
            fill(way.opening, 1, 100, stop=way.at(-2), fee="0.1", fee_asset=asset),
            fill(way.opening, 1, 100, fee="0.2", fee_asset=asset),
            fill(way.closing, 1, 100, fee="0.3", fee_asset=asset),
        )
        assert (position.qty, position.average, position.open_epoch.fees) == (D(way.sign), D(100), D("0.6"))


def test_fees_in_a_third_asset_have_no_known_value() -> None:
    assert after(fill(Side.BUY, 1, 100, fee="0.1", fee_asset="BNB"), spot=True).open_epoch.fees == 0


def test_fees_in_the_base_asset_are_valued_at_the_price_and_reduce_the_quantity_on_spot_only() -> None:
    paid = fill(Side.BUY, 1, 100, fee="0.001", fee_asset="eth")
    derivative = after(paid)
    assert (derivative.qty, derivative.open_epoch.fees, derivative.open_epoch.peak) == (D(1), D("0.1"), D(1))
    assert fold(Position(NET), paid, "x", terms()).qty == 1, "which markets are unless it is said"
    spot = after(paid, spot=True)
    assert (spot.qty, spot.open_epoch.fees, spot.open_epoch.peak) == (D("0.999"), D("0.1"), D("0.999"))
    sold = after(paid, fill(Side.SELL, "0.5", 100, fee="0.001", fee_asset="ETH"), spot=True)
    assert sold.qty == D("0.498")
    bought = after(paid, fill(Side.BUY, 1, 103, fee="0.001", fee_asset="ETH"), spot=True)
    assert (bought.qty, bought.average) == (D("1.998"), D("101.5"))


def test_a_base_fee_may_close_the_position() -> None:
    paid = fill(Side.BUY, 1, 100)
    assert after(paid, fill(Side.SELL, "0.999", 100, fee="0.001", fee_asset="ETH"), spot=True) == Position(NET)


@pytest.mark.parametrize(("side", "fee"), [(Side.BUY, "1"), (Side.BUY, "1.5"), (Side.SELL, "-1"), (Side.SELL, "-2")])
@pytest.mark.parametrize("held", [None, Side.BUY, Side.SELL])
def test_a_fee_that_leaves_nothing_of_the_fill_is_a_contradiction(side: Side, fee: str, held: Side | None) -> None:
    before = Position(NET) if held is None else after(fill(held, 2, 100))
    after_it = fold(before, fill(side, 1, 100, fee=fee, fee_asset="ETH"), "x", terms(), spot=True)
    reason = f"a fee of {fee} leaves nothing of a {side} of 1"
    assert after_it == replace(before, suspect=reason)


def test_rebates_are_negative_fees(way: Way) -> None:
    assert after(fill(way.opening, 1, 100, fee="-0.1")).open_epoch.fees == D("-0.1")


# Hedge mode: both sides of a symbol at once.


def hedge(way: Way) -> Key:
    return Key("", "ETHUSDT", PositionSide.LONG if way is LONG else PositionSide.SHORT)


def test_each_side_of_a_hedged_symbol_holds_its_own_direction(way: Way) -> None:
    key = hedge(way)
    position = after(fill(way.opening, 1, 100, key=key), fill(way.closing, "0.4", 100, key=key), key=key)
    assert (position.qty, position.suspect) == (way.sign * D("0.6"), "")


def test_a_fill_that_its_side_cannot_hold_is_a_contradiction(way: Way) -> None:
    key = hedge(way)
    position = after(fill(way.closing, 1, 100, key=key), key=key)
    assert (position.qty, position.epoch) == (ZERO, None)
    assert position.suspect == f"a {way.closing} of 1 is more than the {key.position_side} side holds"


def test_a_fill_that_exceeds_its_side_closes_it_and_is_a_contradiction(way: Way) -> None:
    key = hedge(way)
    held = after(fill(way.opening, 1, 100, key=key), key=key)
    closed = fold(held, fill(way.closing, 3, way.at(5), key=key), "x", terms())
    assert (closed.qty, closed.epoch) == (ZERO, None)
    assert closed.suspect == f"a {way.closing} of 3 is more than the {key.position_side} side holds"


def test_the_first_contradiction_is_the_one_that_is_told(way: Way) -> None:
    key = hedge(way)
    position = after(fill(way.closing, 1, 100, key=key), fill(way.closing, 2, 100, key=key), key=key)
    assert "of 1 is" in position.suspect


def test_what_is_suspect_stays_so_through_close_flip_and_reopening(way: Way) -> None:
    doubted = replace(after(opened(way)), suspect="why")
    flat = fold(doubted, fill(way.closing, 1, 100), "x", terms())
    assert flat == Position(NET, suspect="why")
    assert fold(flat, opened(way), "y", terms()).suspect == "why"
    assert fold(doubted, fill(way.closing, 2, 100), "z", terms()).suspect == "why"


# Epochs.


def test_an_epoch_is_named_by_its_key_and_the_fill_that_opened_it() -> None:
    first = epoch_id_of(NET, "fill-0")
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert first == after(fill(Side.BUY, 1, 100)).open_epoch.epoch_id == "7a8a8a7368d3d1b3"
    others = [
        epoch_id_of(NET, "fill-1"),
        epoch_id_of(NET._replace(account="x"), "fill-0"),
        epoch_id_of(NET._replace(position_side=PositionSide.LONG), "fill-0"),
    ]
    assert len({first, *others}) == 4


def test_an_epoch_keeps_the_terms_that_it_opened_with(way: Way) -> None:
    old, new = terms(ladder="1:1"), terms(ladder="2:0.5,3:0.5")
    position = after(opened(way), rules=old)
    added = fold(position, fill(way.opening, 1, 100), "x", new)
    assert added.open_epoch.terms == old
    turned = fold(added, fill(way.closing, 3, 100), "y", new)
    assert turned.open_epoch.terms == new
    assert turned.open_epoch.rungs == (RungState.ARMED, RungState.ARMED)


def test_the_peak_is_the_largest_size_of_the_epoch(way: Way) -> None:
    position = after(opened(way), fill(way.closing, "0.25", 100), fill(way.opening, 1, 100))
    assert position.open_epoch.peak == D("1.75")
    assert fold(position, fill(way.closing, 1, 100), "x", terms()).open_epoch.peak == D("1.75")


# The risk first taken.


def test_the_risk_comes_from_the_stop_of_the_opening_order(way: Way) -> None:
    epoch = after(opened(way)).open_epoch
    assert (epoch.r_unit, epoch.risk_source, epoch.stop, epoch.risk_stop) == (D(2), "stop", way.at(-2), way.at(-2))


@pytest.mark.parametrize("stop_at", [None, 0, 2])
def test_without_a_usable_stop_the_fallback_is_flagged(way: Way, stop_at: int | None) -> None:
    epoch = after(opened(way, stop_at=stop_at)).open_epoch
    assert (epoch.r_unit, epoch.risk_source, epoch.stop, epoch.risk_stop) == (D(2), "fallback", None, None)


def test_the_risk_follows_the_fills_of_the_opening_order(way: Way) -> None:
    position = after(opened(way), fill(way.opening, 1, way.at(1)))
    assert (position.average, position.open_epoch.r_unit) == (way.at("0.5"), D("2.5"))
    assert position.open_epoch.opening_order == OrderRef("A1")


@pytest.mark.parametrize(
    "order", [OrderRef("", "C1"), OrderRef("", "", "T1"), OrderRef("B", "C1", ""), OrderRef("B", "x", "T1")]
)
def test_the_opening_order_is_known_by_any_of_its_names(way: Way, order: OrderRef) -> None:
    position = after(opened(way, order=OrderRef("A1", "C1", "T1")), fill(way.opening, 1, way.at(1), order=order))
    assert position.open_epoch.r_unit == D("2.5")


@pytest.mark.parametrize("order", [OrderRef("B1"), OrderRef(), OrderRef("", "A1"), OrderRef("", "", "A1")])
def test_adds_of_other_orders_do_not_change_the_risk(way: Way, order: OrderRef) -> None:
    position = after(opened(way), fill(way.opening, 1, way.at(1), stop=way.at(-9), order=order))
    epoch = position.open_epoch
    assert (epoch.r_unit, epoch.stop, epoch.risk_stop) == (D(2), way.at(-2), way.at(-2))


def test_orders_without_a_name_are_never_the_same(way: Way) -> None:
    position = after(opened(way, order=OrderRef()), fill(way.opening, 1, way.at(1), order=OrderRef()))
    assert position.open_epoch.r_unit == 2


@pytest.mark.parametrize("other", ["add", "reduction"])
def test_the_risk_is_frozen_once_another_order_came_in_between(way: Way, other: str) -> None:
    side = way.opening if other == "add" else way.closing
    between = fill(side, "0.5", way.at(1), order=OrderRef("B1"))
    position = after(opened(way), between, fill(way.opening, 1, way.at(5), stop=way.at(-5)))
    assert (position.open_epoch.r_unit, position.open_epoch.stop) == (D(2), way.at(-2))


@pytest.mark.parametrize("state", [RungState.FIRED, RungState.CARRIED, RungState.SKIPPED])
def test_the_risk_is_frozen_once_a_rung_is_through(way: Way, state: RungState) -> None:
    position = after(opened(way))
    rungs = (state, RungState.ARMED, RungState.ARMED)
    position = replace(position, epoch=replace(position.open_epoch, rungs=rungs))
    added = fold(position, fill(way.opening, 1, way.at(1), stop=way.at(-9)), "x", terms())
    assert (added.open_epoch.r_unit, added.open_epoch.stop) == (D(2), way.at(-2))


def test_a_later_fill_of_the_opening_order_may_bring_the_stop(way: Way) -> None:
    position = after(opened(way, stop_at=None), fill(way.opening, 1, 100, stop=way.at(-3)))
    epoch = position.open_epoch
    assert (epoch.r_unit, epoch.risk_source, epoch.stop, epoch.risk_stop) == (D(3), "stop", way.at(-3), way.at(-3))


def test_a_later_fill_of_the_opening_order_may_take_the_stop_away(way: Way) -> None:
    position = after(opened(way), fill(way.opening, 1, 100, stop=way.at(3)), fill(way.opening, 1, 100))
    epoch = position.open_epoch
    assert (epoch.r_unit, epoch.risk_source, epoch.stop, epoch.risk_stop) == (D(2), "fallback", None, None)


def test_the_risk_stands_on_the_opening_stop_even_when_the_stop_has_moved(way: Way) -> None:
    position = after(opened(way))
    position = replace(position, epoch=replace(position.open_epoch, stop=way.at("0.11"), stop_seq=1))
    added = fold(position, fill(way.opening, 1, way.at(1)), "x", terms())
    epoch = added.open_epoch
    assert (epoch.r_unit, epoch.risk_source) == (D("2.5"), "stop")
    assert (epoch.stop, epoch.risk_stop) == (way.at("0.11"), way.at(-2)), "the announced stop stands"


# R.


def test_r_is_the_gain_over_the_risk(way: Way) -> None:
    position = after(opened(way))
    assert [position.r_at(way.at(gain)) for gain in (-2, 0, 1, 2, 3)] == [-1, 0, D("0.5"), 1, D("1.5")]
    assert [position.gain(way.at(gain)) for gain in (-2, 0, 3)] == [-2, 0, 3]


def test_incident_03_r_does_not_depend_on_the_quantity(way: Way) -> None:
    rs = {after(opened(way, qty)).r_at(way.at("0.2")) for qty in ("0.001", "1", "1000")}
    assert rs == {D("0.1")}


def test_an_r_stands_for_a_price(way: Way) -> None:
    position = after(opened(way))
    assert [position.price_at(D(r)) for r in ("0.5", "1", "-1")] == [way.at(1), way.at(2), way.at(-2)]


def test_a_level_is_reached_exactly_at_its_price(way: Way) -> None:
    position = after(opened(way))
    assert position.has_reached(way.at(1), D("0.5"))
    assert position.has_reached(way.at("1.00000001"), D("0.5"))
    assert not position.has_reached(way.at("0.99999999"), D("0.5"))


def test_money_r_counts_the_whole_epoch_against_its_peak(way: Way) -> None:
    position = after(
        opened(way, 4),
        fill(way.closing, 1, way.at(3), fee=1),  # realises 3
    )
    # (3 realised + 3 * 4 unrealised - 1 fees) / (2 risk per unit * 4 at the peak)
    assert position.money_r(way.at(4)) == D("1.75")


def test_a_flat_position_has_no_epoch_to_ask() -> None:
    with pytest.raises(ValueError, match=r"^ETHUSDT is flat$"):
        _ = Position(NET).open_epoch


@pytest.mark.parametrize(
    ("stop_at", "rules", "least"),
    [("-0.2", {"price_tick": "0.1"}, "0.2"), ("-0.05", {"min_risk_bps": "5"}, "0.05")],
)
def test_a_risk_that_is_too_small_says_so(way: Way, stop_at: str, rules: dict[str, str], least: str) -> None:
    position = after(opened(way, stop_at=stop_at), rules=terms(**rules))
    assert position.why_not_harvested == f"risk per unit {least} does not exceed {least}"
    enough = after(opened(way, stop_at=f"{stop_at}1"), rules=terms(**rules))
    assert enough.why_not_harvested == ""


# Reservations.


def reserved(*remaining: str, held: str = "100", state: ReservationState = ReservationState.PUBLISHED) -> Position:
    """A position of `held`, with a stop, of which so much is `remaining` on its way."""
    position = after(opened(LONG, held))
    reservations = tuple(
        Reservation(f"hb-e-r{number}", D(qty), 5, state) for number, qty in enumerate(remaining, start=1)
    )
    return replace(position, epoch=replace(position.open_epoch, issued=D(1), reservations=reservations))


def left(position: Position) -> list[tuple[str, Decimal, str]]:
    return [(r.intent_id, r.remaining, r.state.value) for r in position.reservations]


def harvested(qty: str, order: OrderRef, *, complete: bool = False) -> Fill:
    return fill(Side.SELL, qty, 101, order=order, complete=complete)


@pytest.mark.parametrize("order", [OrderRef("X", "", "hb-e-r2"), OrderRef("X", "hb-e-r2", "")])
def test_a_fill_is_matched_by_correlation_or_client_order_id(order: OrderRef) -> None:
    position = settle_fill(reserved("0.3", "0.3"), harvested("0.1", order))
    assert position.open_epoch.resize_due
    assert left(position) == [("hb-e-r1", D("0.3"), "published"), ("hb-e-r2", D("0.2"), "partial")]
    assert position.reservations[1].order_id == "X"


def test_a_fill_is_matched_by_the_order_id_that_was_acknowledged() -> None:
    position = settle_update(reserved("0.3", "0.3"), OrderRef("X2", "hb-e-r2"), 0, ended=False)
    position = settle_fill(position, harvested("0.1", OrderRef("X2")))
    assert left(position) == [("hb-e-r1", D("0.3"), "published"), ("hb-e-r2", D("0.2"), "partial")]


def test_a_fill_is_matched_by_our_own_id_before_the_order_id() -> None:
    position = settle_update(reserved("0.3", "0.3"), OrderRef("X1", "hb-e-r1"), 0, ended=False)
    position = settle_fill(position, harvested("0.1", OrderRef("X1", "hb-e-r2")))
    assert left(position) == [("hb-e-r1", D("0.3"), "acked"), ("hb-e-r2", D("0.2"), "partial")]


def test_a_fill_without_a_known_name_consumes_the_oldest_reservation() -> None:
    position = settle_fill(reserved("0.3", "0.3"), harvested("0.1", OrderRef("Z")))
    assert position.open_epoch.resize_due
    assert left(position) == [("hb-e-r1", D("0.2"), "partial"), ("hb-e-r2", D("0.3"), "published")]
    assert position.reservations[0].order_id == "", "somebody else's order id is not learned"


def test_no_name_matches_a_reservation_without_an_order_id() -> None:
    position = settle_fill(reserved("0.3", "0.3"), harvested("0.1", OrderRef()))
    assert [remaining for _, remaining, _ in left(position)] == [D("0.2"), D("0.3")]


def test_a_fill_of_the_whole_quantity_ends_the_reservation() -> None:
    for order in (OrderRef("X", "hb-e-r1"), OrderRef("Z")):
        position = settle_fill(reserved("0.3"), harvested("0.3", order))
        assert position.open_epoch.resize_due
        assert (position.reservations, position.open_epoch.issued) == ((), D(1))


def test_a_complete_order_has_nothing_outstanding_any_more() -> None:
    position = settle_fill(reserved("0.3", "0.3"), harvested("0.1", OrderRef("", "hb-e-r2"), complete=True))
    assert left(position) == [("hb-e-r1", D("0.3"), "published")]
    assert position.open_epoch.issued == 1, "what a complete order left over is not carried"


def test_a_complete_order_of_somebody_else_leaves_the_rest_reserved() -> None:
    position = settle_fill(reserved("0.3"), harvested("0.1", OrderRef("Z"), complete=True))
    assert left(position) == [("hb-e-r1", D("0.2"), "partial")]


def test_the_fill_of_a_harvest_that_was_given_up_is_not_owed_any_more_and_resizes_the_stop() -> None:
    position = settle_fill(reserved("0.3", "0.3", held="0.5"), harvested("0.2", OrderRef("", "hb-e-r9")))
    assert position.open_epoch.resize_due
    assert position.open_epoch.issued == D("1.2")
    assert left(position) == [("hb-e-r1", D("0.2"), "published"), ("hb-e-r2", D("0.3"), "published")]


def test_without_reservations_a_fill_is_no_harvest() -> None:
    position = reserved()
    assert settle_fill(position, harvested("0.1", OrderRef())) == position


def test_what_is_outstanding_never_exceeds_what_is_left() -> None:
    position = settle_fill(reserved("0.3", "0.3", "0.3", held="0.4"), harvested("0.5", OrderRef("Z")))
    assert left(position) == [("hb-e-r2", D("0.1"), "published"), ("hb-e-r3", D("0.3"), "published")]
    assert position.open_epoch.outstanding == D("0.4")
    position = settle_fill(reserved("0.3", "0.3", held="0.15"), harvested("0.1", OrderRef("", "hb-e-r2")))
    assert left(position) == [("hb-e-r2", D("0.15"), "partial")]
    position = settle_fill(reserved("0.3", "0.3", held="0.3"), harvested("0.3", OrderRef("Z")))
    assert left(position) == [("hb-e-r2", D("0.3"), "published")]


def test_what_is_not_silent_for_too_long_is_left_as_it_is() -> None:
    position = reserved("0.3", "0.2")
    assert time_out(position, 5 + 60, 60) is position
    assert [state for _, _, state in left(time_out(position, 5 + 61, 60))] == ["unknown", "unknown"]


def test_an_acknowledgement_is_noted() -> None:
    position = settle_update(reserved("0.3", "0.3"), OrderRef("X2", "", "hb-e-r2"), 0, ended=False)
    assert left(position) == [("hb-e-r1", D("0.3"), "published"), ("hb-e-r2", D("0.3"), "acked")]
    assert position.reservations[1].order_id == "X2"
    assert position.open_epoch.issued == 1


def test_a_second_acknowledgement_changes_nothing() -> None:
    position = settle_update(reserved("0.3"), OrderRef("X1", "hb-e-r1"), 0, ended=False)
    assert settle_update(position, OrderRef("X9", "hb-e-r1"), 0, ended=False) == position
    partial = reserved("0.3", state=ReservationState.PARTIAL)
    assert left(settle_update(partial, OrderRef("", "hb-e-r1"), 0, ended=False)) == [("hb-e-r1", D("0.3"), "partial")]


@pytest.mark.parametrize("order", [OrderRef("", "hb-e-r2"), OrderRef("", "", "hb-e-r2")])
def test_an_end_releases_what_remained(order: OrderRef) -> None:
    position = settle_update(reserved("0.3", "0.2"), order, 0, ended=True)
    assert left(position) == [("hb-e-r1", D("0.3"), "published")]
    assert position.open_epoch.issued == D("0.8")


def test_an_end_is_recognised_by_the_acknowledged_order_id() -> None:
    position = settle_update(reserved("0.3"), OrderRef("X1", "hb-e-r1"), 0, ended=False)
    assert settle_update(position, OrderRef("X1"), 0, ended=True).reservations == ()


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("order", [OrderRef(), OrderRef("Z", "Z", "Z")])
def test_news_of_an_order_that_nobody_knows_changes_nothing(order: OrderRef, ended: bool) -> None:
    position = reserved("0.3")
    assert settle_update(position, order, 0, ended=ended) is position
