"""commit.lua by itself: whatever speaks against a commit, it is refused with its code and not one byte has changed.

The commit in question does everything that a commit can do: it opens one position and closes another, applies fills,
publishes a harvest and a stop move, writes history and a dead letter, and moves the cursor and the group.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from redis.exceptions import RedisError
from tests.support.daemon import now_ms
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


EVERYTHING: tuple[dict[str, Any], ...] = (
    fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450", order_id="A1"),
    fill("OLDUSDT", "SELL", "1", "10", order_id="O2"),
    {"bad": "entry"},
    tick("ETHUSDT", "2526"),
)
THIRTY_DAYS_SEC = 30 * 24 * 3600


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
    """Makes ready a commit that would succeed, of `entries`; with `login` (user, password) it is tried as that user."""
    transports = []

    def make(*login: str, entries: Sequence[dict[str, Any]] = EVERYTHING, **settings: str) -> Commit:
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
            reading = store.receive_read(store.send_read(store.cursors))
            events = store.decode(reading)
            gate = store.receive_look(store.send_look(events, reading), frozenset()).gate
            return Commit(store, decide(store.state, events, gate, chosen.policy()), reading)

        reach(fill("OLDUSDT", "BUY", "1", "10", order_id="O1")).try_it()
        commit = reach(*entries)
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
    assert len(list(redis.scan_iter("quantum:dedup:fill:*#filled#*"))) == 3


def test_what_is_written_has_its_lifetime_and_its_bound(redis: Any, prepare: Callable[..., Commit], mode: str) -> None:
    commit = prepare(
        HARVEST_DEDUP_TTL_SEC="700",
        HARVEST_FILL_DEDUP_TTL_SEC="5000",
        HARVEST_STREAM_MAXLEN="500",
        HARVEST_LEASE_SEC="60",
        HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC="300",
    )
    claims = [f"quantum:dedup:harvest:{name}" for intent in commit.decision.intents for name in intent.claims]
    began_ms = now_ms()
    redis.pexpire(LEASE, 50_000)
    redis.zadd(HISTORY, {f"earlier {number}": number for number in range(105)})
    redis.rpush(RATE, *[began_ms - 61_000] * 40)
    streams = [REJECTED, SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS]
    pipeline = redis.pipeline()
    for number in range(1_000):
        for stream in streams:
            pipeline.xadd(stream, {"earlier": number})
    pipeline.execute()
    commit.try_it()

    def lives(key: str, seconds: int) -> bool:
        left: int = redis.pttl(key)
        took_ms = now_ms() - began_ms + 1
        return seconds * 1000 - took_ms <= left <= seconds * 1000

    assert all(lives(claim, 700) for claim in claims)
    value, took_ms = redis.get(claims[0]), now_ms() - began_ms + 1
    assert value == "suggested" if mode == "shadow" else 0 <= int(value) - began_ms <= took_ms
    assert all(lives(f"quantum:dedup:fill:{name}", 5_000) for name in commit.decision.applied)
    assert {redis.get(f"quantum:dedup:fill:{name}") for name in commit.decision.applied} == set(
        commit.decision.applied.values()
    )
    assert lives(RATE, 60)
    assert lives(HISTORY, THIRTY_DAYS_SEC)
    assert lives(LEASE, 60)
    recent = [int(time_ms) - began_ms for time_ms in redis.lrange(RATE, 0, -1)]
    assert len(recent) == 30
    assert [0 <= age <= took_ms for age in recent] == [True, True, *[False] * 28]
    history = redis.zrange(HISTORY, 0, -1, withscores=True)
    assert (len(history), history[0][0]) == (100, "earlier 6")
    payload, score = history[-1]
    output = TRADE_INTENTS if mode == "live" else SUGGESTIONS
    assert payload in [fields.get("payload") for _, fields in redis.xrange(output)]
    assert 0 <= score * 1000 - began_ms <= took_ms
    lengths = {stream: redis.xlen(stream) for stream in streams}
    # A stream is cut in pieces of a hundred. How long the consumers' own may grow is theirs to say.
    written = {REJECTED, STOP_INTENTS} if mode == "live" else {REJECTED, SUGGESTIONS}
    assert {stream for stream, length in lengths.items() if 500 <= length <= 700} == written
    assert lengths[TRADE_INTENTS] == (1_001 if mode == "live" else 1_000)


def test_a_harvest_alone_is_bounded_as_a_suggestion_and_not_as_an_order(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    commit = prepare(entries=(EVERYTHING[0], EVERYTHING[3]), HARVEST_SET_BE_AT_R="9", HARVEST_STREAM_MAXLEN="500")
    output = TRADE_INTENTS if mode == "live" else SUGGESTIONS
    pipeline = redis.pipeline()
    for number in range(1_000):
        pipeline.xadd(output, {"earlier": number})
    pipeline.execute()
    commit.try_it()
    assert redis.llen(RATE) == 1
    assert redis.xlen(output) == 1_001 if mode == "live" else 500 <= redis.xlen(output) <= 700


def test_a_stop_move_alone_is_published_whatever_hinders_dead_letters(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    commit = prepare(**COMMITS["one intent"])
    redis.xadd(REJECTED, {"last": "entry"}, id=LAST_BUT_ONE_ID)
    commit.try_it()
    assert set(redis.hkeys(STATE)) == {"_meta", "_market:ETHUSDT", "ETHUSDT", "_market:OLDUSDT", "OLDUSDT"}
    assert redis.xlen(STOP_INTENTS if mode == "live" else SUGGESTIONS) == 1
    assert not redis.exists(HISTORY, TRADE_INTENTS)
    assert redis.llen(RATE) == 1
    assert 0 < redis.pttl(RATE) <= 60_000


@pytest.mark.parametrize("sold", [True, False])
def test_fills_alone_are_tracked_whatever_hinders_publishing(
    redis: Any, prepare: Callable[..., Commit], sold: bool
) -> None:
    commit = prepare(entries=EVERYTHING[:2] if sold else EVERYTHING[:1])
    redis.set(KILL, "1")
    redis.rpush(RATE, *[now_ms()] * 60)
    streams = (REJECTED, SUGGESTIONS, TRADE_INTENTS, STOP_INTENTS)
    for stream in streams:
        redis.xadd(stream, {"last": "entry"}, id=LAST_BUT_ONE_ID)
    commit.try_it()
    left = set() if sold else {"_market:OLDUSDT", "OLDUSDT"}
    assert set(redis.hkeys(STATE)) == {"_meta", "_market:ETHUSDT", "ETHUSDT", *left}
    assert [redis.xlen(stream) for stream in streams] == [1, 1, 1, 1]
    assert group_of(redis)["last-delivered-id"] == commit.store.cursor


def test_where_nothing_is_new_only_the_lease_is_renewed(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare()
    commit.try_it()
    store = commit.store
    before = dump(redis)
    redis.xgroup_setid(EXECUTIONS, GROUP, "1-1")
    redis.pexpire(LEASE, 5_000)
    store.send_commit(Decision({}, store.state.waiting, {}, (), (), {}))
    store.receive_commit()
    assert redis.pttl(LEASE) > 5_000
    assert group_of(redis)["last-delivered-id"] == "1-1"
    redis.xgroup_setid(EXECUTIONS, GROUP, store.cursor, entries_read=store.meta.entries_read)
    assert dump(redis) | {LEASE: "renewed"} == before | {LEASE: "renewed"}


def test_what_was_only_suggested_may_still_be_ordered_and_not_suggested_again(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    commit = prepare()
    for intent in commit.decision.intents:
        redis.set(f"quantum:dedup:harvest:{intent.claims[0]}", "suggested", ex=900)
    if mode == "live":
        commit.try_it()
    else:
        assert_refused(redis, commit, RefusedError, "claimed")


@pytest.mark.parametrize(("age_ms", "earlier"), [(0, 28), (61_000, 30), (61_000, 60)])
def test_what_the_minute_still_allows_is_published(
    redis: Any, prepare: Callable[..., Commit], age_ms: int, earlier: int
) -> None:
    commit = prepare()
    redis.rpush(RATE, *[now_ms() - age_ms] * earlier)
    commit.try_it()
    assert redis.llen(RATE) == 30


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
    "the minute is used up": (lambda r: r.rpush(RATE, *[int(time.time() * 1000)] * 30), RefusedError, "rate"),
    "the group is gone": (lambda r: r.xgroup_destroy(EXECUTIONS, GROUP), StateMovedError, "the group"),
    "the stream is gone": (lambda r: r.delete(EXECUTIONS), StateMovedError, "the group"),
    "the lease is a list": (lambda r: (r.delete(LEASE), r.rpush(LEASE, TOKEN)), RedisError, "WRONGTYPE"),
}


# The commit in question, and one that publishes nothing but a stop move.
COMMITS: dict[str, dict[str, Any]] = {
    "everything": {},
    "one intent": {"entries": (EVERYTHING[0], EVERYTHING[3]), "HARVEST_LADDER": "9:1"},
}


@pytest.mark.parametrize("which", COMMITS.values(), ids=COMMITS.keys())
@pytest.mark.parametrize(("change", "error", "text"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_commit_changes_nothing(
    redis: Any,
    prepare: Callable[..., Commit],
    change: Callable[[Any], object],
    error: type[Exception],
    text: str,
    which: dict[str, Any],
) -> None:
    commit = prepare(**which)
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


def test_the_last_one_of_the_minute_is_left_to_one_intent_and_not_to_two(
    redis: Any, prepare: Callable[..., Commit]
) -> None:
    commit = prepare()
    redis.rpush(RATE, *[now_ms()] * 29)
    assert_refused(redis, commit, RefusedError, "rate")
    redis.flushall()
    commit = prepare(**COMMITS["one intent"])
    redis.rpush(RATE, *[now_ms()] * 29)
    commit.try_it()


def test_more_intents_than_any_minute_allows_are_refused_and_as_many_are_not(
    redis: Any, prepare: Callable[..., Commit]
) -> None:
    commit = prepare()
    commit.store._bounds = replace(commit.store._bounds, max_actions_per_min=1)
    assert_refused(redis, commit, RefusedError, "rate")
    commit.store._bounds = replace(commit.store._bounds, max_actions_per_min=2)
    commit.try_it()


def test_a_price_that_grew_old_on_the_way_to_the_commit_is_refused(redis: Any, prepare: Callable[..., Commit]) -> None:
    commit = prepare(HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC="1")
    time.sleep(1.1)
    assert_refused(redis, commit, RefusedError, "stale")


def ahead(commit: Commit, *by_ms: int) -> Commit:
    """`commit` with the prices of its two intents so much later."""
    later = tuple(
        intent._replace(trigger=intent.trigger._replace(time_ms=intent.trigger.time_ms + by))
        for intent, by in zip(commit.decision.intents, by_ms, strict=True)
    )
    return commit._replace(decision=replace(commit.decision, intents=later))


@pytest.mark.parametrize("by_ms", [(600_000, 600_000), (600_000, 0), (0, 600_000), (-600_000, 0), (0, -600_000)])
def test_one_price_that_is_too_old_or_from_the_future_is_enough_to_refuse_all(
    redis: Any, prepare: Callable[..., Commit], by_ms: tuple[int, int]
) -> None:
    assert_refused(redis, ahead(prepare(), *by_ms), RefusedError, "stale")


def test_a_price_a_little_ahead_of_the_servers_clock_is_none_of_the_future(prepare: Callable[..., Commit]) -> None:
    ahead(prepare(), 4_900, 4_900).try_it()


@pytest.mark.parametrize("known", [(0,), (1,), (0, 1)])
def test_what_was_published_before_is_refused_by_name(
    redis: Any, prepare: Callable[..., Commit], known: tuple[int, ...]
) -> None:
    commit = prepare()
    claims = {commit.decision.intents[index].claims[0] for index in known}
    for claim in claims:
        redis.set(f"quantum:dedup:harvest:{claim}", "1", ex=900)
    before = dump(redis)
    with pytest.raises(RefusedError, match="claimed") as refusal:
        commit.try_it()
    assert refusal.value.claims == claims
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


def test_one_intent_is_refused_where_its_stream_has_used_up_its_ids(
    redis: Any, prepare: Callable[..., Commit], mode: str
) -> None:
    harvest = prepare(entries=(EVERYTHING[0], EVERYTHING[3]), HARVEST_SET_BE_AT_R="9")
    redis.xadd(outputs_of(mode)[1], {"last": "entry"}, id=LAST_BUT_ONE_ID)
    assert_refused(redis, harvest, UnusableError, f"{outputs_of(mode)[1]} has used up its ids")
    redis.flushall()
    stop_move = prepare(**COMMITS["one intent"])
    redis.xadd(outputs_of(mode)[-1], {"last": "entry"}, id=LAST_BUT_ONE_ID)
    assert_refused(redis, stop_move, UnusableError, f"{outputs_of(mode)[-1]} has used up its ids")


# `GET` and the like fail before anything is written; the writing ones are asked for beforehand.
COMMANDS = sorted(set(re.findall(r"redis\.p?call\('([A-Z]+)'", COMMIT)))


def test_the_script_uses_the_commands_that_are_tried_below() -> None:
    assert {"XADD", "HSET", "ZADD", "EXPIRE", "XGROUP"} <= set(COMMANDS)


def assert_a_user_changes_nothing(redis: Any, prepare: Callable[..., Commit], *rights: str, **more: Any) -> None:
    """The commit of a user with these rights fails, and has written nothing. `more` says which commit."""
    redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", "nopass", *rights)
    try:
        commit = prepare("limited", "", **more)
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


# What only fills, only a dead letter and only intents ask for; a whole commit asks for most of it more than once.
PARTS = [
    (EVERYTHING[:2], ["SET"]),
    ((fill("ETHUSDT", "BUY", "1", "2500"),), ["SET"]),  # has no name of its own: only its time is remembered
    (EVERYTHING[2:3], ["XADD"]),
    ((tick("OLDUSDT", "12"),), ["SET", "XADD", "LPUSH", "LTRIM", "ZADD", "ZREMRANGEBYRANK", "EXPIRE"]),
]


@pytest.mark.parametrize(("entries", "command"), [(entries, name) for entries, names in PARTS for name in names])
def test_a_user_that_lacks_a_right_for_a_part_of_a_commit_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], entries: tuple[dict[str, Any], ...], command: str
) -> None:
    more = {"entries": entries, "HARVEST_LIVE_ALLOW_FALLBACK_RISK": "true"}
    assert_a_user_changes_nothing(redis, prepare, "~*", "+@all", f"-{command.lower()}", **more)


CLAIMS, FILLS = "quantum:dedup:harvest:*", "quantum:dedup:fill:*"
WRITES = [
    *(("PEXPIRE", LEASE), ("PEXPIRE", RATE), ("HSET", STATE), ("HDEL", STATE), ("XGROUP", EXECUTIONS), ("SET", CLAIMS)),
    *(("SET", FILLS), ("LPUSH", RATE), ("LTRIM", RATE), ("ZADD", HISTORY), ("ZREMRANGEBYRANK", HISTORY)),
    *(("EXPIRE", HISTORY), ("XADD", REJECTED), ("XADD", "harvests"), ("XADD", "stop moves")),
]


@pytest.mark.parametrize(("command", "key"), WRITES)
def test_a_user_that_may_use_a_command_on_all_keys_but_one_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], mode: str, command: str, key: str
) -> None:
    outputs = {"harvests": outputs_of(mode)[1], "stop moves": outputs_of(mode)[-1]}
    others = {LEASE, KILL, RATE, STATE, EXECUTIONS, CLAIMS, FILLS, HISTORY, *outputs_of(mode)} - {outputs.get(key, key)}
    selector = f"(+{command.lower()} {' '.join(f'~{other}' for other in sorted(others))})"
    assert_a_user_changes_nothing(redis, prepare, "~*", "+@all", f"-{command.lower()}", selector)


@pytest.mark.parametrize("key", [LEASE, STATE, RATE, EXECUTIONS, HISTORY, REJECTED, "quantum:dedup:*"])
def test_a_user_that_may_not_write_a_key_changes_nothing(
    redis: Any, prepare: Callable[..., Commit], mode: str, key: str
) -> None:
    # There is no pattern for "all but": list the others, and let this one only be read.
    others = {STATE, RATE, EXECUTIONS, HISTORY, LEASE, KILL, "quantum:dedup:*", *outputs_of(mode)} - {key}
    rights = [f"~{other}" for other in sorted(others)]
    assert_a_user_changes_nothing(redis, prepare, "+@all", f"%R~{key}", *rights)
