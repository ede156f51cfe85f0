"""Two daemons: the leader is killed, sleeps past its lease, or can't reach Redis any more.

Another one takes over within the lease and a second, nothing is twice, nothing is lost, and the old one writes nothing
when it is back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.machine import Feeder, World, check_outcome
from tests.faults.nursery import Nursery
from tests.faults.proxy import Verdict
from tests.faults.taps import At, Trap
from tests.faults.test_crash_points import scenario
from tests.support.waiting import stays, wait_until
from tests.support.wire import dump

LEASE_SEC = 2
# The lease runs out, a standby looks every quarter of a second.
TAKE_OVER_SEC = LEASE_SEC + 1
TAKE_OVERS = 5
TIME_OUT_SEC = 5  # longer than the lease: an old leader that wakes still has its connection
SOME_ENTRIES = 5
ALL_ENTRIES = 100


class Stage:
    """Daemon 0 leads and has taken in some entries, daemon 1 stands by."""

    def __init__(self, world: World, feeder: Feeder) -> None:
        self.world = world
        self.feeder = feeder

    def wait_taken_in(self) -> None:
        wait_until(lambda: self.world.served().cursor == self.feeder.last_id, what="all entries taken in")

    def finish(self) -> None:
        """Feed the rest; it is taken in, and all that came out is what must."""
        self.feeder.push(ALL_ENTRIES)
        self.wait_taken_in()
        check_outcome(self.world, self.feeder)

    def seconds_until_led_by(self, number: int) -> float:
        began = time.monotonic()
        wait_until(lambda: self.world.leader() == number, what=f"daemon {number} as leader")
        return time.monotonic() - began


@contextmanager
def on_stage(mode: str, nursery: Nursery) -> Iterator[Stage]:
    script = scenario(mode)
    with World(nursery, {**script.environ, "REDIS_TIMEOUT_SEC": str(TIME_OUT_SEC)}) as world:
        assert world.settings.lease_sec == LEASE_SEC
        feeder = Feeder(world, script)
        feeder.prepare()
        world.daemons[0].start()
        wait_until(lambda: world.leader() == 0, what="a leader")
        world.daemons[1].start()
        wait_until(lambda: "standing by" in world.daemons[1].log(), what="a standby")
        made = Stage(world, feeder)
        feeder.push(SOME_ENTRIES)
        made.wait_taken_in()
        yield made


@pytest.fixture(params=["shadow", "live"])
def stage(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[Stage]:
    with on_stage(request.param, nursery) as made:
        yield made


def _kill(world: World) -> None:
    world.daemons[0].kill()


def _freeze(world: World) -> None:
    world.daemons[0].signal(signal.SIGSTOP)


def _cut_off(world: World) -> None:
    """Packets vanish: no connection is closed, nothing arrives."""
    world.wires[0].stall()


def _thaw(world: World) -> None:
    world.daemons[0].signal(signal.SIGCONT)


def _connect(world: World) -> None:
    world.wires[0].flow()


@pytest.mark.parametrize("mode", ["shadow", "live"])
@pytest.mark.parametrize(
    ("lose", "find"), [(_kill, None), (_freeze, _thaw), (_cut_off, _connect)], ids=["killed", "frozen", "cut off"]
)
def test_a_leader_that_is_lost_is_replaced_within_its_lease_and_a_second_and_is_no_danger_when_it_is_back(
    nursery: Nursery, lose: Callable[[World], None], find: Callable[[World], None] | None, mode: str
) -> None:
    """A machine that is busy with something else may need longer for one take-over, not for each."""
    took: list[float] = []
    for _ in range(TAKE_OVERS):
        with on_stage(mode, nursery) as stage:
            took.append(_take_over(stage, lose, find))
        if took[-1] < TAKE_OVER_SEC:
            return
    pytest.fail(f"it took {took} s")


def _take_over(stage: Stage, lose: Callable[[World], None], find: Callable[[World], None] | None) -> float:
    """Returns how many seconds nobody led."""
    world = stage.world
    lose(world)
    stage.feeder.push(SOME_ENTRIES)
    seconds = stage.seconds_until_led_by(1)
    stage.wait_taken_in()
    if find is not None:
        before = dump(world.server.client())
        find(world)
        wait_until(lambda: "standing by" in world.daemons[0].log(), what="an old leader that stands by")
        after = dump(world.server.client())
        before.pop(world.names.lease), after.pop(world.names.lease)  # the new leader renews it
        assert after == before
        assert world.leader() == 1
    stage.finish()
    return seconds


@pytest.mark.parametrize("at", list(At))
def test_a_leader_whose_connection_is_cut_goes_on_leading_and_knows_what_became_of_its_commit(
    stage: Stage, at: At
) -> None:
    world = stage.world
    token = world.client.get(world.names.lease)
    world.wires[0].trap = trap = Trap(at, frozenset({"PUBLISH"}), 0, lambda: None, Verdict.CUT)
    stage.finish()
    assert trap.done.is_set()
    assert world.client.get(world.names.lease) == token


def test_a_commit_that_is_held_up_past_the_time_out_counts_once(stage: Stage) -> None:
    """The daemon has given it up and decides again; then it arrives after all, from a connection that is gone."""
    world = stage.world
    world.wires[0].trap = trap = Trap(At.REQUEST, frozenset({"PUBLISH"}), 0, world.server.pause, Verdict.PASS)
    stage.feeder.push(ALL_ENTRIES)
    wait_until(trap.done.is_set, what="a commit on its way")
    wait_until(lambda: "waiting for Redis" in world.daemons[0].log(), what="a daemon that has given up")
    world.server.resume()
    stage.finish()


def test_a_commit_of_an_old_leader_that_arrives_late_is_refused(stage: Stage) -> None:
    """It arrives before its successor has committed anything, so that only the lease speaks against it."""
    world = stage.world

    def freeze() -> None:
        _freeze(world)
        _cut_off(world)

    world.wires[0].trap = old = Trap(At.REQUEST, frozenset({"PUBLISH"}), 0, freeze, Verdict.PASS)
    stage.feeder.push(ALL_ENTRIES)
    wait_until(old.done.is_set, what="a commit of the old leader")
    codes = world.wires[0].commit_codes
    codes.clear()

    def wake() -> None:
        _thaw(world)
        _connect(world)
        wait_until(lambda: codes, what="the reply to the late commit")

    world.wires[1].trap = new = Trap(At.REQUEST, frozenset({"PUBLISH"}), 0, wake, Verdict.PASS)
    wait_until(new.done.is_set, what="a commit of the new leader")
    assert codes[0] == b"lease"
    stage.finish()


def test_a_standby_that_is_told_to_stop_while_the_lease_comes_to_it_gives_it_back(stage: Stage) -> None:
    world = stage.world
    world.daemons[1].kill()

    def stop() -> None:
        world.daemons[1].signal(signal.SIGTERM)
        time.sleep(0.05)

    world.wires[1].trap = trap = Trap(At.REPLY, frozenset({"SET"}), 0, stop, Verdict.PASS)
    world.daemons[0].stop()
    world.daemons[1].start()
    wait_until(trap.done.is_set, what="a lease on its way")
    wait_until(lambda: not world.daemons[1].is_running, what="its end")
    assert world.leader() is None


def test_without_a_leader_nothing_is_taken_in(stage: Stage) -> None:
    """What the tests above rely on: no daemon works without the lease."""
    world = stage.world
    for daemon in world.daemons:
        daemon.kill()
    stage.feeder.push(SOME_ENTRIES)
    stays(lambda: world.served().cursor != stage.feeder.last_id, 0.5)
    world.daemons[0].start()
    stage.finish()
