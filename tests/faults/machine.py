"""One episode of the fault machine: a script is fed to real daemons on a real Redis while everything breaks, and what
comes out is held against the reference.

All that is random comes from the seed: the script, the faults, their order and where they fall. Only how the processes
interleave is the machine's; faults that fall on a message (see `taps`) fall on the same one again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, Self

import redis

from harvest_brain.config import Settings
from harvest_brain.redis.names import Names
from tests.faults import script as scripts
from tests.faults.nursery import Daemon, Nursery
from tests.faults.proxy import Proxy
from tests.faults.reference import Reference, settings_of
from tests.faults.script import NO_RATE, RATE, Beside, Control, Feed, Script, Switch, Trim, follow
from tests.faults.taps import LeaseLog, Wire
from tests.support.server import DURABLE, ContainerServer, ProcessServer, RedisServer
from tests.support.waiting import wait_until

DAEMONS = 2
HISTORY = 100
LONG_DEDUP_SEC = "900"
HOLD_EACH_SEC = 1
_HOLD = """
local time = redis.call('TIME')
for i = 0, redis.call('LLEN', KEYS[1]) - 1 do
  redis.call('LSET', KEYS[1], i, time[1] * 1000 + math.floor(time[2] / 1000))
end
redis.call('PEXPIRE', KEYS[1], 60000)
"""


class ViolationError(AssertionError):
    """Something that must always hold did not. `kind` says which, in a word."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass
class Tally:
    """What an episode came to."""

    kills: Counter[str] = field(default_factory=Counter)  # SIGKILLs, by what was killed
    faults: Counter[str] = field(default_factory=Counter)  # that happened, by name
    entries: int = 0
    intents: int = 0
    rejected: int = 0


class Served(NamedTuple):
    """What the stored `_meta` says: how far, how many, in which mode."""

    cursor: str
    entries: int
    cursors: Mapping[str, str]
    mode: str


