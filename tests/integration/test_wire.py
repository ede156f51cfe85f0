"""Every shape that producers use, through the real daemon; what can't be used; overrides; the market price stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import StartDaemon, now_ms
from tests.support.waiting import stays, wait_until
from tests.support.wire import EXECUTIONS, REJECTED, SUGGESTIONS, feed, fill, group_of, harvests, position, tick

MARKET = "quantum:stream:market.price"

SHAPES = {
    "flat fields": {
        "symbol": "ETHUSDT", "side": "BUY", "qty": "1.0", "price": "2500.0", "status": "FILLED", "stop_loss": "2450",
        "order_id": "A1",
    },
    "payload with fields beside it": {
        "event_type": "execution.result", "timestamp": "2026-01-18T12:00:00Z", "source": "executor", "trace_id": "t-1",
        "correlation_id": "c-1",
        "payload": '{"symbol":"ETHUSDT","side":"BUY","qty":1.0,"price":2500.0,"status":"FILLED","stop_loss":2450}',
    },
    "data with a size in dollars": {
        "data": '{"symbol":"ETHUSDT","action":"BUY","entry_price":2500,"position_size_usd":2500,"status":"filled",'
                '"sl":2450}',
    },
    "a nested signal": {
        "payload": '{"status":"FILLED","signal":{"symbol":"ETHUSDT","side":"BUY"},"qty":1,"price":2500,"stop":2450}',
    },
    "the whole message as json": {
        "json": '{"symbol":"ETHUSDT","side":"LONG","filled_qty":"1","avg_price":"2500","status":"Filled",'
                '"stop_loss":"2450","orderId":17}',
    },
    "other names in another case": {
        "Symbol": "ETHUSDT", "ACTION": "long", "Executed_Qty": "1", "Fill_Price": "2500", "Status": "filled",
        "SL": "2450", "clientOrderId": "mine-1",
    },
    "a cumulative quantity alone": {
        "symbol": "ETHUSDT", "side": "buy", "cum_qty": "1", "filled_price": "2500", "status": "PARTIALLY_FILLED",
        "stop_loss": "2450", "order_id": "A1",
    },
}  # fmt: skip  # each shape as its producer writes it


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_incident_01_every_shape_of_a_fill_opens_the_same_position_and_is_harvested(
    redis: Any, start_daemon: StartDaemon, shape: dict[str, str]
) -> None:
    start_daemon()
    feed(redis, shape, tick("ETHUSDT", "2526"))
    assert not redis.exists(REJECTED)
    held = position(redis, "ETHUSDT")
    assert held is not None
    assert (Decimal(held["qty"]), Decimal(held["avg"])) == (Decimal(1), Decimal(2500))
    [suggestion] = harvests(redis)
    assert (suggestion["side"], suggestion["qty"], suggestion["risk_source"]) == ("SELL", Decimal("0.25"), "stop")


UNUSABLE: dict[str, tuple[Mapping[Any, Any], str]] = {
    "not JSON": ({"payload": "{not json"}, "payload is not JSON"),
    "no symbol": ({"side": "BUY", "qty": "1", "price": "2", "status": "FILLED"}, "no symbol"),
    "a market acknowledgement without a price": (
        {"symbol": "ETHUSDT", "side": "BUY", "qty": "1", "price": "0", "status": "FILLED"}, "price 0 is not above 0"),
    "a fill of nothing": (fill("ETHUSDT", "BUY", "0", "2500"), "quantity 0 is not above 0"),
    "a price of 0": (tick("ETHUSDT", "0"), "price 0 is not above 0"),
    "an unknown side": (fill("ETHUSDT", "HOLD", "1", "2500"), "side 'HOLD' is none of BUY, LONG, SELL, SHORT"),
    "a number beyond all bounds": (fill("ETHUSDT", "BUY", "1e400", "2500"), "quantity '1e400' is too large"),
    "not a number": (fill("ETHUSDT", "BUY", "NaN", "2500"), "quantity 'NaN' is not a finite number"),
    "no UTF-8": ({b"symbol": b"\xff\xfe", b"status": b"FILLED"}, "not UTF-8"),
    "over 64 KiB": ({**fill("ETHUSDT", "BUY", "1", "2500"), "note": "x" * 70_000}, "larger than 65536 bytes"),
}  # fmt: skip  # a table


def test_incident_16_what_cannot_be_used_goes_to_the_dead_letters_whole_and_what_is_behind_it_is_handled(
    server: Any, redis: Any, start_daemon: StartDaemon
) -> None:
    start_daemon()
    ids = feed(redis, *(entry for entry, _ in UNUSABLE.values()))
    raw = server.client(decode_responses=False)
    letters = {}
    for _, fields in raw.xrange(REJECTED):
        letters[fields[b"id"].decode()] = fields
    for entry_id, (entry, reason) in zip(ids, UNUSABLE.values(), strict=True):
        letter = letters.pop(entry_id)
        assert letter.pop(b"stream").decode() == "quantum:stream:execution.result"
        assert letter.pop(b"reason").decode().startswith(reason)
        del letter[b"id"]
        assert letter == {as_bytes(name): as_bytes(value) for name, value in entry.items()}
    assert not letters

    feed(redis, fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450"), {"bad": "entry"}, tick("ETHUSDT", "2526"))
    assert len(harvests(redis)) == 1
    assert redis.xlen(REJECTED) == len(UNUSABLE) + 1


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def test_a_dead_letter_with_thousands_of_fields_keeps_them_all(redis: Any, start_daemon: StartDaemon) -> None:
    start_daemon()
    entry = {f"name{number}": str(number) for number in range(3000)}
    feed(redis, entry)
    [(_, letter)] = redis.xrange(REJECTED)
    assert letter.pop("reason") == "no status"
    del letter["id"], letter["stream"]
    further = json.loads(letter.pop("further_fields"))
    assert letter | dict(zip(further[::2], further[1::2], strict=True)) == entry


def test_a_batch_of_oversized_entries_is_passed_with_its_dead_letters_cut(
    redis: Any, start_daemon: StartDaemon
) -> None:
    """Whole, they would exceed what the server takes in one command, and nobody would ever get past them."""
    limit = redis.config_get("client-query-buffer-limit")["client-query-buffer-limit"]
    redis.config_set("client-query-buffer-limit", 4 * 1024 * 1024)
    try:
        for _ in range(40):
            redis.xadd(EXECUTIONS, {"note": b"x" * 200_000})
        start_daemon(HARVEST_BATCH_SIZE="40")
        wait_until(lambda: redis.xlen(REJECTED) == 40, what="the dead letters")
    finally:
        redis.config_set("client-query-buffer-limit", limit)
    for _, letter in redis.xrange(REJECTED):
        assert letter["reason"] == "larger than 65536 bytes"
        assert letter["cut"] == "of 200004 bytes the first 81920 are here"
        assert letter["note"] == "x" * 81_916


def test_a_backlog_of_huge_entries_does_not_have_to_fit_in_memory(redis: Any, start_daemon: StartDaemon) -> None:
    """Else the service manager ends the daemon for it, and again at the next start, for ever."""
    huge = b"x" * 1024 * 1024
    for _ in range(300):
        redis.xadd(EXECUTIONS, {"note": huge})
    daemon = start_daemon(HARVEST_BATCH_SIZE="2000")
    wait_until(lambda: redis.xlen(REJECTED) == 300, what="the dead letters")
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib < 200 * 1024


def test_statuses_that_mean_nothing_here_are_counted_and_passed_over(redis: Any, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    feed(redis, *({"symbol": "ETHUSDT", "status": status} for status in ("skipped_low_confidence", "DREAMING", "NEW")))
    assert not redis.exists(REJECTED)
    wanted = {"status:SKIPPED_LOW_CONFIDENCE": 1, "status:DREAMING": 1, "status:NEW": 1}
    wait_until(lambda: wanted.items() <= daemon.status()["counts"].items(), what="the counts in status.json")


def test_incident_07_a_fill_that_comes_again_is_applied_once_also_after_a_restart(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(HARVEST_LEASE_SEC="2")
    once = fill("ETHUSDT", "BUY", "1", "2500", fill_id="F1", order_id="A1")
    feed(redis, once, once)
    daemon.kill()
    daemon.start().wait_for(role="leader")
    feed(redis, once, fill("ETHUSDT", "BUY", "1", "2500", fill_id="F2", order_id="A1"))
    held = position(redis, "ETHUSDT")
    assert held is not None
    assert Decimal(held["qty"]) == 2


def test_overrides_of_a_symbol_hold_for_it_alone_and_a_bad_value_refuses_itself_alone(
    redis: Any, start_daemon: StartDaemon
) -> None:
    redis.hset("quantum:config:harvest:ETHUSDT", mapping={"ladder": "0.2:0.5", "min_r": "0.1", "qty_step": "zero"})
    daemon = start_daemon()
    for symbol in ("ETHUSDT", "BTCUSDT"):
        feed(redis, fill(symbol, "BUY", "1", "100", stop_loss="90"), tick(symbol, "102"))
    [suggestion] = harvests(redis)
    assert (suggestion["symbol"], suggestion["qty"], suggestion["rungs"]) == ("ETHUSDT", Decimal("0.5"), ["0.2"])
    wait_until(lambda: "overrides of ETHUSDT refused: qty_step='zero'" in daemon.log())


def test_overrides_that_are_no_hash_are_said_and_are_as_if_there_were_none(
    redis: Any, start_daemon: StartDaemon
) -> None:
    redis.set("quantum:config:harvest:ETHUSDT", "ladder")
    daemon = start_daemon()
    feed(redis, fill("ETHUSDT", "BUY", "1", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
    assert len(harvests(redis)) == 1
    assert redis.get("quantum:config:harvest:ETHUSDT") == "ladder"
    wait_until(lambda: "overrides of ETHUSDT refused: quantum:config:harvest:ETHUSDT is no hash" in daemon.log())


def test_a_market_price_stream_is_read_from_now_on_and_only_the_newest_price_of_a_symbol_counts(
    redis: Any, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(STREAM_MARKET_PRICE=MARKET)
    feed(redis, fill("ETHUSDT", "BUY", "1", "2500", sl="2450"), fill("BTCUSDT", "SELL", "1", "2500", sl="2550"))
    daemon.stop()
    redis.xadd(MARKET, {"symbol": "ETHUSDT", "price": "2575"})
    daemon.start().wait_for(role="leader")
    stays(lambda: not redis.exists(SUGGESTIONS), 1)

    pipeline = redis.pipeline()
    for bid in range(2400, 2526):
        pipeline.xadd(MARKET, {"symbol": "ETHUSDT", "bid": str(bid), "ask": str(bid + 2), "timestamp": now_ms()})
        pipeline.xadd(MARKET, {"symbol": "BTCUSDT", "price": str(5000 - bid - 1)})
    pipeline.execute()
    wait_until(lambda: len(harvests(redis)) == 2)
    assert {i["symbol"]: (i["side"], i["price"]) for i in harvests(redis)} == {
        "ETHUSDT": ("SELL", Decimal("2526.0")), "BTCUSDT": ("BUY", Decimal("2474.0")),
    }  # fmt: skip
    # Read without a group, and no entry of the execution stream is counted for a tick.
    assert redis.xinfo_groups(MARKET) == []
    assert group_of(redis)["entries-read"] == 2


def test_a_bad_entry_of_the_market_price_stream_is_a_dead_letter_also_while_there_is_a_backlog(
    redis: Any, start_daemon: StartDaemon
) -> None:
    start_daemon(STREAM_MARKET_PRICE=MARKET, HARVEST_BATCH_SIZE="1")
    pipeline = redis.pipeline(transaction=True)
    for _ in range(100):
        pipeline.xadd(EXECUTIONS, tick("ETHUSDT", "2526"))
    pipeline.xadd(MARKET, {"symbol": "ETHUSDT", "price": "-1"})
    bad = pipeline.execute()[-1]
    wait_until(lambda: redis.xlen(REJECTED) == 1, what="the dead letter")
    [(_, letter)] = redis.xrange(REJECTED)
    assert (letter["stream"], letter["id"]) == (MARKET, bad)


def test_a_bad_entry_of_the_market_price_stream_is_a_dead_letter_of_that_stream(
    redis: Any, start_daemon: StartDaemon
) -> None:
    start_daemon(STREAM_MARKET_PRICE=MARKET)
    bad = redis.xadd(MARKET, {"symbol": "ETHUSDT", "price": "-1"})
    wait_until(lambda: redis.xlen(REJECTED) == 1)
    [(_, letter)] = redis.xrange(REJECTED)
    assert letter == {"stream": MARKET, "id": bad, "reason": "price -1 is not above 0", "symbol": "ETHUSDT",
                      "price": "-1"}  # fmt: skip
