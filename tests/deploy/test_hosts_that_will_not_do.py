"""Hosts that can't be deployed to: deploy.yml says so, and what to do, before it has written anything on them.

Each host is a container of the test images with what it lacks. Needs what `make deploy-lint` sets up.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.vps import LIMIT_SEC, NO_SYSTEMD, SYSTEMD, Host

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(LIMIT_SEC + 60)]


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
    said = host.refuses(**MANAGED)
    assert "MB are free on /opt, /var or /etc; a release needs 300." in said
    assert "harvestctl prune --keep 3" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_redis_that_does_not_answer_is_named(host: Host) -> None:
    said = host.refuses(harvest_settings={"REDIS_PORT": 6390})
    assert (
        "Redis does not answer at 127.0.0.1 port 6390 from vps; nothing was changed. Start it, or correct REDIS_HOST"
        in said
    )


MANAGED = {
    "harvest_redis_managed": True,
    "harvest_redis_password": "p" * 16,
    "harvest_redis_operator_password": "o" * 16,
    "harvest_settings": {"REDIS_USERNAME": "hb"},
}


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_redis_with_users_in_a_file_of_their_own_is_not_looked_after(host: Host) -> None:
    """Redis does not start with users in both places."""
    host.run("sh", "-c", "touch /etc/redis/users.acl; echo 'aclfile /etc/redis/users.acl' >>/etc/redis/redis.conf")
    said = host.refuses(**MANAGED)
    assert "The Redis on vps takes its users from an aclfile" in said
    assert "harvest_redis_managed: false" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_redis_with_a_password_that_was_not_told_is_not_looked_after(host: Host) -> None:
    host.run("systemctl", "start", "redis-server")
    host.run("redis-cli", "config", "set", "requirepass", "another")
    said = host.refuses(**MANAGED)
    assert "The Redis on vps does not let itself be looked after: NOAUTH" in said
    assert "Set harvest_redis_default_password to" in said
    said = host.refuses(**MANAGED, harvest_redis_default_password="not-that-one")
    assert "does not let itself be looked after: WRONGPASS" in said
    assert "not-that-one" not in said


@pytest.fixture
def with_docker(tmp_path: Path) -> dict[str, str]:
    """The variables of a deployment with docker and an archive that looks like an image."""
    archive = tmp_path / "image.tar"
    (tmp_path / "manifest.json").write_text('[{"Config": "0123.json"}]')
    subprocess.run(["tar", "--create", "--file", archive, "manifest.json"], cwd=tmp_path, check=True)
    options = {"harvest_runtime": "container", "harvest_container_engine": "docker"}
    return {**options, "harvest_container_image": str(archive)}


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_docker_that_is_not_there_is_named(host: Host, with_docker: dict[str, str]) -> None:
    said = host.refuses(**with_docker)
    assert "docker does not answer on vps" in said
    assert "harvest_container_engine=podman, which is installed from the distribution" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_a_docker_that_gives_images_other_ids_is_told_what_to_set(host: Host, with_docker: dict[str, str]) -> None:
    status = '[["driver-type","io.containerd.snapshotter.v1"]]'
    host.run("sh", "-c", f"printf '#!/bin/sh\\necho %s\\n' \"'{status}'\" >/usr/bin/docker; chmod +x /usr/bin/docker")
    said = host.refuses(**with_docker)
    assert "docker on vps keeps its images in containerd's store" in said
    assert "containerd-snapshotter" in said


@pytest.mark.parametrize("host", [GOOD], indirect=True)
def test_what_would_do_gets_into_the_second_play(host: Host) -> None:
    """So the others stop for the reason that they give."""
    host.run("systemctl", "start", "redis-server")
    with pytest.raises(AssertionError, match=r"PLAY \[Deploy\]"):
        host.refuses(harvest_host_packages=["there-is-no-such-package"])
