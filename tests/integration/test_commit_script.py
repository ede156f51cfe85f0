"""commit.lua by itself: whatever speaks against a commit, it is refused with its code and not one byte has changed.

The commit in question does everything that a commit can do: it opens one position and closes another, applies fills,
publishes a harvest and a stop move, writes history and a dead letter, and moves the cursor and the group.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from redis.exceptions import RedisError
from tests.support.server import RedisServer
from tests.support.wire import (
    EXECUTIONS,
    GROUP,
    KILL,
    LEASE,
    REJECTED,
    STATE,
    STOP_INTENTS,
    SUGGESTIONS,
    TRADE_INTENTS,
    dump,
    fill,
    group_of,
    harvests,
    tick,
)

from harvest_brain.config import load
from harvest_brain.core.engine import Decision, decide
from harvest_brain.redis.client import make_connection
from harvest_brain.redis.store import COMMIT, LostLeaseError, RefusedError, StateMovedError, Store, UnusableError
from harvest_brain.redis.store import Reading as StoreReading
from harvest_brain.redis.transport import RedisTransport

TOKEN = "this:1:one"
RATE = "quantum:harvest:rate"
HISTORY = "quantum:harvest:history:ETHUSDT"
LAST_BUT_ONE_ID = "18446744073709551615-18446744073709551614"


class Commit(NamedTuple):
    """A decision that waits to be committed, and all that is needed to do so."""

    store: Store
    decision: Decision
    reading: StoreReading

    def try_it(self) -> None:
        self.store.send_commit(self.decision, self.reading)
        self.store.receive_commit()


@pytest.fixture(params=["shadow", "live"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prepare(server: RedisServer, redis: Any, mode: str) -> Iterator[Callable[..., Commit]]:
    """Makes ready a commit that would succeed; with `login` (user, password) it is tried as that user."""
    transports = []

    def make(*login: str, **settings: str) -> Commit:
        redis.set(KILL, "0")
        chosen = load(None, server.settings() | {"HARVEST_MODE": mode} | settings).settings
        connection = make_connection(chosen.endpoint())
        transports.append(transport := RedisTransport(connection))
        store = Store(transport, chosen.names(), chosen.bounds(), chosen.policy(), token=TOKEN, config="none")
        store.prepare()
        assert store.acquire_lease() == 0
        store.load("0")

        def reach(*entries: dict[str, Any]) -> Commit:
            for entry in entries:
                redis.xadd(EXECUTIONS, entry)
            store.send_read(store.cursors)
            reading = store.receive_read()
            events = store.decode(reading)
            store.send_look(events, reading)
            gate = store.receive_look(frozenset()).gate
            return Commit(store, decide(store.state, events, gate, chosen.policy()), reading)

        reach(fill("OLDUSDT", "BUY", "1", "10", order_id="O1")).try_it()
        commit = reach(
            fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", order_id="A1"),
            fill("OLDUSDT", "SELL", "1", "10", order_id="O2"),
            {"bad": "entry"},
            tick("ETHUSDT", "2526"),
        )
        if login:
            transport.send(("AUTH", *login))
            assert transport.receive() == b"OK"
        return commit

    yield make
    for transport in transports:
        transport.close()


def test_the_commit_in_question_succeeds_and_does_it_all(redis: Any, prepare: Callable[..., Commit], mode: str) -> None:
    commit = prepare()
    commit.try_it()
    assert set(redis.hkeys(STATE)) == {"_meta", "_market:ETHUSDT", "ETHUSDT"}
    [harvest] = harvests(redis, TRADE_INTENTS if mode == "live" else SUGGESTIONS)
    assert harvest["symbol"] == "ETHUSDT"
    assert redis.xlen(STOP_INTENTS if mode == "live" else SUGGESTIONS) == (1 if mode == "live" else 2)
    assert redis.xlen(REJECTED) == redis.zcard(HISTORY) == 1
    assert redis.llen(RATE) == 2
    assert (group_of(redis)["last-delivered-id"], group_of(redis)["lag"]) == (commit.store.cursor, 0)
    assert len(list(redis.scan_iter("quantum:dedup:harvest:*"))) == 2
    assert len(list(redis.scan_iter("quantum:dedup:fill:*:filled:*"))) == 3


def assert_refused(redis: Any, commit: Commit, error: type[Exception], text: str) -> None:
    before = dump(redis)
    with pytest.raises(error, match=re.escape(text)):
        commit.try_it()
    assert dump(redis) == before


REFUSALS: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "another holds the lease": (lambda r: r.set(LEASE, "another", px=9000), LostLeaseError, "the lease was lost"),
    "nobody holds the lease": (lambda r: r.delete(LEASE), LostLeaseError, "the lease was lost"),
    "the state moved on": (lambda r: r.hset(STATE, "_meta", "{}"), StateMovedError, "the stored state moved on"),
    "the state is gone": (lambda r: r.delete(STATE), StateMovedError, "the stored state moved on"),
    "the switch is thrown": (lambda r: r.set(KILL, "1"), RefusedError, "kill"),
    "the switch is unreadable": (lambda r: (r.delete(KILL), r.rpush(KILL, "0")), RefusedError, "kill"),
    "the minute is used up": (lambda r: r.rpush(RATE, *[int(time.time() * 1000)] * 29), RefusedError, "rate"),
    "the group is gone": (lambda r: r.xgroup_destroy(EXECUTIONS, GROUP), StateMovedError, "the group"),
    "the stream is gone": (lambda r: r.delete(EXECUTIONS), StateMovedError, "the group"),
    "the lease is a list": (lambda r: (r.delete(LEASE), r.rpush(LEASE, TOKEN)), RedisError, "WRONGTYPE"),
}


@pytest.mark.parametrize(("change", "error", "text"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_commit_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], change: Callable[[Any], object], error: type[Exception], text: str
) -> None:
    commit = prepare()
    change(redis)
    assert_refused(redis, commit, error, text)


def test_an_absent_switch_refuses_in_live_and_not_in_shadow(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    commit = prepare()
    redis.delete(KILL)
    if mode == "live":
        assert_refused(redis, commit, RefusedError, "kill")
    else:
        commit.try_it()


def test_more_intents_than_any_minute_allows_are_refused(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare()
    commit.store._bounds = replace(commit.store._bounds, max_actions_per_min=1)
    assert_refused(redis, commit, RefusedError, "rate")


def test_a_price_that_grew_old_on_the_way_to_the_commit_is_refused(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare(HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC="1")
    time.sleep(1.1)
    assert_refused(redis, commit, RefusedError, "stale")


def test_a_price_from_the_future_is_refused(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare()
    later = tuple(
        intent._replace(trigger=intent.trigger._replace(time_ms=intent.trigger.time_ms + 10_000))
        for intent in commit.decision.intents
    )
    assert_refused(redis, commit._replace(decision=replace(commit.decision, intents=later)), RefusedError, "stale")


def test_what_was_published_before_is_refused_by_name(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare()
    claim = commit.decision.intents[1].claims[0]
    redis.set(f"quantum:dedup:harvest:{claim}", "1", ex=900)
    before = dump(redis)
    with pytest.raises(RefusedError, match="claimed") as refusal:
        commit.try_it()
    assert refusal.value.claims == {claim}
    assert dump(redis) == before


def outputs_of(mode: str) -> list[str]:
    return [REJECTED, *([TRADE_INTENTS, STOP_INTENTS] if mode == "live" else [SUGGESTIONS])]


def test_a_key_of_another_type_is_refused_by_name(redis: Any, prepare: Callable[..., Commit], mode: str) -> None:
    commit = prepare()
    for key in (STATE, RATE, EXECUTIONS, HISTORY, *outputs_of(mode)):
        held = redis.dump(key)
        redis.set(key, "foreign")
        assert_refused(redis, commit, UnusableError, f"{key} holds another type than HarvestBrain's")
        redis.delete(key)
        if held is not None:
            redis.restore(key, 0, held)


def test_a_stream_that_has_used_up_its_ids_is_refused_by_name(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    commit = prepare()
    for key in outputs_of(mode):
        redis.xadd(key, {"last": "entry"}, id=LAST_BUT_ONE_ID)
        assert_refused(redis, commit, UnusableError, f"{key} has used up its ids")
        redis.delete(key)


# `GET` and the like fail before anything is written; the writing ones are asked for beforehand.
COMMANDS = sorted(set(re.findall(r"redis\.p?call\('([A-Z]+)'", COMMIT.source)))


def test_the_script_uses_the_commands_that_are_tried_below() -> None:
    assert {"XADD", "HSET", "ZADD", "EXPIRE", "XGROUP"} <= set(COMMANDS)


def assert_a_user_changes_nothing(redis: Any, prepare: Callable[..., Commit], *rights: str) -> None:
    """The commit of a user with these rights fails, and has written nothing."""
    redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", "nopass", *rights)
    try:
        commit = prepare("limited", "")
        before = dump(redis)
        with pytest.raises((UnusableError, RedisError)):
            commit.try_it()
        assert dump(redis) == before
    finally:
        redis.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_user_that_lacks_the_right_to_a_command_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], mode: str, command: str
) -> None:
    for stream in outputs_of(mode):
        redis.xadd(stream, {"earlier": "entry"})
    assert_a_user_changes_nothing(redis, prepare, "~*", "+@all", f"-{command.lower()}")


@pytest.mark.parametrize("key", [STATE, RATE, EXECUTIONS, HISTORY, REJECTED, "quantum:dedup:*"])
def test_a_user_that_may_not_write_a_key_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], mode: str, key: str
) -> None:
    # There is no pattern for "all but": list the others, and let this one only be read.
    others = {STATE, RATE, EXECUTIONS, HISTORY, LEASE, KILL, "quantum:dedup:*", *outputs_of(mode)} - {key}
    rights = [f"~{other}" for other in sorted(others)]
    assert_a_user_changes_nothing(redis, prepare, "+@all", f"%R~{key}", *rights)
