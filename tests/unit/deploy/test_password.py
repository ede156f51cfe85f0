"""A change of Redis's password is judged and taken back like a release, though it is no part of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.fake_host import FakeHost


def password_file(host: FakeHost) -> Path:
    return host.root / "etc/quantum/credentials/redis-password"


def operator_file(host: FakeHost) -> Path:
    return password_file(host).with_name("redis-operator-password")


def brought(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


def deploy_password(host: FakeHost, password: str) -> None:
    """As the role does it: beside the one in use, which is left alone. Empty: there is to be none."""
    password_file(host).parent.mkdir(parents=True, exist_ok=True)
    brought(password_file(host)).write_text(password)


def change_by_hand(host: FakeHost, password: str) -> None:
    """As a person does it, at the host's own time."""
    password_file(host).write_text(password)
    os.utime(password_file(host), (host.clock.time(), host.clock.time()))


def restart(host: FakeHost) -> str:
    """As at the next boot. What became of the daemon."""
    host.systemd.do_restart([])
    host.clock.sleep(10)
    active: str = host.systemd.life().active
    return active


@pytest.fixture
def proven(host: FakeHost) -> str:
    """A release that was proven with the password `old`."""
    host.systemd.redis_password = "old"
    deploy_password(host, "old")
    host.clock.sleep(60)  # files have the time of this machine; at this host's the daemon starts after they are written
    return host.proven()


def test_a_new_password_restarts_the_current_release_and_is_judged(host: FakeHost, proven: str) -> None:
    starts = host.systemd.starts
    host.systemd.redis_password = None  # a connection that is open outlives a change of the password
    deploy_password(host, "new")
    code, answer = host.run("activate", proven)
    assert (code, answer["changed"], answer["release"]) == (0, True, proven)
    assert (host.systemd.starts, host.systemd.password) == (starts + 1, "new")
    assert password_file(host).stat().st_mode & 0o777 == 0o600
    assert not brought(password_file(host)).exists()
    assert host.run("activate", proven)[1]["changed"] is False


def test_a_password_that_waits_is_something_to_do_and_the_same_one_is_not(host: FakeHost, proven: str) -> None:
    deploy_password(host, "old")
    assert host.run("plan", proven)[1]["changed"] is False
    deploy_password(host, "new")
    planned = host.run("plan", proven)[1]
    assert (planned["changed"], planned["intact"]) == (True, True)
    assert "a new password of Redis waits to take its place" in planned["message"]
    assert (password_file(host).read_text(), brought(password_file(host)).read_text()) == ("old", "new")


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


def test_the_same_deployment_of_a_wrong_password_again_is_refused_and_leaves_the_proven_one(
    host: FakeHost, proven: str
) -> None:
    release = host.release("HARVEST_MIN_R=1\n")
    for expected in (1, 4):
        deploy_password(host, "wrong")
        assert host.run("activate", release)[0] == expected
        assert host.run("rollback", "--from", release)[1]["changed"] is False
        assert password_file(host).read_text() == "old"
    assert (host.current, restart(host)) == (proven, "active")


@pytest.mark.parametrize("why", ["incomplete", "no timer", "interrupted before"])
def test_what_stops_before_the_switch_leaves_the_proven_password(host: FakeHost, proven: str, why: str) -> None:
    deploy_password(host, "wrong")
    release = host.stage("HARVEST_MIN_R=1\n") if why == "incomplete" else host.release("HARVEST_MIN_R=1\n")
    if why == "no timer":
        host.systemd.broken = {"systemd-run"}
    if why != "interrupted before":
        assert host.run("activate", release)[0] == 4
    assert password_file(host).read_text() == "old"
    assert (host.current, restart(host)) == (proven, "active")
    host.systemd.broken = set()
    assert host.run("rollback", "--to", proven)[0] == 0
    assert password_file(host).read_text() == "old"


def test_a_password_that_was_changed_by_hand_is_put_right_by_a_deployment(host: FakeHost, proven: str) -> None:
    host.clock.sleep(5)
    change_by_hand(host, "a person's")
    deploy_password(host, "old")
    assert host.run("activate", proven)[0] == 0
    assert (password_file(host).read_text(), host.systemd.password) == ("old", "old")


def test_a_password_that_is_not_needed_any_more_is_removed_when_the_release_passes_without(
    host: FakeHost, proven: str
) -> None:
    host.systemd.redis_password = ""
    deploy_password(host, "")
    assert host.run("activate", proven)[0] == 0
    assert not password_file(host).exists()
    assert host.run("plan", proven)[1]["changed"] is False


def test_a_password_that_was_needed_after_all_comes_back(host: FakeHost, proven: str) -> None:
    deploy_password(host, "")
    assert host.run("activate", proven)[0] == 1
    assert (password_file(host).read_text(), restart(host)) == ("old", "active")


def test_a_password_that_redis_does_not_want_is_removed_again(host: FakeHost) -> None:
    host.systemd.redis_password = ""
    release = host.proven()
    deploy_password(host, "wrong")
    assert host.run("activate", release)[0] == 1
    assert not password_file(host).exists()
    assert restart(host) == "active"


def test_the_operator_s_new_password_takes_its_place_with_what_passes(host: FakeHost, proven: str) -> None:
    assert proven
    operator_file(host).write_text("old")
    brought(operator_file(host)).write_text("new")
    bad, good = host.release("HARVEST_MIN_R=1\n", **{"crash loop": True}), host.release("HARVEST_MIN_R=2\n")
    assert host.run("activate", bad)[0] == 1
    assert operator_file(host).read_text() == "old"
    assert host.run("activate", good)[0] == 0
    assert operator_file(host).read_text() == "new"
    assert operator_file(host).stat().st_mode & 0o777 == 0o600
    assert not brought(operator_file(host)).exists()


def test_the_operator_s_new_password_alone_restarts_nothing(host: FakeHost, proven: str) -> None:
    operator_file(host).write_text("old")
    brought(operator_file(host)).write_text("new")
    starts = host.systemd.starts
    planned = host.run("plan", proven)[1]
    assert (planned["changed"], planned["intact"]) == (True, True)
    assert "the operator's new password" in planned["message"]
    code, answer = host.run("activate", proven)
    assert (code, answer["changed"], operator_file(host).read_text()) == (0, True, "new")
    assert host.systemd.starts == starts
    assert host.run("plan", proven)[1]["changed"] is False


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
    change_by_hand(host, "new")
    assert host.run("rollback")[1]["release"] == proven
    assert password_file(host).read_text() == "new"


def test_a_password_that_the_daemon_is_ready_with_is_the_one_to_go_back_to(host: FakeHost, proven: str) -> None:
    """A person changed it by hand and restarted the daemon; then a deploy brings a release that fails."""
    host.systemd.redis_password = "new"
    change_by_hand(host, "new")
    host.clock.sleep(1)
    assert restart(host) == "active"
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
    real, written = host.ctl.put_file, list[Path]()

    def full(path: Path, *more: object) -> bool:
        if path == password_file(host):
            written.append(path)
        if written[1:] and path == password_file(host):
            raise OSError(28, "No space left on device", str(path))
        return bool(real(path, *more))

    monkeypatch.setattr(host.ctl, "put_file", full)
    code, answer = host.run("activate", bad)
    assert (code, answer["release"], host.current) == (1, proven, proven)


def test_purging_the_configuration_removes_every_copy_of_the_password(host: FakeHost, proven: str) -> None:
    assert proven
    deploy_password(host, "new")
    brought(operator_file(host)).write_text("new")
    host.run("rollback", "--to", "off", "--purge", "config")
    assert list(password_file(host).parent.iterdir()) == []
