"""Whether memory stays flat: the real daemon in live mode, under a steady load in which positions come and go.

    python -m tests.bench.soak [--seconds 3600] [--rate 400] [--record FILE]

Every position is opened, runs through the ladder, has its orders filled and is closed; symbols come back, order ids
never do. The stream is trimmed behind the reader, as a trader's would be. The slope of the daemon's memory is the
least-squares line over the samples after the warm-up, with its standard error; a slope that is surely above a mebibyte
an hour is a leak and ends with 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.memory import resident_mib, slope_of
from tests.support.daemon import DaemonProcess
from tests.support.server import ProcessServer

STREAM = "quantum:stream:execution.result"
ORDERS = "quantum:stream:trade.intent"
KEPT = 20_000  # entries of each stream
SAMPLE_SEC = 5.0
LEAK_MIB_PER_HOUR = 1.0
SYMBOLS = 200
WARM_UP = 0.25  # of the run


def life_of(symbol: str, number: int, chance: random.Random) -> Iterator[dict[str, str]]:
    """The entries of one position from its opening fill to the one that closes what is left."""
    sign = chance.choice((1, -1))
    buy, sell = ("BUY", "SELL") if sign > 0 else ("SELL", "BUY")
    order = {"order_id": f"open-{symbol}-{number}", "fill_id": f"f-{symbol}-{number}"}
    yield {"side": buy, "qty": "1", "price": "100", "status": "FILLED", "stop_loss": str(100 - 2 * sign), **order}
    price = 100.0
    for goal in (101.2, 102.3, 103.4):
        while (price - 100) * sign < goal - 100:
            price += sign * chance.uniform(-0.1, 0.2)
            yield {"price": f"{price:.3f}", "status": "PRICE_UPDATE"}
    # Closed by the trader with what the three harvests have left of it.
    closing = {"order_id": f"close-{symbol}-{number}", "fill_id": f"c-{symbol}-{number}"}
    yield {"side": sell, "qty": "0.25", "price": f"{price:.3f}", "status": "FILLED", **closing}


def filled(payload: dict[str, Any], number: int) -> dict[str, str]:
    """The exchange's answer to an order."""
    return {
        **{name: str(payload[name]) for name in ("symbol", "side", "qty", "price", "correlation_id")},
        "status": "FILLED",
        "fill_id": f"h-{number}",
        "order_id": f"x-{number}",
    }


class Load:
    """Feeds the stream at a steady rate and fills every order that comes out."""

    def __init__(self, client: Any, rate: int, seed: int) -> None:
        self._client, self._rate, self._chance = client, rate, random.Random(seed)
        self._lives = {f"S{n}USDT": self._endless(f"S{n}USDT") for n in range(SYMBOLS)}
        self._turn = itertools.cycle(self._lives)
        self._seen, self._answers, self.entries, self.orders = "0-0", itertools.count(), 0, 0

    def _endless(self, symbol: str) -> Iterator[dict[str, str]]:
        for number in itertools.count():
            yield from life_of(symbol, number, self._chance)

    def step(self, seconds: float) -> None:
        """As many entries as are due after `seconds` since the last step."""
        pipe = self._client.pipeline(transaction=False)
        for symbol in itertools.islice(self._turn, round(self._rate * seconds)):
            self._add(pipe, {"symbol": symbol, **next(self._lives[symbol])})
        for _, found in self._client.xread({ORDERS: self._seen}, count=1000) or ():
            for entry_id, fields in found:
                self._seen, self.orders = entry_id, self.orders + 1
                self._add(pipe, filled(json.loads(fields["payload"]), next(self._answers)))
        pipe.xtrim(ORDERS, maxlen=KEPT, approximate=True)
        pipe.execute()

    def _add(self, pipe: Any, fields: dict[str, str]) -> None:
        self.entries += 1
        pipe.xadd(STREAM, fields, maxlen=KEPT, approximate=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=int, default=400, help="entries per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="file for the result as JSON")
    options = parser.parse_args()
    settings = {"HARVEST_MODE": "live", "HARVEST_MAX_ACTIONS_PER_MIN": "10000", "LOG_LEVEL": "WARNING"}
    with (
        ProcessServer(("--appendonly", "yes")) as server,
        server.client() as client,
        DaemonProcess(server.settings() | settings) as daemon,
    ):
        client.set("quantum:kill", "0")
        load = Load(client, options.rate, options.seed)
        samples: list[tuple[float, float]] = []
        began = last = time.monotonic()
        while (now := time.monotonic()) - began < options.seconds:
            load.step(now - last)
            last = now
            if not samples or now - began - samples[-1][0] >= SAMPLE_SEC:
                samples.append((now - began, resident_mib(daemon.pid)))
            time.sleep(0.1)
        status = daemon.status()
        settled = [sample for sample in samples if sample[0] >= WARM_UP * options.seconds]
        slope, error = slope_of(settled)
        result = {
            "seconds": round(options.seconds),
            "entries": load.entries,
            "orders": load.orders,
            "lag_at_the_end": status["lag"],
            "errors": status["errors"],
            "resident_mib": {"first": samples[0][1], "settled": settled[0][1], "last": samples[-1][1]},
            "samples": len(samples),
            "slope_mib_per_hour": round(slope * 3600, 3),
            "standard_error": round(error * 3600, 3),
        }
    print(json.dumps(result))
    if options.record:
        options.record.write_text(json.dumps(result, indent=1) + "\n")
    return int((slope - 2 * error) * 3600 > LEAK_MIB_PER_HOUR)


if __name__ == "__main__":
    sys.exit(main())
