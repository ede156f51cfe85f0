"""What must come out: the pure core's own result over a whole stream, decided in one go with open gates.

A daemon that read the same stream, in whatever batches, however often it was killed and whoever led, must have
published exactly this, in this order, and must hold exactly this state.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harvest_brain.core.engine import Gate, State, decide
from harvest_brain.core.policy import Policy
from harvest_brain.redis.decode import decode
from harvest_brain.redis.encode import intent_entry, position_text
from tests.support.daemon import now_ms
from tests.support.server import RedisServer
from tests.support.wire import EXECUTIONS, REJECTED, STATE, STOP_INTENTS, SUGGESTIONS, TRADE_INTENTS

# Gates as open as they can be set, so that what comes out depends on the entries alone.
OPEN_GATES = {
    "HARVEST_MAX_ACTIONS_PER_MIN": "10000",
    "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC": "3600",
    "HARVEST_DEDUP_TTL_SEC": "86400",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Fields of each output stream's entries, in order; positions as they are stored; ids of the dead letters."""

    published: dict[str, list[list[str]]]
    positions: dict[str, str]
    rejected: list[str]


def expected(server: RedisServer, policy: Policy, *, kill_switch: str | None = None) -> Outcome:
    """What the core makes of all that stands on the execution stream. Gates open, but for the kill-switch."""
    with server.client(decode_responses=False) as client:
        raw = client.execute_command("XRANGE", EXECUTIONS, "-", "+")
    events = [decode(entry_id.decode(), [part for pair in fields.items() for part in pair]) for entry_id, fields in raw]
    decision = decide(State(), events, Gate(now_ms(), kill_switch, tokens=10**9), policy)
    published: dict[str, list[list[str]]] = {}
    for intent in decision.intents:
        stream = SUGGESTIONS
        if policy.live:
            stream = STOP_INTENTS if intent.stop_seq else TRADE_INTENTS
        published.setdefault(stream, []).append(intent_entry(intent, live=policy.live))
    state = State()
    state.adopt(decision)
    return Outcome(
        published,
        {str(position.key): position_text(position) for position in state.positions()},
        [letter.entry_id for letter in decision.rejected],
    )


def actual(client: Any) -> Outcome:
    """What stands in Redis."""
    published = {}
    for stream in (SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS):
        entries = [[part for pair in fields.items() for part in pair] for _, fields in client.xrange(stream)]
        if entries:
            published[stream] = entries
    state = client.hgetall(STATE)
    return Outcome(
        published,
        {name: text for name, text in state.items() if not name.startswith("_")},
        [fields["id"] for _, fields in client.xrange(REJECTED)],
    )


def story(seed: int, length: int, symbols: int = 20) -> Iterator[dict[str, str]]:
    """`length` entries for many symbols: positions opened, added to, reduced, closed and turned round, repeated and
    unusable entries, and prices that wander across the rungs. The same seed gives the same entries."""
    chance = random.Random(seed)
    prices = {f"SYM{number}USDT": 100.0 for number in range(symbols)}
    last: dict[str, str] = {}
    for number in range(length):
        symbol = chance.choice(list(prices))
        prices[symbol] *= 1 + chance.gauss(0, 0.004)
        price = f"{prices[symbol]:.4f}"
        dice = chance.random()
        if dice < 0.70:
            yield {"symbol": symbol, "price": price, "status": "PRICE_UPDATE"}
        elif dice < 0.95:
            side = chance.choice(("BUY", "SELL"))
            distance = 0.98 if side == "BUY" else 1.02
            last = {"symbol": symbol, "side": side, "qty": str(chance.randint(1, 30) / 10), "price": price}
            last |= {"status": chance.choice(("FILLED", "PARTIALLY_FILLED")), "fill_id": f"F{number}"}
            last |= {"stop_loss": f"{prices[symbol] * distance:.4f}", "order_id": f"A{number // 3}"}
            yield last
        elif dice < 0.98 and last:
            yield last
        else:
            yield {"symbol": symbol, "status": "FILLED", "side": "BUY", "qty": "none", "price": price}
