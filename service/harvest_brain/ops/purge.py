"""Removing the daemon's own keys: what is left of it in Redis when it is taken off a host for good.

Its own are the state, the rate, what it remembers of decisions and fills, and the history; the lease ends by itself.
Never a stream, never the kill-switch, never the operator's overrides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from harvest_brain.redis.names import Names
from harvest_brain.redis.store import UnusableError

SCAN_COUNT = 1_000


def purge(client: redis.Redis, names: Names) -> int:
    """Remove them, and return how many there were. Raises `UnusableError` while a daemon leads: it would lose what it
    needs to publish nothing twice."""
    call: Any = client.execute_command
    if holder := call("GET", names.lease):
        raise UnusableError(f"{holder.decode(errors='replace')} leads; stop every daemon first")
    removed = 0
    for key in _own(client, names):
        if call("TYPE", key) != b"stream":
            removed += int(call("DEL", key))
    return removed


def _own(client: redis.Redis, names: Names) -> Iterator[bytes | str]:
    yield from (names.state, names.rate)
    for pattern in (names.claim("*"), names.fill("*"), names.history("*")):
        yield from client.scan_iter(match=pattern, count=SCAN_COUNT)
