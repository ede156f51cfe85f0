"""`harvest-brain doctor`: each state that the group and all around it can be in is told, with what it means."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.daemon import StartDaemon
from tests.support.daemon import harvest_brain as command
from tests.support.server import RedisServer
from tests.support.wire import EXECUTIONS, GROUP, KILL, REJECTED, STATE, dump, feed, fill, tick

OPENING = fill("ETHUSDT", "BUY", "1", "100", stop_loss="90", fill_id="F1")


Findings = dict[str, list[tuple[bool, str]]]
Doctor = Callable[..., Findings]


@pytest.fixture
def doctor(server: RedisServer, redis: Any) -> Doctor:
    """Asks the doctor, with these settings: under each subject, whether it is trouble, and the text."""

    def look(**settings: str) -> Findings:
        before = dump(redis).keys()
        done = command("doctor", "--json", settings=server.settings() | settings)
        assert done.stderr == ""
        assert dump(redis).keys() == before, "it only looks"
        findings: Findings = defaultdict(list)
        for finding in json.loads(done.stdout):
            findings[finding["subject"]].append((finding["trouble"], finding["text"]))
        assert done.returncode == int(any(trouble for found in findings.values() for trouble, _ in found))
        return findings

    return look


def test_with_all_well_nothing_is_trouble(
    server: RedisServer, redis: Any, start_daemon: StartDaemon, doctor: Doctor
) -> None:
    start_daemon()
    cursor = feed(redis, OPENING, tick("ETHUSDT", "101"))[-1]
    seen = doctor()
    assert seen["cursor"] == [(False, f"everything up to {cursor} is in the state")]
    assert seen["group"] == [(False, f"{GROUP} stands at the cursor, as it should")]
    assert seen["lag"] == [(False, "0 entries wait")]
    assert seen["stream"] == [(False, f"{EXECUTIONS} holds 2 entries, the last one {cursor}")]
    assert not {"pending", "gap", "suspect"} & set(seen)
    done = command("doctor", settings=server.settings())
    assert done.returncode == 0
    assert all(line.startswith("ok  ") for line in done.stdout.splitlines())


def test_before_a_first_start_it_says_where_that_begins(redis: Any, doctor: Doctor) -> None:
    seen = doctor()
    [(trouble, text)] = seen["stream"]
    assert trouble
    assert "does not exist: nothing was written to it yet" in text
    assert seen["group"] == [(False, f"{GROUP} does not exist; the daemon makes it at its cursor")]
    [(trouble, text)] = seen["lease"]
    assert trouble
    assert "nobody leads" in text

    ids = [redis.xadd(EXECUTIONS, OPENING) for _ in range(3)]
    begins = "there is no state yet; a first start begins "
    assert doctor()["cursor"] == [(False, begins + "at the oldest entry (HARVEST_START=0)")]
    assert doctor(HARVEST_START="$")["cursor"] == [(False, begins + "behind the newest entry (HARVEST_START=$)")]

    redis.xgroup_create(EXECUTIONS, GROUP, "0")
    redis.xreadgroup(GROUP, "older", {EXECUTIONS: ">"}, count=2)
    seen = doctor()
    assert seen["cursor"] == [(False, f"{begins}behind {ids[1]}, where the group of an older consumer stands")]
    [(trouble, text)] = seen["pending"]
    assert trouble
    assert text.startswith("2 entries were handed out by XREADGROUP and not acknowledged, up to where a first start")


@pytest.mark.parametrize("place", ["0", "$"])
def test_incident_13_a_group_that_was_moved_by_hand_is_explained(
    redis: Any, start_daemon: StartDaemon, doctor: Doctor, place: str
) -> None:
    daemon = start_daemon()
    cursor = feed(redis, OPENING)[-1]
    daemon.stop()
    last = redis.xadd(EXECUTIONS, tick("ETHUSDT", "101"))
    redis.xgroup_setid(EXECUTIONS, GROUP, place)
    [(trouble, text)] = doctor()["group"]
    assert trouble
    stands = "0-0" if place == "0" else last
    assert text.startswith(
        f"{GROUP} stands at {stands} and not at the cursor: it was moved by hand. That changes nothing"
    )
    assert doctor()["cursor"] == [(False, f"everything up to {cursor} is in the state")]


def test_a_missing_group_a_pending_list_and_a_stream_made_anew_are_explained(
    redis: Any, start_daemon: StartDaemon, doctor: Doctor
) -> None:
    daemon = start_daemon()
    feed(redis, OPENING)
    daemon.stop()
    redis.xadd(EXECUTIONS, tick("ETHUSDT", "101"))
    redis.xreadgroup(GROUP, "curious", {EXECUTIONS: ">"})
    [(trouble, text)] = doctor()["pending"]
    assert trouble
    assert "HarvestBrain reads by its cursor and misses none of them" in text

    redis.xgroup_destroy(EXECUTIONS, GROUP)
    assert doctor()["group"] == [(True, f"{GROUP} does not exist; the daemon makes it at its cursor")]

    redis.delete(EXECUTIONS)
    redis.xadd(EXECUTIONS, OPENING, id="5-0")
    [(trouble, text)] = doctor()["cursor"]
    assert trouble
    assert "is of another stream: this one, whose last id is 5-0, was made anew" in text


def test_incident_12_entries_that_wait_for_nobody_and_entries_that_are_gone_are_counted(
    redis: Any, start_daemon: StartDaemon, doctor: Doctor
) -> None:
    daemon = start_daemon()
    feed(redis, OPENING)
    daemon.stop()
    for _ in range(10):
        redis.xadd(EXECUTIONS, tick("ETHUSDT", "101"))
    seen = doctor()
    assert seen["lag"] == [(True, "10 entries wait, and no daemon leads")]
    assert "gap" not in seen
    redis.xtrim(EXECUTIONS, maxlen=3, approximate=False)
    [(trouble, text)] = doctor()["gap"]
    assert trouble
    assert text.startswith("7 entries were removed before they were read")


def test_the_switch_the_mode_dead_letters_and_suspects_are_told(
    redis: Any, start_daemon: StartDaemon, doctor: Doctor
) -> None:
    start_daemon()
    bad = feed(redis, OPENING, {"bad": "entry"})[-1]
    assert redis.xlen(REJECTED) == 1
    seen = doctor()
    assert seen["dead letters"] == [(False, f"1 entries could not be used, the newest {bad}: no status")]
    assert seen["kill-switch"] == [(False, "absent: running")]
    assert seen["mode"] == [(False, "shadow")]

    redis.set(KILL, "1")
    feed(redis, {**OPENING, "qty": "2"})
    seen = doctor(HARVEST_MODE="live")
    assert seen["kill-switch"] == [(True, "1: stopped")]
    [(trouble, text)] = seen["mode"]
    assert trouble
    assert text.startswith("the state was written in shadow, and the settings here say live")
    [(trouble, text)] = seen["suspect"]
    assert trouble
    assert text.startswith("ETHUSDT is tracked and not harvested: ")


def test_a_state_that_cannot_be_read_is_said_in_a_sentence(server: RedisServer, redis: Any) -> None:
    redis.hset(STATE, "_meta", '{"schema":99}')
    done = command("doctor", settings=server.settings())
    assert done.returncode == 1
    assert f"{STATE} can't be read" in done.stderr


def test_what_a_power_cut_or_a_full_memory_could_lose_is_told(redis: Any, doctor: Doctor) -> None:
    [(trouble, text)] = doctor()["durability"]
    assert not trouble
    assert "appendfsync everysec" in text
    redis.config_set("appendonly", "no")
    try:
        assert doctor()["durability"][0][0] is False
        [(trouble, text)] = doctor(HARVEST_MODE="live")["durability"]
        assert trouble
        assert text.startswith("appendonly is off")
    finally:
        redis.config_set("appendonly", "yes")
