"""The command line: exit codes, what goes to which stream, and what a person reads."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from harvest_brain import __version__
from harvest_brain.config import VARIABLES, table, template
from harvest_brain.ops import cli
from harvest_brain.ops.cli import main
from harvest_brain.redis.client import Endpoint

SENTINEL = "hunter2-sentinel"
NOBODY = "1"  # a port that nobody listens on
COMMANDS = (
    *("run", "status", "doctor", "kill", "arm", "release", "clear"),
    *("check-config", "env-template", "acl", "settings-table", "health", "demo"),
)


class FakeRedis:
    """Strings and streams, enough for the switch; a key of `broken` raises what a real Redis would."""

    def __init__(self) -> None:
        self.strings: dict[str, str] = {}
        self.audit: list[dict[str, str]] = []
        self.broken: set[str] = set()

    def get(self, key: str) -> bytes | None:
        if key in self.broken:
            raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        value = self.strings.get(key)
        return None if value is None else value.encode()

    def set(self, key: str, value: str) -> None:
        self.broken.discard(key)
        self.strings[key] = value

    def xadd(self, key: str, fields: dict[str, str], maxlen: int) -> None:
        if key in self.broken:
            raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        self.audit.append({"key": key, "maxlen": str(maxlen), **fields})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    fake = FakeRedis()
    monkeypatch.setattr(cli, "connect", lambda _: fake)
    return fake


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command."""
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# Usage.


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("words", [(), ("dance",), ("run", "--fast"), ("kill",), ("check-config", "a", "b")])
def test_a_command_that_is_none_exits_2_and_says_what_there_is(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("usage: harvest-brain")


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n    {name}" in out


def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        assert out.startswith(f"usage: harvest-brain {name}")


def test_without_arguments_of_its_own_main_takes_those_of_the_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["harvest-brain", "env-template"])
    assert main() == 0
    assert capsys.readouterr().out == template()


# What needs no Redis.


def test_the_template_and_the_table_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "env-template") == (0, template(), "")
    assert run(capsys, "settings-table") == (0, table(), "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["env-template"], ["settings-table"], ["check-config"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_fault_of_redis_and_no_traceback(words: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "harvest_brain", *words],
        env={"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_can_not_be_written_is_said_and_not_of_redis() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harvest_brain", "env-template"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "[Errno 28] No space left on device"


def test_a_terminal_that_knows_few_letters_still_gets_the_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harvest_brain", "check-config"],
        env={"PYTHONIOENCODING": "ascii", "LOG_FILE": "/é"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert rb"\xe9" in done.stdout


def test_check_config_prints_each_value_with_its_origin(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.env"
    path.write_text("HARVEST_MODE=live\nREDIS_PORT=6380\n")
    code, out, err = run(capsys, "check-config", str(path))
    assert (code, err) == (0, "")
    lines = {line.split("=")[0]: line.split(maxsplit=1) for line in out.splitlines()}
    assert list(lines) == [variable.name for variable in VARIABLES]
    assert lines["HARVEST_MODE"] == ["HARVEST_MODE=live", f"{path} line 1"]
    assert lines["REDIS_PORT"] == ["REDIS_PORT=6380", f"{path} line 2"]
    assert lines["HARVEST_MIN_R"] == ["HARVEST_MIN_R=0.5", "default"]


def test_check_config_without_a_file_looks_at_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARVEST_MIN_R", "0.75")
    code, out, _ = run(capsys, "check-config")
    assert code == 0
    assert any(line.split() == ["HARVEST_MIN_R=0.75", "environment"] for line in out.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ("check-config", "FILE"),
        *((name, "--env-file", "FILE") for name in ("run", "status", "arm")),
    ],
)
def test_faults_of_the_configuration_exit_2_with_one_line_each_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = tmp_path / "bad.env"
    path.write_text(f"HARVEST_LADDER=0.5:0.6,0.4:0.6\nREDIS_PASSWORD={SENTINEL}\nREDIS_PORT=redis\n")
    code, out, err = run(capsys, *(str(path) if word == "FILE" else word for word in words))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    for part in ("HARVEST_LADDER='0.5:0.6,0.4:0.6'", "REDIS_PASSWORD=…", "REDIS_PORT='redis'"):
        assert part in err
    assert SENTINEL not in err


def test_kill_complains_only_of_what_could_lead_to_the_wrong_switch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.env"
    path.write_text("HARVEST_LADDER=0.5:0.6,0.4:0.6\nREDIS_PORT=redis\n")
    code, out, err = run(capsys, "kill", "--reason", "news", "--env-file", str(path))
    assert (code, out) == (2, "")
    assert [line.split("=")[0] for line in err.splitlines()] == ["REDIS_PORT"]


def test_a_log_that_cannot_be_opened_is_a_fault_of_the_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.env"
    path.write_text(f"LOG_FILE={tmp_path}/none/harvest.log\n")
    code, out, err = run(capsys, "run", "--env-file", str(path))
    assert (code, out) == (2, "")
    assert err == (
        f"LOG_FILE='{tmp_path}/none/harvest.log': No such file or directory; "
        "accepted: a path that can be written, or nothing\n"
    )


# Redis away.


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("arm",), ("kill", "--reason", "news")])
def test_without_redis_a_command_exits_1_and_says_where_it_looked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("REDIS_PORT", NOBODY)
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Redis: Error \d+ connecting to 127\.0\.0\.1:1\. Connection refused\.\n", err)


def test_a_password_file_that_is_missing_exits_1_and_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "none"))
    code, _, err = run(capsys, "status")
    assert code == 1
    assert f"REDIS_PASSWORD_FILE {tmp_path}/none: No such file or directory" in err


