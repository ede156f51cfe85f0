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

STEPS = ("look", "keep", "kept", "configure")
CREDENTIALS = "/etc/quantum/credentials"
OF_DEFAULT = 'a "quoted" pass$word: ü'
VARIABLES = {
    # As a vault's text has one that was piped into it; what reads the file takes the newline for its end.
    "harvest_redis_password": "p" * 16 + "\n",
    "harvest_redis_operator_password": "o" * 16,
    "harvest_redis_default_password": OF_DEFAULT,
    "harvest_settings": {"REDIS_USERNAME": "hb"},
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


def configure(host: Host, directory: Path, steps: tuple[str, ...] = STEPS, **options: str) -> tuple[int, str]:
    tasks = [{"import_role": {"name": "harvest_redis", "tasks_from": step}} for step in steps]
    (directory / "play.yml").write_text(json.dumps([{"hosts": "harvest", "gather_facts": False, "tasks": tasks}]))
    return host.play(directory / "play.yml", **{**VARIABLES, **options})


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


@pytest.mark.parametrize("told", [True, False])
def test_passwords_before_are_taken_until_the_new_ones_are_proven(host: Host, tmp_path: Path, told: bool) -> None:
    """And go without a restart, unless nobody knows the password of Redis's default user."""
    options = {} if told else {"harvest_redis_default_password": ""}
    users = (("hb", "redis-password.proven", "p"), ("hb-operator", "redis-operator-password", "o"))
    for name, file, _ in users:
        host.run("sh", "-c", f"echo {name}-before >{CREDENTIALS}/{file}")
    code, said = configure(host, tmp_path, STEPS, **options)
    assert code == 0, said
    if not told:
        host.run("sh", "-c", "echo 'requirepass another' >>/etc/redis/redis.conf; systemctl restart redis-server")
    for name, _, letter in users:
        assert log_in(host, name, f"{name}-before") == log_in(host, name, letter * 16) == ""
    process = host.run("pidof", "redis-server")

    code, said = configure(host, tmp_path, ("retire",), **options)
    assert (code, "changed=0" in said) == (0, True), said
    for _, file, letter in users:
        host.run("sh", "-c", f"echo {letter * 16} >{CREDENTIALS}/{file}")
    code, said = configure(host, tmp_path, ("retire",), **options)
    assert code == 0, said
    assert (host.run("pidof", "redis-server") == process) == told
    for name, _, letter in users:
        assert log_in(host, name, letter * 16) == ""
        assert "NOAUTH" in log_in(host, name, f"{name}-before")
    code, said = configure(host, tmp_path, STEPS, **options)
    assert (code, "changed=0" in said) == (0, True), said


def log_in(host: Host, user: str, password: str) -> str:
    """What Redis then answers when it is asked for a key that is not there."""
    return host.run("redis-cli", "--no-auth-warning", "--user", user, "--pass", password, "get", "a").strip()


def test_users_in_a_file_of_their_own_stop_it_before_anything_is_changed(host: Host, tmp_path: Path) -> None:
    """Redis does not start with users in both places."""
    host.run("sh", "-c", "touch /etc/redis/users.acl; echo 'aclfile /etc/redis/users.acl' >>/etc/redis/redis.conf")
    code, said = configure(host, tmp_path)
    assert code != 0
    assert "takes its users from an aclfile" in said
    assert "changed=0" in said
    assert host.run("redis-cli", "ping").strip() == "PONG"


def test_a_redis_that_can_not_be_asked_is_left_as_it_is(host: Host, tmp_path: Path) -> None:
    """One that is stopped is started first, so preflight could not ask it."""
    host.run("sh", "-c", "systemctl stop redis-server; echo 'requirepass another' >>/etc/redis/redis.conf")
    code, said = configure(host, tmp_path)
    assert code != 0
    assert "Turn its append-only file on" in said
    assert OF_DEFAULT not in said
    assert host.run("sh", "-c", "ls /etc/redis").split() == ["redis.conf"]
