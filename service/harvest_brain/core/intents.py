"""What can go out, with deterministic ids.

An intent's id is made of its epoch and what it does there: `hb-<epoch>-r<n>` for a harvest whose highest rung is
the n-th, `hb-<epoch>-s<n>` for the n-th stop move. It is the correlation id and the client order id, so that a
consumer that forgets to deduplicate still can't double an order: the exchange refuses the second one.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import NamedTuple

from harvest_brain.core.events import Key, OrderRef, Price, Side
from harvest_brain.core.position import Position

OWN_PREFIX = "hb-"
R_PLACES = Decimal("0.0001")


class Action(StrEnum):
    """What is proposed. The values are the `intent_type` of shadow mode."""

    HARVEST = "HARVEST_PARTIAL"
    BREAK_EVEN = "MOVE_SL_BREAKEVEN"
    TRAIL = "TRAIL_UPDATE"
    RESIZE = "STOP_RESIZE"


class Intent(NamedTuple):
    """A decision to publish: `qty` (base asset) of the open `position` as it was before, at the price that is the
    `trigger`, by whose event time freshness is judged.

    `claims` are the names of which each may be used once, for ever: an entry per rung, or one for a stop move. `rungs`
    are their levels in R. `stop` is the epoch's stop (quote currency), for a stop move the new one, with `prev_stop`
    the one before and `stop_seq` its number in the epoch.
    """

    action: Action
    claims: tuple[str, ...]
    position: Position
    trigger: Price
    qty: Decimal
    reason: str
    expires_ms: int
    rungs: tuple[Decimal, ...] = ()
    stop: Decimal | None = None
    prev_stop: Decimal | None = None
    stop_seq: int = 0

    @property
    def intent_id(self) -> str:
        return self.claims[-1]

    @property
    def key(self) -> Key:
        return self.position.key

    @property
    def epoch_id(self) -> str:
        return self.position.open_epoch.epoch_id

    @property
    def side(self) -> Side:
        """The side that closes the position."""
        return Side.SELL if self.position.open_epoch.sign > 0 else Side.BUY

    @property
    def r(self) -> Decimal:
        """R at the trigger, see `shown_r`."""
        return shown_r(self.position, self.trigger.price)

    @property
    def unrealized(self) -> Decimal:
        """What the whole position has gained at the trigger, in quote currency."""
        return self.position.gain(self.trigger.price) * abs(self.position.qty)


def shown_r(position: Position, price: Decimal) -> Decimal:
    """R at `price` cut to four places, never rounded up past a rung."""
    return position.r_at(price).quantize(R_PLACES, ROUND_DOWN)


def harvest_claim(epoch_id: str, rung: int) -> str:
    """The name of the harvest of the rung with index `rung` (the first one is r1)."""
    return f"{_epoch_prefix(epoch_id)}r{rung + 1}"


def stop_claim(epoch_id: str, stop_seq: int) -> str:
    """The name of the stop move with number `stop_seq` in its epoch."""
    return f"{_epoch_prefix(epoch_id)}s{stop_seq}"


def own_name(order: OrderRef) -> str:
    """The intent's id under which an order came back, or nothing for an order of somebody else."""
    return next((name for name in (order.correlation_id, order.client_order_id) if name.startswith(OWN_PREFIX)), "")


def belongs_to(epoch_id: str, intent_id: str) -> bool:
    """Whether `intent_id` names an intent of that epoch."""
    return intent_id.startswith(_epoch_prefix(epoch_id))


def _epoch_prefix(epoch_id: str) -> str:
    return f"{OWN_PREFIX}{epoch_id}-"
