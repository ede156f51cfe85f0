"""What a person says to the one who writes: an order of unknown fate is given up, a suspect symbol is trusted again.

The words go onto a stream that the leading daemon reads with a cursor of its own, in the same commit as all else. So
they take effect once, in order with what else it reads, and survive any crash; while no daemon leads they wait. Who
said what, and why, is written into the audit stream first.
"""

from __future__ import annotations

import getpass
import os
import time
from typing import Any

import redis

from harvest_brain.core.events import parse_id
from harvest_brain.core.position import ReservationState
from harvest_brain.ops.status import Overview
from harvest_brain.redis.encode import META_FIELD, parse_meta
from harvest_brain.redis.names import Names

AUDIT_LENGTH = CONTROL_LENGTH = 1_000
TAKEN_WITHIN_SEC = 5.0
ASK_EVERY_SEC = 0.1


class RefusedError(Exception):
    """What was asked for can't be done; the text says why."""


def audit(client: redis.Redis, names: Names, action: str, reason: str, **more: str) -> None:
    """Write down who did what, and why. Raises `redis.RedisError`."""
    entry: Any = {
        "action": action,
        **more,
        "reason": reason.encode(errors="backslashreplace").decode(),  # a shell may hand over bytes that are no text
        "by": _operator(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    client.xadd(names.audit, entry, maxlen=AUDIT_LENGTH)


def release(
    client: redis.Redis, names: Names, seen: Overview, intent_id: str, reason: str, *, pending_sec: int
) -> bool:
    """Give up an order of which nothing was heard for `pending_sec`; what is left of it is carried to the next rung.

    Returns whether a daemon has taken it by now. Raises `RefusedError` for an order that isn't there or may still be
    answered.
    """
    order = seen.order(intent_id)
    if order is None:
        raise RefusedError(f"there is no order {intent_id!r} on its way; `harvest-brain status` lists those there are")
    if order.state != ReservationState.UNKNOWN and order.silent_sec <= pending_sec:
        silence = f"it is {order.state}, and silent for {order.silent_sec} s"
        raise RefusedError(f"{intent_id}: {silence}; only after {pending_sec} s can it be released")
    return _say(client, names, reason, action="release", symbol=order.symbol, intent=intent_id)


def clear(client: redis.Redis, names: Names, seen: Overview, symbol: str, reason: str) -> bool:
    """Trust the books of a suspect symbol again; the rungs crossed by now are skipped.

    Returns whether a daemon has taken it by now. Raises `RefusedError` for a symbol that isn't suspect.
    """
    suspects = sorted({p.symbol for p in seen.positions if p.suspect})
    if symbol not in suspects:
        raise RefusedError(f"{symbol!r} is not suspect; suspect are: {', '.join(suspects) or 'none'}")
    return _say(client, names, reason, action="clear", symbol=symbol)


def _say(client: redis.Redis, names: Names, reason: str, **words: str) -> bool:
    """Audit `words`, put them onto the control stream, and see for a while whether its cursor passes them."""
    audit(client, names, reason=reason, **words)
    call: Any = client
    entry_id = call.xadd(names.control, words, maxlen=CONTROL_LENGTH).decode()
    until = time.monotonic() + TAKEN_WITHIN_SEC
    while time.monotonic() < until:
        meta = call.hget(names.state, META_FIELD)
        if meta and parse_id(parse_meta(meta.decode()).cursors.get(names.control, "0-0")) >= parse_id(entry_id):
            return True
        time.sleep(ASK_EVERY_SEC)
    return False


def _operator() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"uid {os.getuid()}"
