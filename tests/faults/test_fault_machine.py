"""The promise, under fire; and the machine that shows it, shown to be able to fail."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import Campaign, shrink
from tests.faults.chaos import FAULTS, REDIS_TIMEOUT_SEC
from tests.faults.episode import Episode, Result, run
from tests.faults.machine import Feeder, ViolationError, Watcher, World, check_outcome
from tests.faults.nursery import Nursery
from tests.faults.planted import PLANTED
from tests.faults.reference import Reference, settings_of
from tests.faults.resp import Splitter
from tests.faults.script import (
    FRESHNESS,
    HOUR_MS,
    MODE,
    SHORT_FRESH_SEC,
    Change,
    Feed,
    Script,
    Size,
    Switch,
    follow,
    write,
)
from tests.faults.taps import Attempt, Holding, LeaseLog
from tests.support.waiting import PATIENCE_SEC, wait_until

KILLS = 300
FINDS_WITHIN_SEC = 60
FINDS_WITHIN_EPISODES = 15
ENOUGH = 5
MOST_EPISODES = 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_twice_and_nothing_lost_in_some_hundred_kills() -> None:
    campaign = Campaign(Episode(seed=1))
    assert campaign.run(kills=KILLS) == 0
    account = campaign.account
    assert account.violations == []
    assert account.own_failures == []
    assert account.kills["daemon"] > KILLS / 3
    assert account.kills["redis"] > KILLS / 20
    assert account.intents > KILLS / 10
    assert account.rejected > KILLS / 10


def search(nursery: Nursery, fault: str, is_found: Callable[[Result], bool]) -> Result:
    """The first episode in which the planted fault is found. A machine that is too slow to run many in a minute may
    take longer for a few."""
    deadline = time.monotonic() + FINDS_WITHIN_SEC
    seed = 1
    while not is_found(result := run(Episode(seed, planted=fault), nursery)):
        assert seed < FINDS_WITHIN_EPISODES or time.monotonic() < deadline, f"not in {seed} episodes"
        seed += 1
    return result


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_within_a_minute(nursery: Nursery, fault: str) -> None:
    result = search(nursery, fault, lambda result: bool(result.violation))
    kinds = {"switch-checked-early": {"kill-switch"}, "unfenced": {"fencing"}}
    assert result.kind in kinds.get(fault, {"intents", "twice", "state", "fills", "dead letters"}), result.violation


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_incident_04_rungs_known_to_memory_alone_are_seen_to_fire_twice(nursery: Nursery) -> None:
    """Not only the state is compared: the second intent itself is noticed."""
    search(nursery, "rungs-in-memory", lambda result: result.kind == "twice")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_does_no_harm(nursery: Nursery, fault: str) -> None:
    """It goes on until the fault has happened often enough: a slow machine has fewer rounds, and less runs
    into a trap."""
    happened = intents = 0
    for seed in range(1, MOST_EPISODES):
        result = run(Episode(seed, size=Size(4, 100), rounds=10, faults=(fault,)), nursery)
        assert result.violation == ""
        assert set(result.tally.faults) <= {fault, "switch-at-a-commit"}
        happened += result.tally.faults[fault]
        intents += result.tally.intents
        if happened >= ENOUGH:
            break
    assert happened >= ENOUGH
    assert intents > 0


# The campaign.


def test_a_failure_of_the_machine_itself_is_no_violation_and_no_success(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    campaign = Campaign(Episode(seed=1, size=Size(2, 20), faults=()), record=record)  # there is none to choose from
    assert campaign.run() == 2
    assert len(campaign.account.own_failures) == 1
    assert campaign.account.violations == []
    assert json.loads(record.read_text())["own_failures"] == campaign.account.own_failures


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_campaign_survives_the_death_of_a_worker() -> None:
    campaign = Campaign(Episode(seed=1, size=Size(2, 60), rounds=10), cells=1)
    codes: list[int] = []
    running = threading.Thread(target=lambda: codes.append(campaign.run(kills=20)))
    running.start()
    wait_until(active_children, what="a worker")[0].kill()
    running.join(25 * PATIENCE_SEC)
    assert codes == [2]
    assert campaign.account.kills.total() >= 20
    assert "its worker died" in campaign.account.own_failures[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_fails_is_made_smaller(nursery: Nursery) -> None:
    size = Size(6, 100)
    failed = next(
        result
        for seed in range(1, MOST_EPISODES)
        if (result := run(Episode(seed, size, rounds=20, planted="rungs-in-memory"), nursery)).violation
    )
    smallest = shrink(failed)
    episode = smallest.episode
    assert smallest.violation
    # How small it gets depends on how many can be tried in time.
    assert (episode.size.entries, episode.size.symbols, len(episode.faults)) < (100, 6, len(FAULTS))
    assert episode.command().startswith(f"python -m tests.faults --seed {failed.episode.seed} --symbols ")


# A quiet episode, and what somebody does to its outcome.


@pytest.fixture(scope="module")
def quiet(nursery: Nursery) -> Any:
    """A finished episode without faults: its world and its feeder. Tests leave it as they found it."""
    script = write(random.Random("quiet"), Size(4, 150), time.time_ns() // 1_000_000)
    environ = {**script.environ, "HARVEST_DEDUP_TTL_SEC": "900", "REDIS_TIMEOUT_SEC": str(REDIS_TIMEOUT_SEC)}
    script = Script(environ, script.overrides, [s for s in script.steps if isinstance(s, Feed)], script.base_ms)
    with World(nursery, environ) as world:
        feeder = Feeder(world, script)
        feeder.prepare()
        for daemon in world.daemons:
            daemon.start()
        while not feeder.is_done:
            feeder.push(7)
        wait_until(lambda: world.served().cursor == feeder.last_id, what="the end of the script")
        check_outcome(world, feeder)
        yield world, feeder


def _output(world: World) -> str:
    return next(stream for stream in world.outputs if world.client.exists(stream))


def _drop_intent(world: World) -> None:
    stream = _output(world)
    world.client.xdel(stream, world.client.xrange(stream)[0][0])


def _repeat_intent(world: World) -> None:
    stream = _output(world)
    world.client.execute_command("XADD", stream, "*", *world.client.xrange(stream)[0][1])


def _change_intent(world: World) -> None:
    stream = _output(world)
    [entry_id, fields] = world.client.xrevrange(stream, count=1)[0]
    world.client.xdel(stream, entry_id)
    fields[3] = fields[3].replace(b'"reduce_only":true', b'"reduce_only":false')
    world.client.execute_command("XADD", stream, "*", *fields)


def _drop_letter(world: World) -> None:
    world.client.xdel(world.names.rejected, world.client.xrange(world.names.rejected)[0][0])


def _forget_position(world: World) -> None:
    name = next(name for name in world.client.hkeys(world.names.state) if not name.startswith(b"_"))
    world.client.hdel(world.names.state, name)


def _move_cursor(world: World) -> None:
    meta = world.client.hget(world.names.state, "_meta").replace(b'"read":', b'"read":1')
    world.client.hset(world.names.state, "_meta", meta)


def _move_group(world: World) -> None:
    world.client.xgroup_setid(world.names.executions, world.names.group, "0")


def _forget_fill(world: World) -> None:
    world.client.delete(next(world.client.scan_iter(f"{world.names.fill('')}*")))


def _forget_claim(world: World) -> None:
    world.client.delete(next(world.client.scan_iter(f"{world.names.claim('')}*")))


def _forget_history(world: World) -> None:
    world.client.delete(next(world.client.scan_iter(f"{world.names.history('')}*")))


@pytest.mark.parametrize(
    ("deed", "kind"),
    [
        (_drop_intent, "intents"),
        (_repeat_intent, "intents"),
        (_change_intent, "intents"),
        (_drop_letter, "dead letters"),
        (_forget_position, "state"),
        (_move_cursor, "cursor"),
        (_move_group, "group"),
        (_forget_fill, "fills"),
        (_forget_claim, "claims"),
        (_forget_history, "history"),
    ],
)
def test_an_outcome_that_was_tampered_with_is_noticed(
    quiet: tuple[World, Feeder], deed: Callable[[World], None], kind: str
) -> None:
    world, feeder = quiet
    before = {key: world.client.dump(key) for key in world.client.scan_iter(count=1000)}
    for daemon in world.daemons:
        daemon.kill()
    try:
        deed(world)
        with pytest.raises(ViolationError) as found:
            check_outcome(world, feeder)
        assert found.value.kind == kind
    finally:
        world.client.flushdb()
        for key, content in before.items():
            world.client.restore(key, 0, content)
    check_outcome(world, feeder)


@pytest.mark.parametrize(("deed", "kind"), [(_repeat_intent, "twice"), (_change_intent, "side")])
def test_the_watcher_of_the_streams_sees_what_must_not_be(
    quiet: tuple[World, Feeder], deed: Callable[[World], None], kind: str
) -> None:
    world, _ = quiet
    stream = _output(world)
    before = world.client.dump(stream)
    Watcher(world).look()
    try:
        deed(world)
        with pytest.raises(ViolationError) as found:
            Watcher(world).look()
        assert found.value.kind == kind
    finally:
        world.client.restore(stream, 0, before, replace=True)


def test_an_intent_behind_the_switch_is_noticed(quiet: tuple[World, Feeder]) -> None:
    world, feeder = quiet
    stream = _output(world)
    before = world.client.dump(stream)
    feeder.switch(Switch("1", abrupt=True))
    try:
        _repeat_intent(world)
        with pytest.raises(ViolationError, match="behind it"):
            feeder.switch(Switch("0", abrupt=False))
    finally:
        world.client.restore(stream, 0, before, replace=True)
        feeder.switchings.clear()


# The parts.


def test_scripts_hold_all_that_is_to_be_tried() -> None:
    """Over some seeds: both modes and the way from one to the other, every action, refusal and kind of entry."""
    counts: Counter[str] = Counter()
    for seed in range(30):
        script = write(random.Random(seed), Size(), time.time_ns() // 1_000_000)
        reference = Reference(settings_of(script.environ), script.base_ms + HOUR_MS // 2, script.overrides)
        counts[script.environ[MODE]] += 1
        modes = [step.value for step in script.steps if isinstance(step, Change) and step.setting == MODE]
        counts["there and back again"] += len(modes) >= 3
        for step in script.steps:
            if isinstance(step, Feed):
                reference.take(step.entry_id, list(step.fields))
                continue
            follow(reference, step)
            if isinstance(step, Switch):
                counts["switch, abrupt" if step.abrupt else "switch"] += 1
            elif isinstance(step, Change):
                counts[f"{step.setting} {step.value}"] += 1
        counts.update(reference.counts)
        counts.update(published.intent.action.value for published in reference.published)
    wanted = {
        *("shadow", "live", f"{MODE} shadow", f"{MODE} live", "there and back again"),
        *("switch", "switch, abrupt", "gap:entries", f"{FRESHNESS} {SHORT_FRESH_SEC}", "refused:rate"),
        *("snapshot:agrees", "snapshot:mismatch", "snapshot:adopted", "snapshot:reconciled", "pnl:mismatch"),
        *("operator:released", "operator:cleared", "operator:refused", "reservation:unknown"),
        *("HARVEST_PARTIAL", "MOVE_SL_BREAKEVEN", "TRAIL_UPDATE", "STOP_RESIZE"),
        *("fill:applied", "fill:repeated", "fill:clash", "malformed", "price:jump", "rung:carried"),
        *("order:ended", "order:acknowledged", "refused:kill-switch", "refused:stale price", "refused:suspect"),
        *("refused:price from the future", "refused:fallback risk"),
    }
    assert wanted - counts.keys() == set()


def test_the_same_seed_writes_the_same_script() -> None:
    assert write(random.Random("s"), Size(), 10**12) == write(random.Random("s"), Size(), 10**12)


@pytest.mark.parametrize("cut", range(1, 40))
def test_messages_are_split_wherever_the_network_cuts_them(cut: int) -> None:
    wire = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n+OK\r\n-ERR no\r\n:7\r\n$-1\r\n*-1\r\n*2\r\n:1\r\n$0\r\n\r\n"
    splitter = Splitter()
    messages = [message for start in range(0, len(wire), cut) for message in splitter.feed(wire[start : start + cut])]
    assert b"".join(message.raw for message in messages) == wire
    error = messages[2].value
    assert isinstance(error, ValueError)
    assert [message.value for message in messages] == [[b"GET", b"a"], b"OK", error, 7, None, None, [1, b""]]


def _log(holdings: list[Holding], attempts: list[Attempt]) -> LeaseLog:
    log = LeaseLog()
    log._holdings, log._attempts = holdings, attempts
    return log


def test_a_write_after_somebody_else_led_is_a_fenced_write() -> None:
    log = _log(
        [Holding(100, b"a", True), Holding(200, b"b", False), Holding(300, b"a", True)],
        [Attempt(b"a", 90, 95), Attempt(b"b", 150, 160)],
    )
    assert log.fenced_writes() == ["a wrote at 300, though b led at 200"]


def test_a_write_after_the_lease_was_asked_for_anew_is_none() -> None:
    holdings = [Holding(100, b"a", True), Holding(200, b"b", False), Holding(300, b"a", True)]
    assert not _log(holdings, [Attempt(b"a", 250, 260)]).fenced_writes()
    assert not _log(holdings, [Attempt(b"a", 250)]).fenced_writes()  # the answer was lost, it may have got it