class World:
    """Redis, the daemons before it and the wires between them. A context; on leaving it nothing is left of it.

    `client` goes to Redis directly. It is the trader's, the producers' and the operator's connection.
    """

    def __init__(
        self, nursery: Nursery, environ: Mapping[str, str], *, planted: str = "", container: bool = False
    ) -> None:
        self.server: RedisServer = (ContainerServer if container else ProcessServer)(DURABLE)
        self.server.start()
        self.client: Any = self.server.client(decode_responses=False)
        for command in ("XRANGE", "XREVRANGE"):  # as they come: redis-py's dict loses a field that stands twice
            self.client.set_response_callback(command, lambda reply, **_: reply)
        self.tally = Tally()
        self.lease_log = LeaseLog()
        self.settings: Settings = settings_of(environ)
        self.names: Names = self.settings.names()
        self.wires = [Wire(number, self.lease_log) for number in range(DAEMONS)]
        self.proxies = [Proxy(self.server.port, wire) for wire in self.wires]
        self.daemons = [
            Daemon(
                nursery,
                {**environ, "REDIS_PORT": str(proxy.port), "HARVEST_CONSUMER": f"d{number}"},
                planted=planted,
            )
            for number, proxy in enumerate(self.proxies)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.discard()
        for wire in self.wires:
            wire.flow()
        for proxy in self.proxies:
            proxy.close()
        self.client.close()
        self.server.discard()

    def kill_redis(self) -> None:
        self.server.kill()
        self.tally.kills["redis"] += 1

    def kill_daemon(self, number: int) -> None:
        """SIGKILL, if it runs. What it had sent may still arrive."""
        if self.daemons[number].is_running:
            self.daemons[number].kill()
            self.tally.kills["daemon"] += 1

    def expire_lease(self) -> None:
        """As if its time had passed: to the protocol every moment may be the one at which it does."""
        self.client.delete(self.names.lease)

    def leader(self) -> int | None:
        """The number of the daemon that holds the lease."""
        token = self.client.get(self.names.lease)
        return int(token.decode().split(":")[0].removeprefix("d")) if token else None

    def served(self) -> Served:
        raw = self.client.hget(self.names.state, "_meta")
        if raw is None:
            return Served("0-0", 0, {}, "")
        meta = json.loads(raw)
        return Served(meta["cursors"].get(self.names.executions, "0-0"), meta["read"], meta["cursors"], meta["mode"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.names.suggestions, self.names.trade_intents, self.names.stop_intents)


class Feeder:
    """Puts the script into Redis, step by step, and knows what the daemons were permitted at each entry."""

    def __init__(self, world: World, script: Script) -> None:
        self._world = world
        self._script = script
        self._fed = 0
        self._owed: list[Feed] = []
        self.last_id = "0-0"
        # Which entries were decided under which kill-switch: from behind this id on, this value.
        self.switchings: list[tuple[str, str]] = []
        self._ends_when_off: dict[str, bytes] = {}
        self._held_at = 0.0

    def prepare(self) -> None:
        client = self._world.client
        for symbol, fields in self._script.overrides.items():
            client.hset(self._world.names.overrides(symbol), mapping=fields)
        client.set(self._world.names.kill_switch, "0")

    @property
    def is_done(self) -> bool:
        """Whether every step was taken; the last entries may be owed still."""
        return self._fed == len(self._script.steps)

    @property
    def owes(self) -> bool:
        return bool(self._owed)

    def push(self, count: int) -> None:
        """Feed the next `count` entries at most, up to the next step that is none. What a dying Redis may not have
        taken is said again the next time: an id that is there already is refused."""
        self._hold_the_minute()
        steps = self._script.steps
        for _ in range(count):
            if self.is_done or not isinstance(step := steps[self._fed], Feed):
                break
            self._owed.append(step)
            self._fed += 1
        if not self._owed:
            return
        pipeline = self._world.client.pipeline(transaction=False)
        for feed in self._owed:
            pipeline.execute_command("XADD", self._world.names.executions, feed.entry_id, *feed.fields)
        try:
            replies = pipeline.execute(raise_on_error=False)
        except redis.ConnectionError:
            return
        for reply in replies:
            if isinstance(reply, Exception) and "equal or smaller" not in str(reply):
                raise reply
        self.last_id = self._owed[-1].entry_id
        self._world.tally.entries += len(self._owed)
        self._owed.clear()

    def _hold_the_minute(self) -> None:
        """What was published within the last minute, was published just now: only the script lets minutes pass."""
        if self._script.environ.get(RATE, NO_RATE) == NO_RATE or time.monotonic() < self._held_at + HOLD_EACH_SEC:
            return
        with suppress(redis.ConnectionError):
            self._world.client.eval(_HOLD, 1, self._world.names.rate)
            self._held_at = time.monotonic()

    def pass_minute(self) -> None:
        self._world.client.delete(self._world.names.rate)

    def next_control(self) -> Control | None:
        """The step that comes next, if it is no entry of the execution stream; it is passed."""
        if self.is_done:
            return None
        step = self._script.steps[self._fed]
        if isinstance(step, Feed):
            return None
        self._fed += 1
        return step

    def switch(self, step: Switch) -> None:
        """Set the kill-switch, and note in the same instant how far the daemons are and where the outputs end."""
        world = self._world
        pipeline = world.client.pipeline(transaction=True)
        pipeline.set(world.names.kill_switch, step.value)
        pipeline.hget(world.names.state, "_meta")
        for stream in world.outputs:
            pipeline.xrevrange(stream, count=1)
        _, meta, *ends = pipeline.execute()
        cursor = json.loads(meta)["cursors"][world.names.executions] if meta else "0-0"
        self.switchings.append((cursor, step.value))
        last = {stream: end[0][0] if end else b"" for stream, end in zip(world.outputs, ends, strict=True)}
        self._check_silence(last)
        self._ends_when_off = {} if step.value == "0" else last

    def say(self, step: Beside) -> None:
        """Put an entry on a stream beside the execution stream, and wait until it is taken in."""
        stream = getattr(self._world.names, step.stream)
        self._world.client.execute_command("XADD", stream, step.entry_id, *step.fields)
        try:
            wait_until(lambda: self._world.served().cursors[stream] == step.entry_id)
        except AssertionError:
            raise ViolationError("stuck", f"{stream} is not read to {step.entry_id}") from None

    def trim(self, step: Trim) -> None:
        """While nobody reads: what was lost, the next entry behind it, and the removal of all before that one."""
        client, name = self._world.client, self._world.names.executions
        for feed in step.lost:
            client.execute_command("XADD", name, feed.entry_id, *feed.fields)
        self.push(1)
        client.xtrim(name, minid=self.last_id, approximate=False)

    def check_switch(self) -> None:
        """If it is thrown, nothing came out since."""
        client = self._world.client
        ends = {stream: client.xrevrange(stream, count=1) for stream in self._ends_when_off}
        self._check_silence({stream: end[0][0] if end else b"" for stream, end in ends.items()})

    def _check_silence(self, last: Mapping[str, bytes]) -> None:
        for stream, end in self._ends_when_off.items():
            if last[stream] != end:
                raise ViolationError("kill-switch", f"{stream} grew {end!r} -> {last[stream]!r} behind it")

    def expected(self) -> Reference:
        """The reference's account of what was fed so far, with the switch as it was."""
        script = self._script
        reference = Reference(settings_of(script.environ), script.base_ms + scripts.HOUR_MS // 2, script.overrides)
        switchings = list(self.switchings)
        for step in script.steps[: self._fed]:
            if isinstance(step, Feed):
                while switchings and _after(step.entry_id, switchings[0][0]):
                    reference.kill_switch = switchings.pop(0)[1]
                reference.take(step.entry_id, list(step.fields))
            elif not isinstance(step, Switch):
                follow(reference, step)
        return reference


def _after(entry_id: str, other: str) -> bool:
    return _parts(entry_id) > _parts(other)


def _parts(entry_id: str) -> tuple[int, int]:
    first, _, second = entry_id.partition("-")
    return int(first), int(second)


class Watcher:
    """Follows the output streams all the time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cursors = dict.fromkeys(world.outputs, "-")
        self._seen: set[str] = set()

    def look(self) -> None:
        """Judge what is new: each claim once, on the closing side, reduce-only, no more than is held."""
        for stream, cursor in self._cursors.items():
            for entry_id, fields in self._world.client.xrange(stream, cursor, "+"):
                self._cursors[stream] = f"({entry_id.decode()}"
                self._judge(json.loads(fields[3]))

    def _judge(self, payload: Mapping[str, Any]) -> None:
        self._world.tally.intents += 1
        name = payload["correlation_id"]
        # What was suggested may be ordered later, where the operator wishes so.
        name = f"{'suggested' if payload['dry_run'] else 'ordered'} {name}"
        claims = [f"{name.split('-r')[0]} rung {rung}" for rung in payload["rungs"]] or [name]
        for claim in {name, *claims}:
            if claim in self._seen:
                raise ViolationError("twice", f"{claim} was published twice: {payload}")
        self._seen.update({name, *claims})
        long = payload["position_qty"] > 0
        if payload["side"] != ("SELL" if long else "BUY") or not payload["reduce_only"]:
            raise ViolationError("side", f"{payload}")
        if not 0 < payload["qty"] <= abs(payload["position_qty"]):
            raise ViolationError("size", f"{payload}")


def check_outcome(world: World, feeder: Feeder) -> None:
    """What is in Redis now, with nothing on its way, is exactly what the reference says."""
    expected = feeder.expected()
    client, names = world.client, world.names
    for stream in world.outputs:
        wanted = [list(p.fields) for p in expected.published if p.stream == stream]
        found = [[word.decode() for word in fields] for _, fields in client.xrange(stream)]
        _compare("intents", f"{stream} holds other intents", wanted, found)
    letters = [
        [
            b"stream",
            (letter.stream or names.executions).encode(),
            b"id",
            letter.entry_id.encode(),
            b"reason",
            letter.reason.encode(),
            *letter.fields,
        ]
        for letter in expected.rejected
    ]
    found_letters = [fields for _, fields in client.xrange(names.rejected)]
    _compare("dead letters", "other entries were rejected", letters, found_letters)
    world.tally.rejected += len(letters)

    stored = {name.decode(): text.decode() for name, text in client.hgetall(names.state).items()}
    meta = json.loads(stored.pop("_meta"))
    _compare("state", "the state differs", sorted(expected.state_fields().items()), sorted(stored.items()))
    _compare(
        "cursor",
        "cursor or count differ",
        [feeder.last_id, expected.taken],
        [meta["cursors"][names.executions], meta["read"]],
    )
    group = next(g for g in client.xinfo_groups(names.executions) if g["name"].decode() == names.group)
    _compare(
        "group",
        "the group is elsewhere",
        [feeder.last_id, expected.taken, 0, 0],
        [group["last-delivered-id"].decode(), group["entries-read"], group["lag"], group["pending"]],
    )
    _check_memory(world, expected)
    if fenced := world.lease_log.fenced_writes():
        raise ViolationError("fencing", "; ".join(fenced))


def _check_memory(world: World, expected: Reference) -> None:
    """The keys beside the state: remembered fills, published claims, the history of each symbol."""
    client, names = world.client, world.names
    fills = {names.fill(name): content for name, content in expected.fills.items()}
    found = {key.decode(): client.get(key).decode() for key in client.scan_iter(f"{names.fill('')}*", count=1000)}
    _compare("fills", "other fills are remembered", sorted(fills.items()), sorted(found.items()))
    if str(world.settings.dedup_ttl_sec) == LONG_DEDUP_SEC:
        claims = {names.claim(claim) for published in expected.published for claim in published.intent.claims}
        kept = {key.decode() for key in client.scan_iter(f"{names.claim('')}*", count=1000)}
        _compare("claims", "other claims are remembered", sorted(claims), sorted(kept))
    histories: dict[str, list[str]] = {}
    for published in expected.published:
        if published.intent.rungs:
            histories.setdefault(published.intent.key.symbol, []).append(published.fields[3])
    for symbol, payloads in histories.items():
        kept_payloads = [text.decode() for text in client.zrange(names.history(symbol), 0, -1)]
        _compare("history", f"of {symbol}", sorted(payloads[-HISTORY:]), sorted(kept_payloads))


def _compare(kind: str, text: str, wanted: list[Any], found: list[Any]) -> None:
    if wanted == found:
        return
    missing = [item for item in wanted if item not in found]
    extra = [item for item in found if item not in wanted]
    first = next(i for i, (a, b) in enumerate(zip_longest(wanted, found)) if a != b)
    raise ViolationError(
        kind,
        f"{text}: {len(wanted)} expected, {len(found)} found, {len(missing)} missing, {len(extra)} too many, first "
        f"difference at {first}\n  missing: {missing[:3]}\n  too many: {extra[:3]}",
    )
