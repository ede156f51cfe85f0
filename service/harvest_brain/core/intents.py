"""What can go out, with deterministic ids.

An intent's id is made of its epoch and what it does there: `hb-<epoch>-r<n>` for a harvest whose highest rung is
the n-th, `hb-<epoch>-s<n>` for the n-th stop move. It is the correlation id and the client order id, so that a
consumer that forgets to deduplicate still can't double an order: the exchange refuses the second one.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from harvest_brain.core.events import Key, OrderRef, Side

OWN_PREFIX = "hb-"


class Action(StrEnum):
    """What is proposed. The values are the `intent_type` of shadow mode."""

    HARVEST = "HARVEST_PARTIAL"
    BREAK_EVEN = "MOVE_SL_BREAKEVEN"
    TRAIL = "TRAIL_UPDATE"
    RESIZE = "STOP_RESIZE"


class Intent(NamedTuple):
    """A decision to publish. Quantities in base asset, prices and `unrealized` in quote currency, `r` in R.

    `claims` are the names of which each may be used once, for ever: an entry per rung, or one for a stop move.
    `price_ms` is the event time of what triggered it: freshness is judged by it. `stop` is the epoch's stop, for a stop
    move the new one, with `prev_stop` the one before and `stop_seq` its number in the epoch.
    """

    action: Action
    intent_id: str
    claims: tuple[str, ...]
    key: Key
    side: Side
    qty: Decimal
    reason: str
    r: Decimal
    rungs: tuple[Decimal, ...]
    unrealized: Decimal
    epoch_id: str
    position_qty: Decimal
    average: Decimal
    price: Decimal
    price_ms: int
    expires_ms: int
    trace_id: str
    risk_source: str
    stop: Decimal | None
    prev_stop: Decimal | None = None
    stop_seq: int = 0


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
