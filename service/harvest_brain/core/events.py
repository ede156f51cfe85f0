"""What can come in.

One stream entry becomes exactly one of these; a `Gap` stands for entries that never came. They are
named tuples because a backlog makes a million of them.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple


class Side(StrEnum):
    """The side of an order. The only notion of direction from the door on: long and short are signs."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1


class PositionSide(StrEnum):
    """NET in one-way mode; LONG or SHORT where an account holds both at once (hedge mode)."""

    NET = "NET"
    LONG = "LONG"
    SHORT = "SHORT"


class Key(NamedTuple):
    """What a position is known by."""

    account: str
    symbol: str
    position_side: PositionSide

    def __str__(self) -> str:
        """The symbol alone for the many who have one account in one-way mode."""
        if not self.account and self.position_side is PositionSide.NET:
            return self.symbol
        return f"{self.account}|{self.symbol}|{self.position_side.value}"


class OrderRef(NamedTuple):
    """The names by which an order may be recognised; each may be empty."""

    order_id: str = ""
    client_order_id: str = ""
    correlation_id: str = ""


class Fill(NamedTuple):
    """An execution. `qty` in base asset (> 0), `price` and `stop` in quote currency (> 0).

    `cumulative` is the filled quantity of the whole order so far, where the producer gives one.
    `complete` is true for FILLED, false for a partial fill.
    """

    entry_id: str
    time_ms: int
    key: Key
    side: Side
    qty: Decimal
    price: Decimal
    complete: bool
    order: OrderRef
    fill_id: str = ""
    stop: Decimal | None = None
    fee: Decimal = Decimal(0)
    fee_asset: str = ""
    cumulative: Decimal | None = None


class Price(NamedTuple):
    """A price of `symbol` in quote currency, at `time_ms`; `arrived_ms` is the time in the entry's id."""

    entry_id: str
    time_ms: int
    symbol: str
    price: Decimal
    arrived_ms: int


class OrderUpdate(NamedTuple):
    """News of an order that is no fill: acknowledged, or ended (rejected, expired, cancelled). `account` is empty where
    the producer names none."""

    entry_id: str
    time_ms: int
    symbol: str
    status: str
    ended: bool
    order: OrderRef
    account: str = ""


class Snapshot(NamedTuple):
    """What somebody else says a position is: `qty` signed, in base asset, 0 for none; `average` entry, `mark` price and
    `stop` in quote currency. `time_ms` is when it was so, at the latest when it arrived."""

    entry_id: str
    time_ms: int
    key: Key
    qty: Decimal
    average: Decimal
    mark: Decimal | None = None
    stop: Decimal | None = None


class PnlSnapshot(NamedTuple):
    """What somebody else says the open positions of a symbol have earned so far, in quote currency."""

    entry_id: str
    time_ms: int
    symbol: str
    unrealized: Decimal


class Release(NamedTuple):
    """The operator says that a harvest of which nothing is known did not happen and will not."""

    entry_id: str
    time_ms: int
    symbol: str
    intent_id: str


class Clear(NamedTuple):
    """The operator says that the books of a suspect symbol are right."""

    entry_id: str
    symbol: str


class Gap(NamedTuple):
    """Entries that nobody will ever read: `missed` of them at least, none where that can't be told."""

    missed: int
    reason: str


class Passed(NamedTuple):
    """An entry with a status that means nothing here: counted by status and passed over."""

    entry_id: str
    status: str


class Malformed(NamedTuple):
    """An entry that cannot be used: it goes to the dead letters with its fields and the reason.

    `stream` is empty for the execution stream.
    """

    entry_id: str
    reason: str
    fields: tuple[bytes, ...]
    stream: str = ""


# What an entry of the execution stream can be, and all that can come in.
Execution = Fill | Price | OrderUpdate | Passed | Malformed
Event = Execution | Snapshot | PnlSnapshot | Release | Clear | Gap

# An entry id's time is only believed when it looks like one: 2001-09-09 or later, in milliseconds.
PLAUSIBLE_ARRIVAL_MS = 10**12


def parse_id(entry_id: str) -> tuple[int, int]:
    """An entry id as numbers, which order as the stream does."""
    time_ms, _, sequence = entry_id.partition("-")
    return int(time_ms), int(sequence)


def happened_ms(time_ms: int, arrived_ms: int) -> int:
    """When it happened, in milliseconds: at the latest when it arrived."""
    return arrived_ms if PLAUSIBLE_ARRIVAL_MS <= arrived_ms < time_ms else time_ms
