"""One episode from beginning to end."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from tests.faults.chaos import FAULTS, REDIS_TIMEOUT_SEC, Gremlin
from tests.faults.machine import Feeder, Tally, ViolationError, Watcher, World, check_outcome
from tests.faults.nursery import Nursery
from tests.faults.script import MODE, Beside, Change, Minute, Script, Size, Switch, Trim, write
from tests.support.waiting import PATIENCE_SEC

LOG_LINES = 40


@dataclass(frozen=True)
class Episode:
    """What is to be repeated: `seed` and the bounds. `faults` are the names of those that may happen, `rounds` how many
    of them do; `planted` names a fault of the product that the machine has to find."""

    seed: int
    size: Size = field(default_factory=Size)
    rounds: int = 80
    faults: tuple[str, ...] = FAULTS
    planted: str = ""
    container: bool = False

    def command(self) -> str:
        """The command that repeats it."""
        words = [f"--seed {self.seed} --symbols {self.size.symbols} --entries {self.size.entries}"]
        words.append(f"--rounds {self.rounds}")
        if self.faults != FAULTS:
            words.append(f"--faults {','.join(self.faults)}")
        if self.planted:
            words.append(f"--planted {self.planted}")
        if self.container:
            words.append("--container")
        return f"python -m tests.faults {' '.join(words)}"


@dataclass
class Result:
    """What came of it: an empty `violation` is what everybody hopes for."""

    episode: Episode
    tally: Tally = field(default_factory=Tally)
    violation: str = ""
    kind: str = ""
    seconds: float = 0.0


def run(episode: Episode, nursery: Nursery) -> Result:
    """Run it and say what came of it. Raises only what is a fault of the machine itself."""
    result = Result(episode)
    began = time.monotonic()
    script = write(random.Random(f"script {episode.seed}"), episode.size, time.time_ns() // 1_000_000)
    environ = {**script.environ, "REDIS_TIMEOUT_SEC": str(REDIS_TIMEOUT_SEC)}
    with World(nursery, environ, planted=episode.planted, container=episode.container) as world:
        result.tally = world.tally
        try:
            _Play(episode, script, world).run()
        except ViolationError as violation:
            logs = "\n".join(
                f"--- daemon {number}, last lines ---\n" + "\n".join(daemon.log().splitlines()[-LOG_LINES:])
                for number, daemon in enumerate(world.daemons)
            )
            result.violation, result.kind = f"{violation}\n{logs}", violation.kind
    result.seconds = time.monotonic() - began
    return result


class _Play:
    def __init__(self, episode: Episode, script: Script, world: World) -> None:
        self._rounds = episode.rounds
        self._chunk = max(1, episode.size.entries // episode.rounds // 2)
        self._world = world
        self._rng = random.Random(f"faults {episode.seed}")
        self._feeder = Feeder(world, script)
        self._gremlin = Gremlin(world, self._rng, episode.faults, lambda: self._feeder.push(1))
        self._watcher = Watcher(world)

    def run(self) -> None:
        self._feeder.prepare()
        self._gremlin.heal()
        while not self._feeder.is_done:
            self._round()
            self._watcher.look()
            self._feeder.check_switch()
        self._settle()
        self._feeder.check_switch()
        self._watcher.look()
        check_outcome(self._world, self._feeder)
        self._end()

    def _round(self) -> None:
        control = self._feeder.next_control()
        if isinstance(control, Switch):
            self._switch(control)
        elif isinstance(control, Beside):
            self._settle()
            self._feeder.say(control)
        elif isinstance(control, Change):
            self._stop_all()
            for daemon in self._world.daemons:
                daemon.settings[control.setting] = control.value
            self._gremlin.heal()
            if control.setting == MODE:
                self._await_mode(control.value)
        elif isinstance(control, Minute):
            self._settle()
            self._feeder.pass_minute()
        elif isinstance(control, Trim):
            self._stop_all()
            self._feeder.trim(control)
            self._gremlin.heal()
        count = self._rng.randint(1, 2 * self._chunk)
        fault = self._gremlin.next_fault()
        self._feeder.push(count)
        if fault.strike() is not False:
            self._world.tally.faults[fault.name] += 1
        self._check_alive()

    def _switch(self, step: Switch) -> None:
        """Lift it when nothing is on its way; throw it at the worst moment."""

        def throw() -> None:
            self._feeder.switch(step)

        def settle_and_throw() -> None:
            self._settle()
            throw()

        if step.value == "0":
            settle_and_throw()
        else:
            self._gremlin.at_a_commit(throw, throw if step.abrupt else settle_and_throw)

    def _stop_all(self) -> None:
        """Nobody runs, and nothing waits to be read."""
        self._settle()
        for number in range(len(self._world.daemons)):
            self._world.kill_daemon(number)
        self._world.expire_lease()

    def _settle(self) -> None:
        """Heal everything and wait until all that was fed is taken in."""
        self._gremlin.heal()
        before, deadline = "", 0.0
        while True:
            self._feeder.push(0)
            cursor = self._world.served().cursor
            if not self._feeder.owes and cursor == self._feeder.last_id:
                return
            if cursor != before:
                before, deadline = cursor, time.monotonic() + PATIENCE_SEC
            if time.monotonic() > deadline:
                raise ViolationError("stuck", f"cursor {self._world.served()}, last entry {self._feeder.last_id}")
            self._check_alive()
            time.sleep(0.005)

    def _await_mode(self, mode: str) -> None:
        """What is on the stream when live mode begins was there before it, so nothing is fed until it has begun."""
        deadline = time.monotonic() + PATIENCE_SEC
        while (served := self._world.served()).mode not in ("", mode):
            if time.monotonic() > deadline:
                raise ViolationError("stuck", f"in {served.mode} and not in {mode}")
            self._check_alive()
            time.sleep(0.005)

    def _check_alive(self) -> None:
        for number, daemon in enumerate(self._world.daemons):
            if not daemon.is_running and daemon.has_ended_by_itself:
                raise ViolationError("ended", f"daemon {number} ended by itself")

    def _end(self) -> None:
        """In order: SIGTERM, exit code 0, and the lease is given back."""
        stopped = {daemon.pid for daemon in self._world.daemons}
        for daemon in self._world.daemons:
            daemon.stop()
        token = self._world.client.get(self._world.names.lease)
        # What a daemon holds that was killed is nobody's to give back.
        if token and int(token.split(b":")[1]) in stopped:
            raise ViolationError("lease", f"{token.decode()} did not give it back")
