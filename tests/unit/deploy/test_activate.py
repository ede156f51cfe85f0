"""harvestctl activate and gate: forward, and back when it fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_host import UNIT, FakeHost

BAD: dict[str, dict[str, Any]] = {
    "a crash loop": {"crash loop": True},
    "a unit that failed": {"fails": True},
    "a hang before READY": {"ready": 10_000},
    "a crash at soak second 8": {"dies": 8},
    "a wrong Redis password": {"waits": "WRONGPASS invalid username-password pair"},
    "another release than the target": {"claims": "0.0.9-0123456789ab"},
    "no status": {"silent": True},
    "a heartbeat that is old": {"frozen": 0},
    "a heartbeat that stands still, though it looks fresh": {"frozen": 15},
    "neither leader nor standby": {"role": "none"},
}


def everything_below(root: Path) -> dict[str, object]:
    return {
        str(path.relative_to(root)): path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


# Forward.


def test_a_good_release_becomes_current_enabled_and_proven(host: FakeHost) -> None:
    release = host.release()
    code, answer = host.run("activate", release)
    assert (code, answer["ok"], answer["changed"], answer["release"]) == (0, True, True, release)
    assert answer["ready_seconds"] == pytest.approx(1.0, abs=0.3)
    assert host.current == release
    assert host.systemd.enabled
    assert host.systemd.release == release
    _, status = host.run("status")
    assert (status["current"], status["running"], status["last_proven"]) == (release, release, release)
    assert status["pending"] is None
    assert host.event_names()[-4:] == ["armed", "switching", "proven", "disarmed"]


def test_one_rename_switches_code_settings_and_release_id(host: FakeHost) -> None:
    first, second = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    assert first != second
    link = host.root / "etc/quantum/harvest-brain.env"
    assert "HARVEST_MIN_R=2" in link.read_text()
    assert (host.home / "current/release.env").read_text() == f"HARVEST_RELEASE_ID={second}\n"
    (host.home / "current").unlink()
    (host.home / "current").symlink_to(f"releases/{first}")
    assert "HARVEST_MIN_R=1" in link.read_text()


def test_the_unit_is_a_copy_of_the_release_s(host: FakeHost) -> None:
    release = host.proven(version="0.2.0")
    assert host.systemd.unit_file.read_bytes() == (host.releases / release / UNIT).read_bytes()
    assert host.systemd.loaded == host.systemd.unit_file.read_text()


def test_the_timer_is_armed_before_anything_is_switched_and_disarmed_after_the_verdict(host: FakeHost) -> None:
    release = host.release()
    host.systemd.calls.clear()
    host.run("activate", release)
    calls = [call for call in host.systemd.calls if call != "show"]
    armed, started = calls.index("systemd-run"), calls.index("restart")
    assert armed < calls.index("daemon-reload") < started < len(calls) - 1
    assert calls[-1] == "stop"
    assert host.systemd.timer is None


def test_a_second_activation_changes_nothing_and_restarts_nothing(host: FakeHost) -> None:
    release = host.proven()
    before, starts = everything_below(host.root), host.systemd.starts
    code, answer = host.run("activate", release)
    assert (code, answer["changed"]) == (0, False)
    assert host.systemd.starts == starts
    after = everything_below(host.root)
    lock = "var/lib/quantum/harvest-brain-deploy/lock"
    status = "run/quantum-harvest-brain/status.json"
    assert {name for name in after if after[name] != before.get(name)} <= {lock, status}


@pytest.mark.parametrize("damage", ["unit", "link", "disabled", "stopped"])
def test_activating_the_current_release_again_puts_right_what_was_changed_by_hand(host: FakeHost, damage: str) -> None:
    release = host.proven()
    if damage == "unit":
        host.systemd.unit_file.write_text("[Service]\nExecStart=/bin/true\n")
    elif damage == "link":
        (host.root / "etc/quantum/harvest-brain.env").unlink()
        (host.root / "etc/quantum/harvest-brain.env").write_text("HARVEST_MODE=live\n")
    elif damage == "disabled":
        host.systemd.enabled = False
    else:
        host.systemd.started = None
    planned = host.run("plan", release)[1]
    assert (planned["changed"], planned["intact"]) == (True, True)
    code, answer = host.run("activate", release)
    assert (code, answer["changed"]) == (0, True)
    assert host.systemd.enabled
    assert host.systemd.life().active == "active"
    assert host.systemd.unit_file.read_bytes() == (host.releases / release / UNIT).read_bytes()
    assert (host.root / "etc/quantum/harvest-brain.env").is_symlink()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("stopped", "it does not run: inactive/dead"),
        ("disabled", "it does not start at boot"),
        ("unit", "quantum-harvest-brain.service is not the release's"),
        ("link", "harvest-brain.env is not the link to the release's"),
        ("env", "is not as it was sealed: harvest-brain.env: altered"),
        ("other", "the host is on 0.1.0-"),
        ("incomplete", "is not complete"),
        ("gone", "there is no release"),
    ],
)
def test_a_plan_says_what_activate_would_put_right_and_changes_nothing(host: FakeHost, damage: str, why: str) -> None:
    release = host.proven()
    assert host.run("plan", release)[1]["changed"] is False
    if damage == "stopped":
        host.systemd.started = None
    elif damage == "disabled":
        host.systemd.enabled = False
    elif damage == "unit":
        host.systemd.unit_file.write_text("[Service]\nExecStart=/bin/true\n")
    elif damage == "link":
        (host.root / "etc/quantum/harvest-brain.env").unlink()
    elif damage == "env":
        env = host.releases / release / "harvest-brain.env"
        env.chmod(0o644)
        env.write_text("HARVEST_MODE=live\n")
    elif damage == "other":
        host.proven("HARVEST_MIN_R=1\n")
    elif damage == "incomplete":
        (host.releases / release).chmod(0o755)
        (host.releases / release / "RELEASE.json").unlink()
    else:
        release = "0.1.0-000000000000"
    host.systemd.life()
    before, starts = everything_below(host.root), host.systemd.starts
    code, answer = host.run("plan", release)
    assert (code, answer["changed"], answer["current"]) == (0, True, host.current)
    assert why in answer["message"]
    assert answer["intact"] is (damage not in ("env", "incomplete", "gone"))
    assert (everything_below(host.root), host.systemd.starts) == (before, starts)


def test_a_bare_host_is_planned_for_as_well(host: FakeHost) -> None:
    code, answer = host.run("plan", "0.1.0-000000000000")
    assert (code, answer["changed"], answer["current"], answer["intact"]) == (0, True, None, False)
    assert not host.log.parent.exists()


def test_a_release_that_was_staged_anew_below_the_daemon_is_started_anew(host: FakeHost) -> None:
    release = host.proven()
    manifest, later = host.releases / release / "RELEASE.json", host.clock.time() + 60
    os.utime(manifest, (later, later))
    host.clock.sleep(120)
    starts = host.systemd.starts
    assert "before it was staged anew" in host.run("plan", release)[1]["message"]
    code, answer = host.run("activate", release)
    assert (code, answer["changed"], host.systemd.starts) == (0, True, starts + 1)
    assert host.run("activate", release)[1]["changed"] is False


def test_activating_the_current_release_again_starts_it_where_another_one_still_runs(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.systemd.release = one
    host.clock.sleep(5)
    assert host.run("status")[1]["running"] == one
    code, answer = host.run("activate", two)
    assert (code, answer["changed"], host.systemd.release) == (0, True, two)


def test_activating_a_release_to_which_a_way_back_was_cut_short_judges_it(host: FakeHost) -> None:
    one, two = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.run("rollback")
    log = host.log.read_text().split("\n")
    end = next(number for number, line in enumerate(log) if "rolled back" in line)
    host.log.write_text("\n".join(log[:end]) + "\n")
    assert host.run("status")[1]["pending"]["release"] == one
    code, answer = host.run("activate", one)
    assert (code, answer["changed"]) == (0, True)
    assert host.run("status")[1]["pending"] is None
    assert two in host.run("status")[1]["proven"]


def test_a_standby_passes_the_gate(host: FakeHost) -> None:
    code, _ = host.run("activate", host.release(role="standby"))
    assert code == 0


# Back, when it fails.


@pytest.mark.parametrize("does", BAD.values(), ids=BAD.keys())
def test_a_bad_release_ends_on_the_last_proven_one_quarantined_with_evidence(
    host: FakeHost, does: dict[str, Any]
) -> None:
    good = host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", **does)
    host.systemd.journal += [f"line {number}" for number in range(100)]
    code, answer = host.run("activate", bad)
    assert (code, answer["ok"]) == (1, False)
    assert (answer["release"], answer["from"], answer["quarantined"]) == (good, bad, bad)
    assert host.current == host.systemd.release == good
    assert host.systemd.life().active == "active"
    _, status = host.run("status")
    assert status["last_proven"] == good
    assert list(status["quarantine"]) == [bad]
    assert status["pending"] is None
    assert host.systemd.timer is None
    evidence = Path(answer["evidence"])
    journal = (evidence / "journal.txt").read_text().splitlines()
    assert len(journal) == 50
    assert journal[-1] == f"starting {bad}"
    assert (evidence / "why.txt").read_text().strip() in answer["message"]


@pytest.mark.parametrize("does", BAD.values(), ids=BAD.keys())
def test_a_failed_first_deploy_ends_stopped_disabled_and_clean(host: FakeHost, does: dict[str, Any]) -> None:
    bad = host.release(**does)
    code, answer = host.run("activate", bad)
    assert (code, answer["release"], answer["quarantined"]) == (1, "off", bad)
    assert host.systemd.life().active == "inactive"
    assert not host.systemd.enabled
    assert not host.systemd.loaded
    for path in (host.systemd.unit_file, host.home / "current", host.root / "etc/quantum/harvest-brain.env"):
        assert not path.is_symlink()
        assert not path.exists()
    assert host.systemd.timer is None


def test_two_bad_releases_in_a_row_end_on_the_last_proven_one(host: FakeHost) -> None:
    good = host.proven()
    for number in range(2):
        code, answer = host.run("activate", host.release(f"HARVEST_MIN_R={number}\n", **{"crash loop": True}))
        assert (code, answer["release"]) == (1, good)
    assert host.current == host.systemd.release == good


def test_the_reason_is_what_the_daemon_says(host: FakeHost) -> None:
    _, answer = host.run("activate", host.release(waits="WRONGPASS invalid username-password pair"))
    assert "not READY within 20 s" in answer["message"]
    assert "WRONGPASS" in answer["message"]


def test_a_unit_that_has_failed_for_good_is_not_waited_for(host: FakeHost) -> None:
    began = host.clock.elapsed
    assert host.run("activate", host.release(fails=True))[0] == 1
    assert host.clock.elapsed - began < 1


def test_the_end_of_the_process_before_is_not_held_against_the_release(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the stop and the start of a restart the unit is `failed` when the old process ended badly."""
    release = host.release()
    real, left = host.ctl.Systemd.unit, [1, 1, 1]

    def unit(systemd: Any) -> Any:
        found = real(systemd)
        if host.systemd.starts and left:
            left.pop()
            return host.ctl.Unit({**found.properties, "ActiveState": "failed", "SubState": "failed", "Job": "77"})
        return found

    monkeypatch.setattr(host.ctl.Systemd, "unit", unit)
    code, answer = host.run("activate", release)
    assert (code, host.current, left) == (0, release, []), answer


