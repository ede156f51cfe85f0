"""Which mode is in force: what a change of it does to open positions, and what keeps a daemon that was asked to be live
in shadow. Whatever it is, every status says so (incident 19)."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon, harvest_brain
from tests.support.server import RedisServer, StartServer
from tests.support.waiting import stays, wait_until
from tests.support.wire import KILL, STATE, SUGGESTIONS, TRADE_INTENTS, feed, fill, harvests, intents, position, tick

SYMBOLS = [f"SYM{number}USDT" for number in range(10)]
RELEASE = "1.4.0-0a1b2c3d4e5f"
LIVE = {"HARVEST_MODE": "live", "HARVEST_LEASE_SEC": "2", "HARVEST_MAX_ACTIONS_PER_MIN": "1000"}
SHADOW = {**LIVE, "HARVEST_MODE": "shadow"}


def opening(symbol: str, **more: str) -> dict[str, str | int]:
    return fill(symbol, "BUY", "1.0", "100", stop_loss="98", **more)


def restart(daemon: DaemonProcess, **settings: str) -> None:
    daemon.stop()
    daemon.start(**settings)
    daemon.wait_for(role="leader")


def stored(redis: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(redis.hget(STATE, "_meta"))
    return found


# A change of mode.


@pytest.mark.parametrize("kill", ["0", "1"], ids=["suggested", "due"])
def test_going_live_with_ten_open_positions_and_all_rungs_crossed_gives_no_burst(
    redis: Any, start_daemon: StartDaemon, kill: str
) -> None:
    redis.set(KILL, kill)
    daemon = start_daemon(**SHADOW)
    feed(redis, *(opening(symbol) for symbol in SYMBOLS))
    feed(redis, *(tick(symbol, "104") for symbol in SYMBOLS))
    assert len(harvests(redis)) == (10 if kill == "0" else 0)
    redis.set(KILL, "0")
    restart(daemon, **LIVE)
    wait_until(lambda: stored(redis)["mode"] == "live")
    feed(redis, *(tick(symbol, price) for price in ("104", "105") for symbol in SYMBOLS))
    assert intents(redis, TRADE_INTENTS) == []
    assert {position(redis, symbol)["epoch"]["rungs"] for symbol in SYMBOLS} == {"sss"}  # type: ignore[index]

    # A new epoch runs the whole ladder.
    feed(redis, fill("SYM3USDT", "SELL", "1.0", "104"), opening("SYM3USDT", order_id="again"))
    feed(redis, *(tick("SYM3USDT", price) for price in ("101", "102", "103")))
    assert [order["rungs"] for order in harvests(redis, TRADE_INTENTS)] == [["0.5"], ["1"], ["1.5"]]


def test_what_going_live_skips_and_the_stored_mode_are_one_commit(redis: Any, start_daemon: StartDaemon) -> None:
    """Without the right to write the state nothing of the change may stand."""
    daemon = start_daemon(**SHADOW)
    feed(redis, opening("SYM0USDT"))
    feed(redis, tick("SYM0USDT", "101"))
    before = redis.hgetall(STATE)
    daemon.stop()
    redis.set(KILL, "0")
    redis.execute_command("ACL", "SETUSER", "default", "-hset")
    try:
        daemon.start(**LIVE)
        wait_until(lambda: "may not HSET" in daemon.status().get("last_error", ""))
        assert redis.hgetall(STATE) == before
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")
    wait_until(lambda: stored(redis)["mode"] == "live")
    assert position(redis, "SYM0USDT")["epoch"]["rungs"] == "saa"  # type: ignore[index]


def test_catching_up_orders_once_what_shadow_mode_only_suggested(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(**SHADOW)
    feed(redis, opening("SYM0USDT"), tick("SYM0USDT", "102"))
    [suggestion] = harvests(redis)
    restart(daemon, HARVEST_LIVE_CATCH_UP="true", **LIVE)
    feed(redis, tick("SYM0USDT", "102"), tick("SYM0USDT", "102"))
    [order] = harvests(redis, TRADE_INTENTS)
    assert (order["qty"], order["rungs"]) == (Decimal("0.5"), ["0.5", "1"])
    assert order["correlation_id"] == suggestion["correlation_id"]
    daemon.kill()
    daemon.start()
    feed(redis, tick("SYM0USDT", "102"))
    assert len(harvests(redis, TRADE_INTENTS)) == 1


def test_what_was_suggested_before_catching_up_is_not_suggested_again_when_its_dedup_key_has_expired(
    redis: Any, start_daemon: StartDaemon
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(**SHADOW)
    feed(redis, opening("SYM0USDT"), tick("SYM0USDT", "101"))
    restart(daemon, HARVEST_LIVE_CATCH_UP="true", **LIVE)
    wait_until(lambda: stored(redis)["mode"] == "live")
    assert position(redis, "SYM0USDT")["epoch"]["rungs"] == "oaa"  # type: ignore[index]
    restart(daemon, **SHADOW)
    wait_until(lambda: stored(redis)["mode"] == "shadow")
    redis.delete(*redis.scan_iter("quantum:dedup:harvest:*"))
    feed(redis, tick("SYM0USDT", "101"), tick("SYM0USDT", "102"))
    assert [suggestion["rungs"] for suggestion in harvests(redis)] == [["0.5"], ["1"]]
    assert not redis.exists(TRADE_INTENTS)


def test_going_back_to_shadow_keeps_what_is_on_its_way_reserved(redis: Any, start_daemon: StartDaemon) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(**LIVE)
    feed(redis, opening("SYM0USDT"), tick("SYM0USDT", "101"))
    [order] = harvests(redis, TRADE_INTENTS)
    restart(daemon, **SHADOW)
    wait_until(lambda: stored(redis)["mode"] == "shadow")
    feed(redis, tick("SYM0USDT", "102"))
    [[intent_id, remaining, *_]] = position(redis, "SYM0USDT")["epoch"]["reservations"]  # type: ignore[index]
    assert (intent_id, Decimal(remaining)) == (order["correlation_id"], Decimal("0.25"))
    feed(redis, fill("SYM0USDT", "SELL", "0.25", "101", client_order_id=intent_id))
    assert position(redis, "SYM0USDT")["epoch"]["reservations"] == []  # type: ignore[index]
    assert len(harvests(redis, TRADE_INTENTS)) == 1


# What keeps it in shadow.


def assert_in_shadow(server: RedisServer, daemon: DaemonProcess, because: str) -> None:
    """It publishes suggestions, and status.json, the log and the command line say why."""
    status = daemon.wait_for(role="leader", mode="shadow", asked="live")
    assert because in status["because"]
    assert f"in shadow, although live was asked for: {status['because']}" in daemon.log()
    with server.client() as client:
        client.set(KILL, "0")
        feed(client, opening("ETHUSDT"), tick("ETHUSDT", "101"))
        assert len(harvests(client)) == 1
        assert not client.exists(TRADE_INTENTS)
    shown = harvest_brain("status", settings=server.settings() | {"HARVEST_MODE": "live"}).stdout
    assert "shadow (set: live)" in shown
    assert because in shown


def assert_live(client: Any, daemon: DaemonProcess) -> None:
    daemon.wait_for(role="leader", mode="live", because="")
    client.set(KILL, "0")
    feed(client, opening("ETHUSDT"), tick("ETHUSDT", "101"))
    assert len(harvests(client, TRADE_INTENTS)) == 1
    assert not client.exists(SUGGESTIONS)


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (("--appendonly", "no"), "appendonly is off: of state, fills and orders a power cut leaves nothing at all"),
        (("--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru"), "maxmemory-policy is volatile-lru"),
    ],
)
def test_on_a_redis_that_forgets_live_stays_in_shadow_unless_that_is_allowed(
    start_server: StartServer, start_daemon: StartDaemon, options: tuple[str, ...], because: str
) -> None:
    server = start_server(*options)
    daemon = start_daemon(**LIVE, **server.settings())
    assert_in_shadow(server, daemon, because)
    with server.client() as client:
        daemon.stop()
        client.flushall()
        daemon.start(HARVEST_LIVE_ALLOW_VOLATILE_REDIS="true")
        assert_live(client, daemon)
        assert because in daemon.status()["durability"][0]
        assert f"durability: {because}" in daemon.log()


def test_on_a_redis_that_keeps_everything_it_says_what_a_power_cut_could_lose(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(**LIVE)
    assert_live(redis, daemon)
    [remark] = daemon.status()["durability"]
    assert "can lose the last second or two (appendfsync everysec)" in remark
    assert remark in daemon.log()


@pytest.mark.parametrize("how", ["renamed", "not permitted"])
def test_where_config_can_not_be_read_it_goes_on_by_what_info_shows_and_says_what_it_can_not_tell(
    start_server: StartServer, start_daemon: StartDaemon, tmp_path: Path, how: str
) -> None:
    server = start_server(*(("--rename-command", "CONFIG", "") if how == "renamed" else ()))
    settings = {**LIVE, **server.settings()}
    with server.client() as client:
        if how == "not permitted":
            client.execute_command("ACL", "SETUSER", "managed", "on", ">secret", "~*", "+@all", "-config")
            (tmp_path / "password").write_text("secret")
            settings |= {"REDIS_USERNAME": "managed", "REDIS_PASSWORD_FILE": str(tmp_path / "password")}
        daemon = start_daemon(**settings)
        assert_live(client, daemon)
    [remark] = daemon.status()["durability"]
    assert "how often the append-only file is synced can't be told" in remark
    assert remark in daemon.log()


def test_what_the_server_changes_while_it_runs_is_noticed(start_server: StartServer, start_daemon: StartDaemon) -> None:
    server = start_server()
    daemon = start_daemon(**LIVE, **server.settings())
    with server.client() as client:
        assert_live(client, daemon)
        client.config_set("appendonly", "no")
        daemon.wait_for(mode="shadow", role="leader")
        assert "appendonly is off" in daemon.status()["because"]
        client.config_set("appendonly", "yes")
        daemon.wait_for(mode="live", role="leader")
        # The rung that was ordered before is through for good, and nothing else has come of it.
        feed(client, tick("ETHUSDT", "101"))
        assert len(harvests(client, TRADE_INTENTS)) == 1


# The live token.


def write_token(path: Path, *, lasts: timedelta = timedelta(hours=1), release: str = RELEASE) -> None:
    expires = (datetime.now(UTC) + lasts).isoformat()
    path.write_text(json.dumps({"release": release, "evidence": "sha256:" + "0f" * 32, "expires": expires}))


def test_where_a_token_is_asked_for_live_needs_a_valid_one(
    server: RedisServer, redis: Any, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    token = tmp_path / "live-token.json"
    settings = {**LIVE, "HARVEST_RELEASE_ID": RELEASE, "HARVEST_LIVE_TOKEN_FILE": str(token)}
    daemon = start_daemon(**settings)
    assert_in_shadow(server, daemon, f"no valid live token: {token}: No such file")
    write_token(token, release="1.3.0-ffffffffffff")
    daemon.stop()
    daemon.start()
    assert "is for release '1.3.0-ffffffffffff'" in daemon.wait_for(mode="shadow", role="leader")["because"]
    write_token(token)
    redis.flushall()
    daemon.stop()
    daemon.start()
    assert_live(redis, daemon)
    assert daemon.status()["release"] == RELEASE


def test_when_the_token_expires_the_daemon_goes_to_shadow_by_itself_and_a_new_one_brings_it_back(
    redis: Any, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    token = tmp_path / "live-token.json"
    write_token(token, lasts=timedelta(seconds=8))
    daemon = start_daemon(**LIVE, HARVEST_RELEASE_ID=RELEASE, HARVEST_LIVE_TOKEN_FILE=str(token))
    assert_live(redis, daemon)
    daemon.wait_for(mode="shadow", role="leader")
    assert "expired at" in daemon.status()["because"]
    feed(redis, tick("ETHUSDT", "102"))
    assert len(harvests(redis)) == len(harvests(redis, TRADE_INTENTS)) == 1
    write_token(token)
    daemon.wait_for(mode="live", role="leader")
    feed(redis, tick("ETHUSDT", "102"))
    stays(lambda: len(harvests(redis, TRADE_INTENTS)) == 1, 0.5)


def test_shadow_mode_needs_no_token_and_no_durability(
    start_server: StartServer, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    server = start_server("--appendonly", "no")
    daemon = start_daemon(**SHADOW, **server.settings(), HARVEST_LIVE_TOKEN_FILE=str(tmp_path / "none"))
    status = daemon.wait_for(role="leader")
    assert (status["mode"], status["asked"], status["because"], status["durability"]) == ("shadow", "shadow", "", [])


@pytest.mark.parametrize("age_sec", [0, 40], ids=["fresh", "stale"])
def test_going_live_skips_what_was_crossed_while_nobody_led(
    redis: Any, start_daemon: StartDaemon, age_sec: int
) -> None:
    redis.set(KILL, "0")
    daemon = start_daemon(**SHADOW)
    a_minute_ago = str(int((time.time() - 60) * 1000))
    feed(redis, *(opening(symbol, timestamp=a_minute_ago) for symbol in SYMBOLS))
    feed(redis, *(tick(symbol, "100.2") for symbol in SYMBOLS))
    daemon.stop()
    when = str(int((time.time() - age_sec) * 1000))
    for symbol in SYMBOLS:
        redis.xadd(
            "quantum:stream:execution.result",
            {"symbol": symbol, "status": "PRICE_UPDATE", "price": "103", "timestamp": when},
        )
    daemon.start(**LIVE)
    daemon.wait_for(role="leader")
    wait_until(lambda: stored(redis)["mode"] == "live")
    feed(redis, *(tick(symbol, "103") for symbol in SYMBOLS))
    assert intents(redis, TRADE_INTENTS) == []
