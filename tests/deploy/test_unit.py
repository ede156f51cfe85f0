"""The unit, judged by the systemd of Debian 12 and 13: strict, tight, and never giving up."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import engine
from tests.support.waiting import wait_until

FILES = Path(__file__).parents[2] / "roles/harvest_release/files"
NAME = "quantum-harvest-brain.service"
UNIT = (FILES / NAME).read_text()
CONTAINER = (FILES / "quantum-harvest-brain-container.service").read_text()
SOCKET = (FILES / "redis-socket.conf").read_text()
STEPS = (FILES / "restart-steps.conf").read_text()
PROGRAM = "/opt/quantum/harvest-brain/current/venv/bin/harvest-brain"

# What the daemon does as far as systemd sees it, and what it was handed.
STAND_IN = """#!/usr/bin/python3
import json, os, pathlib, socket, time
names = ("HARVEST_RELEASE_ID", "HARVEST_MODE", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY")
seen = {name: os.environ.get(name) for name in names}
credentials = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
seen["password"] = (credentials / "redis-password").read_text()
seen["token"] = pathlib.Path(os.environ["HARVEST_LIVE_TOKEN_FILE"]).read_text()
seen["where"] = str(credentials)
for name in ("/etc/x", "/opt/x", "/home/x", os.environ["LOGS_DIRECTORY"] + "/x"):
    try:
        pathlib.Path(name).write_text("")
        seen[name] = "written"
    except OSError as fault:
        seen[name] = type(fault).__name__
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "status.json").write_text(json.dumps(seen))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
notify.send(b"READY=1")
while True:
    notify.send(b"WATCHDOG=1")
    time.sleep(1)
"""

pytestmark = pytest.mark.containers


class Host:
    """A container with systemd as its first process."""

    def __init__(self, image: str) -> None:
        options = [
            *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN"),
            *("--security-opt", "apparmor=unconfined", "--cgroupns=host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
            *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
        ]
        started = subprocess.run(
            ["docker", "run", "--detach", "--rm", *options, image], capture_output=True, text=True, check=True
        )
        self._name = started.stdout.strip()

    def run(self, *command: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "exec", "--interactive", self._name, *command],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("sh", "-c", f'mkdir -p "$(dirname {path})" && cat >{path} && chmod {mode} {path}', text=text)

    def show(self, name: str) -> str:
        return self.run("systemctl", "show", NAME, f"--property={name}", "--value").stdout.strip()

    def install(self, unit: str) -> None:
        self.write(f"/etc/systemd/system/{NAME}", unit)
        self.run("systemctl", "daemon-reload")

    def exposure(self, unit: str) -> float:
        """What `systemd-analyze security` makes of it."""
        self.write(f"/tmp/{NAME}", unit)
        said = self.run("systemd-analyze", "security", "--offline=true", f"/tmp/{NAME}").stdout
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert found, said
        return float(found[1])

    def faults(self, unit: str) -> tuple[int, str]:
        """Exit code and what `systemd-analyze verify` says."""
        self.write(f"/tmp/{NAME}", unit)
        done = self.run("systemd-analyze", "verify", "--recursive-errors=one", f"/tmp/{NAME}", check=False)
        return done.returncode, done.stdout + done.stderr

    def version(self) -> int:
        return int(self.run("systemctl", "--version").stdout.split()[1])

    def discard(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True, check=False)


@pytest.fixture(scope="module", params=["HOST_DEBIAN12", "HOST_DEBIAN13"])
def systemd(request: pytest.FixtureRequest) -> Iterator[Host]:
    if f"TEST_IMAGE_{request.param}" not in engine.findings():
        pytest.skip("no image of a host was prepared: tests/containers/prepare.sh debian12 debian13")
    host = Host(engine.image(request.param))
    try:
        wait_until(
            lambda: host.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
            what="systemd",
        )
        host.run("useradd", "--system", "--user-group", "qt")
        host.write("/etc/quantum/harvest-brain.env", "HARVEST_MODE=shadow\n")
        host.write("/opt/quantum/harvest-brain/current/release.env", "HARVEST_RELEASE_ID=0.1.0-0123456789ab\n")
        host.write(PROGRAM, STAND_IN, "755")
        yield host
    finally:
        host.discard()


def latest(host: Host, unit: str) -> str:
    """With the lines for newer systemds, where this is one."""
    return unit + STEPS if host.version() >= 254 else unit


# Strict and tight.


@pytest.mark.parametrize("extra", ["", SOCKET], ids=["loopback", "socket"])
def test_systemd_has_nothing_to_say_against_it(systemd: Host, extra: str) -> None:
    assert systemd.faults(latest(systemd, UNIT + extra)) == (0, "")


def test_nor_against_the_one_for_a_container(systemd: Host) -> None:
    """With a container there is a program of the release's own, which this host does not have."""
    unit = CONTAINER.replace("/opt/quantum/harvest-brain/current/harvest-brain ", f"{PROGRAM} ")
    assert systemd.faults(latest(systemd, unit + "\n[Unit]\nX-ContainerEngine=podman\n")) == (0, "")


def test_the_verification_would_see_a_misspelt_name(systemd: Host) -> None:
    code, said = systemd.faults(UNIT.replace("ProtectHome=", "ProtectHomes="))
    assert code != 0
    assert "ProtectHomes" in said


