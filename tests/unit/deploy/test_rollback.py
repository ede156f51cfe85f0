"""harvestctl rollback: one way back, which asks nothing and needs nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_host import FakeHost, Killed


def three(host: FakeHost) -> list[str]:
    """Three releases that were proven one after the other; the host is on the last one."""
    return [host.proven(f"HARVEST_MIN_R={number}\n") for number in range(3)]


# The last proven release.


def test_incident_27_rollback_goes_to_the_last_proven_release_without_questions(host: FakeHost) -> None:
    one, two, three_ = three(host)
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["from"], answer["quarantined"]) == (0, two, three_, None)
    assert answer["ready_seconds"] < 10
    assert host.current == host.systemd.release == two
    code, answer = host.run("rollback")
    assert (code, answer["release"]) == (0, one)


def test_rolling_back_does_not_return_to_what_was_rolled_back_from(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.run("rollback")
    _, status = host.run("status")
    assert (status["current"], status["proven"], status["previous"]) == (one, [one], "off")
    code, _ = host.run("activate", two)
    assert (code, host.run("status")[1]["proven"]) == (0, [one, two])


def test_the_rollback_of_a_first_deploy_is_off(host: FakeHost) -> None:
    release = host.proven()
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["from"]) == (0, "off", release)
    assert host.systemd.life().active == "inactive"
    assert not host.systemd.unit_file.exists()
    assert host.run("rollback")[1]["changed"] is False


def test_a_release_that_is_not_ready_is_quarantined_when_it_is_left(host: FakeHost) -> None:
    good = host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    host.run("activate", bad, "--no-gate")
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["quarantined"]) == (0, good, bad)
    assert answer["evidence"] is not None
    assert host.run("activate", bad)[0] == 4


def test_a_healthy_release_that_nobody_judged_is_no_culprit(host: FakeHost) -> None:
    good = host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    host.run("activate", release, "--no-gate")
    host.clock.sleep(5)
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["quarantined"]) == (0, good, None)
    assert host.run("activate", release)[0] == 0


def test_a_proven_release_that_is_damaged_or_gone_is_passed_over(host: FakeHost) -> None:
    one, two, three_ = three(host)
    venv = host.releases / two / "venv/bin"
    venv.chmod(0o755)
    (venv / "harvest-brain").unlink()
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["from"]) == (0, one, three_)


def test_it_works_with_the_current_environment_gone(host: FakeHost) -> None:
    one, _, three_ = three(host)
    host.run("rollback", "--to", one)
    venv = host.releases / one / "venv"
    for path in (host.releases / one, venv, venv / "bin"):
        path.chmod(0o755)
    shutil.rmtree(venv)
    code, answer = host.run("rollback")
    assert code == 0
    assert answer["release"] not in (one, three_)


def test_with_redis_down_the_host_is_back_and_waits(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.systemd.redis_down = True
    began = host.clock.elapsed
    code, answer = host.run("rollback")
    assert (code, answer["release"], answer["from"]) == (6, one, two)
    assert host.clock.elapsed - began < 10, "what no release could help is not waited for"
    assert "waits for Redis" in answer["message"]
    assert host.current == host.systemd.release == one
    assert host.run("status")[1]["pending"] is None


def test_a_cut_off_last_line_of_the_audit_log_counts_as_not_written(host: FakeHost) -> None:
    one, _ = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    with host.log.open("a") as log:
        log.write('{"at": "2026-01-18T12:00:00Z", "event": "quaran')
    code, answer = host.run("rollback")
    assert (code, answer["release"]) == (0, one)
    last = host.log.read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "disarmed"


def test_it_works_when_the_audit_log_can_not_be_written(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.ctl.History, "append", full)
    monkeypatch.setattr(host.ctl.Host, "write_evidence", full)
    code, answer = host.run("rollback")
    assert (code, answer["release"], host.current) == (0, one, one)


@pytest.mark.parametrize("what", ["absent", "too slow"])
def test_it_works_when_the_journal_can_not_be_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    good = host.proven("HARVEST_MIN_R=1\n")
    bad = host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    real = host.ctl.subprocess.run

    def run(command: list[str], **options: Any) -> object:
        if command[0] != "journalctl":
            return real(command, **options)
        if what == "absent":
            raise FileNotFoundError(command[0])
        host.clock.elapsed += options["timeout"]
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(host.ctl.subprocess, "run", run)
    began = host.clock.elapsed
    code, answer = host.run("activate", bad)
    assert (code, answer["release"], answer["quarantined"], host.current) == (1, good, bad, good)
    assert host.clock.elapsed - began < 40, "the evidence must not keep the host from its way back"
    assert "crash" not in Path(answer["evidence"], "journal.txt").read_text()
    assert "auto-restart" in Path(answer["evidence"], "unit.txt").read_text()


# A target that was named.


def test_it_goes_to_a_named_release(host: FakeHost) -> None:
    one, _, _ = three(host)
    code, answer = host.run("rollback", "--to", one)
    assert (code, answer["release"], host.current) == (0, one, one)


def test_going_to_the_release_that_is_in_place_changes_nothing(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    log, starts = host.log.read_bytes(), host.systemd.starts
    code, answer = host.run("rollback", "--to", two)
    assert (code, answer["changed"], answer["release"]) == (0, False, two)
    assert "in place and running" in answer["message"]
    assert (host.log.read_bytes(), host.systemd.starts) == (log, starts)
    assert host.run("status")[1]["proven"] == [one, two]


def test_going_to_the_release_that_is_in_place_starts_it_and_leaves_it_proven(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.systemd.started = None
    code, answer = host.run("rollback", "--to", two)
    assert (code, answer["changed"], host.current) == (0, True, two)
    assert host.systemd.life().active == "active"
    assert host.run("status")[1]["proven"] == [one, two]
    bad = host.release("HARVEST_MIN_R=3\n", **{"crash loop": True})
    assert host.run("activate", bad)[1]["release"] == two
    assert host.run("rollback")[1]["release"] == one


def test_a_release_that_was_gone_back_to_from_itself_counts_as_proven(host: FakeHost) -> None:
    """The audit log of a host may say so."""
    release = host.proven()
    line = {"at": "2026-01-18T12:00:00Z", "event": "rolled back", "release": release, "from": release}
    with host.log.open("a") as log:
        log.write(json.dumps(line) + "\n")
    assert host.run("status")[1]["proven"] == [release]


def test_a_named_release_that_can_not_be_used_is_refused(host: FakeHost) -> None:
    host.proven()
    unfinished = host.stage("HARVEST_MIN_R=2\n")
    for target in (unfinished, "0.0.1-0123456789ab"):
        current, starts = host.current, host.systemd.starts
        assert host.run("rollback", "--to", target)[0] == 4
        assert (host.current, host.systemd.starts) == (current, starts)


def test_a_release_that_can_not_read_the_stored_state_is_no_target(host: FakeHost) -> None:
    old = host.proven(reads=(1,), writes=1)
    new = host.proven("HARVEST_MIN_R=2\n", reads=(1, 2), writes=2, version="0.2.0", schema=2)
    code, answer = host.run("rollback", "--to", old)
    assert (code, host.current) == (4, new)
    assert "the state in Redis has schema 2" in answer["message"]


def test_the_schema_is_known_from_the_log_when_the_daemon_is_silent(host: FakeHost) -> None:
    old = host.proven(reads=(1,), writes=1)
    host.proven("HARVEST_MIN_R=2\n", reads=(1, 2), writes=2, version="0.2.0", schema=2)
    host.systemd.started = None
    host.systemd.status_file.unlink()
    assert host.run("rollback", "--to", old)[0] == 4
    assert host.run("status")[1]["state_schema"] == 2


def test_a_failed_upgrade_that_never_wrote_its_schema_goes_back_to_the_old_one(host: FakeHost) -> None:
    old = host.proven(reads=(1,), writes=1)
    bad = host.release("HARVEST_MIN_R=2\n", reads=(1, 2), writes=2, version="0.2.0", **{"crash loop": True})
    code, answer = host.run("activate", bad)
    assert (code, answer["release"]) == (1, old)


def test_a_failed_upgrade_that_wrote_its_schema_ends_off_rather_than_on_one_that_can_not_read_it(
    host: FakeHost,
) -> None:
    host.proven(reads=(1,), writes=1)
    bad = host.release("HARVEST_MIN_R=2\n", reads=(1, 2), writes=2, version="0.2.0", dies=8, schema=2)
    code, answer = host.run("activate", bad)
    assert (code, answer["release"], answer["quarantined"]) == (1, "off", bad)


# Off.


def test_off_is_stopped_and_disabled_and_the_releases_stay(host: FakeHost) -> None:
    release = host.release()
    (host.log.parent / "tokens").mkdir()
    (host.log.parent / f"tokens/{release}.json").write_text("{}")
    host.run("activate", release)
    assert (host.root / "etc/quantum/credentials/live-token").exists()
    code, answer = host.run("rollback", "--to", "off")
    assert (code, answer["release"], answer["changed"]) == (0, "off", True)
    assert host.systemd.life().active == "inactive"
    assert not host.systemd.enabled
    assert not (host.root / "etc/quantum/credentials/live-token").exists()
    assert (host.releases / release / "RELEASE.json").exists()
    assert host.run("rollback", "--to", "off")[1]["changed"] is False
    code, answer = host.run("rollback")
    assert (code, answer["release"]) == (0, release), "from off, back is to the last proven one"


def test_an_off_that_was_cut_short_is_ended_by_the_next_rollback(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead-man timer's, for one, must not start another release when the host was to be off."""
    three(host)

    def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(host.ctl.Host, "switched_off", killed)
        with pytest.raises(Killed):
            host.run("rollback", "--to", "off")
    assert host.run("rollback")[1]["release"] == "off"
    assert (host.systemd.life().active, host.current) == ("inactive", None)
    assert host.run("rollback")[1]["release"] != "off"


