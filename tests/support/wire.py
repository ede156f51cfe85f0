"""What goes in and what comes out, in the names of the default namespace.

Entries are flat, as a simple producer writes them; intents are the parsed payloads, with numbers as `Decimal`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.support.waiting import wait_until

EXECUTIONS = "quantum:stream:execution.result"
SUGGESTIONS = "quantum:stream:harvest.suggestions"
TRADE_INTENTS = "quantum:stream:trade.intent"
STOP_INTENTS = "quantum:stream:stop.intent"
REJECTED = "quantum:stream:harvest.rejected"
OUTPUTS = (SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS)
KILL = "quantum:kill"
STATE = "quantum:harvest:state"
LEASE = "quantum:harvest:lease"
GROUP = "harvest_brain_group"


def fill(symbol: str, side: str, qty: str, price: str, **more: str | int) -> dict[str, str | int]:
    """A fill: `fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", order_id="A1")`."""
    return {"symbol": symbol, "side": side, "qty": qty, "price": price, "status": "FILLED", **more}


def tick(symbol: str, price: str, **more: str | int) -> dict[str, str | int]:
    """A price."""
    return {"symbol": symbol, "price": price, "status": "PRICE_UPDATE", **more}


def feed(client: Any, *entries: Mapping[str, str | int | bytes]) -> list[str]:
    """Put `entries` on the execution stream and wait until the daemon has taken them in. Returns their ids."""
    pipeline = client.pipeline(transaction=False)
    for entry in entries:
        pipeline.xadd(EXECUTIONS, entry)
    ids: list[str] = pipeline.execute()
    wait_until(lambda: is_caught_up(client), what="the cursor at the end of the stream")
    return ids


def intents(client: Any, stream: str) -> list[dict[str, Any]]:
    """The payloads on a stream, oldest first."""
    return [json.loads(fields["payload"], parse_float=Decimal) for _, fields in client.xrange(stream)]


def harvests(client: Any, stream: str = SUGGESTIONS) -> list[dict[str, Any]]:
    """Those of them that close a part of a position."""
    return [i for i in intents(client, stream) if i["intent_type"] in ("HARVEST_PARTIAL", "REDUCE_ONLY")]


def group_of(client: Any, stream: str = EXECUTIONS) -> dict[str, Any]:
    """What XINFO GROUPS says of the daemon's consumer group; empty while there is none."""
    if not client.exists(stream):
        return {}
    return next((group for group in client.xinfo_groups(stream) if group["name"] == GROUP), {})


def is_caught_up(client: Any, stream: str = EXECUTIONS) -> bool:
    """Whether the cursor has passed all entries."""
    last = client.xinfo_stream(stream)["last-generated-id"]
    return bool(group_of(client, stream).get("last-delivered-id") == last)


def position(client: Any, key: str) -> dict[str, Any] | None:
    """The stored position, or None when it is flat."""
    text = client.hget(STATE, key)
    return None if text is None else json.loads(text)


def dump(client: Any) -> dict[str, object]:
    """Every key with its value, byte for byte, and its expiry: two dumps are equal when nothing was written between.

    Streams are dumped by their entries, groups and ids, since the serialised form holds when a consumer was seen last.
    """
    everything: dict[str, object] = {}
    for key in client.scan_iter(count=1000):
        if client.type(key) == "stream":
            content: object = (client.xrange(key), client.xinfo_stream(key), client.xinfo_groups(key))
        else:
            content = _raw(client, key)
        everything[key] = (content, client.pexpiretime(key))
    return everything


def _raw(client: Any, key: str) -> object:
    return {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda name: client.lrange(name, 0, -1),
        "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        "set": client.smembers,
    }[client.type(key)](key)
