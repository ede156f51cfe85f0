"""The daemon's image, and compose.yaml: a working shadow system from nothing but the two images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml  # type: ignore[import-untyped]  # PyYAML carries no types
from tests.support import engine, processes
from tests.support.server import HOST
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, LEASE, OUTPUTS, SUGGESTIONS, feed, fill, harvests, tick

pytestmark = [pytest.mark.containers, pytest.mark.slow]

COMPOSE_FILE = engine.ROOT / "compose.yaml"
OPENING = fill("ETHUSDT", "BUY", "1.0", "2500.0", stop_loss="2450")
PRICE = tick("ETHUSDT", "2526")
SECOND = 1_000_000_000  # as the engine counts
BOOT_SEC = 120

StartContainer = Callable[..., Any]


@pytest.fixture
def start_container() -> Iterator[StartContainer]:
    """Starts containers that know each other by name. Gives the engine's own objects."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    with ExitStack() as stack:
        network = stack.enter_context(Network())

        def start(name: str, image: str, **options: Any) -> Any:
            container = DockerContainer(image, network=network, network_aliases=[name])
            container.with_envs(**options.pop("environment", {}))
            container.with_command(options.pop("command", None))
            container.ports = options.pop("ports", {})
            for path, mount in options.pop("tmpfs", {}).items():
                container.with_tmpfs_mount(path, mount)
            container.with_kwargs(**options)
            return stack.enter_context(container).get_wrapped_container()

        yield start


def run_in_image(*command: str, user: str = "10001") -> subprocess.CompletedProcess[str]:
    options = ["--rm", "--read-only", "--user", user, "--entrypoint", command[0]]
    return subprocess.run(
        ["docker", "run", *options, engine.image("DAEMON"), *command[1:]],
        capture_output=True,
        text=True,
        timeout=BOOT_SEC,
        check=False,
    )


def health_of(container: Any) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


def assert_a_suggestion_comes_out(port: int) -> None:
    with redis.Redis(host=HOST, port=port, decode_responses=True, protocol=2) as client:
        for entry in (OPENING, PRICE):
            client.xadd(EXECUTIONS, entry)
        wait_until(lambda: client.exists(SUGGESTIONS), BOOT_SEC, what="a suggestion")
        [suggestion] = harvests(client)
        assert (suggestion["symbol"], suggestion["side"], suggestion["dry_run"]) == ("ETHUSDT", "SELL", True)
        assert {stream for stream in OUTPUTS if client.exists(stream)} == {SUGGESTIONS}


def test_the_image_runs_read_only_as_nobody_and_its_health_follows_redis(start_container: StartContainer) -> None:
    server = start_container("redis", engine.image("REDIS"))
    daemon = start_container(
        "daemon",
        engine.image("DAEMON"),
        environment={"REDIS_HOST": "redis"},
        tmpfs={"/run/harvest-brain": "uid=10001,gid=10001,mode=0750"},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        # Its own check, asked more often.
        healthcheck={"interval": SECOND, "timeout": 20 * SECOND, "retries": 2, "start_period": SECOND},
    )
    wait_until(lambda: health_of(daemon) == "healthy", BOOT_SEC)
    assert daemon.exec_run(["id", "-u"]).output.strip() == b"10001"
    assert daemon.exec_run(["touch", "/anywhere"]).exit_code != 0
    assert b"python3" in daemon.exec_run(["cat", "/proc/1/cmdline"]).output

    server.stop(timeout=10)
    wait_until(lambda: health_of(daemon) == "unhealthy", BOOT_SEC)
    server.start()
    wait_until(lambda: health_of(daemon) == "healthy", BOOT_SEC)

    daemon.stop(timeout=20)
    daemon.reload()
    assert daemon.attrs["State"]["ExitCode"] == 0
    assert b"gave the lease back" in daemon.logs()


