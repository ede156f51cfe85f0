"""The program that a release in a container has for a virtual environment, run with an engine that is played."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAUNCHER = Path(__file__).parents[3] / "roles/harvest_release/files/harvest-brain-container"
PATIENCE_SEC = 60
ENGINE = f"""#!{sys.executable}
import json, os, pathlib, signal, socket, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    print(json.dumps({{"words": sys.argv[1:], "env": dict(os.environ)}}), file=asked)
verb = sys.argv[1]
if verb == "image":
    sys.exit(not (here / "has-image").exists())
if verb == "load":
    if not pathlib.Path(sys.argv[-1]).exists():
        sys.exit("no such file")
    if pathlib.Path(sys.argv[-1]).read_text() == "the image":
        (here / "has-image").touch()
if verb == "run" and sys.argv[-1] == "run":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    [address] = [word.removeprefix("--env=NOTIFY_SOCKET=") for word in sys.argv if "NOTIFY_SOCKET" in word]
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for message in (b"READY=1", b"WATCHDOG=1\\nSTATUS=leads", b"MAINPID=1", b"STATUS=x\\nMAINPID=1"):
        daemon.sendto(message, address)
    signal.sigwait([signal.SIGTERM])
    daemon.sendto(b"STOPPING=1", address)
    sys.exit(7)
"""


class Release:
    """A release in a directory, its engine, and the systemd that listens."""

    def __init__(self, home: Path, engine: str) -> None:
        self.path = home / "releases/0.1.0-0123456789ab"
        self.path.mkdir(parents=True)
        self.program = self.path / "harvest-brain"
        shutil.copy(LAUNCHER, self.program)
        self.images = home / "images"
        self.images.mkdir()
        self._engine = home / "engine" / engine
        self._engine.parent.mkdir()
        self._engine.write_text(ENGINE)
        self._engine.chmod(0o755)
        (self.path / "container.json").write_text(json.dumps({"engine": str(self._engine), "image": "sha256:1a"}))
        self.runtime = home / "run"
        self.runtime.mkdir()
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(home / "systemd"))
        self.systemd.settimeout(PATIENCE_SEC)
        self.environ = {
            "NOTIFY_SOCKET": str(home / "systemd"),
            "RUNTIME_DIRECTORY": str(self.runtime),
            "CREDENTIALS_DIRECTORY": str(home / "credentials"),
            "HARVEST_MIN_R": "0.75",
            "REDIS_HOST": "10.9.8.7",
            "SOMETHING_ELSE": "for systemd only",
        }

    def has_image(self) -> None:
        (self._engine.parent / "has-image").touch()

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-I", str(self.program), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), env=self.environ, capture_output=True, text=True, timeout=PATIENCE_SEC, check=False
        )

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the engine was asked for, and with which environment."""
        return [json.loads(line) for line in (self._engine.parent / "asked").read_text().splitlines()]

    def heard(self) -> str:
        return self.systemd.recv(65536).decode()


