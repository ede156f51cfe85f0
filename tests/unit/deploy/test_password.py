"""A change of Redis's password is judged and taken back like a release, though it is no part of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.fake_host import FakeHost


def password_file(host: FakeHost) -> Path:
    return host.root / "etc/quantum/credentials/redis-password"


def deploy_password(host: FakeHost, password: str) -> None:
    """As the role does it, at the host's own time."""
    password_file(host).parent.mkdir(parents=True, exist_ok=True)
    password_file(host).write_text(password)
    os.utime(password_file(host), (host.clock.time(), host.clock.time()))


@pytest.fixture
def proven(host: FakeHost) -> str:
    """A release that was proven with the password `old`."""
    host.systemd.redis_password = "old"
    deploy_password(host, "old")
    return host.proven()


def test_a_new_password_restarts_the_current_release_and_is_judged(host: FakeHost, proven: str) -> None:
    starts = host.systemd.starts
    host.systemd.redis_password = None  # a connection that is open outlives a change of the password
    deploy_password(host, "new")
    code, answer = host.run("activate", proven)
    assert (code, answer["changed"], answer["release"]) == (0, True, proven)
    assert (host.systemd.starts, host.systemd.password) == (starts + 1, "new")
    assert host.run("activate", proven)[1]["changed"] is False


def test_a_wrong_password_is_taken_back_and_the_release_runs_on(host: FakeHost, proven: str) -> None:
    deploy_password(host, "wrong")
    code, answer = host.run("activate", proven)
    assert (code, answer["release"]) == (1, proven)
    assert "WRONGPASS" in answer["message"]
    assert f"with the one before: back on {proven}, READY" in answer["message"]
    assert "WRONGPASS" in Path(answer["evidence"], "why.txt").read_text()
    assert password_file(host).read_text() == "old"
    assert password_file(host).stat().st_mode & 0o777 == 0o600
    _, status = host.run("status")
    assert (status["running"], status["last_proven"], status["quarantine"]) == (proven, proven, {})
    assert host.systemd.timer is None


def test_a_wrong_password_with_a_new_release_is_taken_back_with_it(host: FakeHost, proven: str) -> None:
    deploy_password(host, "wrong")
    release = host.release("HARVEST_MIN_R=1\n")
    code, answer = host.run("activate", release)
    assert (code, answer["release"], answer["quarantined"]) == (1, proven, release)
    assert f"back on {proven}, READY" in answer["message"]
    assert password_file(host).read_text() == "old"


def test_the_rescue_takes_a_wrong_password_back(host: FakeHost, proven: str) -> None:
    deploy_password(host, "wrong")
    host.run("activate", proven, "--no-gate")
    assert host.run("gate")[0] == 1
    code, answer = host.run("rollback", "--from", proven)
    assert (code, answer["release"]) == (0, proven)
    assert host.run("status")[1]["last_proven"] == proven


def test_the_dead_man_timer_takes_a_wrong_password_back(host: FakeHost, proven: str) -> None:
    deploy_password(host, "wrong")
    host.run("activate", proven, "--no-gate")
    fired = host.deadline()
    assert fired is not None
    assert (fired[0], fired[1]["release"]) == (0, proven)
    assert password_file(host).read_text() == "old"


def test_going_back_from_a_proven_release_keeps_the_password_it_was_proven_with(host: FakeHost, proven: str) -> None:
    later = host.proven("HARVEST_MIN_R=1\n")
    host.systemd.redis_password = "new"
    deploy_password(host, "new")
    assert host.run("activate", later)[0] == 0
    code, answer = host.run("rollback")
    assert (code, answer["release"]) == (0, proven)
    assert password_file(host).read_text() == "new"


def test_a_password_that_the_operator_put_there_is_not_taken_back_by_a_rollback(host: FakeHost, proven: str) -> None:
    host.proven("HARVEST_MIN_R=1\n")
    host.systemd.redis_password = "new"
    deploy_password(host, "new")
    assert host.run("rollback")[1]["release"] == proven
    assert password_file(host).read_text() == "new"


def test_a_password_that_the_daemon_is_ready_with_is_the_one_to_go_back_to(host: FakeHost, proven: str) -> None:
    """A person changed it by hand and restarted the daemon; then a deploy brings a release that fails."""
    host.systemd.redis_password = "new"
    deploy_password(host, "new")
    host.clock.sleep(1)
    host.systemd.do_restart([])
    host.clock.sleep(10)
    bad = host.release("HARVEST_MIN_R=1\n", **{"crash loop": True})
    code, answer = host.run("activate", bad)
    assert (code, answer["release"]) == (1, proven)
    assert f"back on {proven}, READY" in answer["message"]
    assert password_file(host).read_text() == "new"


def test_a_password_that_can_not_be_taken_back_does_not_keep_the_host_from_its_way_back(
    host: FakeHost, proven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_password(host, "wrong")
    bad = host.release("HARVEST_MIN_R=1\n", **{"crash loop": True})
    real = host.ctl.put_file

    def full(path: Path, *more: object) -> bool:
        if path == password_file(host):
            raise OSError(28, "No space left on device", str(path))
        return bool(real(path, *more))

    monkeypatch.setattr(host.ctl, "put_file", full)
    code, answer = host.run("activate", bad)
    assert (code, answer["release"], host.current) == (1, proven, proven)


def test_purging_the_configuration_removes_every_copy_of_the_password(host: FakeHost, proven: str) -> None:
    assert proven
    host.run("rollback", "--to", "off", "--purge", "config")
    assert list(password_file(host).parent.iterdir()) == []
