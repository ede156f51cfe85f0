"""I9 against an implementation of somebody else: NautilusTrader's Position, on more than ten thousand random fills.

`make oracle` installs it in an environment of its own and runs this; without it, this is skipped. A fill that turns a
position round is split before it is handed over, as Nautilus' own execution engine does.
"""

from __future__ import annotations

import random
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from tests.support.world import World, policy

from harvest_brain.core.events import Side
from harvest_brain.core.position import Position

pytest.importorskip("nautilus_trader", reason="NautilusTrader is not installed; `make oracle` does that")

WITHIN = 1e-9
HISTORIES, FILLS = 200, 60


class Nautilus:
    """A net position as NautilusTrader keeps it. Its modules have no types here, since it is not installed where types
    are checked."""

    def __init__(self) -> None:
        self._model: Any = import_module("nautilus_trader.model")
        self._ids: Any = import_module("nautilus_trader.model.identifiers")
        self._enums: Any = import_module("nautilus_trader.model.enums")
        self._filled: Any = import_module("nautilus_trader.model.events").OrderFilled
        self._uuid: Any = import_module("nautilus_trader.core.uuid").UUID4
        providers: Any = import_module("nautilus_trader.test_kit.providers")
        self._instrument: Any = providers.TestInstrumentProvider.ethusdt_perp_binance()
        self._count = 0
        self.position: Any = None

    @property
    def qty(self) -> Decimal:
        """What is held, signed."""
        if self.position is None:
            return Decimal(0)
        held: Decimal = self.position.signed_decimal_qty()
        return held

    def book(self, side: Side, qty: Decimal, price: Decimal) -> None:
        """A fill, in two parts where it turns the position round."""
        if self.qty * side.sign < 0 and qty > abs(self.qty):
            rest = qty - abs(self.qty)
            self._apply(side, abs(self.qty), price)
            self._apply(side, rest, price)
        else:
            self._apply(side, qty, price)

    def _apply(self, side: Side, qty: Decimal, price: Decimal) -> None:
        self._count += 1
        ids, enums = self._ids, self._enums
        fill = self._filled(
            trader_id=ids.TraderId("T-1"),
            strategy_id=ids.StrategyId("S-1"),
            instrument_id=self._instrument.id,
            client_order_id=ids.ClientOrderId(f"O-{self._count}"),
            venue_order_id=ids.VenueOrderId(f"V-{self._count}"),
            account_id=ids.AccountId("BINANCE-1"),
            trade_id=ids.TradeId(f"E-{self._count}"),
            position_id=ids.PositionId("P-1"),
            order_side=enums.OrderSide.BUY if side is Side.BUY else enums.OrderSide.SELL,
            order_type=enums.OrderType.MARKET,
            last_qty=self._model.Quantity.from_str(f"{qty:.3f}"),
            last_px=self._model.Price.from_str(f"{price:.2f}"),
            currency=self._instrument.quote_currency,
            commission=self._model.Money(0, self._instrument.quote_currency),
            liquidity_side=enums.LiquiditySide.TAKER,
            event_id=self._uuid(),
            ts_event=self._count,
            ts_init=self._count,
        )
        if self.position is None:
            self.position = self._model.Position(self._instrument, fill)
        else:
            self.position.apply(fill)


def assert_equal(mine: Position | None, theirs: Any) -> None:
    """Quantities exactly, averages and profit as near as binary floating point comes."""
    if mine is None:
        assert theirs.is_closed
        return
    epoch = mine.open_epoch
    assert mine.qty == theirs.signed_decimal_qty()
    assert epoch.peak == theirs.peak_qty.as_decimal()
    assert float(mine.average) == pytest.approx(theirs.avg_px_open, rel=WITHIN, abs=WITHIN)
    assert float(epoch.realized) == pytest.approx(float(theirs.realized_pnl), abs=1e-6)  # it rounds to 1e-8 a fill


def test_the_accounting_equals_nautilus_traders_on_more_than_ten_thousand_random_fills() -> None:
    count = flips = 0
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        world, nautilus = World(policy()), Nautilus()
        for _ in range(FILLS):
            side = chance.choice([Side.BUY, Side.SELL])
            qty, price = Decimal(chance.randint(1, 5_000)) / 1000, Decimal(chance.randint(100_000, 500_000)) / 100
            held = nautilus.qty
            if held and chance.random() < 0.15:
                side, qty = (Side.SELL if held > 0 else Side.BUY), abs(held)
            world.see(world.fill(side, qty, price))
            nautilus.book(side, qty, price)
            assert_equal(None if world.is_flat else world.position(), nautilus.position)
            count += 1
            flips += held * nautilus.qty < 0
    assert count >= 10_000
    assert flips >= 1_000