def test_there_is_neither_pip_nor_a_secret_in_the_image() -> None:
    for user in ("10001", "0"):
        assert run_in_image("python3", "-c", "import pip", user=user).returncode == 1
        assert run_in_image("/usr/bin/env", "-i", "python3", "-c", "import pip", user=user).returncode != 0
        found = run_in_image("sh", "-c", "for name in pip pip3 git gcc; do command -v $name; done; true", user=user)
        assert (found.returncode, found.stdout) == (0, "")
    inspected = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config.Env}}", engine.image("DAEMON")],
        capture_output=True,
        text=True,
        check=True,
    )
    names = set(re.findall(r'"([A-Z_0-9]+)=', inspected.stdout))
    of_the_base = {"LANG", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"}
    assert names - of_the_base == {"PATH", "PYTHONUNBUFFERED", "RUNTIME_DIRECTORY"}
    left = run_in_image("find", "/opt", "/root", "/home", "/run", "/srv", "(", "-name", "*.env", "-o", "-name",
                        "*pass*", "-o", "-name", ".git", "-o", "-name", "*.key", ")", user="0")  # fmt: skip
    assert left.stdout == ""


def test_the_image_says_its_faults_in_sentences() -> None:
    done = run_in_image("python3", "-m", "harvest_brain", "check-config", "/nowhere.env")
    assert done.returncode == 2
    assert "/nowhere.env" in done.stderr


# compose.yaml


def compose_program() -> list[str]:
    for program in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(program[0]):
            asked = subprocess.run([*program, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return program
    pytest.skip("neither `docker compose` nor docker-compose is installed")


def test_compose_up_is_a_working_shadow_system() -> None:
    port = processes.free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "COMPOSE_PROJECT_NAME": f"harvest-brain-test-{uuid.uuid4().hex[:8]}",
        "REDIS_IMAGE": engine.image("REDIS"),
        "HARVEST_BRAIN_IMAGE": engine.image("DAEMON"),
        "REDIS_PUBLISHED_PORT": str(port),
    }

    def compose(*words: str) -> str:
        command = [*compose_program(), "--file", str(COMPOSE_FILE), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BOOT_SEC, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        compose("up", "--detach", "--no-build")
        assert_a_suggestion_comes_out(port)
        # What it knows outlives both containers.
        compose("down")
        compose("up", "--detach", "--no-build")
        with redis.Redis(host=HOST, port=port, decode_responses=True, protocol=2) as client:
            wait_until(lambda: client.exists(LEASE), BOOT_SEC, what="a leader")
            assert len(harvests(client)) == 1
            feed(client, PRICE)
            assert len(harvests(client)) == 1
    finally:
        compose("down", "--volumes")


def test_the_services_of_compose_yaml_work_on_the_engine_alone(start_container: StartContainer) -> None:
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    assert set(services) == {"redis", "harvest-brain"}
    port = processes.free_port()
    server, daemon = services["redis"], services["harvest-brain"]
    assert server["ports"] == ["127.0.0.1:${REDIS_PUBLISHED_PORT:-6379}:6379"]
    start_container("redis", engine.image("REDIS"), command=server["command"], ports={"6379/tcp": (HOST, port)})
    container = start_container(
        "harvest-brain",
        engine.image("DAEMON"),
        environment=daemon["environment"],
        tmpfs=dict(mount.split(":", 1) for mount in daemon["tmpfs"]),
        read_only=daemon["read_only"],
        cap_drop=daemon["cap_drop"],
        security_opt=daemon["security_opt"],
        healthcheck={"interval": SECOND, "timeout": 20 * SECOND, "retries": 2, "start_period": SECOND},
    )
    assert_a_suggestion_comes_out(port)
    wait_until(lambda: health_of(container) == "healthy", BOOT_SEC, what="a status that can be written")
    with redis.Redis(host=HOST, port=port, decode_responses=True, protocol=2) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_what_lies_about_in_a_checkout_gets_into_no_layer(tmp_path: Path) -> None:
    """Secrets that a person keeps beside the project, and the project's history, never reach the engine."""
    shutil.copy(engine.ROOT / ".dockerignore", tmp_path)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    sentinel = f"sentinel-{uuid.uuid4().hex}"
    places = (
        *("harvest-brain.env", ".env", "vault.yml", "service/harvest_brain.env", "tools/password", "dist/x.tar"),
        *("inventories/production/group_vars/harvest/vault.yml", ".git/config", "roles/harvest/defaults/secret.yml"),
    )
    for place in (*places, "README.md", "service/harvest_brain/__init__.py"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no secret" if place not in places else sentinel)
    tag = f"localhost/harvest-brain-context:{uuid.uuid4().hex}"
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, tmp_path], check=True, capture_output=True)
    try:
        saved = subprocess.run(["docker", "save", tag], check=True, capture_output=True).stdout
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", tag], check=True, capture_output=True)
    assert b"no secret" in saved
    assert sentinel.encode() not in saved
