"""The role harvest_redis on a host whose Redis holds something already: nothing of that is lost.

Needs what `make deploy-lint` sets up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.vps import LIMIT_SEC, SYSTEMD, Host

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(LIMIT_SEC + 60)]

STEPS = ("look", "keep", "configure", "passwords")
CONFIGURE = [
    {
        "hosts": "harvest",
        "gather_facts": False,
        "tasks": [{"import_role": {"name": "harvest_redis", "tasks_from": step}} for step in STEPS],
    }
]
CREDENTIALS = "/etc/quantum/credentials"
OF_DEFAULT = 'a "quoted" pass$word: ü'
VARIABLES = {
    # As a vault's text has one that was piped into it; what reads the file takes the newline for its end.
    "harvest_redis_password": "p" * 16 + "\n",
    "harvest_redis_operator_password": "o" * 16,
    "harvest_redis_default_password": OF_DEFAULT,
    "__harvest_host_made": {"changed": False},
    "__harvest_redis_acl": {"stdout_lines": ["user hb reset on +get ~a", "user hb-operator reset on +get ~a"]},
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, SYSTEMD)
    made.run("systemctl", "start", "redis-server")
    made.run("mkdir", "-p", CREDENTIALS)
    try:
        yield made
    finally:
        made.remove()


def configure(host: Host, directory: Path) -> tuple[int, str]:
    (directory / "play.yml").write_text(json.dumps(CONFIGURE))
    return host.play(directory / "play.yml", **VARIABLES)


def test_what_it_holds_survives_the_restart_and_a_second_run_changes_nothing(host: Host, tmp_path: Path) -> None:
    """With `appendonly yes` a restart reads the append-only file alone, and the distribution's Redis has none."""
    host.run("redis-cli", "set", "somebody:elses", "data")
    code, said = configure(host, tmp_path)
    assert code == 0, said
    ask = ("redis-cli", "--no-auth-warning", "-a", OF_DEFAULT)
    assert host.run(*ask, "config", "get", "appendonly").split() == ["appendonly", "yes"]
    assert host.run(*ask, "get", "somebody:elses").strip() == "data"
    as_daemon = ("redis-cli", "--no-auth-warning", "--user", "hb", "-a", "p" * 16)
    assert host.run(*as_daemon, "get", "a").strip() == ""
    code, said = configure(host, tmp_path)
    assert (code, "changed=0" in said) == (0, True), said


def test_the_host_gets_the_passwords_that_redis_takes_and_goes_back_to_no_others(host: Host, tmp_path: Path) -> None:
    host.run("sh", "-c", f"echo before | tee {CREDENTIALS}/redis-password >{CREDENTIALS}/redis-password.proven")
    code, said = configure(host, tmp_path)
    assert code == 0, said
    for name, password in (("redis-password", "p"), ("redis-password.proven", "p"), ("redis-operator-password", "o")):
        assert host.run("cat", f"{CREDENTIALS}/{name}").strip() == password * 16
        assert host.run("stat", "--format=%a %U", f"{CREDENTIALS}/{name}").strip() == "600 root"


def test_users_in_a_file_of_their_own_stop_it_before_anything_is_changed(host: Host, tmp_path: Path) -> None:
    """Redis does not start with users in both places."""
    host.run("sh", "-c", "touch /etc/redis/users.acl; echo 'aclfile /etc/redis/users.acl' >>/etc/redis/redis.conf")
    code, said = configure(host, tmp_path)
    assert code != 0
    assert "takes its users from an aclfile" in said
    assert "changed=0" in said
    assert host.run("redis-cli", "ping").strip() == "PONG"
    assert host.run("ls", CREDENTIALS) == "", "a password that Redis does not take yet is not put in place"


def test_a_redis_that_can_not_be_asked_is_left_as_it_is(host: Host, tmp_path: Path) -> None:
    """One that is stopped is started first, so preflight could not ask it."""
    host.run("sh", "-c", "systemctl stop redis-server; echo 'requirepass another' >>/etc/redis/redis.conf")
    code, said = configure(host, tmp_path)
    assert code != 0
    assert "Turn its append-only file on" in said
    assert OF_DEFAULT not in said
    assert host.run("sh", "-c", "ls /etc/redis").split() == ["redis.conf"]
