"""What becomes of a harvest on its way: acknowledged, filled, refused, or lost in silence. Live mode, both sides."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tests.support.world import LONG, SHORT, SYMBOL, Way, World, harvests, policy

from harvest_brain.core.books import book_of
from harvest_brain.core.engine import decide
from harvest_brain.core.events import Release, Side
from harvest_brain.core.intents import Intent
from harvest_brain.core.position import Reservation, ReservationState
from harvest_brain.core.reservations import time_out
from harvest_brain.redis.decode import decode

MINUTE_MS = 60_000


@pytest.fixture
def world(way: Way) -> World:
    """A position of 1 whose first rung's harvest of 0.25 is out."""
    world = World(policy(live=True))
    world.open(way)
    assert harvests(world.price(way.at(1))) == [Decimal("0.25")]
    return world


def reservation(world: World) -> Reservation:
    [reservation] = world.epoch().reservations
    return reservation


def first_intent(world: World) -> str:
    return world.intents[0].intent_id


def release(world: World, intent_id: str, *, after_ms: int = 1_000) -> None:
    world.now_ms += after_ms
    world.see(Release(f"{world.now_ms}-0", world.now_ms, SYMBOL, intent_id))


def test_silence_makes_a_reservation_unknown_after_the_time_out_and_not_before(world: World, way: Way) -> None:
    world.price(way.at("0.1"), after_ms=MINUTE_MS)
    assert reservation(world).state is ReservationState.PUBLISHED
    world.price(way.at("0.1"), after_ms=1)
    assert reservation(world).state is ReservationState.UNKNOWN
    assert reservation(world).remaining == Decimal("0.25")
    assert world.counts["reservation:unknown"] == 1
    said = f"nothing was heard of {first_intent(world)} for 60 s; its 0.25 stay reserved"
    assert world.notes == [f"{SYMBOL}: {said}"]


def test_a_quiet_tick_that_comes_in_time_changes_no_position(world: World, way: Way) -> None:
    decision = world.consider(world.tick(way.at("0.1"), after_ms=MINUTE_MS))
    assert decision.books[SYMBOL].positions is world.state.books[SYMBOL].positions


def test_an_unknown_reservation_stays_unknown_and_is_said_once(world: World, way: Way) -> None:
    for _ in range(3):
        world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    assert world.counts["reservation:unknown"] == 1
    assert len(world.notes) == 1


def test_an_unknown_reservation_is_still_reserved_and_never_retried(world: World, way: Way) -> None:
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    assert world.price(way.at(1)) == ()
    assert world.epoch().outstanding == Decimal("0.25")


def test_what_is_reserved_unknown_is_not_free_for_the_next_rung(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:0.75,1.0:0.25"))
    world.open(way)
    assert harvests(world.price(way.at(1))) == [Decimal("0.75")]
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    assert harvests(world.price(way.at(2))) == [Decimal("0.25")]
    assert world.epoch().outstanding == 1


@pytest.mark.parametrize("news", ["NEW", "PARTIAL"])
def test_news_of_the_order_starts_the_time_out_anew(world: World, way: Way, news: str) -> None:
    intent_id = first_intent(world)
    world.now_ms += MINUTE_MS - 1_000
    if news == "NEW":
        world.see(world.order("NEW", client=intent_id))
    else:
        world.see(world.fill(way.closing, "0.05", way.at(1), correlation=intent_id, complete=False))
    state = reservation(world).state
    world.price(way.at("0.1"), after_ms=MINUTE_MS)
    assert reservation(world).state is state
    world.price(way.at("0.1"), after_ms=1)
    assert reservation(world).state is ReservationState.UNKNOWN


def test_a_late_acknowledgement_makes_an_unknown_reservation_known_again(world: World, way: Way) -> None:
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    world.see(world.order("NEW", client=first_intent(world), order="X9"))
    assert reservation(world).state is ReservationState.ACKED
    world.see(world.fill(way.closing, "0.25", way.at(1), order="X9"))
    assert world.epoch().reservations == ()


def test_an_acknowledgement_after_a_partial_fill_leaves_it_partial(world: World, way: Way) -> None:
    world.see(world.fill(way.closing, "0.05", way.at(1), correlation=first_intent(world), complete=False))
    world.see(world.order("NEW", client=first_intent(world)))
    assert reservation(world).state is ReservationState.PARTIAL


def test_a_late_fill_of_an_unknown_reservation_is_honoured(world: World, way: Way) -> None:
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=first_intent(world)))
    assert world.epoch().reservations == ()
    assert abs(world.position().qty) == Decimal("0.75")
    assert not world.position().suspect


