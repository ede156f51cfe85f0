"""harvestctl as the process that it is on a host: real time, real signals, programs on PATH."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.fake_host import PROGRAM, FakeHost
from tests.support.waiting import wait_until

QUICK = ("--ready-sec", "5", "--soak-sec", "1")

# A daemon that is READY at once, as long as the release does not say otherwise.
SYSTEMCTL = """#!/bin/sh
current=$ROOT/opt/quantum/harvest-brain/current
release=$(basename "$(readlink "$current")")
case $1 in
restart) echo $release >"$STATE/running" ;;
disable) rm -f "$STATE/running" ;;
show)
    echo LoadState=loaded UnitFileState=enabled | tr ' ' '\\n'
    if [ -e "$STATE/running" ] && ! grep -q 'crash loop' "$current/venv/behaviour.json"; then
        echo ActiveState=active SubState=running MainPID=7 NRestarts=0 | tr ' ' '\\n'
        mkdir -p "$ROOT/run/quantum-harvest-brain"
        running=$(cat "$STATE/running")
        echo "{\\"release\\": \\"$running\\", \\"role\\": \\"leader\\", \\"updated\\": $(date +%s.%N)}" >"$STATE/draft"
        mv "$STATE/draft" "$ROOT/run/quantum-harvest-brain/status.json"
    elif [ -e "$STATE/running" ]; then
        echo ActiveState=activating SubState=auto-restart MainPID=0 NRestarts=3 | tr ' ' '\\n'
    else
        echo ActiveState=inactive SubState=dead MainPID=0 NRestarts=0 | tr ' ' '\\n'
    fi ;;
esac
"""
SYSTEMD_RUN = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
printf '%s\\n' "$@" >"$STATE/timer"
"""


class Shell:
    """A host with programs on PATH, and harvestctl as a process of its own."""

    def __init__(self, host: FakeHost, directory: Path) -> None:
        self.host = host
        self.state = directory / "state"
        programs = directory / "programs"
        for path in (self.state, programs):
            path.mkdir()
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("systemd-run", SYSTEMD_RUN),
            ("journalctl", "#!/bin/sh\necho a line\n"),
        ):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        search = f"{programs}:{os.environ['PATH']}"
        self.environment: dict[str, str] = {"PATH": search, "STATE": str(self.state), "ROOT": str(host.root)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", str(PROGRAM), words[0], "--root", str(self.host.root), *words[1:]],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def timer(self) -> list[str]:
        """What the dead-man timer would call."""
        return (self.state / "timer").read_text().splitlines()

    def in_the_gate(self) -> None:
        wait_until((self.state / "running").exists, what="the restart")


@pytest.fixture
def shell(host: FakeHost, tmp_path: Path) -> Shell:
    return Shell(host, tmp_path)


def test_forward_and_back_with_nothing_in_the_environment_but_a_path(shell: Shell) -> None:
    one, two = shell.host.release("HARVEST_MIN_R=1\n"), shell.host.release("HARVEST_MIN_R=2\n")
    for release in (one, two):
        code, out, err = shell.run("activate", release, *QUICK)
        assert code == 0, err
        assert out.startswith(f"{release} passed: READY after ")
        assert "armed the dead-man timer" in err
    began = time.monotonic()
    code, out, _ = shell.run("rollback")
    assert (code, shell.host.current) == (0, one)
    assert time.monotonic() - began < 10
    code, out, _ = shell.run("status", "--json")
    assert json.loads(out)["current"] == one


def test_answers_for_programs_are_one_json_object_on_stdout(shell: Shell) -> None:
    bad = shell.host.release("HARVEST_MIN_R=1\n", **{"crash loop": True})
    code, out, err = shell.run("activate", bad, "--json", "--ready-sec", "1", "--soak-sec", "1")
    answer = json.loads(out)
    assert (code, answer["exit"], answer["release"]) == (1, 1, "off")
    assert "did not pass" in err, "progress goes to stderr"


def test_a_refusal_says_why_on_stderr(shell: Shell) -> None:
    code, out, err = shell.run("activate", "0.1.0-0123456789ab")
    assert (code, out) == (4, "")
    assert "there is no release" in err


def test_a_lost_connection_does_not_stop_it_half_way(shell: Shell) -> None:
    """The terminal goes away: SIGHUP, and nobody reads what it says any more."""
    release = shell.host.release()
    process = shell.start("activate", release, "--ready-sec", "5", "--soak-sec", "2")
    shell.in_the_gate()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    assert shell.host.run("status")[1]["last_proven"] == release


def test_two_at_once_are_not_possible(shell: Shell) -> None:
    release = shell.host.release()
    first = shell.start("activate", release, "--ready-sec", "5", "--soak-sec", "3")
    shell.in_the_gate()
    code, _, err = shell.run("activate", release)
    assert code == 5
    assert f"process {first.pid}, activate" in err
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_killed_in_the_gate_the_timer_s_call_takes_the_host_back(shell: Shell) -> None:
    good, release = shell.host.release("HARVEST_MIN_R=1\n"), shell.host.release("HARVEST_MIN_R=2\n")
    assert shell.run("activate", good, *QUICK)[0] == 0
    (shell.state / "running").unlink()
    process = shell.start("activate", release, "--soak-sec", "30")
    shell.in_the_gate()
    process.kill()
    process.communicate()
    assert shell.host.current == release
    called = subprocess.run(shell.timer(), env=shell.environment, capture_output=True, text=True, check=False)
    assert called.returncode == 0, f"{shlex.join(shell.timer())}: {called.stderr}"
    assert shell.host.current == good
    assert (shell.state / "running").read_text().strip() == good


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    done = subprocess.run([sys.executable, "-I", str(PROGRAM), "--help"], capture_output=True, text=True, check=True)
    for command in ("status", "activate", "gate", "rollback", "proof", "promote", "history", "arm-timer", "disarm"):
        assert f"    {command}" in done.stdout
    assert "4 refused, nothing changed" in " ".join(done.stdout.split())
