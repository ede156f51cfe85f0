"""What can go out, and under which names."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from harvest_brain.core.events import Key, OrderRef, PositionSide
from harvest_brain.core.intents import belongs_to, harvest_claim, own_name, stop_claim
from harvest_brain.core.position import epoch_id_of


def test_the_first_rung_is_r1_and_a_stop_move_has_its_number() -> None:
    assert harvest_claim("7f3c", 0) == "hb-7f3c-r1"
    assert stop_claim("7f3c", 1) == "hb-7f3c-s1"


@given(st.text(max_size=200), st.integers(0, 9_999))
def test_an_exchange_takes_every_id_as_its_client_order_id(identity: str, number: int) -> None:
    epoch_id = epoch_id_of(Key("", "ETHUSDT", PositionSide.NET), identity)
    for claim in (harvest_claim(epoch_id, number), stop_claim(epoch_id, number)):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,36}", claim)
        assert belongs_to(epoch_id, claim)


def test_our_own_orders_are_known_by_correlation_id_or_client_order_id() -> None:
    assert own_name(OrderRef("A1", "hb-7f3c-r1", "")) == "hb-7f3c-r1"
    assert own_name(OrderRef("A1", "", "hb-7f3c-r2")) == "hb-7f3c-r2"
    assert own_name(OrderRef("A1", "hb-7f3c-r1", "their-trace")) == "hb-7f3c-r1"


def test_an_order_of_somebody_else_has_no_name_of_ours() -> None:
    assert own_name(OrderRef("hb-7f3c-r1", "manual-1", "trace-hb-1")) == ""


def test_an_intent_belongs_to_its_own_epoch_only() -> None:
    assert belongs_to("7f3c", "hb-7f3c-r1")
    assert not belongs_to("7f3c", "hb-7f3d-r1")
    assert not belongs_to("7f", "hb-7f3c-r1")
    assert not belongs_to("7f3c", "")