def test_off_stops_a_daemon_whose_unit_file_is_gone(host: FakeHost) -> None:
    """systemd calls it not-found then, and it runs on."""
    host.proven()
    host.systemd.unit_file.unlink()
    host.systemd.do_daemon_reload([])
    assert host.systemd.life().active == "active"
    assert host.run("rollback", "--to", "off")[0] == 0
    assert host.systemd.life().active == "inactive"


def test_purging_removes_what_was_named_and_no_more(host: FakeHost) -> None:
    release = host.proven()
    credentials = host.root / "etc/quantum/credentials"
    for name in ("redis-password", "redis-operator-password"):
        (credentials / name).write_text("secret\n")
    (credentials / "another-service").write_text("not ours\n")
    code, answer = host.run("rollback", "--to", "off", "--purge", "config,releases,keys")
    assert (code, answer["purged"]) == (0, ["keys", "config", "releases"])
    assert not host.releases.exists()
    assert [path.name for path in credentials.iterdir()] == ["another-service"]
    asked = (host.home / "calls").read_text().splitlines()[-1]
    assert asked.startswith(f"purge-keys mode=shadow release={release}")
    assert host.run("status")[1]["proven"] == []
    assert host.log.exists(), "what happened stays known"


def test_without_redis_the_keys_stay_and_so_does_what_is_needed_to_remove_them(host: FakeHost) -> None:
    release = host.stage()
    (host.releases / release / "venv/bin/redis-down").write_text("")
    host.run("seal", release, "--bundle", str(host.bundle))
    host.run("activate", release)
    code, answer = host.run("rollback", "--to", "off", "--purge", "config,releases,keys")
    assert (code, answer["purged"]) == (7, [])
    assert "Connection refused" in answer["message"]
    assert (host.releases / release / "RELEASE.json").exists()
    assert host.systemd.life().active == "inactive"