# The switch.


def test_kill_sets_the_switch_to_1_and_audits_who_why_and_when(
    capsys: pytest.CaptureFixture[str], server: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "jo")
    server.strings["quantum:kill"] = "0"
    assert run(capsys, "kill", "--reason", "news") == (0, "quantum:kill was 0, is 1\n", "")
    assert server.strings == {"quantum:kill": "1"}
    [entry] = server.audit
    at = time.mktime(time.strptime(entry.pop("at"), "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert abs(at - time.time()) < 60
    assert entry == {
        "key": "quantum:harvest:audit",
        "maxlen": "1000",
        "action": "kill",
        "was": "0",
        "reason": "news",
        "by": "jo",
    }


def test_a_reason_that_is_no_text_is_written_down_as_far_as_it_can_be(
    capsys: pytest.CaptureFixture[str], server: FakeRedis
) -> None:
    assert run(capsys, "kill", "--reason", os.fsdecode(b"n\xffws"))[0] == 0
    assert server.audit[0]["reason"] == "n\\udcffws"


def test_kill_works_whatever_the_key_holds(capsys: pytest.CaptureFixture[str], server: FakeRedis) -> None:
    server.broken.add("quantum:kill")
    assert run(capsys, "kill", "--reason", "news")[:2] == (0, "quantum:kill was unreadable, is 1\n")
    assert server.strings == {"quantum:kill": "1"}


def test_the_switch_is_thrown_even_where_the_audit_fails(capsys: pytest.CaptureFixture[str], server: FakeRedis) -> None:
    server.broken.add("quantum:harvest:audit")
    code, out, err = run(capsys, "kill", "--reason", "news")
    assert (code, out) == (1, "quantum:kill was absent, is 1\n")
    assert err.startswith("quantum:harvest:audit can't be written: WRONGTYPE")
    assert server.strings == {"quantum:kill": "1"}


@pytest.mark.parametrize("fault", [KeyError("uid not found"), OSError("no such user")])
def test_a_user_without_a_name_is_audited_by_number(
    capsys: pytest.CaptureFixture[str], server: FakeRedis, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def getuser() -> str:
        raise fault

    monkeypatch.setattr(getpass, "getuser", getuser)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert run(capsys, "kill", "--reason", "news")[0] == 0
    assert server.audit[0]["by"] == "uid 12345"


def test_the_switch_is_the_one_of_the_settings(
    capsys: pytest.CaptureFixture[str], server: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARVEST_NAMESPACE", "{q}")
    asked: list[Endpoint] = []

    def connect(endpoint: Endpoint) -> FakeRedis:
        asked.append(endpoint)
        return server

    monkeypatch.setattr(cli, "connect", connect)
    monkeypatch.setenv("REDIS_DB", "3")
    run(capsys, "kill", "--reason", "news")
    assert server.strings == {"{q}:kill": "1"}
    assert server.audit[0]["key"] == "{q}:harvest:audit"
    assert asked == [Endpoint(db=3)]


def test_arm_sets_it_to_0_and_says_in_which_mode(
    capsys: pytest.CaptureFixture[str], server: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen:
        mode = "live"
        positions = (1, 2)

    def overview(*_: Any) -> Seen:
        return Seen()

    monkeypatch.setattr(cli, "overview", overview)
    assert run(capsys, "arm") == (0, "quantum:kill was absent, is 0\nmode live, 2 open positions\n", "")
    assert server.strings == {"quantum:kill": "0"}
    assert server.audit[0]["action"] == "arm"


def test_incident_29_nothing_but_arm_ever_sets_the_switch_to_0(
    capsys: pytest.CaptureFixture[str], server: FakeRedis
) -> None:
    actions = cli._parser()._actions
    commands = next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))
    server.strings["quantum:kill"] = "1"
    for name in set(commands) - {"arm", "run", "demo", "status", "doctor", "proof", "purge-keys"}:  # need a real server
        run(capsys, name, *(("--reason", "x") if name == "kill" else ()))
        assert server.strings == {"quantum:kill": "1"}, name


# Health.


def write_status(directory: Path, **changes: object) -> None:
    told = {
        "updated": time.time(),
        "state": "ready",
        "mode": "live",
        "because": "",
        "role": "leader",
        "positions": 3,
        "evaluated": None,
    }
    (directory / "status.json").write_text(json.dumps(told | changes))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def test_a_daemon_that_is_ready_is_well(capsys: pytest.CaptureFixture[str], directory: Path) -> None:
    write_status(directory)
    assert run(capsys, "health") == (0, "live, leader, 3 positions\n", "")


def test_incident_19_health_says_that_live_is_really_shadow(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    write_status(directory, mode="shadow", because="no token")
    told = "shadow (live was asked for: no token), leader, 3 positions\n"
    assert run(capsys, "health") == (0, told, "")


def test_the_first_of_several_directories_counts(
    capsys: pytest.CaptureFixture[str], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_status(directory)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{directory}:/elsewhere")
    assert run(capsys, "health")[0] == 0


def test_a_daemon_that_waits_for_redis_is_not_well_and_says_why(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    write_status(directory, state="waiting for Redis: gone")
    assert run(capsys, "health") == (1, "", "waiting for Redis: gone\n")


def test_a_sign_of_life_from_before_the_clock_was_set_back_is_none(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    """A daemon that hangs would look well until the clock has come there again."""
    write_status(directory, updated=time.time() + 3600)
    code, out, err = run(capsys, "health")
    assert (code, out) == (1, "")
    assert "sign of life" in err


def test_a_daemon_that_gives_no_sign_of_life_is_not_well(capsys: pytest.CaptureFixture[str], directory: Path) -> None:
    write_status(directory, updated=time.time() - 60)
    code, out, err = run(capsys, "health")
    assert (code, out) == (1, "")
    assert err in ("no sign of life for 60 s\n", "no sign of life for 61 s\n")


def test_incident_15_positions_of_which_none_has_had_a_price_for_long_are_not_well(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    write_status(directory, evaluated=time.time() - 299)
    assert run(capsys, "health")[0] == 0
    write_status(directory, evaluated=time.time() - 600)
    code, out, err = run(capsys, "health")
    assert (code, out) == (1, "")
    assert err.startswith("3 positions are open and none has had a price for 60")
    write_status(directory, evaluated=time.time() - 600, role="standby")
    assert run(capsys, "health")[0] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"updated":"now","state":"ready"}'])
def test_a_status_that_cannot_be_read_is_not_well(
    capsys: pytest.CaptureFixture[str], directory: Path, text: str
) -> None:
    (directory / "status.json").write_text(text)
    code, out, err = run(capsys, "health")
    assert (code, out) == (1, "")
    assert err.startswith(f"{directory}/status.json can't be read: ")


@pytest.mark.usefixtures("directory")
def test_without_a_status_or_a_directory_it_is_not_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "can't be read: FileNotFoundError" in run(capsys, "health")[2]
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    code, _, err = run(capsys, "health")
    assert (code, err) == (1, "RUNTIME_DIRECTORY is not set, so there is no status.json to look at\n")
