"""What stands in Redis afterwards: everything bounded, nothing foreign touched, each namespace by itself."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.daemon import StartDaemon
from tests.support.waiting import wait_until
from tests.support.wire import (
    EXECUTIONS,
    KILL,
    LEASE,
    OUTPUTS,
    REJECTED,
    STATE,
    SUGGESTIONS,
    TRADE_INTENTS,
    dump,
    feed,
    fill,
    harvests,
    tick,
)

FREE_RATE = {"HARVEST_MAX_ACTIONS_PER_MIN": "10000"}
modes = pytest.mark.parametrize("mode", ["shadow", "live"])


def life(symbol: str, number: int) -> list[dict[str, str | int]]:
    """A position that is opened, harvested at each of its three rungs, and closed."""
    return [
        fill(symbol, "BUY", "4", "100", stop_loss="90", fill_id=f"open{number}"),
        *(tick(symbol, price) for price in ("106", "111", "116")),
        fill(symbol, "SELL", "4", "116", fill_id=f"close{number}"),
    ]


@modes
def test_incident_22_every_key_has_a_ttl_or_a_bound_or_is_one_per_open_position(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE=mode, HARVEST_DEDUP_TTL_SEC="900", HARVEST_FILL_DEDUP_TTL_SEC="3600")
    feed(redis, *life("ETHUSDT", 1), {"bad": "entry"}, fill("BTCUSDT", "BUY", "1", "100"))
    bounded = {EXECUTIONS, REJECTED, *OUTPUTS, STATE, KILL}
    lasting = {key for key in redis.scan_iter() if redis.ttl(key) == -1}
    assert lasting <= bounded
    # A flat position is forgotten, with its price.
    assert set(redis.hkeys(STATE)) == {"_meta", "BTCUSDT", "_market:BTCUSDT"}

    claims, fills = list(redis.scan_iter("quantum:dedup:harvest:*")), list(redis.scan_iter("quantum:dedup:fill:*"))
    assert len(claims) >= 3
    assert len(fills) == 4, "two identities, and when each of the two positions was last filled"
    assert all(840 < redis.ttl(key) <= 900 for key in claims)
    assert all(3540 < redis.ttl(key) <= 3600 for key in fills)
    assert 0 < redis.pttl(LEASE) <= 10_000
    assert 0 < redis.pttl("quantum:harvest:rate") <= 60_000
    assert 0 < redis.ttl("quantum:harvest:history:ETHUSDT") <= 30 * 24 * 3600


@modes
def test_the_history_of_a_symbol_holds_its_last_100_harvests_by_their_time(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE=mode, **FREE_RATE)
    for number in range(40):
        feed(redis, *life("ETHUSDT", number))
    published = [i["correlation_id"] for i in harvests(redis, TRADE_INTENTS if mode == "live" else SUGGESTIONS)]
    assert len(published) == 120
    history = redis.zrange("quantum:harvest:history:ETHUSDT", 0, -1, withscores=True)
    assert len(history) == 100
    kept = {name for text, _ in history for name in published if name in text}
    assert kept > set(published[-99:]), "the three of one life may have the same time"
    assert all(abs(score - time.time()) < 300 for _, score in history)


def test_streams_that_only_the_daemon_writes_are_bounded(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon(HARVEST_STREAM_MAXLEN="100", HARVEST_BATCH_SIZE="50", **FREE_RATE)
    symbols = [f"SYM{number}" for number in range(400)]
    feed(redis, *({"bad": str(number)} for number in range(1000)))
    for symbol in symbols:
        redis.xadd(EXECUTIONS, fill(symbol, "BUY", "1", "100", stop_loss="90"))
    feed(redis, *(tick(symbol, "106") for symbol in symbols))
    # Trimmed by whole nodes of a hundred entries, as Redis holds them.
    assert 100 <= redis.xlen(REJECTED) <= 200
    assert 100 <= redis.xlen(SUGGESTIONS) <= 200
    assert redis.xinfo_stream(SUGGESTIONS)["entries-added"] == 800
    # What others write is theirs to trim.
    assert redis.xlen(EXECUTIONS) == 1800


def test_how_long_the_trade_intents_may_grow_is_their_consumers_to_say(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(KILL, "0")
    start_daemon(HARVEST_MODE="live", HARVEST_STREAM_MAXLEN="100", **FREE_RATE)
    symbols = [f"SYM{number}" for number in range(400)]
    feed(redis, *(fill(symbol, "BUY", "1", "100", stop_loss="90") for symbol in symbols))
    feed(redis, *(tick(symbol, "106") for symbol in symbols))
    assert redis.xlen(TRADE_INTENTS) == 400


@modes
def test_incident_21_foreign_keys_are_untouched_and_neither_keys_nor_a_flush_is_ever_used(
    redis: Any, start_daemon: StartDaemon, mode: str
) -> None:
    foreign = {
        "quantum:position:ETHUSDT": "1",
        "quantum:harvest:something": "2",
        "quantum:harvest:history:": "3",
        "quantum:dedup:other:1": "4",
        "quantum:dedup:harvest:not-ours": "5",
        "other": "6",
    }
    redis.mset(foreign)
    redis.hset("quantum:config:harvest:ETHUSDT", "min_r", "0.5")
    redis.xadd("quantum:stream:position.snapshot", {"any": "thing"})
    redis.set(KILL, "0")
    before = dump(redis)
    redis.config_resetstat()
    daemon = start_daemon(HARVEST_MODE=mode)
    feed(redis, *life("ETHUSDT", 1))
    daemon.stop()
    daemon.start()
    daemon.wait_for(role="leader")
    daemon.stop()
    used = {name.removeprefix("cmdstat_") for name in redis.info("commandstats")}
    after = dump(redis)
    assert {key: after.get(key) for key in before} == before
    assert not {"keys", "flushall", "flushdb", "unlink", "config|set", "script|flush", "xdel", "xtrim"} & used
    assert {"xread", "evalsha"} <= used
    # The one thing that is deleted is the own lease, on giving it back.
    assert redis.info("commandstats")["cmdstat_del"]["calls"] == 2


@pytest.mark.parametrize("namespace", ["other", "{quantum}"])
def test_a_namespace_replaces_every_prefix(redis: Any, start_daemon: StartDaemon, namespace: str) -> None:
    start_daemon(HARVEST_NAMESPACE=namespace)
    for entry in (*life("ETHUSDT", 1)[:-1], {"bad": "entry"}):
        redis.xadd(f"{namespace}:stream:execution.result", entry)
    wait_until(lambda: redis.exists(f"{namespace}:stream:harvest.rejected"))
    assert redis.xlen(f"{namespace}:stream:harvest.suggestions") > 0
    assert all(key.startswith(f"{namespace}:") for key in redis.scan_iter())


def test_two_namespaces_in_one_redis_do_not_see_each_other(redis: Any, start_daemon: StartDaemon) -> None:
    first = start_daemon()
    second = start_daemon(HARVEST_NAMESPACE="other")
    assert first.status()["role"] == second.status()["role"] == "leader"
    redis.set("other:kill", "1")
    for entry in life("ETHUSDT", 1)[:2]:
        redis.xadd("other:stream:execution.result", entry)
    feed(redis, *life("ETHUSDT", 1)[:2])
    wait_until(lambda: redis.hexists("other:harvest:state", "ETHUSDT"))
    assert len(harvests(redis)) == 1
    assert not redis.exists("other:stream:harvest.suggestions")
