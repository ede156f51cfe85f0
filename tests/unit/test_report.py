"""What the daemon says of itself: status.json and the log."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harvest_brain.report import MAX_COUNTERS, Status, StatusFile, set_up_logging


def status(**changes: Any) -> Status:
    return Status(release="r1", version="0.1.0", mode="shadow", asked="live", consumer="host", **changes)


def read(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "status.json").read_text())
    return found


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    logger = logging.getLogger("harvest_brain")
    before = (logger.handlers, logger.level, logger.propagate)
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before


# status.json


def test_the_status_tells_all_that_is_promised(tmp_path: Path) -> None:
    told = status(
        role="leader",
        state="ready",
        schema=1,
        leader="host:1:abc",
        cursor="5-0",
        lag=3,
        last_commit=12.5,
        kill_switch="0",
        because="no token",
        durability=["the last second"],
        positions=2,
        reservations=2,
        unknown=["ETHUSDT: hb-1"],
        unpriced=["ETHUSDT"],
        evaluated=11.5,
        suspect=["BTCUSDT: why"],
        errors=1,
        last_error="gone",
    )
    told.count({"fill:applied": 2})
    before = time.time()
    StatusFile(str(tmp_path)).write(told)
    found = read(tmp_path)
    assert before <= found.pop("updated") <= time.time()
    assert before - 60 <= found.pop("started") <= time.time()
    assert found == {
        "release": "r1",
        "version": "0.1.0",
        "mode": "shadow",
        "asked": "live",
        "because": "no token",
        "durability": ["the last second"],
        "reservations": 2,
        "unknown": ["ETHUSDT: hb-1"],
        "consumer": "host",
        "role": "leader",
        "state": "ready",
        "schema": 1,
        "leader": "host:1:abc",
        "cursor": "5-0",
        "lag": 3,
        "last_commit": 12.5,
        "kill_switch": "0",
        "positions": 2,
        "unpriced": ["ETHUSDT"],
        "evaluated": 11.5,
        "suspect": ["BTCUSDT: why"],
        "counts": {"fill:applied": 2},
        "errors": 1,
        "last_error": "gone",
    }


def test_it_is_written_at_most_every_two_seconds_unless_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("harvest_brain.report.time.monotonic", lambda: clock[0])
    file = StatusFile(str(tmp_path))
    assert file.is_due
    file.write(status(positions=1))
    assert not file.is_due
    clock[0] += 1.9
    file.write(status(positions=2))
    assert read(tmp_path)["positions"] == 1
    file.write(status(positions=3), at_once=True)
    assert read(tmp_path)["positions"] == 3
    clock[0] += 2.0
    assert file.is_due
    file.write(status(positions=4))
    assert read(tmp_path)["positions"] == 4


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    file = StatusFile(str(tmp_path))
    told = status(unpriced=["X" * 50] * 2_000)
    file.write(told, at_once=True)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            file.write(told, at_once=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert len(read(tmp_path)["unpriced"]) == 2_000
    finally:
        stop.set()
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    StatusFile("").write(status(), at_once=True)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_takes_nothing_is_an_error_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StatusFile(str(tmp_path / "none")).write(status(), at_once=True)


def test_counters_are_bounded_because_statuses_come_from_outside() -> None:
    told = status()
    told.count({f"status:{number}": 1 for number in range(MAX_COUNTERS + 50)})
    told.count({"status:3": 1})
    assert len(told.counts) == MAX_COUNTERS + 1
    assert (told.counts["other"], told.counts["status:3"]) == (50, 2)
    assert isinstance(told.counts, Counter)


def test_incident_19_the_mode_is_in_every_status_line() -> None:
    assert status(role="leader", state="ready", positions=2, lag=7).line() == (
        "shadow, leader, ready: 2 positions, lag 7"
    )
    assert status().line() == "shadow, none, starting: 0 positions, lag unknown"
    assert status(because="no token").line().startswith("shadow (live was asked for: no token), none, starting")


# The log


def logged(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_text_goes_to_stderr_with_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text", "").warning("%s waits", "it")
    [line] = logged(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING it waits", line)


def test_times_are_utc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        for form in ("text", "json"):
            set_up_logging("INFO", form, "").info("now")
    finally:
        monkeypatch.undo()
        time.tzset()
    text, line = logged(capsys)
    hour = {time.strftime("%H", time.gmtime(time.time() + ago)) for ago in (-60, 0)}
    assert text[11:13] in hour
    assert json.loads(line)["time"][11:13] in hour


def test_json_is_one_object_a_line_whatever_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    logger = set_up_logging("INFO", "json", "")
    logger.info('two\nlines and a "quote" and \ud800')
    try:
        int("no good")
    except ValueError:
        logger.exception("it broke")
    first, second = map(json.loads, logged(capsys))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (first["level"], first["message"]) == ("INFO", 'two\nlines and a "quote" and \ud800')
    assert (second["level"], second["message"]) == ("ERROR", "it broke")
    assert "ValueError: invalid literal" in second["exception"]
    assert "exception" not in first


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_a_level_keeps_back_what_is_below_it(capsys: pytest.CaptureFixture[str], level: str, count: int) -> None:
    logger = set_up_logging(level, "text", "")
    for write in (logger.debug, logger.info, logger.warning, logger.error):
        write("x")
    assert len(logged(capsys)) == count


def test_a_log_file_that_is_rotated_away_is_opened_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "harvest.log"
    logger = set_up_logging("INFO", "text", str(path))
    logger.info("before é")
    path.rename(tmp_path / "harvest.log.1")
    logger.info("after")
    assert "before é" in (tmp_path / "harvest.log.1").read_text(encoding="utf-8")
    assert "after" in path.read_text()
    assert logged(capsys) == []


def test_setting_it_up_again_leaves_one_handler(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("INFO", "text", "")
    set_up_logging("INFO", "text", "").info("once")
    assert len(logged(capsys)) == 1
    assert not logging.getLogger("harvest_brain").propagate
    assert sys.stderr is not None
