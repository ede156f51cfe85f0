"""How fast the daemon works off a backlog, and in how much memory.

    python -m tests.bench.backlog [--entries 1000000] [--symbols 500] [--record FILE]

Fills a private Redis with fills and prices, then runs the real daemon until nothing waits. The machine's own speed is
measured in the same run as what a bare reader does that takes the same entries over the same socket and throws them
away; the ratio of the two is the figure to compare between machines and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from harvest_brain.ops.demo.processes import server_program
from tests.bench.memory import resident_mib

STREAM = "quantum:stream:execution.result"
GROUP = "harvest_brain_group"


def fill_stream(client: redis.Redis, entries: int, symbols: int, seed: int) -> None:
    """One long position per symbol, then prices that wander, with a fill in twenty."""
    chance = random.Random(seed)
    names = [f"SYM{number}USDT" for number in range(symbols)]
    prices = dict.fromkeys(names, 100.0)
    start_ms = int(time.time() * 1000) - 10 * entries
    pipeline = client.pipeline(transaction=False)
    for number in range(entries):
        symbol = names[number] if number < symbols else chance.choice(names)
        prices[symbol] *= 1 + chance.gauss(0, 0.0005)
        entry: dict[str, str | int] = {"symbol": symbol, "timestamp": start_ms + 10 * number}
        if number < symbols:
            entry |= {"side": "BUY", "qty": "1.0", "price": "100", "status": "FILLED", "stop_loss": "98"}
        elif number % 20 == 0:
            entry |= {"side": chance.choice(["BUY", "SELL"]), "qty": "0.1", "status": "FILLED"}
            entry |= {"price": f"{prices[symbol]:.4f}", "order_id": f"order-{number}"}
        else:
            entry |= {"price": f"{prices[symbol]:.4f}", "status": "PRICE_UPDATE"}
        pipeline.xadd(STREAM, entry)  # type: ignore[arg-type]  # redis-py's field type is invariant
        if number % 5000 == 4999:
            pipeline.execute()
    pipeline.execute()


def bare_read(client: redis.Redis, entries: int) -> float:
    """Entries per second of reading and throwing away."""
    call: Any = client.execute_command
    began, cursor, count = time.perf_counter(), b"0-0", 0
    while count < entries:
        [[_, found]] = call("XREAD", "COUNT", 1000, "STREAMS", STREAM, cursor)
        count, cursor = count + len(found), found[-1][0]
    return count / (time.perf_counter() - began)


def run_daemon(client: redis.Redis, socket: Path, entries: int) -> tuple[float, list[float]]:
    """Entries per second from start to no lag, start-up included, and the daemon's memory along the way."""
    environment = {"PATH": os.environ["PATH"], "REDIS_SOCKET": str(socket), "LOG_LEVEL": "WARNING"}
    began = time.perf_counter()
    daemon = subprocess.Popen([sys.executable, "-m", "harvest_brain", "run"], env=environment)
    memory: list[float] = []
    try:
        while True:
            time.sleep(0.05)
            if daemon.poll() is not None:
                raise SystemExit(f"the daemon ended with {daemon.returncode}")
            groups = client.xinfo_groups(STREAM)
            done = groups[0]["entries-read"] if groups else 0
            if len(memory) < 20 * done // entries:
                memory.append(resident_mib(daemon.pid))
            if done == entries:
                return entries / (time.perf_counter() - began), memory
    finally:
        daemon.terminate()
        daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="file for the result as JSON")
    options = parser.parse_args()
    server, origin = server_program()
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "redis.sock")
        process = subprocess.Popen(
            [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not socket.exists():
                time.sleep(0.05)
            client = redis.Redis(unix_socket_path=str(socket), protocol=2)
            fill_stream(client, options.entries, options.symbols, options.seed)
            bare = bare_read(client, options.entries)
            rate, memory = run_daemon(client, socket, options.entries)
        finally:
            process.terminate()
            process.wait()
    result = {
        "entries": options.entries,
        "symbols": options.symbols,
        "server": origin,
        "daemon_entries_per_s": round(rate),
        "bare_read_entries_per_s": round(bare),
        "ratio": round(rate / bare, 3),
        "daemon_memory_mib": memory,
    }
    print(json.dumps(result))
    if options.record:
        options.record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
