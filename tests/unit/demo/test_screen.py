"""The live table: right at every width, in colour or without, and lines where there is no terminal."""

from __future__ import annotations

import io
import os
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.demo.streams import Streams, enter, harvest, ledger_of, live_run, plan, price_at, shadow_run

from harvest_brain.ops.demo.ledger import Happening, Ledger
from harvest_brain.ops.demo.screen import ANSI, CLEAR_REST, ENTER, HOME, LEAVE, Scene, Screen, _clip, _spark, paint

SCENE = Scene(
    live=False, server="Redis 7.0.15 (redis-server on PATH)", market="seeded path", at=5.0, seconds=10.0, switch=""
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def open_long() -> Ledger:
    """A long at 0.7 R: its first rung is done, the second to come."""
    streams = Streams()
    enter(streams)
    harvest(streams)
    streams.price(5.0, "ETHUSDT", price_at("long", "0.7"))
    return ledger_of(streams)


def frame(ledger: Ledger, columns: int, rows: int = 40, scene: Scene = SCENE) -> list[str]:
    """The lines of one redraw, colours taken out."""
    out = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harvest_brain.ops.demo.screen.shutil.get_terminal_size", lambda: os.terminal_size((columns, rows))
        )
        Screen(out, quiet=False).show(scene, ledger)
    text = out.getvalue()
    assert text.startswith(HOME)
    assert text.endswith(CLEAR_REST)
    return [ANSI.sub("", line).removesuffix("\x1b[K") for line in text.removeprefix(HOME).split("\n")[:-1]]


# The table.


def test_eighty_columns_hold_everything_up_to_the_rungs() -> None:
    lines = frame(open_long(), 80)
    assert lines[0] == "HarvestBrain demo  SHADOW: suggestions only   ━━━━━━━━━━━━━━━━━━━━  5.0 s"
    assert lines[2] == "kill-switch off: publishing is allowed"
    assert lines[4:7] == [
        "symbol  side   size/peak      entry      price sugg. stop     R rungs (R)     ",
        "ETHUSDT long         1/1        100      101.4         98 +0.70 ●0.5 ○1.0 ○1.5",
        f"{'● done  ◐ due  ○ to come':>80}",
    ]
    assert lines[8] == "  1.0 s  ETHUSDT long 1 at 100, stop 98"


def test_a_wider_terminal_has_what_was_harvested_and_then_the_path() -> None:
    assert [line[78:] for line in frame(open_long(), 89)[4:6]] == ["  suggested", "       0.25"]
    head, row, *_ = (line[89:] for line in frame(open_long(), 120)[4:6])
    assert (head, row) == ("  price path", "  ▁█")
    assert all(len(line) <= 89 for line in frame(open_long(), 98)[4:6])


@given(
    st.integers(20, 260), st.integers(5, 60), st.booleans(), st.sampled_from(["", "the operator wants to look first"])
)
def test_no_line_is_longer_than_the_terminal_and_none_falls_off_its_end(
    columns: int, rows: int, live: bool, switch: str
) -> None:
    ledger = ledger_of(live_run() if live else shadow_run())
    ledger.happenings += [Happening(9.5, "ETHUSDT", "bad", "x" * 300)] * 70
    scene = Scene(live, "a server" * 30, "a market", 12.0, 10.0, switch)
    lines = frame(ledger, columns, rows, scene)
    assert max(map(len, lines)) <= columns
    assert len(lines) <= rows - 1


def test_what_is_cut_off_is_marked() -> None:
    assert frame(open_long(), 60)[1].endswith("…")
    assert _clip("abc", 3) == "abc"
    assert _clip("abcd", 3) == "ab…"
    assert _clip("\x1b[1mabcd\x1b[0m", 3) == "\x1b[1mab\x1b[0m…"
    assert _clip("\x1b[1mabc\x1b[0m", 3) == "\x1b[1mabc\x1b[0m"


def test_a_rung_that_is_crossed_and_not_published_is_due() -> None:
    streams = Streams()
    enter(streams)
    streams.price(5.0, "ETHUSDT", price_at("long", "1.2"))
    streams.price(5.1, "ETHUSDT", price_at("long", "0.1"))
    assert "◐0.5 ◐1.0 ○1.5" in frame(ledger_of(streams), 80)[5]