@pytest.mark.parametrize("words", [("--purge", "keys"), ("--to", "off", "--purge", "streams")])
def test_a_purge_that_makes_no_sense_is_a_fault_of_the_command_line(host: FakeHost, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        host.run("rollback", *words)
    assert stop.value.code == 2


# The dead-man timer.


def test_without_a_verdict_the_host_goes_back_by_itself(host: FakeHost) -> None:
    good = host.proven(ready=10)
    release = host.release("HARVEST_MIN_R=2\n")
    began = host.clock.elapsed
    host.run("activate", release, "--no-gate")
    result = host.deadline()
    assert result is not None
    assert result[1]["release"] == good
    assert host.clock.elapsed - began < 90, "the way back is in it"
    assert host.current == host.systemd.release == good
    assert "deadline" in host.event_names()


def test_after_a_verdict_a_late_timer_does_nothing(host: FakeHost) -> None:
    host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    host.run("activate", release, "--no-gate")
    late = host.systemd.timer
    host.run("gate")
    host.systemd.timer = late
    result = host.deadline()
    assert result is not None
    assert (result[0], result[1]["changed"], host.current) == (0, False, release)


def test_the_late_timer_of_an_earlier_switch_does_nothing_to_the_next_one(host: FakeHost) -> None:
    host.run("activate", host.release("HARVEST_MIN_R=1\n"), "--no-gate")
    late = host.systemd.timer
    host.run("gate")
    release = host.release("HARVEST_MIN_R=2\n")
    host.run("activate", release, "--no-gate")
    host.systemd.timer = late
    result = host.deadline()
    assert result is not None
    assert (result[0], result[1]["changed"], host.current) == (0, False, release)


def test_a_timer_that_was_armed_by_hand_goes_back_only_from_a_switch(host: FakeHost) -> None:
    release = host.proven()
    host.run("arm-timer", "--deadline-sec", "30")
    result = host.deadline()
    assert result is not None
    assert (result[0], host.current) == (0, release)
    assert host.run("status")[1]["timer"] is None


def test_after_a_reboot_the_timer_is_armed_anew_only_where_a_switch_waits_for_its_verdict(host: FakeHost) -> None:
    good, bad = host.proven(), host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    code, answer = host.run("arm-timer", "--if-pending")
    assert (code, answer["changed"], host.systemd.timer) == (0, False, None)
    host.run("activate", bad, "--no-gate")
    host.systemd.timer = None
    began = host.clock.elapsed
    assert host.run("arm-timer", "--if-pending")[0] == 0
    fired = host.deadline()
    assert fired is not None
    assert (fired[0], host.current) == (0, good)
    assert host.clock.elapsed - began < 90


def test_disarming_says_whether_it_was_armed(host: FakeHost) -> None:
    host.proven()
    assert host.run("disarm")[1]["changed"] is False
    host.run("arm-timer")
    assert host.run("disarm")[1]["changed"] is True
    assert host.systemd.timer is None


def test_the_rescue_does_nothing_when_the_timer_was_faster(host: FakeHost) -> None:
    one = host.proven("HARVEST_MIN_R=1\n")
    two = host.proven("HARVEST_MIN_R=2\n")
    bad = host.release("HARVEST_MIN_R=3\n", **{"crash loop": True})
    host.run("activate", bad, "--no-gate")
    host.deadline()
    assert host.current == two
    code, answer = host.run("rollback", "--from", bad)
    assert (code, answer["changed"], host.current) == (0, False, two)
    assert one in host.run("status")[1]["proven"]


def test_the_rescue_does_nothing_to_a_release_that_has_passed(host: FakeHost) -> None:
    """The rescue of a deploy that was refused, or that was overtaken by another controller's of the same release."""
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    code, answer = host.run("rollback", "--from", two)
    assert (code, answer["changed"], host.current) == (0, False, two)
    assert host.run("status")[1]["proven"] == [one, two]


# Two at once.


def test_a_second_harvestctl_is_told_who_is_at_work(host: FakeHost) -> None:
    release = host.proven()
    handle = os.open(host.log.with_name("lock"), os.O_RDWR)
    os.pwrite(handle, b"trader, process 4711, activate 0.2.0-0123456789ab\n" + b" " * 200, 0)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code, answer = host.run("activate", release)
    assert (code, answer["changed"]) == (5, False)
    assert "trader, process 4711" in answer["message"]
    began = host.clock.elapsed
    assert host.run("rollback")[0] == 5
    assert host.clock.elapsed - began == pytest.approx(60, abs=1), "the way back waits for a minute"
    os.close(handle)


def test_a_rollback_that_waited_does_not_go_back_a_second_time(host: FakeHost) -> None:
    """While it waits for the lock, the activation that holds it fails and goes back by itself."""
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    bad = host.release("HARVEST_MIN_R=3\n", **{"crash loop": True})
    host.run("activate", bad, "--no-gate")
    handle = os.open(host.log.with_name("lock"), os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)

    def the_other_goes_back() -> None:
        host.clock.wakers.pop()
        os.close(handle)
        assert host.run("rollback")[1]["release"] == two

    host.clock.wakers.append(the_other_goes_back)
    code, answer = host.run("rollback")
    assert (code, answer["changed"], host.current) == (0, False, two)
    assert one in host.run("status")[1]["proven"]
