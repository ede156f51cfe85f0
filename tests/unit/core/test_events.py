"""What can come in."""

from __future__ import annotations

from harvest_brain.core.events import Key, PositionSide, Side


def test_long_and_short_are_signs() -> None:
    assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)


def test_with_one_account_in_one_way_mode_the_key_is_the_symbol() -> None:
    assert str(Key("", "ETHUSDT", PositionSide.NET)) == "ETHUSDT"


def test_account_and_side_are_part_of_the_key_where_there_are_any() -> None:
    assert str(Key("main", "ETHUSDT", PositionSide.NET)) == "main|ETHUSDT|NET"
    assert str(Key("", "ETHUSDT", PositionSide.SHORT)) == "|ETHUSDT|SHORT"
