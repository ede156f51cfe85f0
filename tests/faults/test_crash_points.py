"""Every point, one after the other: a daemon is stopped at each command it sends and at each reply it gets, and what
comes out is always the same.

The scenario is fixed and small: a backlog in three batches, so that reads go out ahead, then entries while it waits for
some, with harvests, stop moves, a repeat and a dead letter. The points are counted on the wire, from the first command
of the first connection to the last reply that the scenario needs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import pytest
import redis

from tests.faults.machine import Feeder, ViolationError, World, check_outcome
from tests.faults.nursery import Nursery
from tests.faults.proxy import Command, Verdict
from tests.faults.script import Feed, Script
from tests.faults.taps import At, LeaseLog, Trap, Wire
from tests.support.waiting import wait_until

BACKLOG = 8
LEAST_COMMANDS = 25
MOST_COMMANDS = 200

_ENTRIES = (
    "FILLED symbol AUSDT side BUY qty 1 price 100 stop_loss 98 order_id a",
    "PRICE_UPDATE symbol AUSDT price 101.04",
    "FILLED symbol BUSDT side SELL qty 2 price 50 stop_loss 51 fill_id b",
    "FILLED symbol BUSDT side SIDEWAYS qty 2 price 50",
    "PRICE_UPDATE symbol BUSDT price 48.4",  # through three rungs at once
    "FILLED symbol AUSDT side BUY qty 1 price 100 stop_loss 98 order_id a",
    "PRICE_UPDATE symbol AUSDT price 101.5",
    "FILLED symbol BUSDT side BUY qty 2 price 48.4 fill_id c",
    "PRICE_UPDATE symbol AUSDT price 102.1",
    "FILLED symbol AUSDT side SELL qty 0.25 price 102.1 order_id d",
    "PRICE_UPDATE symbol AUSDT price 103.5",
    "FILLED symbol BUSDT side SELL qty 1 price 50 stop_loss 51 order_id e",
    "PRICE_UPDATE symbol BUSDT price 49.4",
)


def scenario(mode: str) -> Script:
    base_ms = time.time_ns() // 1_000_000 - 60_000
    environ = {
        "HARVEST_MODE": mode,
        "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC": "3600",
        "HARVEST_BATCH_SIZE": "3",
        "HARVEST_LEASE_SEC": "2",
        "HARVEST_DEDUP_TTL_SEC": "900",
        "HARVEST_PRICE_TICK": "0.01",
    }
    steps = [
        Feed(f"{base_ms + number}-0", tuple(f"status {entry}".encode().split()))
        for number, entry in enumerate(_ENTRIES)
    ]
    return Script(environ, {}, steps, base_ms)


class CountingWire(Wire):
    """A wire that knows by its trap's number which message is meant, and notices when the daemon waits for entries."""

    def __init__(self, number: int, log: LeaseLog) -> None:
        super().__init__(number, log)
        self.waits = threading.Event()
        self.names: list[str] = []

    def request(self, command: Command) -> Verdict:
        self.names.append(command.name)
        verdict = super().request(command)
        if command.name == "XREAD" and b"BLOCK" in command.arguments:
            self.waits.set()
        return verdict


@dataclass
class NumberedTrap(Trap):
    """Springs at the message of the command with this number."""

    number: int = 0

    def meets(self, at: At, command: Command) -> bool:
        return at is self.at and command.number == self.number


def _recover(world: World, deed: str) -> None:
    """What the world does after the deed."""
    first, second = world.daemons
    if deed.startswith("kill the daemon"):
        first.kill()
        world.expire_lease()
        first.start()
    elif deed == "kill redis":
        world.server.start()
    elif deed == "freeze the daemon":
        world.expire_lease()
        second.start()