def test_a_closed_position_and_a_symbol_without_one_have_a_row() -> None:
    streams = shadow_run("short")
    streams.price(1.0, "BTCUSDT", "68000")
    rows = frame(ledger_of(streams, plan("short")), 80)[5:7]
    assert rows[0].startswith("ETHUSDT short     closed        100         98 ")
    assert rows[1] == "BTCUSDT no position yet"


def test_live_has_its_own_words_and_the_switch_is_an_alarm() -> None:
    scene = Scene(True, "s", "m", 5.0, 10.0, "news")
    lines = frame(open_long(), 120, scene=scene)
    assert "LIVE, on a paper exchange" in lines[0]
    assert lines[2] == " KILL-SWITCH ON: news "
    assert "       stop     R" in lines[4]
    assert "  harvested" in lines[4]


def test_the_newest_happenings_are_the_ones_that_stay() -> None:
    ledger = open_long()
    ledger.happenings += [Happening(n, "", "dim", f"event {n}") for n in range(50)]
    lines = frame(ledger, 80, rows=16)
    assert lines[-1].endswith("event 49")
    assert len(lines) == 15


@pytest.mark.parametrize(("prices", "picture"), [([1, 2, 3], "▁▄█"), ([5, 5], "▁▁"), ([3, 1], "█▁")])
def test_a_path_is_drawn_from_its_lowest_to_its_highest(prices: list[int], picture: str) -> None:
    assert _spark([Decimal(price) for price in prices], 24) == picture


@given(st.lists(st.decimals("0.01", "1e6", places=2), min_size=1, max_size=300), st.integers(8, 60))
def test_a_path_is_never_longer_than_its_room(prices: list[Decimal], length: int) -> None:
    assert 1 <= len(_spark(prices, length)) <= length


# The terminal.


def test_a_terminal_is_given_back_as_it_was() -> None:
    out = Terminal()
    with Screen(out, quiet=False) as shown:
        assert out.getvalue() == ENTER
        shown.show(SCENE, open_long())
    assert out.getvalue().endswith(LEAVE)


def test_a_terminal_is_given_back_after_an_error() -> None:
    out = Terminal()
    with pytest.raises(KeyboardInterrupt), Screen(out, quiet=False):
        raise KeyboardInterrupt
    assert out.getvalue() == ENTER + LEAVE


def test_no_color_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paint("good", "x") == "\x1b[32mx\x1b[0m"
    assert paint("no such style", "x") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("good", "x") == "x"


# Without a terminal.


def lines_of(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_without_a_terminal_each_happening_is_a_plain_line_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO() if kind == "pipe" else Terminal()
    if kind == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    ledger = open_long()
    with Screen(out, quiet=False) as shown:
        shown.say("begin")
        for at in (0.0, 0.1, 0.2):
            shown.show(Scene(False, "s", "m", at, 10.0, ""), ledger)
    assert lines_of(out) == [
        "begin",
        "  1.0 s  ETHUSDT long 1 at 100, stop 98",
        "  3.0 s  ETHUSDT suggests SELL 0.25: R=0.5 >= 0.5",
        "  0.0 s  ETHUSDT long         1/1        100      101.4         98 +0.70 ●0.5 ○1.0 ○1.5       0.25  ▁█",
    ]
    assert "\x1b" not in out.getvalue()


def test_without_a_terminal_the_table_comes_every_five_seconds() -> None:
    out = io.StringIO()
    ledger = open_long()
    ledger.happenings.clear()
    shown = Screen(out, quiet=False)
    for at in (0.0, 4.9, 5.0, 9.9, 10.1):
        shown.show(Scene(False, "s", "m", at, 20.0, ""), ledger)
    assert [re.split(" +", line)[1] for line in lines_of(out)] == ["0.0", "5.0", "10.1"]


def test_quiet_writes_nothing() -> None:
    for out in (io.StringIO(), Terminal()):
        with Screen(out, quiet=True) as shown:
            shown.say("x")
            shown.show(SCENE, open_long())
        assert out.getvalue() == ""


def test_a_stream_that_cannot_write_a_character_gets_another() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    Screen(out, quiet=False).say("● done")
    assert raw.getvalue() == b"? done\n"
