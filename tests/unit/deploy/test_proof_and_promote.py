"""harvestctl proof and promote: what only the host can tell, and the way to live."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_host import GOOD_PROOF, UNIT, FakeHost

LIVE = "HARVEST_MODE=live\n"
ENOUGH = {"fill:applied": 25}


def checks(host: FakeHost, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code, answer = host.run("proof", *words)
    return code, {check["name"]: check for check in answer["checks"]}


def rewritten(host: FakeHost, release: str, name: str, text: str) -> None:
    """A file of a release changed by hand, and its checksum with it, so that this is no drift."""
    path = host.releases / release
    for each in (path / name, path / "RELEASE.json"):
        each.chmod(0o644)
    (path / name).write_text(text)
    manifest = json.loads((path / "RELEASE.json").read_text())
    manifest["files"][name] = host.ctl.fingerprint(path / name)
    (path / "RELEASE.json").write_text(json.dumps(manifest))


# The proof.


def test_a_host_as_it_should_be_passes(host: FakeHost) -> None:
    release = host.proven()
    code, found = checks(host)
    assert {name: check["line"] for name, check in found.items() if check["verdict"] != "pass"} == {}
    assert code == 0
    assert list(found)[:5] == ["unit", "release", "drift", "restarts", "log"]
    asked = (host.home / "calls").read_text().splitlines()[-1]
    assert asked.startswith(f"proof --json mode=shadow release={release}")


def test_the_evidence_is_kept_in_a_directory(host: FakeHost) -> None:
    host.proven()
    _, answer = host.run("proof", "--drill")
    directory = Path(answer["directory"])
    assert directory.parent == host.root / "var/log/quantum/proofs"
    assert json.loads((directory / "proof.json").read_text())["checks"] == answer["checks"]
    assert (directory / "report.txt").read_text().splitlines()[0].endswith("PASS")
    assert "proof --json --drill" in (host.home / "calls").read_text().splitlines()[-1]
    assert Path(host.run("proof")[1]["directory"]) != directory


def test_incident_28_the_proof_starts_nothing_and_changes_nothing_but_its_directory(host: FakeHost) -> None:
    host.proven()
    host.systemd.started = None
    before = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    host.systemd.calls.clear()
    code, found = checks(host)
    assert (code, found["unit"]["verdict"]) == (1, "fail")
    assert set(host.systemd.calls) == {"show", "journalctl"}
    after = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    added = {path for path in after if after[path] != before.get(path)}
    assert all("proofs" in path.parts or path.name == "calls" for path in added)
    assert before.keys() <= after.keys()


def stopped(host: FakeHost, _: str) -> None:
    host.systemd.started = None


def disabled(host: FakeHost, _: str) -> None:
    host.systemd.enabled = False


def another_runs(host: FakeHost, release: str) -> None:
    rewritten(host, release, "venv/behaviour.json", json.dumps({"claims": "0.0.9-0123456789ab"}))
    host.clock.sleep(5)


def not_judged(host: FakeHost, _: str) -> None:
    host.run("activate", host.release("HARVEST_MIN_R=2\n"), "--no-gate")
    host.clock.sleep(5)


def file_altered(host: FakeHost, release: str) -> None:
    path = host.releases / release / "harvest-brain.env"
    path.chmod(0o644)
    path.write_text(LIVE)


def file_added(host: FakeHost, release: str) -> None:
    (host.releases / release / "venv").chmod(0o755)
    (host.releases / release / "venv/sitecustomize.py").write_text("")


def file_gone(host: FakeHost, release: str) -> None:
    (host.releases / release / "venv/bin").chmod(0o755)
    (host.releases / release / "venv/bin/harvest-brain").unlink()


def unit_edited(host: FakeHost, _: str) -> None:
    host.systemd.unit_file.write_text("[Service]\nRestart=no\n")
    host.systemd.loaded = host.systemd.unit_file.read_text()


def settings_edited(host: FakeHost, _: str) -> None:
    link = host.root / "etc/quantum/harvest-brain.env"
    link.unlink()
    link.write_text(LIVE)


def drop_in(host: FakeHost, _: str) -> None:
    host.systemd.drop_ins = f"/etc/systemd/system/{UNIT}.d/override.conf"


def not_reloaded(host: FakeHost, _: str) -> None:
    host.systemd.loaded = "[Service]\n# before\n"


def restarted(host: FakeHost, release: str) -> None:
    rewritten(host, release, "venv/behaviour.json", json.dumps({"dies": 20}))
    host.clock.sleep(60)


def log_line(host: FakeHost, ago: float, text: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+0000", host.clock.gmtime(host.clock.time() - ago)) + f" host hb[1]: {text}"


def error_logged(host: FakeHost, _: str) -> None:
    host.systemd.journal.append(log_line(host, 60, "ERROR waiting for Redis: gone"))


def daemon_side(host: FakeHost, release: str) -> None:
    bad = {"verdict": "fail", "checks": [{"name": "group", "verdict": "fail", "line": "another_group does not exist"}]}
    rewritten(host, release, "venv/bin/proof.json", json.dumps(bad))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("unit", stopped, "inactive/dead"),
        ("unit", disabled, "disabled"),
        ("release", another_runs, "running 0.0.9-0123456789ab"),
        ("release", not_judged, "a switch is pending"),
        ("drift", file_altered, "harvest-brain.env: altered"),
        ("drift", file_added, "sitecustomize.py: added"),
        ("drift", file_gone, "harvest-brain: missing"),
        ("drift", unit_edited, "not the release's"),
        ("drift", settings_edited, "not the link to the current release's"),
        ("drift", drop_in, "a drop-in that no release brought"),
        ("drift", not_reloaded, "systemd has not read"),
        ("restarts", restarted, "1 restarts"),
        ("log", error_logged, "1 errors in the last hour"),
        ("group", daemon_side, "another_group does not exist"),
    ],
)
def test_incident_26_what_is_not_as_the_release_brought_it_shows_in_the_proof(
    host: FakeHost, name: str, damage: Callable[[FakeHost, str], None], words: str
) -> None:
    release = host.proven()
    assert checks(host)[1][name]["verdict"] == "pass"
    damage(host, release)
    code, found = checks(host)
    assert code == 1
    assert found[name]["verdict"] == "fail", found[name]
    assert words in found[name]["line"]


def test_errors_of_an_earlier_run_and_of_long_ago_are_not_held_against_the_daemon_that_runs(host: FakeHost) -> None:
    host.systemd.journal.append(log_line(host, 60, "ERROR of the release before"))
    host.proven()
    host.systemd.journal.append(log_line(host, 3_700, "ERROR more than an hour ago"))
    assert checks(host)[1]["log"]["verdict"] == "pass"


def test_a_quiet_daemon_passes_and_an_empty_journal_can_not_tell(host: FakeHost) -> None:
    host.proven()
    host.clock.sleep(100_000)
    assert checks(host)[1]["log"]["verdict"] == "pass"
    host.systemd.journal.clear()
    assert checks(host)[1]["log"]["verdict"] == "can't tell"


def test_compiled_copies_are_no_drift(host: FakeHost) -> None:
    release = host.proven()
    (host.releases / release / "venv").chmod(0o755)
    cache = host.releases / release / "venv/__pycache__"
    cache.mkdir()
    (cache / "module.cpython-311.pyc").write_bytes(b"compiled")
    assert checks(host)[1]["drift"]["verdict"] == "pass"


def test_without_redis_the_host_s_own_checks_still_have_verdicts(host: FakeHost) -> None:
    unknown = {"verdict": "can't tell", "checks": [{"name": "group", "verdict": "can't tell", "line": "no Redis"}]}
    host.proven(proof=unknown)
    code, found = checks(host)
    assert code == 3
    assert [name for name, check in found.items() if check["verdict"] == "pass"] == [
        *("unit", "release", "drift", "restarts", "log")
    ]


def test_with_the_environment_gone_the_daemon_s_checks_can_not_be_told(host: FakeHost) -> None:
    release = host.proven()
    (host.releases / release / "venv/bin").chmod(0o755)
    (host.releases / release / "venv/bin/harvest-brain").unlink()
    code, found = checks(host)
    assert code == 1, "the drift is seen"
    assert found["harvest-brain proof"]["verdict"] == "can't tell"


def test_a_proof_that_says_nothing_is_no_pass(host: FakeHost) -> None:
    release = host.stage()
    (host.releases / release / "venv/bin/proof.json").write_text("Traceback")
    host.run("seal", release, "--bundle", str(host.bundle))
    host.run("activate", release)
    code, found = checks(host)
    assert (code, found["harvest-brain proof"]["verdict"]) == (3, "can't tell")


def test_a_host_that_is_off_fails(host: FakeHost) -> None:
    code, found = checks(host)
    assert (code, found["release"]["verdict"], found["unit"]["verdict"]) == (1, "fail", "fail")


def test_a_release_s_program_gets_the_password_s_original_since_the_copy_ends_with_the_daemon(host: FakeHost) -> None:
    credentials = host.root / "etc/quantum/credentials"
    credentials.mkdir(parents=True)
    (credentials / "redis-password").write_text("secret\n")
    host.proven(f"REDIS_PASSWORD_FILE=/run/credentials/{UNIT}/redis-password\n")
    checks(host)
    asked = (host.home / "calls").read_text().splitlines()[-1]
    assert asked.endswith(f"password_file={credentials / 'redis-password'} user=")


def test_where_there_is_an_operator_s_password_a_person_s_commands_run_as_the_operator(host: FakeHost) -> None:
    credentials = host.root / "etc/quantum/credentials"
    credentials.mkdir(parents=True)
    (credentials / "redis-password").write_text("secret\n")
    (credentials / "redis-operator-password").write_text("another\n")
    for settings, user in (("REDIS_USERNAME=hb\n", "hb-operator"), ("", "harvest-brain-operator")):
        host.proven(f"{settings}REDIS_PASSWORD_FILE=/run/credentials/{UNIT}/redis-password\n")
        checks(host)
        asked = (host.home / "calls").read_text().splitlines()[-1]
        assert asked.endswith(f"password_file={credentials / 'redis-operator-password'} user={user}")


# A command of harvest-brain.


def test_a_command_of_harvest_brain_is_run_with_the_current_release_s_settings(host: FakeHost) -> None:
    release = host.proven("HARVEST_MODE=live\n")
    code, said = host.text("run", "kill", "--reason", "the news")
    assert (code, said) == (0, "quantum:kill was 0, is 1")
    asked = (host.home / "calls").read_text().splitlines()[-1]
    assert asked.startswith(f"kill --reason the news mode=live release={release}")


def test_a_command_s_options_are_its_own_and_so_is_its_exit_code(host: FakeHost) -> None:
    host.proven()
    code, answer = host.run("run", "status", "--json")
    assert (code, answer["message"]) == (1, "Redis: Connection refused")
    assert (host.home / "calls").read_text().splitlines()[-1].startswith("status --json mode=shadow")


def test_a_host_that_is_off_runs_commands_with_the_last_proven_release(host: FakeHost) -> None:
    release = host.proven()
    host.run("rollback", "--to", "off")
    assert host.run("run", "kill", "--reason", "news")[0] == 0
    assert f"release={release}" in (host.home / "calls").read_text().splitlines()[-1]


def test_the_switch_is_thrown_with_the_current_settings_where_the_current_code_is_gone(host: FakeHost) -> None:
    """The code is another release's; which Redis and which key is meant stands in the current one's settings."""
    other = host.proven("HARVEST_MODE=shadow\n")
    release = host.proven("HARVEST_MODE=live\n")
    (host.releases / release / "venv/bin").chmod(0o755)
    (host.releases / release / "venv/bin/harvest-brain").unlink()
    assert host.run("run", "kill", "--reason", "news")[0] == 0
    asked = (host.home / "calls").read_text().splitlines()[-1]
    assert f"mode=live release={release}" in asked
    assert other != release


def test_a_command_that_can_t_be_run_says_why(host: FakeHost) -> None:
    assert host.run("run", "status")[1]["message"] == "there is no release whose harvest-brain could be run"
    release = host.proven()
    for words in ((), ("run",)):
        code, answer = host.run("run", *words)
        assert (code, "systemd's to run" in answer["message"]) == (2, True)
    (host.releases / release / "venv/bin").chmod(0o755)
    (host.releases / release / "venv/bin/harvest-brain").unlink()
    code, answer = host.run("run", "status")
    assert (code, f"harvest-brain of {release} can't be run" in answer["message"]) == (1, True)


# Going live.


def ready_to_go(host: FakeHost, settings: str = LIVE, hours: float = 30, **does: Any) -> str:
    release = host.proven(settings, **({"counts": ENOUGH} | does))
    host.clock.sleep(hours * 3600)
    return release


def token_of(host: FakeHost) -> Path:
    return host.root / "etc/quantum/credentials/live-token"


def test_what_happened_just_before_counts(host: FakeHost) -> None:
    release = ready_to_go(host)
    host.run("status")
    rewritten(host, release, "venv/behaviour.json", json.dumps({"counts": ENOUGH | {"malformed": 1}}))
    code, answer = host.run("promote", "--confirm", release)
    assert (code, "1 entries were malformed" in answer["message"]) == (4, True)


def test_a_daemon_that_has_fallen_silent_does_not_go_live(host: FakeHost) -> None:
    release = ready_to_go(host)
    rewritten(host, release, "venv/behaviour.json", json.dumps({"silent": True}))
    code, answer = host.run("promote", "--confirm", release)
    assert (code, "the daemon is silent" in answer["message"]) == (4, True)


def test_a_deploy_alone_is_never_live(host: FakeHost) -> None:
    host.proven(LIVE)
    assert host.systemd.mode() == "shadow"
    assert not token_of(host).exists()


def test_on_shadow_evidence_the_release_gets_its_token_and_is_live_after_a_restart(host: FakeHost) -> None:
    release = ready_to_go(host)
    starts = host.systemd.starts
    code, answer = host.run("promote", "--confirm", release)
    assert code == 0, answer
    assert host.systemd.starts == starts + 1
    assert host.systemd.mode() == "live"
    token = json.loads(token_of(host).read_text())
    proof_json = Path(answer["directory"]) / "proof.json"
    assert token == {
        "release": release,
        "evidence": f"sha256:{hashlib.sha256(proof_json.read_bytes()).hexdigest()}",
        "expires": answer["expires"],
    }
    assert stat.S_IMODE(token_of(host).stat().st_mode) == 0o600
    expires = datetime.fromisoformat(answer["expires"]).timestamp()
    assert expires == pytest.approx(host.clock.time() + 30 * 86_400, abs=60)
    run = json.loads(proof_json.read_text())["run"]
    assert (run["release"], run["fills"], run["malformed"]) == (release, 25, 0)
    assert run["hours"] > 29
    assert "promoted" in host.event_names()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("hours", "it ran 5.0 h without a break, not 24"),
        ("fills", "it followed 19 fills, not 20"),
        ("malformed", "1 entries were malformed"),
        ("settings", "HARVEST_MODE=shadow"),
        ("another name", "confirm that one"),
        ("not proven", "it is not proven"),
        ("another runs", "the running release is"),
        ("duplicates", "check duplicates: 1 intents stand twice"),
        ("no drill", "check drill switch on: missing"),
        ("drill untold", "check drill switch off: can't tell"),
        ("any check", "check group: gone"),
    ],
)
def test_without_the_evidence_it_stays_in_shadow(host: FakeHost, what: str, words: str) -> None:
    def with_check(name: str, verdict: str, line: str) -> dict[str, Any]:
        others = [check for check in GOOD_PROOF["checks"] if check["name"] != name]
        return {"verdict": verdict, "checks": [*others, {"name": name, "verdict": verdict, "line": line}]}

    does: dict[str, dict[str, Any]] = {
        "hours": {"hours": 5},
        "fills": {"counts": {"fill:applied": 19}},
        "malformed": {"counts": {**ENOUGH, "malformed": 1}},
        "settings": {"settings": "HARVEST_MODE=shadow\n"},
        "duplicates": {"proof": with_check("duplicates", "fail", "1 intents stand twice")},
        "no drill": {"proof": {"verdict": "pass", "checks": GOOD_PROOF["checks"][:2]}},
        "drill untold": {"proof": with_check("drill switch off", "can't tell", "")},
        "any check": {"proof": with_check("group", "fail", "gone")},
    }
    release = ready_to_go(host, **does.get(what, {}))
    if what == "not proven":
        release = host.release(LIVE + "HARVEST_MIN_R=2\n", counts=ENOUGH)
        host.run("activate", release, "--no-gate")
        host.clock.sleep(30 * 3600)
    elif what == "another runs":
        rewritten(host, release, "venv/behaviour.json", json.dumps({"claims": "0.0.9-0123456789ab"}))
        host.clock.sleep(5)
    starts = host.systemd.starts
    code, answer = host.run("promote", "--confirm", "0.1.0-000000000000" if what == "another name" else release)
    assert (code, answer["changed"]) == (4, False)
    assert words in answer["message"]
    assert not token_of(host).exists()
    assert (host.systemd.mode(), host.systemd.starts) == ("shadow", starts)


def test_thresholds_can_be_set_on_purpose(host: FakeHost) -> None:
    release = ready_to_go(host, hours=0.01, counts={"fill:applied": 1})
    words = ("--min-hours", "0.005", "--min-fills", "1", "--valid-days", "1")
    code, answer = host.run("promote", "--confirm", release, *words)
    assert code == 0, answer


def test_a_release_that_refuses_to_be_live_is_back_in_shadow_without_a_token(host: FakeHost) -> None:
    release = ready_to_go(host, stays_shadow=True)
    code, answer = host.run("promote", "--confirm", release)
    assert code == 1
    assert "its mode is shadow" in answer["message"]
    assert not token_of(host).exists()
    assert host.run("rollback", "--to", "off")[0] == 0
    assert host.run("rollback")[0] == 0
    assert not token_of(host).exists(), "it is not taken up again"


def test_a_restart_that_fails_leaves_no_token_behind(host: FakeHost) -> None:
    """Else it would be live from any later restart on."""
    release = ready_to_go(host)
    host.systemd.broken.add("restart")
    code, answer = host.run("promote", "--confirm", release)
    assert (code, "Access denied" in answer["message"]) == (7, True)
    assert not token_of(host).exists()
    assert not list(host.log.parent.glob("tokens/*"))


def test_hours_are_those_that_it_ran_whatever_the_clock_has_jumped(host: FakeHost) -> None:
    release = ready_to_go(host, hours=1)
    host.clock.start += 30 * 3600
    host.clock.sleep(2)
    code, answer = host.run("promote", "--confirm", release)
    assert (code, "it ran 1.0 h without a break" in answer["message"]) == (4, True)


def test_the_token_goes_with_the_release_forward_and_back(host: FakeHost) -> None:
    one = ready_to_go(host)
    assert host.run("promote", "--confirm", one)[0] == 0
    host.proven(LIVE + "HARVEST_MIN_R=2\n")
    assert (host.systemd.mode(), token_of(host).exists()) == ("shadow", False), "the next release has to earn it"
    host.run("rollback")
    assert host.systemd.mode() == "live"
    assert json.loads(token_of(host).read_text())["release"] == one


def test_incident_29_promoting_does_not_touch_the_kill_switch(host: FakeHost) -> None:
    release = ready_to_go(host)
    host.run("promote", "--confirm", release)
    asked = {line.split()[0] for line in (host.home / "calls").read_text().splitlines()}
    assert asked == {"--version", "check-config", "proof"}


# Going live where other hosts stand by.

OTHER = "harvest-2:77:0b0e"


def stands_by(host: FakeHost, **does: Any) -> str:
    """A release that is proven here, while another host leads. Its name."""
    host.systemd.other = OTHER
    return ready_to_go(host, **does)


def redis_says(host: FakeHost, mode: str, leader: str = OTHER) -> None:
    (host.home / "redis.json").write_text(json.dumps({"mode": mode, "leader": leader}))


def test_where_the_daemon_stands_by_promote_refuses_and_names_the_leader(host: FakeHost) -> None:
    release = stands_by(host, counts={})
    starts = host.systemd.starts
    code, answer = host.run("promote", "--confirm", release)
    assert (code, answer["changed"], OTHER in answer["message"]) == (4, False, True)
    assert "fills" not in answer["message"], "it can follow none here"
    assert not token_of(host).exists()
    assert host.systemd.starts == starts


def test_a_leader_that_another_has_taken_over_from_is_not_called_live(host: FakeHost) -> None:
    release = ready_to_go(host)
    host.systemd.other = OTHER
    redis_says(host, "shadow")
    code, answer = host.run("promote", "--confirm", release)
    assert (code, answer["changed"]) == (1, True)
    assert f"{OTHER} has taken over, in shadow" in answer["message"]
    assert f"harvestctl promote --confirm {release} --token '{answer['token']}'" in answer["message"]
    assert json.loads(token_of(host).read_text()) == json.loads(answer["token"])


def test_whether_what_has_taken_over_is_live_must_be_known(host: FakeHost) -> None:
    release = ready_to_go(host)
    host.systemd.other = OTHER
    code, answer = host.run("promote", "--confirm", release)
    assert (code, f"{OTHER} has taken over, in a mode that can't be told" in answer["message"]) == (1, True)


def test_a_leader_that_a_live_one_has_taken_over_from_has_done_its_part(host: FakeHost) -> None:
    release = ready_to_go(host)
    host.systemd.other = OTHER
    redis_says(host, "live")
    code, answer = host.run("promote", "--confirm", release)
    assert (code, f"{OTHER} has taken over" in answer["message"]) == (0, True)
    assert answer["message"].startswith(f"{release} is live until {answer['expires']}")


def test_the_lease_that_this_host_had_is_no_one_else_s(host: FakeHost) -> None:
    release = ready_to_go(host)
    before = json.loads(host.systemd.status_file.read_text())["leader"]
    host.systemd.other = before
    redis_says(host, "live", before)
    assert host.run("promote", "--confirm", release)[0] == 1


def test_the_check_alone_gives_the_token_and_changes_nothing(host: FakeHost) -> None:
    release = ready_to_go(host)
    starts = host.systemd.starts
    code, answer = host.run("promote", "--confirm", release, "--check")
    assert (code, answer["changed"]) == (0, False)
    assert json.loads(answer["token"]) == {
        "release": release,
        "evidence": answer["evidence"],
        "expires": answer["expires"],
    }
    assert not token_of(host).exists()
    assert not list(host.log.parent.glob("tokens/*"))
    assert (host.systemd.mode(), host.systemd.starts) == ("shadow", starts)
    assert "promoted" not in host.event_names()


def test_hosts_that_stand_by_take_the_token_of_the_leader(host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    standby = FakeHost(tmp_path / "other")
    release = ready_to_go(host)
    assert stands_by(standby) == release
    token = host.run("promote", "--confirm", release, "--check")[1]["token"]
    code, answer = standby.run("promote", "--confirm", release, "--token", token)
    assert (code, answer["changed"]) == (0, True)
    assert f"stands by here and may be live until {answer['expires']}; {OTHER} leads" in answer["message"]
    assert standby.systemd.mode() == "live"
    host.systemd.other = OTHER
    redis_says(host, "live")
    assert host.run("promote", "--confirm", release, "--token", token)[0] == 0
    assert host.systemd.mode() == "live"
    assert token_of(host).read_bytes() == token_of(standby).read_bytes()


def test_a_token_that_would_not_make_it_live_is_not_taken(host: FakeHost) -> None:
    release = stands_by(host)
    good = {"release": release, "evidence": f"sha256:{'0' * 64}", "expires": "2999-01-01T00:00:00Z"}
    bad: list[tuple[str, str]] = [
        ("", "no live token"),
        ("[]", "no live token"),
        (json.dumps({**good, "release": "0.1.0-000000000000"}), f"no live token for {release}"),
        (json.dumps({**good, "evidence": "none"}), f"no live token for {release}"),
        (json.dumps({**good, "expires": "2020-01-01T00:00:00Z"}), f"no live token for {release}"),
        (json.dumps({**good, "expires": "2999-01-01T00:00:00"}), f"no live token for {release}"),
        (json.dumps({**good, "expires": "soon"}), "no live token"),
    ]
    starts = host.systemd.starts
    for token, words in bad:
        code, answer = host.run("promote", "--confirm", release, "--token", token)
        assert (code, answer["changed"], words in answer["message"]) == (4, False, True), answer
    other = host.run("promote", "--confirm", "0.1.0-000000000000", "--token", json.dumps(good))
    assert (other[0], "confirm that one" in other[1]["message"]) == (4, True)
    host.proven("HARVEST_MODE=shadow\n")
    shadow = json.dumps({**good, "release": host.current})
    code, answer = host.run("promote", "--confirm", str(host.current), "--token", shadow)
    assert (code, "HARVEST_MODE=shadow" in answer["message"]) == (4, True)
    assert not token_of(host).exists()
    assert host.systemd.starts == starts + 1, "the deployment's own"