@pytest.fixture(params=["podman", "docker"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    made = Release(tmp_path, request.param)
    yield made
    made.systemd.close()


def test_systemd_hears_what_the_daemon_says_of_itself_and_nothing_else(release: Release) -> None:
    release.has_image()
    with subprocess.Popen(release.command("run"), env=release.environ) as process:
        try:
            assert [release.heard() for _ in range(3)] == ["READY=1", "WATCHDOG=1\nSTATUS=leads", "STATUS=x"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert release.heard() == "STOPPING=1"
        assert process.wait(PATIENCE_SEC) == 7, "the daemon's own exit code"


def test_the_daemon_is_confined_and_its_settings_are_handed_on_by_name_alone(release: Release) -> None:
    release.has_image()
    with subprocess.Popen(release.command("run"), env=release.environ) as process:
        release.heard()
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SEC)
    inspected, cleared, ran = release.asked
    assert inspected["words"] == ["image", "inspect", "sha256:1a"]
    assert cleared["words"] == ["rm", "--force", "quantum-harvest-brain"]
    words = ran["words"]
    assert words[-2:] == ["sha256:1a", "run"]
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pull=never"} <= set(words)
    assert f"--user={os.getuid()}:{os.getgid()}" in words, "whose the runtime directory is"
    assert not any(word.startswith(("--cap-add", "--privileged")) for word in words)
    assert {"--env=HARVEST_MIN_R", "--env=REDIS_HOST", "--network=host"} <= set(words)
    assert not [word for word in words if "0.75" in word or "10.9.8.7" in word]
    assert (ran["env"]["HARVEST_MIN_R"], ran["env"]["REDIS_HOST"]) == ("0.75", "10.9.8.7")
    assert "SOMETHING_ELSE" not in ran["env"]
    assert "NOTIFY_SOCKET" not in ran["env"], "the engine itself has nothing to tell systemd"
    assert f"--volume={release.environ['CREDENTIALS_DIRECTORY']}:{release.environ['CREDENTIALS_DIRECTORY']}:ro" in words


def test_the_units_limits_hold_with_podman_and_docker_is_given_the_same(release: Release) -> None:
    release.has_image()
    release.run("status")
    words = set(release.asked[-1]["words"])
    podman = "/podman" in json.loads((release.path / "container.json").read_text())["engine"]
    assert ("--cgroups=disabled" in words) == podman
    assert ({"--memory=1g", "--pids-limit=64"} <= words) == (not podman)


def test_with_a_socket_there_is_no_network(release: Release, tmp_path: Path) -> None:
    release.has_image()
    release.environ["REDIS_SOCKET"] = str(tmp_path / "redis/harvest.sock")
    release.run("status")
    words = release.asked[-1]["words"]
    assert "--network=none" in words
    assert "--network=host" not in words
    assert f"--volume={tmp_path}/redis:{tmp_path}/redis:ro" in words


def test_certificates_that_the_settings_name_are_there_inside(release: Release, tmp_path: Path) -> None:
    release.has_image()
    (tmp_path / "ca.pem").touch()
    release.environ |= {"REDIS_TLS_CA_FILE": str(tmp_path / "ca.pem"), "REDIS_TLS_KEY_FILE": str(tmp_path / "none.pem")}
    release.run("status")
    words = release.asked[-1]["words"]
    assert f"--volume={tmp_path}/ca.pem:{tmp_path}/ca.pem:ro" in words
    assert not [word for word in words if "none.pem" in word]


def test_a_command_of_a_person_can_read_but_not_write(release: Release) -> None:
    release.has_image()
    assert release.run("proof", "--json").returncode == 0
    words = release.asked[-1]["words"]
    assert words[-3:] == ["sha256:1a", "proof", "--json"]
    assert [word for word in words if word.startswith("--cap-add")] == ["--cap-add=DAC_READ_SEARCH"]
    assert all(word.endswith(":ro") for word in words if word.startswith("--volume"))
    assert not any(word.startswith("--name") for word in words), "it is not the daemon"


def test_an_image_that_the_engine_has_lost_is_loaded_again(release: Release) -> None:
    (release.images / "1a.tar").write_text("the image")
    assert release.run("status").returncode == 0
    assert [call["words"][0] for call in release.asked] == ["image", "load", "image", "run"]
    assert release.asked[1]["words"][-1] == str(release.images / "1a.tar")


@pytest.mark.parametrize("archive", [None, "another image"])
def test_an_image_that_can_not_be_had_is_named(release: Release, archive: str | None) -> None:
    if archive:
        (release.images / "1a.tar").write_text(archive)
    done = release.run("status")
    assert done.returncode == 1
    assert "no image sha256:1a" in done.stderr
    assert "1a.tar" in done.stderr
    assert "run" not in [call["words"][0] for call in release.asked]


def test_what_systemd_runs_afterwards_removes_the_container(release: Release) -> None:
    assert release.run("--clear").returncode == 0
    assert [call["words"] for call in release.asked] == [["rm", "--force", "quantum-harvest-brain"]]


def test_both_units_say_the_same_of_everything_but_the_confinement() -> None:
    def lines(name: str) -> set[str]:
        text = (LAUNCHER.parent / name).read_text()
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    plain, contained = lines("quantum-harvest-brain.service"), lines("quantum-harvest-brain-container.service")
    assert {line.partition("=")[0] for line in contained - plain} == {
        *("Description", "After", "ExecStart", "ExecStopPost", "Environment", "KillMode", "TasksMax"),
    }
    missing = {line.partition("=")[0] for line in plain - contained}
    assert not missing & {
        *("Type", "NotifyAccess", "User", "Group", "EnvironmentFile", "LoadCredential", "SetCredential", "UMask"),
        *("RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "LogsDirectory", "LogsDirectoryMode"),
        *("TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "Restart", "RestartSec", "StartLimitIntervalSec"),
        *("IPAddressDeny", "IPAddressAllow", "MemoryMax", "WantedBy"),
    }
