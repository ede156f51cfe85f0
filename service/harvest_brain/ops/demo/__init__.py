"""`harvest-brain demo`: the whole loop on one machine within a minute, with nothing real at stake.

A private Redis, the daemon as a process of its own, a market, a paper exchange and an operator who throws
the kill-switch and lifts it. At the end: a summary that is computed from what was on the streams, checks of
it, and a picture.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from harvest_brain.ops.demo.exchange import Exchange, Venue
from harvest_brain.ops.demo.ledger import Happening, Ledger
from harvest_brain.ops.demo.market import InputError, Market, from_csv, seeded
from harvest_brain.ops.demo.picture import Caption, draw
from harvest_brain.ops.demo.processes import NAMESPACE, STATE_KEY, Stage, StageError
from harvest_brain.ops.demo.screen import Scene, Screen
from harvest_brain.ops.demo.summary import Summary, heading, summarise, told

KILL_AT, ARM_AT = 0.40, 0.57  # shares of the run: the long crosses 1 R between them
LEAST_ON_SEC = 1.0  # however long the command took on a slow machine
KILL_REASON = "the demo's operator wants to look first"
SHORTEST, LONGEST = 12, 52  # seconds
FRAME_MS = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED, SAME_BOOK = "the daemon stopped cleanly when told to", "the daemon's book ends as the exchange's"


class Operator(threading.Thread):
    """Throws the kill-switch and lifts it, with the commands that a person would use."""

    def __init__(self, stage: Stage, ledger: Ledger, seconds: float) -> None:
        super().__init__(name="operator", daemon=True)
        self.error: Exception | None = None
        self.halt = threading.Event()
        self.switch = ""
        self.band: tuple[float, float] | None = None
        self.span: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._stage, self._ledger, self._seconds = stage, ledger, seconds

    def run(self) -> None:
        started = time.monotonic()
        try:
            db = self._stage.connect()
            if self.halt.wait(KILL_AT * self._seconds):
                return
            self._stage.command("kill", "--reason", KILL_REASON)
            since, on = self._ledger.last_output(db), time.monotonic() - started
            self.switch = KILL_REASON
            self._note(on, f"harvest-brain kill --reason '{KILL_REASON}'")
            if self.halt.wait(max(ARM_AT * self._seconds - on, LEAST_ON_SEC)):
                return
            self.span = since, self._ledger.last_output(db)
            off = time.monotonic() - started
            self.band = round(on, 1), round(off, 1)
            # Said before it is done: what is due comes at once, before the command has ended.
            self._note(off, "harvest-brain arm lifts the kill-switch")
            self._stage.command("arm")
            self.switch = ""
        except Exception as error:  # noqa: BLE001  # told by the main thread, which ends the demo
            self.error = error

    def _note(self, at: float, text: str) -> None:
        self._ledger.happenings.append(Happening(at, "", "bad", text))


def main(argv: list[str]) -> int:
    """0: everything held. 1: a check failed, or the demo couldn't run. 2: bad input. 130: interrupted."""
    options = _options(argv)
    quiet = options.json
    try:
        market = from_csv(options.trades, options.symbol, options.seconds) if options.trades else None
        market = market or seeded(options.seed, options.seconds)
        _must_be_writable(options.picture)
    except InputError as fault:
        print(f"harvest-brain demo: {fault}", file=sys.stderr)
        return 2
    try:
        with Interruption() as interruption, Stage(market, options.live) as stage:
            summary, picture = _perform(stage, market, options, Screen(sys.stdout, quiet), interruption)
    except StageError as fault:
        print(f"harvest-brain demo: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("harvest-brain demo: stopped; nothing is left running", file=sys.stderr)
        return 130
    try:
        options.picture.write_text(picture, encoding="utf-8")
    except OSError as fault:
        print(f"harvest-brain demo: --picture {options.picture}: {fault.strerror}", file=sys.stderr)
        return 1
    print(json.dumps(summary, indent=2) if quiet else told(summary))
    return 0 if all(check["ok"] for check in summary["checks"]) else 1


def _must_be_writable(picture: Path) -> None:
    try:
        possible = picture.resolve().parent.is_dir() and not picture.is_dir()
    except OSError as fault:
        raise InputError(f"--picture {picture}: {fault.strerror}") from None
    if not possible:
        raise InputError(f"--picture {picture}: there is no such directory, or it is one")


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="harvest-brain demo", description=__doc__.split("\n")[0].split(": ")[1])
    parser.add_argument("--live", action="store_true", help="live mode, on the paper exchange (default: shadow)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the market and of the exchange (default 1)"
    )
    parser.add_argument(
        "--trades",
        type=Path,
        metavar="FILE",
        help="real trades instead: CSV (or .csv.gz) of timestamp, price, quantity",
    )
    parser.add_argument("--symbol", default="TRADES", help="what to call the symbol of --trades (default TRADES)")
    parser.add_argument("--seconds", type=float, default=36, metavar="S", help="length of the market (default 36)")
    parser.add_argument(
        "--picture", type=Path, default=Path("harvest-brain-demo.svg"), metavar="FILE", help="SVG to write"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the summary, as JSON")
    options = parser.parse_args(argv)
    if not SHORTEST <= options.seconds <= LONGEST:
        parser.error(f"--seconds {options.seconds:g}: from {SHORTEST} to {LONGEST}")
    if not (options.symbol.isascii() and options.symbol.isalnum() and len(options.symbol) <= 20):
        parser.error(f"--symbol {options.symbol!r}: up to 20 letters and digits")
    return options


class Interruption:
    """Within it, the first of SIGNALS raises `KeyboardInterrupt`; a second one doesn't disturb the tidying up.

    Python swallows what a signal raises inside a destructor or a callback of the garbage collector. So the signal is
    remembered as well, and `check` raises what was lost.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._interrupt) for number in SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises `KeyboardInterrupt` when a signal has come."""
        if self._came:
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if not self._came:
            self._came = True
            raise KeyboardInterrupt


def _perform(
    stage: Stage, market: Market, options: argparse.Namespace, screen: Screen, interruption: Interruption
) -> tuple[Summary, str]:
    """The run from the first price to the last answer."""
    stage.command("arm")  # in live mode nothing is published before somebody has said so
    db = stage.connect()
    ledger = Ledger(NAMESPACE, _server_ms(db), market.plans)
    exchange = Exchange(options.seed, market.qty_step, market.price_tick)
    venue = Venue(stage.connect(), NAMESPACE, market, options.seconds, exchange)
    operator = Operator(stage, ledger, options.seconds)
    screen.say(f"HarvestBrain demo, {'live' if options.live else 'shadow'}: {market.name}; {stage.server_name}")
    started = time.monotonic()
    venue.start()
    operator.start()
    try:
        with screen:
            while venue.is_alive():
                interruption.check()
                ledger.read(db, FRAME_MS)
                _sound(stage, venue, operator)
                now = time.monotonic() - started
                screen.show(
                    Scene(options.live, stage.server_name, market.name, now, options.seconds, operator.switch),
                    ledger,
                )
    finally:
        for thread in (venue, operator):
            thread.halt.set()
        for thread in (venue, operator):
            thread.join()
    _sound(stage, venue, operator)
    code = stage.stop_daemon()
    while ledger.read(db, FRAME_MS):
        pass
    if operator.span:
        ledger.span(*operator.span)
    faults = ledger.faults | {
        STOPPED: [] if code == 0 else [f"exit code {code}", stage.daemon_log(5)],
        SAME_BOOK: _compare(db, exchange),
    }
    summary = {
        "mode": "live" if options.live else "shadow",
        "market": market.name,
        "redis": stage.server_name,
        "seconds": options.seconds,
        "quote": market.quote,
        "kill_switch": operator.band and {"on_sec": operator.band[0], "off_sec": operator.band[1]},
        **summarise(ledger, options.live, faults),
        "picture": str(options.picture),
    }
    title, line = heading(summary)
    return summary, draw(ledger, Caption(title, line, market.quote, options.live, operator.band))


def _sound(stage: Stage, venue: Venue, operator: Operator) -> None:
    """Raises `StageError` when one of the players is gone."""
    for error in (venue.error, operator.error):
        if error is not None:
            raise StageError(f"the demo broke: {type(error).__name__}: {error}") from error
    if stage.daemon is not None and stage.daemon.poll() is not None:
        raise StageError(f"the daemon ended with {stage.daemon.returncode}; its log says:\n{stage.daemon_log(20)}")


def _server_ms(db: Any) -> int:
    seconds, micros = db.time()
    return int(seconds * 1000 + micros // 1000)


def _compare(db: Any, exchange: Exchange) -> list[str]:
    """Positions of which the daemon's state and the exchange don't tell the same size."""
    stored = {name: json.loads(text) for name, text in db.hgetall(STATE_KEY).items() if not name.startswith("_")}
    daemon = {name: Decimal(position["qty"]) for name, position in stored.items() if Decimal(position["qty"])}
    held = {symbol: holding.sign * holding.qty for symbol, holding in exchange.holdings.items()}
    return [
        f"{symbol}: {daemon.get(symbol, 0)}, the exchange holds {held.get(symbol, 0)}"
        for symbol in sorted(daemon.keys() | held.keys())
        if daemon.get(symbol) != held.get(symbol)
    ]