def _deed(world: World, name: str) -> tuple[Callable[[], object], Verdict]:
    first, wire = world.daemons[0], world.wires[0]

    def freeze() -> None:
        first.signal(signal.SIGSTOP)
        wire.stall()

    return {
        "cut the connection": (lambda: None, Verdict.CUT),
        "cut it in the middle": (lambda: None, Verdict.HALF),
        "kill the daemon": (lambda: first.signal(signal.SIGKILL), Verdict.CUT),
        # What it had sent still arrives.
        "kill the daemon, not its words": (lambda: first.signal(signal.SIGKILL), Verdict.PASS),
        "kill redis": (world.kill_redis, Verdict.CUT),
        # What it had sent arrives when another one has done its work.
        "freeze the daemon": (freeze, Verdict.PASS),
    }[name]


def play(nursery: Nursery, mode: str, deed: str, at: At, number: int, *, planted: str = "") -> list[str]:
    """Run the scenario with `deed` at one point. Returns the names of the commands up to there, or nothing if there is
    no such point any more. Raises `ViolationError` when something else comes out."""
    script = scenario(mode)
    with World(nursery, {**script.environ, "REDIS_TIMEOUT_SEC": "1"}, planted=planted) as world:
        wire = CountingWire(0, world.lease_log)
        world.wires[0] = world.proxies[0].tap = wire
        act, verdict = _deed(world, deed)
        wire.trap = trap = NumberedTrap(at, frozenset(), 0, act, verdict, number=number)
        feeder = Feeder(world, script)
        feeder.prepare()
        feeder.push(BACKLOG)
        world.daemons[0].start()
        is_fed = False

        def proceed() -> bool:
            """Feed the rest when the daemon has come so far; whether all is done, or the trap was sprung."""
            nonlocal is_fed
            if wire.waits.is_set() and not is_fed:
                feeder.push(len(_ENTRIES))
                is_fed = True
            with suppress(redis.ConnectionError):  # Redis may be about to be killed
                return trap.done.is_set() or (is_fed and world.served().cursor == feeder.last_id)
            return False

        wait_until(proceed, what="the end of the scenario", poll=0.002)
        wire.disarm()  # a daemon that has come to the end still asks for more, so the trap may just be springing
        sprung = trap.sprung.is_set()
        if sprung:
            wait_until(trap.done.is_set, what="the end of the deed")
            _recover(world, deed)
        feeder.push(len(_ENTRIES))
        assert feeder.is_done
        assert not feeder.owes
        wait_until(lambda: world.served().cursor == feeder.last_id, what="the end of the scenario after the deed")
        if sprung and deed == "freeze the daemon":
            world.daemons[0].signal(signal.SIGCONT)
            wire.flow()
            wait_until(lambda: "standing by" in world.daemons[0].log(), what="a zombie that stands by")
        check_outcome(world, feeder)
        return wire.names[:number] if sprung else []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["shadow", "live"])
@pytest.mark.parametrize("at", list(At))
@pytest.mark.parametrize(
    "deed",
    [
        *("cut the connection", "cut it in the middle", "kill the daemon", "kill the daemon, not its words"),
        *("kill redis", "freeze the daemon"),
    ],
)
def test_whatever_happens_at_any_command_or_reply_the_same_comes_out(
    nursery: Nursery, deed: str, at: At, mode: str
) -> None:
    names: list[str] = []
    for number in count(1):
        assert number < MOST_COMMANDS
        seen = play(nursery, mode, deed, at, number)
        if not seen:
            break
        names = seen
    assert len(names) >= LEAST_COMMANDS, names
    # The backlog makes three batches and what follows at least two; the last one's effect may be seen before its reply.
    assert names.count("COMMIT") >= 4, names
    assert {"SET", "HGETALL", "XGROUP", "XREAD", "LOOK", "COMMIT"} <= set(names)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["dedup-before-publish", "cursor-before-commit", "rungs-in-memory"])
def test_a_planted_fault_is_found_at_one_of_the_points(nursery: Nursery, fault: str) -> None:
    for number in count(1):
        try:
            assert play(nursery, "live", "kill the daemon", At.REQUEST, number, planted=fault), "no point is left"
        except ViolationError:
            return
