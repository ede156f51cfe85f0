"""Hosts that can't be deployed to: deploy.yml says so, and what to do, before it has written anything on them.

Each host is a container of the test images with what it lacks. Needs what `make deploy-lint` sets up.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import engine
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
LIMIT_SEC = 600

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(LIMIT_SEC + 60)]

SYSTEMD = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN", "--cgroupns=host"),
    *("--security-opt", "apparmor=unconfined", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
)
NO_SYSTEMD = ("--entrypoint", "sleep")


class Host:
    """A container, and deploy.yml run against it."""

    def __init__(self, directory: Path, options: tuple[str, ...], words: tuple[str, ...] = ()) -> None:
        started = self._docker("run", "--detach", "--rm", *options, engine.image("HOST_DEBIAN13"), *words)
        self.name = started.strip()
        if not words:
            wait_until(self._is_up, LIMIT_SEC, what="the end of the boot")
        self._inventory = directory / "hosts.yml"
        about = {"ansible_connection": "community.docker.docker", "ansible_host": self.name}
        self._inventory.write_text(json.dumps({"harvest": {"hosts": {"vps": about}}}))

    def _docker(self, *words: str) -> str:
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout

    def run(self, *command: str) -> str:
        return self._docker("exec", self.name, *command)

    def _is_up(self) -> bool:
        asked = ["docker", "exec", self.name, "systemctl", "is-system-running", "--wait"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        return said.strip() in ("running", "degraded")

    def written(self) -> list[str]:
        """What is not as in the image, but for what a system writes by itself."""
        alive = (
            "/root",
            "/var/log",
            "/var/lib/systemd",
            "/etc/machine-id",
            "/var/.updated",
            "/etc/.updated",
            "/var/backups",
            "/var/cache",
            "/var/lib/logrotate",
        )
        parents = ("/var", "/var/lib", "/etc")
        changed = self._docker("diff", self.name).splitlines()
        return sorted(line for line in changed if not line[2:].startswith(alive) and line[2:] not in parents)

    def refuses(self, **extra: object) -> str:
        """What deploy.yml says, which must fail in its first play and leave the host as it was."""
        before = self.written()
        done = subprocess.run(
            ["ansible-playbook", "--inventory", self._inventory, "playbooks/deploy.yml", "-e", json.dumps(extra)],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT_SEC,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode != 0, said
        assert "PLAY [Deploy]" not in said
        assert "changed=0" in said
        assert self.written() == before
        return " ".join(said.split())

    def remove(self) -> None:
        self._docker("rm", "--force", "--volumes", self.name)


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """Its options and command are the test's parameter."""
    made = Host(tmp_path, *request.param)
    try:
        yield made
    finally:
        made.remove()


WITHOUT_SYSTEMD = (NO_SYSTEMD, ("infinity",))
FULL = ((*SYSTEMD, "--tmpfs", "/opt:size=64m"),)
GOOD = (SYSTEMD,)


@pytest.mark.parametrize("host", [WITHOUT_SYSTEMD], indirect=True)
def test_a_host_without_systemd_is_told_so(host: Host) -> None:
    said = host.refuses()
    assert "not systemd. HarvestBrain is deployed to hosts with systemd; where there is none, run its image" in said


@pytest.mark.parametrize("host", [WITHOUT_SYSTEMD], indirect=True)
def test_a_host_without_python_is_told_what_to_install(host: Host) -> None:
    host.run("sh", "-c", "rm /usr/bin/python3*")
    said = host.refuses()
    assert "There is no /usr/bin/python3. On Debian: apt install python3" in said


@pytest.mark.parametrize("host", [FULL], indirect=True)
def test_a_full_disk_is_measured_before_it_is_written_to(host: Host) -> None:
    said = host.refuses(harvest_redis_managed=True)
    assert "MB are free on /opt, /var or /etc; a release needs 300." in said
    assert "harvestctl prune --keep 3" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_redis_that_does_not_answer_is_named(host: Host) -> None:
    said = host.refuses(harvest_settings={"REDIS_PORT": 6390})
    assert (
        "Redis does not answer at 127.0.0.1 port 6390 from vps; nothing was changed. Start it, or correct REDIS_HOST"
        in said
    )


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_docker_that_is_not_there_is_named(host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    (tmp_path / "manifest.json").write_text('[{"Config": "0123.json"}]')
    subprocess.run(["tar", "--create", "--file", archive, "manifest.json"], cwd=tmp_path, check=True)
    options = {"harvest_runtime": "container", "harvest_container_engine": "docker"}
    said = host.refuses(**options, harvest_container_image=str(archive))
    assert "docker does not answer on vps" in said
    assert "harvest_container_engine=podman, which is installed from the distribution" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_what_would_do_gets_into_the_second_play(host: Host) -> None:
    """So the others stop for the reason that they give."""
    host.run("systemctl", "start", "redis-server")
    with pytest.raises(AssertionError, match=r"PLAY \[Deploy\]"):
        host.refuses(harvest_host_packages=["there-is-no-such-package"])
