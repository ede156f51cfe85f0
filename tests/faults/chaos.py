"""The faults: what the machine does to daemons, to Redis and to the wires between them.

A fault has two halves. It is armed before the next entries are fed, so that a trap can lie in the way of what they
cause; it strikes after. What lasts for a while (a frozen daemon, a stalled wire) is healed some rounds later.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tests.faults.machine import DAEMONS, World
from tests.faults.proxy import Verdict
from tests.faults.taps import At, Trap
from tests.support.waiting import PATIENCE_SEC

TRAP_PATIENCE_SEC = 0.4
TRAP_STEP_SEC = 0.01
LEADER_PATIENCE_SEC = 0.1
REDIS_TIMEOUT_SEC = 1
_POINTS = ({"PUBLISH"}, {"PUBLISH"}, {"COMMIT"}, {"COMMIT"}, {"LOOK"}, {"XREAD"}, set[str]())


@dataclass
class Fault:
    """`strike` is called when the entries behind it are fed. It returns False when nothing ran into its trap, so that
    nothing happened."""

    name: str
    strike: Callable[[], bool | None]


@dataclass
class Gremlin:
    """Chooses faults by `rng` among `names`, carries them out on `world`, and heals what it hurt."""

    world: World
    rng: random.Random
    names: tuple[str, ...]
    feed_one: Callable[[], None]  # one more entry, so that the daemons have something to do
    _round: int = 0
    _healers: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def next_fault(self) -> Fault:
        """Choose a fault and arm it."""
        self._round += 1
        for healer in [h for h in self._healers if h[0] <= self._round]:
            self._healers.remove(healer)
            healer[1]()
        name = self.rng.choices(self.names, [_WEIGHTS[name] for name in self.names])[0]
        strike: Callable[[], bool | None] = getattr(self, f"_{name.replace('-', '_')}")()
        return Fault(name, strike)

    def heal(self) -> None:
        """Everything is as it should be, and every daemon runs."""
        for _, healer in self._healers:
            healer()
        self._healers.clear()
        for number in range(DAEMONS):
            self._start(number)

    def at_a_commit(self, deed: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Do `deed` while a commit that publishes is on its way to Redis, if one comes; `otherwise` if none does, and
        sometimes anyway."""
        done = threading.Event()
        trap = Trap(At.REQUEST, frozenset({"PUBLISH"}), self.rng.randrange(2), done.wait, Verdict.PASS)
        if self.rng.random() < 0.3:
            self._moment()
            otherwise()
            return
        self.heal()
        number = self._prey(PATIENCE_SEC)
        self.world.wires[number].trap = trap
        try:
            if self._await(trap, number):
                self.world.tally.faults["switch-at-a-commit"] += 1
                deed()
                return
        finally:
            done.set()
        otherwise()

    # Choosing.

    def _victim(self) -> int:
        """The leader, mostly."""
        chosen = self.rng.randrange(DAEMONS)
        leader = self.world.leader()
        return chosen if leader is None or self.rng.random() < 0.1 else leader

    def _moment(self) -> None:
        """Some milliseconds, rarely many, in which the daemon gets on."""
        time.sleep(self.rng.choice([0, 0.001, 0.003, 0.01, 0.02, 0.05]) * self.rng.random())

    def _later(self, healer: Callable[[], None]) -> None:
        self._healers.append((self._round + self.rng.randint(1, 4), healer))

    def _start(self, number: int) -> None:
        daemon = self.world.daemons[number]
        if not daemon.is_running:
            daemon.start(cold=self.rng.random() < 0.02)

    def _prey(self, patience_sec: float = LEADER_PATIENCE_SEC) -> int:
        """A daemon that will run into a trap. Somebody leads soon, as a rule."""
        deadline = time.monotonic() + patience_sec
        while self.world.leader() is None and time.monotonic() < deadline:
            time.sleep(TRAP_STEP_SEC)
        return self._victim()

    def _trap(self, number: int, deed: Callable[[], None], verdicts: tuple[Verdict, ...]) -> Trap:
        rng = self.rng
        point, skip = rng.choice(_POINTS), rng.choice([0, 0, 0, 1, 2, 3])
        if self.world.leader() != number:
            point = set()  # who stands by does not read and commit
        trap = Trap(rng.choice([At.REQUEST, At.REPLY]), frozenset(point), skip, deed, rng.choice(verdicts))
        self.world.wires[number].trap = trap
        return trap

    def _await(self, trap: Trap, number: int) -> bool:
        """Whether it was sprung; if not, it is taken away."""
        deadline = time.monotonic() + TRAP_PATIENCE_SEC
        while time.monotonic() < deadline:
            if trap.sprung.wait(TRAP_STEP_SEC):
                return True
            self.feed_one()
        self.world.wires[number].disarm()
        return trap.sprung.is_set()

    def _runs_into(self, trap: Trap, number: int) -> bool:
        """Whether the trap was sprung and its deed is done."""
        return self._await(trap, number) and trap.done.wait(PATIENCE_SEC)

    def _after_death(self, number: int) -> None:
        """The lease of a dead leader ends, and it is started again, at once or while another one takes over."""
        rng = self.rng
        if rng.random() < 0.95:
            self.world.expire_lease()
        if rng.random() < 0.7:
            self._start(number)
        else:
            self._later(partial(self._start, number))

    # Daemons.

    def _kill_daemon(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            number = self._victim()
            self.world.kill_daemon(number)
            self._after_death(number)

        return strike

    def _kill_daemon_at(self) -> Callable[[], bool]:
        number = self._prey()
        daemon = self.world.daemons[number]
        trap = self._trap(number, partial(daemon.signal, signal.SIGKILL), tuple(Verdict))

        def strike() -> bool:
            if not self._runs_into(trap, number):
                return False
            # It is dead, but not buried.
            daemon.kill()
            self.world.tally.kills["daemon"] += 1
            self._after_death(number)
            return True

        return strike

    def _stop_daemon(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            number = self._victim()
            daemon = self.world.daemons[number]
            self.heal()
            daemon.stop()
            daemon.start()

        return strike

    def _freeze_daemon(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            number = self._victim()
            self.world.daemons[number].signal(signal.SIGSTOP)
            self._take_over(number)
            self._later(partial(self.world.daemons[number].signal, signal.SIGCONT))

        return strike

    def _freeze_daemon_at(self) -> Callable[[], bool]:
        number = self._prey()
        trap = self._trap(number, partial(self._freeze, number), (Verdict.PASS,))

        def strike() -> bool:
            if not self._runs_into(trap, number):
                return False
            self._take_over(number)
            self._later(partial(self._thaw, number))
            return True

        return strike

    def _freeze(self, number: int) -> None:
        """It sleeps, and so does what it has sent and what is sent to it."""
        self.world.daemons[number].signal(signal.SIGSTOP)
        self.world.wires[number].stall()

    def _thaw(self, number: int) -> None:
        self.world.daemons[number].signal(signal.SIGCONT)
        self.world.wires[number].flow()

    def _wake_zombie(self) -> Callable[[], bool]:
        """A commit of an old leader arrives while its successor, which has taken over, is about to commit the same."""
        old = self._prey()
        point = frozenset({"COMMIT"})
        trap = Trap(At.REQUEST, point, self.rng.randrange(2), partial(self._freeze, old), Verdict.PASS)
        self.world.wires[old].trap = trap

        def wake() -> None:
            self._thaw(old)
            time.sleep(TRAP_STEP_SEC)

        def strike() -> bool:
            if not self._runs_into(trap, old):
                return False
            new = 1 - old
            successor = Trap(At.REQUEST, point, 0, wake, Verdict.PASS)
            self.world.wires[new].trap = successor
            self._take_over(old)
            happened = self._runs_into(successor, new)
            self._thaw(old)
            return happened

        return strike

    def _take_over(self, number: int) -> None:
        """The lease of `number` ends while it knows nothing of it."""
        self._start(1 - number)
        self.world.expire_lease()

    def _expire_lease(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.expire_lease()

        return strike

    # Wires.

    def _cut(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.proxies[self._victim()].cut()

        return strike

    def _cut_at(self) -> Callable[[], bool]:
        number = self._prey()
        trap = self._trap(number, lambda: None, (Verdict.CUT, Verdict.HALF))

        def strike() -> bool:
            return self._runs_into(trap, number)

        return strike

    def _stall(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            number = self._victim()
            self.world.wires[number].stall()
            self._take_over(number)
            self._later(self.world.wires[number].flow)

        return strike

    def _slow(self) -> Callable[[], None]:
        wire = self.world.wires[self._victim()]
        wire.delay_sec = self.rng.choice([0.001, 0.005, 0.02])
        self._later(partial(setattr, wire, "delay_sec", 0.0))
        return self._moment

    # Redis.

    def _kill_redis(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.kill_redis()
            self._moment()
            self.world.server.start()

        return strike

    def _kill_redis_at(self) -> Callable[[], bool]:
        number = self._prey()
        trap = self._trap(number, self.world.kill_redis, tuple(Verdict))

        def strike() -> bool:
            if not self._runs_into(trap, number):
                return False
            self.world.server.start()
            return True

        return strike

    def _pause_redis(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.server.pause()
            # Sometimes longer than the daemon waits for a reply: then it is gone when its commit is carried out.
            time.sleep(self.rng.choice([0.02, 0.1, 0.1, REDIS_TIMEOUT_SEC * 1.2]))
            self.world.server.resume()

        return strike

    def _read_only(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            client = self.world.client
            if self.rng.random() < 0.5:
                client.config_set("min-replicas-to-write", 1)
                self._wait_denied()
                client.config_set("min-replicas-to-write", 0)
            else:
                client.replicaof("127.0.0.1", 1)  # nobody is there, so the data stay
                self._wait_denied()
                client.replicaof("NO", "ONE")

        return strike

    def _out_of_memory(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.client.config_set("maxmemory", 1)
            self._wait_denied()
            self.world.client.config_set("maxmemory", 0)

        return strike

    def _wait_denied(self) -> None:
        time.sleep(self.rng.choice([0.005, 0.05, 0.2]))

    def _flush_scripts(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.client.script_flush()

        return strike

    def _destroy_group(self) -> Callable[[], None]:
        def strike() -> None:
            self._moment()
            self.world.client.execute_command("XGROUP", "DESTROY", self.world.names.executions, self.world.names.group)

        return strike


# How often each is chosen.
_WEIGHTS = {
    "kill-daemon": 22,
    "kill-daemon-at": 30,
    "stop-daemon": 1,
    "freeze-daemon": 3,
    "freeze-daemon-at": 5,
    "wake-zombie": 3,
    "expire-lease": 3,
    "cut": 3,
    "cut-at": 8,
    "stall": 2,
    "slow": 2,
    "kill-redis": 9,
    "kill-redis-at": 9,
    "pause-redis": 1,
    "read-only": 1.5,
    "out-of-memory": 1,
    "flush-scripts": 1,
    "destroy-group": 0.5,
}
FAULTS = tuple(_WEIGHTS)
