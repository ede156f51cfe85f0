"""The role harvest_host and Redis's passwords: a new one lies beside the one in use, which harvestctl alone replaces.

Needs what `make deploy-lint` sets up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.vps import LIMIT_SEC, NO_SYSTEMD, Host

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(LIMIT_SEC + 60)]

CREDENTIALS = "/etc/quantum/credentials"
LIVE, BROUGHT = f"{CREDENTIALS}/redis-password", f"{CREDENTIALS}/redis-password.next"
ROLE = {"hosts": "harvest", "gather_facts": False, "tasks": [{"import_role": {"name": "harvest_host"}}]}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, NO_SYSTEMD, ("infinity",))
    (tmp_path / "play.yml").write_text(json.dumps([ROLE]))
    (tmp_path / "check.yml").write_text(json.dumps([ROLE | {"check_mode": True}]))
    try:
        yield made
    finally:
        made.remove()


def deploy(host: Host, directory: Path, play: str = "play.yml", **variables: object) -> int:
    """How many tasks changed something."""
    code, said = host.play(directory / play, harvest_host_packages=[], **variables)
    assert code == 0, said
    return int(said.split("changed=")[1].split()[0])


def secrets(host: Host) -> dict[str, str]:
    """By the name of the file."""
    names = host.run("ls", CREDENTIALS).split()
    modes = host.run("sh", "-c", f"stat --format='%a %U:%G' {CREDENTIALS}/*")
    assert set(modes.splitlines()) == {"600 root:root"}
    return {name: host.run("cat", f"{CREDENTIALS}/{name}") for name in names}


def test_a_new_password_is_laid_beside_the_one_in_use(host: Host, tmp_path: Path) -> None:
    first, second = {"harvest_redis_password": "first"}, {"harvest_redis_password": "second"}
    assert deploy(host, tmp_path, **first) > 0
    assert secrets(host) == {"redis-password.next": "first"}
    assert deploy(host, tmp_path, **first) == 0, "once more changes nothing"

    host.run("mv", BROUGHT, LIVE)
    assert deploy(host, tmp_path, **first) == 0
    assert deploy(host, tmp_path, "check.yml", **second) == 1
    assert secrets(host) == {"redis-password": "first"}, "check mode writes nothing"

    assert deploy(host, tmp_path, **second) == 1
    assert secrets(host) == {"redis-password": "first", "redis-password.next": "second"}
    assert deploy(host, tmp_path, **second) == 0
    assert deploy(host, tmp_path, harvest_redis_password="") == 1
    assert secrets(host) == {"redis-password": "first", "redis-password.next": ""}
    assert deploy(host, tmp_path, harvest_redis_password="") == 0
    assert deploy(host, tmp_path, **first) == 1
    assert secrets(host) == {"redis-password": "first"}, "what nobody wants any more is removed"

    host.run("chmod", "644", LIVE)
    host.run("chown", "nobody", LIVE)
    assert deploy(host, tmp_path, **first) == 1
    assert secrets(host) == {"redis-password": "first"}

    assert deploy(host, tmp_path, **first, harvest_redis_operator_password="third") == 1
    assert secrets(host) == {"redis-password": "first", "redis-operator-password.next": "third"}