@pytest.mark.parametrize("status", ["REJECTED", "EXPIRED", "CANCELED"])
def test_a_late_refusal_of_an_unknown_reservation_carries_its_quantity_to_the_next_rung(
    world: World, way: Way, status: str
) -> None:
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    world.see(world.order(status, correlation=first_intent(world)))
    assert world.epoch().reservations == ()
    assert harvests(world.price(way.at(2))) == [Decimal("0.5")]


@pytest.mark.parametrize("by", ["fill", "order news"])
def test_entries_that_are_no_prices_tell_the_time_as_well(way: Way, by: str) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.price(way.at(1))
    world.price(way.at(2))
    first, second = (intent.intent_id for intent in world.intents)
    world.now_ms += 2 * MINUTE_MS
    if by == "fill":
        world.see(world.fill(way.opening, 1, way.at(1)))
    else:
        world.see(world.order("NEW", client=second))
    states = {r.intent_id: r.state for r in world.epoch().reservations}
    assert states[first] is ReservationState.UNKNOWN


def test_each_of_several_orders_has_its_own_silence(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    for gain in (1, 2, 3):
        world.price(way.at(gain))
    first, *others = (intent.intent_id for intent in world.intents)
    world.now_ms += MINUTE_MS - 10_000
    world.see(world.order("NEW", client=first))
    world.price(way.at("0.1"), after_ms=15_000)
    states = {r.intent_id: r.state for r in world.epoch().reservations}
    assert states == {first: ReservationState.ACKED, **dict.fromkeys(others, ReservationState.UNKNOWN)}
    assert world.counts["reservation:unknown"] == 2


def test_an_epoch_in_which_nothing_times_out_stays_the_same_object(world: World) -> None:
    assert time_out(world.position(), world.now_ms + MINUTE_MS, MINUTE_MS) is world.position()


def test_several_orders_are_released_in_a_batch(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.price(way.at(1))
    world.price(way.at(2))
    late = world.now_ms + 2 * MINUTE_MS
    world.see(*(Release("1-0", late, SYMBOL, intent.intent_id) for intent in world.intents))
    assert world.epoch().reservations == ()
    assert world.counts["operator:released"] == 2


def test_a_fill_dated_into_the_future_tells_no_time(world: World, way: Way) -> None:
    world.see(world.fill(way.opening, 1, way.at(1))._replace(time_ms=world.now_ms + 10 * MINUTE_MS))
    assert reservation(world).state is ReservationState.PUBLISHED


def test_the_same_entries_make_the_same_fate_whatever_the_batches(world: World, way: Way) -> None:
    ticks = [world.tick(way.at("0.1"), after_ms=25_000) for _ in range(5)]
    whole = decide(world.state, ticks, world.gate, world.policy).books[SYMBOL]
    for event in ticks:
        world.see(event)
    assert whole == world.state.books[SYMBOL]


def test_a_restart_remembers_since_when_there_is_silence(world: World) -> None:
    book = world.state.books[SYMBOL]
    assert book_of(book.market, book.positions) == book
    assert book.silent_since == reservation(world).heard_ms


def test_without_reservations_there_is_nothing_to_time_out(way: Way) -> None:
    world = World(policy(live=False))
    world.open(way)
    world.price(way.at(1))
    assert world.epoch().reservations == ()
    decision = world.consider(world.tick(way.at("0.1"), after_ms=10 * MINUTE_MS))
    assert decision.books[SYMBOL].positions is world.state.books[SYMBOL].positions


# The operator's release.


def test_the_operator_releases_an_unknown_reservation_and_the_next_rung_carries_it(world: World, way: Way) -> None:
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    release(world, first_intent(world))
    assert world.epoch().reservations == ()
    assert world.counts["operator:released"] == 1
    assert "the operator released" in world.notes[-1]
    assert world.price(way.at(1)) == ()
    assert harvests(world.price(way.at(2))) == [Decimal("0.5")]


def test_a_release_itself_tells_the_time(world: World) -> None:
    release(world, first_intent(world), after_ms=MINUTE_MS + 1)
    assert world.epoch().reservations == ()


def test_while_an_answer_may_still_come_nothing_is_released(world: World) -> None:
    release(world, first_intent(world), after_ms=MINUTE_MS)
    assert reservation(world).state is ReservationState.PUBLISHED
    assert world.counts["operator:refused"] == 1
    assert "no reservation" in world.notes[-1]


@pytest.mark.parametrize("symbol", [SYMBOL, "OTHER"])
def test_releasing_what_is_not_there_changes_nothing(world: World, symbol: str) -> None:
    before = world.state.books[SYMBOL]
    world.see(Release(f"{world.now_ms}-0", world.now_ms, symbol, "hb-0000000000000000-r1"))
    assert world.state.books == {SYMBOL: before}
    assert world.counts["operator:refused"] == 1


def test_a_fill_of_a_released_order_uses_up_no_other_reservation_and_is_not_owed_any_more(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.price(way.at(1))
    first = first_intent(world)
    release(world, first, after_ms=2 * MINUTE_MS)
    assert harvests(world.price(way.at(2))) == [Decimal("0.5")]
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=first))
    assert world.epoch().outstanding == Decimal("0.5")
    # 0.25 and 0.5 are out of the peak's 0.75 that three rungs come to.
    assert harvests(world.price(way.at(3))) == []
    assert world.counts["rung:carried"] == 1


def test_the_stop_is_sent_again_for_what_a_late_fill_leaves(way: Way) -> None:
    world = World(policy(live=True))
    world.open(way)
    world.price(way.at(1))
    world.price(way.at("0.1"), after_ms=2 * MINUTE_MS)
    world.see(world.fill(way.closing, "0.25", way.at(1), correlation=first_intent(world)))
    [resize] = world.price(way.at("0.1"))
    assert resize.action.value == "STOP_RESIZE"
    assert resize.qty == Decimal("0.75")


def test_flat_positions_that_are_only_remembered_are_passed_by(way: Way) -> None:
    world = World(policy(live=True))
    world.see(world.snapshot(way.sign))
    assert world.position().epoch is None
    release(world, "hb-0000000000000000-r1")
    world.see(world.order("NEW", client="hb-0000000000000000-r1"))
    assert world.counts["operator:refused"] == 1


@pytest.mark.parametrize("way", [LONG, SHORT], ids=str)
def test_a_manual_close_beside_a_harvest_on_its_way_frees_nothing(way: Way) -> None:
    world = World(policy(live=True, ladder="0.5:0.5,1.0:0.5"))
    world.open(way)
    [first] = world.price(way.at(1))
    world.see(world.order("NEW", order="77", client=first.intent_id))
    world.see(world.fill(way.closing, "0.5", way.at(1), order="88", client="manual-1"))
    second = harvests(world.price(way.at(2)))
    assert first.qty + sum(second, Decimal(0)) <= abs(world.position().qty)


def two_accounts() -> tuple[World, Intent]:
    """The accounts one and two have an order on its way each; the first one's intent."""
    world = World(policy(live=True, ladder="0.5:0.5,1.0:0.5"))
    for account in ("one", "two"):
        world.see(world.fill(Side.BUY, 1, 100, stop=98, account=account, order=account))
    first, _ = world.price(101)
    return world, first


def tell(world: World, status: bytes, account: bytes, client: str = "") -> None:
    """News of the exchange's order 77."""
    world.now_ms += 1_000
    fields = {b"symbol": SYMBOL.encode(), b"status": status, b"account": account, b"order_id": b"77"}
    fields |= {b"client_order_id": client.encode()} if client else {}
    world.see(decode(f"{world.now_ms}-0", [part for pair in fields.items() for part in pair]))


def outstanding(world: World) -> dict[str, Decimal]:
    return {p.key.account: p.open_epoch.outstanding for p in world.state.positions()}


def test_the_end_of_another_accounts_order_releases_nothing() -> None:
    world, first = two_accounts()
    tell(world, b"NEW", b"one", first.intent_id)
    tell(world, b"CANCELED", b"two")
    assert outstanding(world) == {"one": Decimal("0.5"), "two": Decimal("0.5")}


def test_the_end_of_an_order_releases_it_where_the_producer_names_no_account() -> None:
    world, first = two_accounts()
    tell(world, b"NEW", b"one", first.intent_id)
    tell(world, b"CANCELED", b"")
    assert outstanding(world) == {"one": Decimal(0), "two": Decimal("0.5")}


def test_an_order_number_of_another_account_is_not_learned() -> None:
    world, first = two_accounts()
    tell(world, b"NEW", b"two", first.intent_id)
    [reservation] = next(p.reservations for p in world.state.positions() if p.key.account == "one")
    assert (reservation.state, reservation.order_id) == (ReservationState.ACKED, "")


def test_an_acknowledgement_by_a_clock_that_is_ahead_does_not_put_off_the_unknown() -> None:
    world = World(policy(live=True))
    world.open(LONG)
    [intent] = world.price(101)
    ahead = str(world.now_ms + 9 * 3_600_000).encode()
    fields = [b"symbol", b"ETHUSDT", b"status", b"NEW", b"correlation_id", intent.intent_id.encode(), b"ts", ahead]
    world.see(decode(f"{world.now_ms + 1_000}-0", fields))
    world.price(100, after_ms=120_000)
    [reservation] = world.epoch().reservations
    assert reservation.state is ReservationState.UNKNOWN
