"""A host for deploy.yml: a container of the test images, with systemd or without."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support import engine
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
LIMIT_SEC = 600

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
        code, said = self.play(ROOT / "playbooks/deploy.yml", **extra)
        assert code != 0, said
        assert "PLAY [Deploy]" not in said, said
        assert "changed=0" in said, said
        assert self.written() == before
        return " ".join(said.split())

    def play(self, playbook: Path, **extra: object) -> tuple[int, str]:
        """Exit code and all that is said."""
        done = subprocess.run(
            ["ansible-playbook", "--inventory", self._inventory, playbook, "-e", json.dumps(extra)],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
            capture_output=True,
            text=True,
            timeout=LIMIT_SEC,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def remove(self) -> None:
        self._docker("rm", "--force", "--volumes", self.name)
