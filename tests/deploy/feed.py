"""Fills that flow while a host is deployed to, and the count afterwards: nothing twice, nothing lost.

    feed.py run       open a position every second, long and short in turn, and repeat the prices of the young ones at
                      0.55 R, until told to stop
    feed.py check     give every position a last fresh price, wait until it is read, and count: one harvest each
    feed.py twice     count in both modes' streams: no position was harvested twice

Runs on the deployed host with nothing but Python, so it speaks Redis's protocol itself. REDIS_SOCKET or REDIS_PORT says
where; REDIS_PASSWORD_FILE holds the password of the default user.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

EXECUTIONS = "quantum:stream:execution.result"
SUGGESTIONS = "quantum:stream:harvest.suggestions"
ORDERS = "quantum:stream:trade.intent"
REJECTED = "quantum:stream:harvest.rejected"
GROUP = "harvest_brain_group"
OPENED = "feed:opened"
YOUNG_SEC = 45
STALE_SEC = 30
WAIT_SEC = 240


class Redis:
    """A connection that sends one command and reads its reply. An error reply raises `RuntimeError`; a Redis that goes
    away, or has only just come, `OSError`."""

    def __init__(self) -> None:
        path = os.environ.get("REDIS_SOCKET", "")
        if path:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(path)
        else:
            self._socket = socket.create_connection(("127.0.0.1", int(os.environ.get("REDIS_PORT", "6379"))))
        self._file = self._socket.makefile("rb")
        if password_file := os.environ.get("REDIS_PASSWORD_FILE"):
            self("AUTH", Path(password_file).read_text().strip())

    def __call__(self, *words: object) -> object:
        parts = [str(word).encode() for word in words]
        head = f"*{len(parts)}\r\n".encode()
        self._socket.sendall(head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self._reply()

    def _reply(self) -> object:
        line = self._file.readline().rstrip(b"\r\n").decode()
        kind, rest = line[:1], line[1:]
        if not line or rest.startswith("LOADING"):
            raise ConnectionError(rest or "Redis has hung up")
        if kind == "-":
            raise RuntimeError(rest)
        if kind == "$":
            return None if rest == "-1" else self._file.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self._reply() for _ in range(int(rest))]
        return int(rest) if kind == ":" else rest

    def list(self, *words: object) -> list[object]:
        """The reply to a command whose reply is a list."""
        reply = self(*words)
        assert isinstance(reply, list), reply
        return reply


def price(redis: Redis, symbol: str) -> str:
    """A price at 0.55 R, which is above the first rung and below the second. The entry's id."""
    at = "101.1" if "L" in symbol else "98.9"
    return str(redis("XADD", EXECUTIONS, "*", "symbol", symbol, "status", "PRICE_UPDATE", "price", at))


def fill(redis: Redis, number: int) -> str:
    """Open that position; its symbol. Twice is a repeat of the same fill."""
    symbol = f"{'LS'[number % 2]}{number:05d}USDT"
    side, stop_loss = ("BUY", "98") if symbol.startswith("L") else ("SELL", "102")
    redis("SADD", OPENED, symbol)
    redis(
        "XADD", EXECUTIONS, "*", "symbol", symbol, "side", side, "qty", "1", "price", "100", "status", "FILLED",
        "stop_loss", stop_loss, "order_id", symbol,
    )  # fmt: skip  # pairs of name and value
    return symbol


def run() -> None:
    """Feed until SIGTERM. While Redis is away it waits."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    redis: Redis | None = None
    number = 0
    young: dict[str, float] = {}
    while not stop:
        try:
            redis = redis or Redis()
            number = number or int(str(redis("SCARD", OPENED))) + 1
            young[fill(redis, number)] = time.monotonic()
            number += 1
            young = {name: born for name, born in young.items() if time.monotonic() - born < YOUNG_SEC}
            for name in young:
                price(redis, name)
        except OSError:
            redis = None
        time.sleep(1)


def passed(redis: Redis, entry_id: str) -> bool:
    """Whether the daemon has taken that entry in. (That nothing waits at all is rare while fills flow.)"""
    for group in redis.list("XINFO", "GROUPS", EXECUTIONS):
        assert isinstance(group, list)
        fields = dict(zip(group[::2], group[1::2], strict=True))
        if fields["name"] == GROUP:
            return place(str(fields["last-delivered-id"])) >= place(entry_id)
    return False


def place(entry_id: str) -> tuple[int, ...]:
    """Of an entry in its stream."""
    return tuple(int(part) for part in entry_id.split("-"))


def harvests(redis: Redis, stream: str = SUGGESTIONS) -> Counter[str]:
    """How many harvests came out on the stream, by symbol."""
    found: Counter[str] = Counter()
    for entry in redis.list("XRANGE", stream, "-", "+"):
        assert isinstance(entry, list)
        assert isinstance(entry[1], list)
        payload = json.loads(dict(zip(entry[1][::2], entry[1][1::2], strict=True))["payload"])
        if payload["intent_type"] in ("HARVEST_PARTIAL", "REDUCE_ONLY"):
            found[payload["symbol"]] += 1
    return found


def check() -> str:
    """Count. Raises `SystemExit` with what is wrong."""
    redis = Redis()
    opened = {str(symbol) for symbol in redis.list("SMEMBERS", OPENED)}
    if not opened:
        raise SystemExit("no position at all")
    until = time.monotonic() + WAIT_SEC
    missing, again = opened, 0.0
    while missing and time.monotonic() < until:
        # At first every position gets one, so that a second harvest would show. A slow daemon may find it too old.
        if time.monotonic() >= again:
            last = [price(redis, symbol) for symbol in missing][-1]
            again = time.monotonic() + STALE_SEC
        while not (through := passed(redis, last)) and time.monotonic() < until:
            time.sleep(0.2)
        missing = opened - set(harvests(redis))
        time.sleep(0.5)
    faults = [
        *([] if through else [f"{last} is not read yet"]),
        *([f"{redis('XLEN', REJECTED)} entries rejected"] if redis("XLEN", REJECTED) != 0 else []),
        *([f"nothing for {sorted(missing)[:5]}"] if missing else []),
        *(f"{count} times for {symbol}" for symbol, count in harvests(redis).items() if count > 1),
    ]
    if faults:
        raise SystemExit("; ".join(faults))
    return f"{len(opened)} positions, one harvest each"


def check_twice() -> str:
    """Count what came out in shadow and live together. Raises `SystemExit` with what is wrong."""
    redis = Redis()
    shadow, live = harvests(redis), harvests(redis, ORDERS)
    if twice := [symbol for symbol, count in (shadow + live).items() if count > 1]:
        raise SystemExit(f"more than once: {twice[:5]}")
    if not shadow or not live:
        raise SystemExit(f"{len(shadow)} suggestions, {len(live)} orders")
    return f"{len(shadow)} suggestions, {len(live)} orders, none of them twice"


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run()
    else:
        print(check() if sys.argv[1] == "check" else check_twice())