def test_the_process_before_is_not_taken_for_the_release_that_a_restart_is_about_to_start(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the restart waits for its turn the old process is active and running, and ends then."""
    host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    real, left = host.ctl.Systemd.unit, [1, 1, 1]

    def unit(systemd: Any) -> Any:
        found = real(systemd)
        if host.systemd.starts > 1 and left:
            left.pop()
            still = {"ActiveState": "active", "SubState": "running", "MainPID": "1000", "Job": "77"}
            return host.ctl.Unit({**found.properties, **still})
        return found

    monkeypatch.setattr(host.ctl.Systemd, "unit", unit)
    code, answer = host.run("activate", release)
    assert (code, host.current, left) == (0, release, []), answer


def test_a_failed_release_is_refused_until_it_is_asked_for_on_purpose(host: FakeHost) -> None:
    release = host.release()
    host.systemd.redis_down = True
    assert host.run("activate", release)[0] == 1
    host.systemd.redis_down = False
    before = host.current
    code, answer = host.run("activate", release)
    assert (code, answer["changed"], host.current) == (4, False, before)
    for way in ("harvestctl activate --despite-quarantine", "-e harvest_activate_despite_quarantine=true"):
        assert way in answer["message"]
    code, _ = host.run("activate", release, "--despite-quarantine")
    assert code == 0
    assert host.run("status")[1]["quarantine"] == {}


def test_the_way_back_that_fails_as_well_calls_for_a_person(host: FakeHost) -> None:
    good = host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    (host.releases / good / "venv/behaviour.json").chmod(0o644)
    (host.releases / good / "venv/behaviour.json").write_text('{"crash loop": true}')
    manifest = host.releases / good / "RELEASE.json"
    manifest.chmod(0o644)
    digest = host.ctl.fingerprint(host.releases / good / "venv/behaviour.json")
    text = host.ctl.read_json(manifest)
    text["files"]["venv/behaviour.json"] = digest
    manifest.write_text(host.ctl.json.dumps(text))
    code, answer = host.run("activate", bad)
    assert code == 7
    assert "the way back failed" in answer["message"]
    assert host.current == good
    assert host.systemd.timer is not None, "the dead-man timer is disarmed by success only"


def test_a_proven_release_that_no_longer_passes_stays_and_is_not_quarantined(host: FakeHost) -> None:
    release = host.proven()
    host.systemd.started, host.systemd.redis_down = None, True
    code, answer = host.run("activate", release)
    assert (code, answer["quarantined"], answer["release"]) == (1, None, release)
    _, status = host.run("status")
    assert (status["last_proven"], status["quarantine"], status["pending"]) == (release, {}, None)


# Refused, with nothing changed.


def refused(host: FakeHost, *words: str) -> str:
    before, starts = everything_below(host.root), host.systemd.starts
    code, answer = host.run(*words)
    assert (code, answer["ok"], answer["changed"]) == (4, False, False)
    after = everything_below(host.root)
    lock = "var/lib/quantum/harvest-brain-deploy/lock"
    assert {name for name in after | before if after.get(name) != before.get(name)} <= {lock}
    assert host.systemd.starts == starts
    message: str = answer["message"]
    return message


def test_an_unknown_release_is_refused(host: FakeHost) -> None:
    host.proven()
    assert "there is no release 0.1.0-0123456789ab" in refused(host, "activate", "0.1.0-0123456789ab")
    assert "is not a release's name" in refused(host, "activate", "../../etc")


def test_an_incomplete_release_is_refused(host: FakeHost) -> None:
    host.proven()
    assert "not complete" in refused(host, "activate", host.stage("HARVEST_MIN_R=2\n"))


@pytest.mark.parametrize("damage", ["altered", "missing", "added"])
def test_an_altered_release_is_refused(host: FakeHost, damage: str) -> None:
    host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    program = host.releases / release / "venv/bin/harvest-brain"
    program.parent.chmod(0o755)
    if damage == "altered":
        program.chmod(0o755)
        program.write_text("#!/bin/sh\n")
    elif damage == "missing":
        program.unlink()
    else:
        (program.parent / "sitecustomize.py").write_text("import os\n")
    assert damage in refused(host, "activate", release)


def test_a_release_that_can_not_read_the_stored_state_is_refused(host: FakeHost) -> None:
    old = host.release(reads=(1,), writes=1)
    host.proven("HARVEST_MIN_R=2\n", reads=(1, 2), writes=2, version="0.2.0", schema=2)
    message = refused(host, "activate", old)
    assert "the state in Redis has schema 2" in message
    assert "reads 1" in message


def test_without_a_timer_nothing_is_switched(host: FakeHost) -> None:
    good = host.proven()
    host.systemd.broken = {"systemd-run"}
    code, answer = host.run("activate", host.release("HARVEST_MIN_R=2\n"))
    assert (code, host.current) == (4, good)
    assert "timer" in answer["message"]


def test_a_host_without_systemd_is_refused(host: FakeHost) -> None:
    release = host.release()
    host.has_systemd = False
    code, answer = host.run("activate", release)
    assert code == 4
    assert "this host has no systemctl" in answer["message"]
    assert host.current is None


# The gate by itself.


def test_without_the_gate_a_release_is_pending_until_it_is_judged(host: FakeHost) -> None:
    good = host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    code, _ = host.run("activate", release, "--no-gate")
    assert code == 0
    _, status = host.run("status")
    assert (status["current"], status["pending"]["release"], status["pending"]["from"]) == (release, release, good)
    assert status["last_proven"] == good
    code, answer = host.run("gate")
    assert (code, answer["release"], answer["from"]) == (0, release, good)
    _, status = host.run("status")
    assert (status["pending"], status["last_proven"]) == (None, release)
    assert host.systemd.timer is None


@pytest.mark.parametrize(("ready", "passes"), [(19.5, True), (20.5, False)])
def test_ready_may_take_twenty_seconds(host: FakeHost, ready: float, passes: bool) -> None:
    host.run("activate", host.release(ready=ready), "--no-gate")
    assert (host.run("gate")[0] == 0) is passes


@pytest.mark.parametrize(("dies", "passes"), [(8, False), (9.5, False), (60, True)])
def test_then_it_must_stay_as_it_is_for_ten_seconds(host: FakeHost, dies: float, passes: bool) -> None:
    host.run("activate", host.release(dies=dies), "--no-gate")
    code, answer = host.run("gate")
    assert (code == 0) is passes
    if not passes:
        assert "main PID 1001, 1 restarts, was: active/running, main PID 1000, 0 restarts" in answer["message"]


def test_a_gate_that_fails_quarantines_and_leaves_the_switching_to_rollback(host: FakeHost) -> None:
    good = host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    host.run("activate", bad, "--no-gate")
    code, answer = host.run("gate")
    assert (code, answer["quarantined"], host.current) == (1, bad, bad)
    assert host.systemd.timer is not None
    code, answer = host.run("rollback", "--from", bad)
    assert (code, answer["release"], host.current) == (0, good, good)
    assert host.systemd.timer is None


def test_a_gate_on_a_proven_release_changes_no_record_when_it_passes(host: FakeHost) -> None:
    host.proven()
    before = host.log.read_bytes()
    code, answer = host.run("gate")
    assert (code, answer["changed"]) == (0, False)
    assert host.log.read_bytes() == before


def test_a_gate_on_a_proven_release_does_not_quarantine_it_when_redis_is_away(host: FakeHost) -> None:
    release = host.proven()
    host.systemd.redis_down = True
    code, answer = host.run("gate")
    assert (code, answer["quarantined"]) == (1, None)
    assert host.run("status")[1]["last_proven"] == release


def test_a_gate_that_comes_after_the_timer_does_not_judge_another_release_in_its_place(host: FakeHost) -> None:
    """A controller that slept between switch and gate must not take the old release's health for the new one's."""
    good, new = host.proven(), host.release("HARVEST_MIN_R=2\n")
    host.run("activate", new, "--no-gate")
    host.deadline()
    assert host.current == good
    code, answer = host.run("gate", new)
    assert (code, answer["changed"]) == (4, False)
    assert f"the host is on {good}, not on {new}" in answer["message"]
    assert host.run("gate", good)[0] == host.run("gate")[0] == 0


def test_there_is_nothing_to_judge_on_a_host_that_is_off(host: FakeHost) -> None:
    assert host.run("gate")[0] == 4