def test_exposure_is_at_most_1_0_on_loopback(systemd: Host) -> None:
    assert systemd.exposure(latest(systemd, UNIT)) <= 1.0


def test_exposure_is_at_most_0_3_with_a_socket(systemd: Host) -> None:
    assert systemd.exposure(latest(systemd, UNIT + SOCKET)) <= 0.3


def test_the_exposure_would_show_a_protection_that_is_gone(systemd: Host) -> None:
    assert systemd.exposure(UNIT.replace("PrivateUsers=yes", "")) > 1.0


# What it gives the daemon.


def started(systemd: Host, unit: str = UNIT) -> dict[str, str]:
    """What the stand-in saw. It was started under all the protections, and said READY."""
    systemd.install(latest(systemd, unit))
    systemd.run("systemctl", "restart", NAME)
    assert systemd.show("SubState") == "running"
    seen: dict[str, str] = json.loads(systemd.run("cat", "/run/quantum-harvest-brain/status.json").stdout)
    return seen


@pytest.mark.parametrize("extra", ["", SOCKET], ids=["loopback", "socket"])
def test_it_hands_over_settings_release_and_directories_and_nothing_else_is_writable(systemd: Host, extra: str) -> None:
    seen = started(systemd, UNIT + extra)
    assert (seen["HARVEST_MODE"], seen["HARVEST_RELEASE_ID"]) == ("shadow", "0.1.0-0123456789ab")
    assert seen["RUNTIME_DIRECTORY"] == "/run/quantum-harvest-brain"
    assert seen["LOGS_DIRECTORY"] == "/var/log/quantum/harvest-brain"
    assert seen["/var/log/quantum/harvest-brain/x"] == "written"
    assert {seen[name] for name in ("/etc/x", "/opt/x")} == {"OSError"}  # a read-only file system
    assert seen["/home/x"] != "written"
    assert systemd.run("stat", "-c", "%U %a", "/var/log/quantum").stdout.split()[0] == "root"


def test_without_credentials_it_starts_and_may_not_be_live(systemd: Host) -> None:
    systemd.run("rm", "-rf", "/etc/quantum/credentials")
    seen = started(systemd)
    assert (seen["password"].strip(), seen["token"]) == ("", "{}")


def test_credentials_that_only_root_can_read_reach_the_daemon(systemd: Host) -> None:
    systemd.write("/etc/quantum/credentials/redis-password", "secret\n", "600")
    systemd.write("/etc/quantum/credentials/live-token", '{"release": "x"}\n', "600")
    seen = started(systemd)
    assert seen["password"] == "secret\n"
    assert seen["token"] == '{"release": "x"}\n'
    assert seen["where"] == f"/run/credentials/{NAME}"
    systemd.run("rm", "-r", "/etc/quantum/credentials")


def test_the_status_of_a_daemon_that_has_stopped_can_still_be_read(systemd: Host) -> None:
    started(systemd)
    systemd.run("systemctl", "stop", NAME)
    assert "0.1.0-0123456789ab" in systemd.run("cat", "/run/quantum-harvest-brain/status.json").stdout


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_started_again(systemd: Host) -> None:
    started(systemd, UNIT.replace("WatchdogSec=30", "WatchdogSec=2").replace("RestartSec=5", "RestartSec=100ms"))
    before = systemd.show("MainPID")
    systemd.run("kill", "-STOP", before)
    wait_until(
        lambda: systemd.show("MainPID") not in ("0", before) and systemd.show("SubState") == "running",
        what="another process",
    )


# Never giving up.


@pytest.mark.parametrize("gives_up", [False, True], ids=["as it is", "with systemd's own limit"])
def test_incident_25_a_burst_of_restarts_never_leaves_it_dead(systemd: Host, gives_up: bool) -> None:
    """With the limit that systemd has by default it would be dead after five."""
    unit = UNIT.replace(f"ExecStart={PROGRAM} run", "ExecStart=/bin/false").replace("RestartSec=5", "RestartSec=20ms")
    assert "StartLimitIntervalSec=0\n" in unit
    if gives_up:
        unit = unit.replace("StartLimitIntervalSec=0\n", "")
    systemd.install(unit)
    systemd.run("systemctl", "reset-failed", NAME, check=False)
    systemd.run("systemctl", "restart", "--no-block", NAME)
    if gives_up:
        wait_until(lambda: systemd.show("ActiveState") == "failed", what="systemd giving up")
        assert int(systemd.show("NRestarts")) <= 6
    else:
        wait_until(lambda: int(systemd.show("NRestarts")) > 12, what="a dozen restarts")
        assert systemd.show("ActiveState") != "failed"
    systemd.run("systemctl", "stop", NAME)
    systemd.run("systemctl", "reset-failed", NAME, check=False)


def test_incident_25_it_is_restarted_always_and_not_at_once() -> None:
    assert "Restart=always\n" in UNIT
    found = re.search(r"^RestartSec=(\d+)$", UNIT, re.MULTILINE)
    assert found
    assert int(found[1]) >= 5
    assert "RestartSteps=6\nRestartMaxDelaySec=60\n" in STEPS
