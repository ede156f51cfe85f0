"""What the fault machine does on the wire of one daemon: it keeps the log by which fencing is judged, and it springs
traps.

A trap waits for a certain message (the third commit, the next reply to a read) and then does something to the daemon,
to Redis or to the connection while that message is held, so that the fault falls exactly there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, cast

from tests.faults.proxy import Command, Verdict
from tests.faults.resp import Value

CLOCK_ROUNDING_MS = 2


class At(StrEnum):
    """Where a trap waits."""

    REQUEST = "request"  # before it reaches Redis
    REPLY = "reply"  # Redis has carried it out, nobody knows yet


@dataclass
class Trap:
    """Springs at the `skip`-th message after it was set that is `at` a command called one of `names` (any, if empty).

    `deed` runs in the proxy's thread while the message waits; then `verdict` is what becomes of the message. `sprung`
    is set before the deed, `done` after it.
    """

    at: At
    names: frozenset[str]
    skip: int
    deed: Callable[[], object]
    verdict: Verdict
    sprung: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def meets(self, at: At, command: Command) -> bool:
        if at is not self.at or (self.names and self.names.isdisjoint(command.names)):
            return False
        self.skip -= 1
        return self.skip < 0


class Holding(NamedTuple):
    """At `now_ms` of the server's clock `token` held the lease; `wrote` says that its own commit saw it."""

    now_ms: int
    token: bytes
    wrote: bool


@dataclass
class Attempt:
    """A daemon asked for the lease between `sent_ms` and `answered_ms`, and got it, or nobody knows."""

    token: bytes
    sent_ms: int
    answered_ms: int = 2**62


class LeaseLog:
    """Who held the lease when, as far as it was seen on all wires."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holdings: list[Holding] = []
        self._attempts: list[Attempt] = []
        self._open: dict[tuple[int, int], Attempt] = {}

    def request(self, wire: int, command: Command) -> None:
        if command.name == "SET" and b"NX" in command.arguments:
            with self._lock:
                attempt = Attempt(command.arguments[1], _now_ms())
                self._attempts.append(attempt)
                self._open[wire, command.number] = attempt

    def reply(self, wire: int, command: Command, reply: Value) -> None:
        with self._lock:
            attempt = self._open.pop((wire, command.number), None)
            if attempt is not None:
                attempt.answered_ms = _now_ms()
                if reply != b"OK":
                    self._attempts.remove(attempt)
            if command.name == "LOOK" and isinstance(reply, list) and reply[1] is not None:
                self._holdings.append(Holding(cast("int", reply[0]), cast("bytes", reply[1]), wrote=False))
            if command.name == "COMMIT" and isinstance(reply, list) and reply[0] == b"ok":
                token = command.arguments[2 + int(command.arguments[1])]
                self._holdings.append(Holding(cast("int", reply[1]), token, wrote=True))

    def fenced_writes(self) -> list[str]:
        """Commits that were carried out for a daemon after another one was seen to hold the lease, though it had not
        asked for the lease anew."""
        with self._lock:
            holdings = sorted(self._holdings)
            attempts = list(self._attempts)
        return [
            f"{mine.token.decode()} wrote at {mine.now_ms}, though {other.token.decode()} led at {other.now_ms}"
            for index, mine in enumerate(holdings)
            if mine.wrote
            and (other := _last_other(holdings, index)) is not None
            and not any(
                attempt.token == mine.token
                and attempt.answered_ms >= other.now_ms - CLOCK_ROUNDING_MS
                and attempt.sent_ms <= mine.now_ms + CLOCK_ROUNDING_MS
                for attempt in attempts
            )
        ]


def _last_other(holdings: list[Holding], index: int) -> Holding | None:
    """The last one before `index` that is somebody else's, and earlier by more than the clock's rounding."""
    mine = holdings[index]
    for at in range(index - 1, -1, -1):
        other = holdings[at]
        if other.token != mine.token and other.now_ms < mine.now_ms - CLOCK_ROUNDING_MS:
            return other
    return None


class Wire:
    """The tap of one daemon's proxy. `commit_codes` are what its commits were answered with, the newest of them."""

    def __init__(self, number: int, log: LeaseLog) -> None:
        self.number = number
        self.trap: Trap | None = None
        self.delay_sec = 0.0
        self.commit_codes: deque[bytes] = deque(maxlen=100)
        self._log = log
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()

    def disarm(self) -> None:
        """From now on the trap does not spring any more; whether it has, its `sprung` says for good."""
        with self._lock:
            self.trap = None

    def stall(self) -> None:
        """Let nothing through, and keep the connections."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def request(self, command: Command) -> Verdict:
        self._log.request(self.number, command)
        return self._pass(At.REQUEST, command)

    def reply(self, command: Command, reply: Value) -> Verdict:
        self._log.reply(self.number, command, reply)
        if command.name == "COMMIT" and isinstance(reply, list):
            self.commit_codes.append(cast("bytes", reply[0]))
        return self._pass(At.REPLY, command)

    def _pass(self, at: At, command: Command) -> Verdict:
        verdict = Verdict.PASS
        with self._lock:
            trap = self.trap
            if trap is not None and trap.meets(at, command):
                self.trap = None
                trap.sprung.set()
            else:
                trap = None
        if trap is not None:
            trap.deed()
            trap.done.set()
            verdict = trap.verdict
        self._flows.wait()
        if self.delay_sec:
            time.sleep(self.delay_sec)
        return verdict


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
