"""The Redis users that HarvestBrain needs, as lines of an ACL file: the least with which each can do its job.

Rights are given per key and command (selectors, Redis 7.0): the daemon's user may read the kill-switch and never write
it, append to its outputs and never delete from them, and so on. A script is called with all its keys, so `evalsha` has
a selector for them; what it does inside is judged command by command, by the other selectors.

The operator's user is who throws and lifts the switch, releases and clears, proves with and without the drill, and
removes what is left of a daemon that is gone. It sees everything of HarvestBrain's and publishes nothing: the drill's
daemon, which runs as this user too, writes below the drill's own prefix only.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from harvest_brain.redis.names import Bounds, Names

DEFAULT_USER = "harvest-brain"
_CONNECTION = ("client|setname", "select", "ping", "info", "time")
# What a daemon does, and what the drill does around it; see drill.py.
_DRILL = (
    *("eval", "evalsha", "exists", "type", "get", "set", "del", "expire", "pttl", "pexpire"),
    *("hget", "hgetall", "hset", "hdel", "lindex", "lrange", "lpush", "ltrim", "zadd", "zremrangebyrank"),
    *("xadd", "xread", "xrange", "xrevrange", "xinfo|stream", "xinfo|groups", "xgroup|create", "xgroup|setid"),
)


def acl_text(names: Names, bounds: Bounds, user: str, password: str | None) -> str:
    """An ACL file with the daemon's user and the operator's. With `password` the daemon's can log in; a user without a
    password can't, until it is given one."""
    name = user or DEFAULT_USER
    digest = f" #{sha256(password.encode()).hexdigest()}" if password else ""
    return f"user {name} reset on{digest} {_daemon(names, bounds)}\nuser {name}-operator reset on {_operator(names)}\n"


def _daemon(names: Names, bounds: Bounds) -> str:
    outputs = (names.suggestions, names.trade_intents, names.stop_intents, names.rejected)
    inputs = [name for name in (names.executions, names.market, names.snapshots, names.pnl, names.control) if name]
    memory, overrides = (names.claim("*"), names.fill("*")), names.overrides("*")
    own = (names.lease, names.state, names.rate, *memory, names.history("*"))
    waits = ["waitaof"] if bounds.wait_aof else ["wait"] if bounds.wait_replicas else []
    return " ".join(
        (
            _commands(*_CONNECTION, "script|load", *waits),
            _selector(("eval", "evalsha"), own, names.kill_switch, names.executions, outputs, overrides),
            _selector(("xread", "xrange", "xrevrange", "xinfo|stream", "xinfo|groups", "exists", "type"), reads=inputs),
            _selector(("xgroup|create", "xgroup|setid"), names.executions),
            _selector(("xadd", "xinfo|stream", "exists", "type"), outputs),
            _selector(("get",), reads=(names.kill_switch,)),
            _selector(("hgetall",), reads=(overrides,)),
            _selector(("get", "set", "del", "pttl", "pexpire", "type"), names.lease),
            _selector(("hget", "hgetall", "hset", "hdel", "type"), names.state),
            _selector(("lindex", "lrange", "lpush", "ltrim", "pexpire", "type"), names.rate),
            _selector(("get", "set"), memory),
            _selector(("zadd", "zremrangebyrank", "expire", "type"), names.history("*")),
        )
    )


def _operator(names: Names) -> str:
    read = (
        "get",
        "hget",
        "hgetall",
        "lrange",
        "zrange",
        "exists",
        "type",
        "ttl",
        "pttl",
        "xlen",
        "xrange",
        "xrevrange",
    )
    streams = (names.executions, names.market, names.snapshots, names.pnl, names.control, names.audit)
    outputs = (names.suggestions, names.trade_intents, names.stop_intents, names.rejected)
    memory = (names.claim("*"), names.fill("*"), names.history("*"), names.overrides("*"))
    seen = [
        name for name in (names.lease, names.kill_switch, names.state, names.rate, *streams, *outputs, *memory) if name
    ]
    return " ".join(
        (
            _commands(*_CONNECTION, "scan", "script|load"),
            _selector((*read, "xinfo|stream", "xinfo|groups"), reads=seen),
            _selector(("set",), names.kill_switch),
            _selector(("xadd",), names.audit, names.control),
            _selector(("del",), names.state, names.rate, names.claim("*"), names.fill("*"), names.history("*")),
            _selector(_DRILL, f"{names.namespace}:harvest:drill:*"),
        )
    )


def _commands(*commands: str) -> str:
    return " ".join(f"+{command}" for command in commands)


def _selector(commands: Iterable[str], *keys: str | Iterable[str], reads: Iterable[str] = ()) -> str:
    """`commands` on `keys`, which may be written, and on keys that may only be read."""
    flat = [key for part in keys for key in ((part,) if isinstance(part, str) else part)]
    patterns = [f"~{key}" for key in flat] + [f"%R~{key}" for key in reads]
    return f"({_commands(*commands)} {' '.join(patterns)})"
