"""What a person sees while it runs: a table that is redrawn in a terminal, lines where there is none."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from decimal import Decimal
from typing import Self, TextIO

from harvest_brain.core.policy import parse_ladder
from harvest_brain.ops.demo.ledger import Epoch, Happening, Ledger, number
from harvest_brain.ops.demo.processes import LADDER

ENTER, LEAVE, HOME, CLEAR_REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"
CLEAR_LINE = "\x1b[K"
STYLES = {
    "dim": "2",
    "bold": "1",
    "good": "32",
    "bad": "31",
    "alarm": "1;37;41",
    "intent": "1;36",
    "fill": "32",
    "stop": "33",
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
BARS = "▁▂▃▄▅▆▇█"
RUNGS = tuple(rung.level for rung in parse_ladder(LADDER))
PLAIN_TABLE_SEC = 5
PLAIN_COLUMNS = 120  # of a line where there is no terminal
# The table up to the rungs fits into 80 columns; up to what was harvested it has these; the path takes what is left.
TAKEN_END, SHORTEST_PATH, LONGEST_PATH = 89, 8, 60
LEGEND = "● done  ◐ due  ○ to come"


@dataclass(frozen=True)
class Scene:
    """What stands above the table."""

    live: bool
    server: str
    market: str
    at: float
    seconds: float
    switch: str  # empty, or why the kill-switch is on


def paint(style: str, text: str) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style in STYLES and not os.environ.get("NO_COLOR") else text


class Screen:
    """A context. Nothing is written when `quiet`."""

    def __init__(self, out: TextIO, quiet: bool) -> None:
        self._out, self._quiet = out, quiet
        self._redraws = not quiet and out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._told = 0
        self._next_table = 0.0
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="replace")

    def __enter__(self) -> Self:
        self._write(ENTER if self._redraws else "")
        return self

    def __exit__(self, *_: object) -> None:
        self._write(LEAVE if self._redraws else "")

    def say(self, text: str) -> None:
        """A line that stays, before or after the table."""
        self._write(text + "\n")

    def show(self, scene: Scene, ledger: Ledger) -> None:
        if self._redraws:
            columns, rows = shutil.get_terminal_size()
            lines = [*_head(scene), "", *_table(ledger, scene, columns), ""]
            room = max(rows - len(lines) - 1, 1)
            lines += [_line(happening) for happening in ledger.happenings[-room:]]
            text = "".join(f"{_clip(line, columns)}{CLEAR_LINE}\n" for line in lines[: rows - 1])
            self._write(HOME + text + CLEAR_REST)
        elif not self._quiet:
            for happening in ledger.happenings[self._told :]:
                self.say(ANSI.sub("", _line(happening)))
            self._told = len(ledger.happenings)
            if scene.at >= self._next_table:
                self._next_table = scene.at + PLAIN_TABLE_SEC
                for epoch in ledger.open.values():
                    row = _row(epoch, ledger, scene.at, PLAIN_COLUMNS)
                    self.say(f"{scene.at:5.1f} s  " + ANSI.sub("", row).rstrip())

    def _write(self, text: str) -> None:
        if not self._quiet and text:
            self._out.write(text)
            self._out.flush()


def _head(scene: Scene) -> list[str]:
    mode = paint("bad", "LIVE, on a paper exchange") if scene.live else paint("good", "SHADOW: suggestions only")
    done = min(int(20 * scene.at / scene.seconds), 20)
    bar = "━" * done + paint("dim", "━" * (20 - done))
    switch = f" KILL-SWITCH ON: {scene.switch} "
    return [
        f"{paint('bold', 'HarvestBrain demo')}  {mode}   {bar} {max(scene.at, 0):4.1f} s",
        paint("dim", f"{scene.market}; {scene.server}; the daemon is a process of its own"),
        paint("alarm", switch) if scene.switch else paint("good", "kill-switch off: publishing is allowed"),
    ]


def _table(ledger: Ledger, scene: Scene, columns: int) -> list[str]:
    """The positions; a narrow terminal does without the price path, a very narrow one without what was harvested."""
    stop, taken = ("stop", "harvested") if scene.live else ("sugg. stop", "suggested")
    head = f"{'symbol':8}{'side':5}{'size/peak':>11}{'entry':>11}{'price':>11}{stop:>11}{'R':>6} {'rungs (R)':14}"
    head += f"{taken:>11}" if columns >= TAKEN_END else ""
    if length := _path_length(columns):
        head += f"  {'price path'[:length]}"
    rows = [paint("dim", head)]
    latest = {epoch.symbol: epoch for epoch in ledger.epochs}
    for symbol in ledger.prices:
        if symbol in latest:
            rows.append(_row(latest[symbol], ledger, scene.at, columns))
        else:
            rows.append(f"{symbol[:7]:8}{paint('dim', 'no position yet')}")
    return [*rows, paint("dim", f"{LEGEND:>{min(columns, TAKEN_END)}}")]


def _path_length(columns: int) -> int:
    room = min(columns - TAKEN_END - 2, LONGEST_PATH)
    return room if room >= SHORTEST_PATH else 0


def _row(epoch: Epoch, ledger: Ledger, at: float, columns: int) -> str:
    path = ledger.prices[epoch.symbol]
    price = path[-1][1]
    r = epoch.r(price)
    fired = {rung for harvest in epoch.harvests for rung in harvest.rungs}
    best = epoch.r(epoch.best)
    rungs = " ".join(
        paint("intent", f"●{level}")
        if level in fired
        else paint("bad" if best >= level else "dim", f"{'◐' if best >= level else '○'}{level}")
        for level in RUNGS
    )
    taken = sum((h.qty for h in epoch.harvests if h.state != "rejected"), Decimal(0))
    size = f"{number(epoch.qty)}/{number(epoch.peak)}"
    numbers = f"{number(epoch.entry):>11}{number(price):>11}{number(epoch.stop_at(at)):>11}"
    body = f"{epoch.side:5}{size:>11}{numbers}" + paint("good" if r > 0 else "bad", f"{r:>+6.2f}")
    if epoch.closed is not None:
        body = paint("dim", f"{epoch.side:5}{'closed':>11}{number(epoch.entry):>11}{number(price):>11}{'':17}")
    row = f"{epoch.symbol[:7]:8}{body} {rungs}"
    if columns >= TAKEN_END:
        row += f"{number(taken):>11}"
    if length := _path_length(columns):
        row += f"  {_spark([p for _, p in path], length)}"
    return row


def _spark(prices: list[Decimal], length: int) -> str:
    """The whole path so far in at most `length` characters."""
    sample = prices[:: len(prices) // length + 1]
    low, high = min(sample), max(sample)
    return "".join(BARS[int((price - low) * 7 / (high - low))] if high > low else BARS[0] for price in sample)


def _line(happening: Happening) -> str:
    return f"{happening.at:5.1f} s  {happening.symbol[:7]:8}{paint(happening.kind, happening.text)}"


def _clip(line: str, columns: int) -> str:
    """At most `columns` visible characters, the last one saying that there were more; colours are kept."""
    if len(ANSI.sub("", line)) <= columns:
        return line
    room, parts = columns - 1, []
    for part in re.split(f"({ANSI.pattern})", line):
        if ANSI.fullmatch(part):
            parts.append(part)
        else:
            parts.append(part[:room])
            room -= len(parts[-1])
    return "".join([*parts, "…"])
