"""harvestctl name, seal and prune: what a release is, and which ones stay."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from tests.support.fake_host import UNIT, FakeHost


def parts(host: FakeHost, release: str) -> tuple[str, ...]:
    env, unit = (host.ctl.fingerprint(host.releases / release / name) for name in ("harvest-brain.env", UNIT))
    digests = (env.removeprefix("sha256:"), unit.removeprefix("sha256:"))
    return "--bundle", str(host.bundle), "--env", digests[0], "--unit", digests[1]


# The name.


def test_the_same_input_has_the_same_name(host: FakeHost) -> None:
    release = host.stage()
    assert host.run("name", *parts(host, release))[1]["release"] == release
    _, answer = host.run("name", *parts(host, release))
    assert answer["release"] == f"{answer['version']}-{answer['digest'][:12]}"
    assert len(answer["digest"]) == 64


def test_code_settings_unit_and_image_are_all_part_of_it(host: FakeHost) -> None:
    release = host.stage()
    path = host.releases / release
    names = {release}
    (path / "harvest-brain.env").write_text("HARVEST_MODE=live\n")
    names.add(host.run("name", *parts(host, release))[1]["release"])
    (path / UNIT).write_text("[Service]\nRestart=no\n")
    names.add(host.run("name", *parts(host, release))[1]["release"])
    names.add(host.run("name", *parts(host, release), "--image", "sha256:1")[1]["release"])
    wheel = next((host.bundle / "wheelhouse").iterdir())
    wheel.write_text("other code")
    sums = (host.bundle / "SHA256SUMS").read_text().splitlines()
    digest = host.ctl.fingerprint(wheel).removeprefix("sha256:")
    kept = [line for line in sums if "wheelhouse" not in line]
    (host.bundle / "SHA256SUMS").write_text("\n".join([*kept, f"{digest}  wheelhouse/{wheel.name}"]) + "\n")
    names.add(host.run("name", *parts(host, release))[1]["release"])
    assert len(names) == 5


def test_settings_and_unit_are_given_by_their_digests(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        host.run("name", "--bundle", str(host.bundle), "--env", "harvest-brain.env", "--unit", "0" * 64)
    assert "'harvest-brain.env' is not 64 hex digits" in capsys.readouterr().err


def test_a_bundle_as_it_was_made_is_verified(host: FakeHost) -> None:
    host.stage()
    code, answer = host.run("verify", str(host.bundle))
    assert (code, answer["changed"], answer["version"]) == (0, False, "0.1.0")


def test_harvestctl_itself_is_not_part_of_it(host: FakeHost) -> None:
    """A better way back is no reason to restart the daemon."""
    release = host.stage()
    program = host.bundle / "harvestctl"
    program.write_text("another harvestctl")
    digest = host.ctl.fingerprint(program).removeprefix("sha256:")
    with (host.bundle / "SHA256SUMS").open("a") as sums:
        sums.write(f"{digest}  harvestctl\n")
    assert host.run("name", *parts(host, release))[1]["release"] == release


@pytest.mark.parametrize("damage", ["tampered", "missing", "added", "no sums"])
def test_a_tampered_bundle_is_refused(host: FakeHost, damage: str) -> None:
    release = host.stage()
    wheel = next((host.bundle / "wheelhouse").iterdir())
    if damage == "tampered":
        wheel.write_text("evil code")
    elif damage == "missing":
        wheel.unlink()
    elif damage == "added":
        (host.bundle / "wheelhouse/extra-1-py3-none-any.whl").write_text("more code")
    else:
        (host.bundle / "SHA256SUMS").unlink()
    bundle = str(host.bundle)
    for command in (("verify", bundle), ("name", *parts(host, release)), ("seal", release, "--bundle", bundle)):
        code, answer = host.run(*command)
        assert (code, answer["changed"]) == (4, False)
    assert not (host.releases / release / "RELEASE.json").exists()


# Sealing.


def test_sealing_makes_it_read_only_and_writes_the_checksum_of_every_file(host: FakeHost) -> None:
    release = host.release()
    path = host.releases / release
    manifest = json.loads((path / "RELEASE.json").read_text())
    assert manifest["release"] == release
    assert manifest["schema"] == {"writes": 1, "reads": [1]}
    assert manifest["files"]["venv/bin/python3"] == "link:/usr/bin/python3"
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_symlink() or file.is_file()}
    assert files - {"RELEASE.json"} == manifest["files"].keys()
    writable = [file for file in [path, *path.rglob("*")] if not file.is_symlink() and file.stat().st_mode & 0o222]
    assert writable == []
    assert stat.S_IMODE((path / "venv/bin/harvest-brain").stat().st_mode) == 0o555
    assert (path / "release.env").read_text() == f"HARVEST_RELEASE_ID={release}\n"


def test_sealing_twice_changes_nothing(host: FakeHost) -> None:
    release = host.release()
    code, answer = host.run("seal", release, "--bundle", str(host.bundle))
    assert (code, answer["changed"]) == (0, False)


def test_what_lies_there_must_be_what_the_name_says(host: FakeHost) -> None:
    release = host.stage()
    (host.releases / release / "harvest-brain.env").write_text("HARVEST_MODE=live\n")
    code, answer = host.run("seal", release, "--bundle", str(host.bundle))
    assert code == 4
    assert "holds what is called 0.1.0-" in answer["message"]
    assert not (host.releases / release / "RELEASE.json").exists()


def test_settings_that_the_release_itself_refuses_are_not_sealed(host: FakeHost) -> None:
    release = host.stage("HARVEST_LADER=0.5:0.25\n")
    code, answer = host.run("seal", release, "--bundle", str(host.bundle))
    assert code == 4
    assert "HARVEST_LADER" in answer["message"]


def test_code_that_does_not_start_is_not_sealed(host: FakeHost) -> None:
    release = host.stage()
    (host.releases / release / "venv/bin/does-not-start").write_text("")
    code, answer = host.run("seal", release, "--bundle", str(host.bundle))
    assert code == 4
    assert "No module named redis" in answer["message"]


def in_container(host: FakeHost, settings: str = "HARVEST_MODE=shadow\n", image: str = "sha256:1") -> str:
    """A staged release with an image, whose launcher is played. Its name."""
    path = host.releases / host.stage(settings)
    name: str = host.run("name", *parts(host, path.name), "--image", image)[1]["release"]
    path = path.rename(host.releases / name)
    (path / "venv").rename(path / "code")
    program = path / "harvest-brain"
    program.write_text(f'#!/bin/sh\nexec "{path}/code/bin/harvest-brain" "$@"\n')
    program.chmod(0o755)
    archive = host.home / "images" / f"{image.removeprefix('sha256:')}.tar"
    archive.parent.mkdir(exist_ok=True)
    archive.touch()
    return name


def run_by(engine: str) -> tuple[str, ...]:
    return "--runtime", "container", "--engine", engine, "--image", "sha256:1"


CONTAINER = run_by("podman")


def test_a_release_in_a_container_knows_its_image_its_engine_and_the_program_that_runs_it(host: FakeHost) -> None:
    name = in_container(host)
    code, answer = host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
    assert code == 0, answer
    manifest = json.loads((host.releases / name / "RELEASE.json").read_text())
    assert (manifest["runtime"], manifest["engine"], manifest["image"]) == ("container", "podman", "sha256:1")
    assert manifest["command"] == [str(host.releases / name / "harvest-brain")]
    assert json.loads((host.releases / name / "container.json").read_text()) == {
        "engine": "podman",
        "image": "sha256:1",
    }


@pytest.mark.parametrize("option", ["--engine", "--image", "--runtime"])
def test_a_release_that_is_half_in_a_container_is_not_sealed(host: FakeHost, option: str) -> None:
    name = in_container(host)
    at = CONTAINER.index(option)
    code, answer = host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER[:at], *CONTAINER[at + 2 :])
    assert (code, answer["changed"]) == (4, False)
    assert "--image and --engine" in answer["message"]


def test_a_release_whose_image_is_gone_is_not_switched_to(host: FakeHost) -> None:
    name = in_container(host)
    host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
    (host.home / "images/1.tar").unlink()
    code, answer = host.run("activate", name)
    assert (code, answer["changed"]) == (4, False)
    assert "image sha256:1: missing" in answer["message"]


@pytest.mark.parametrize("engine", ["podman", "docker"])
@pytest.mark.parametrize("way", ["forward", "back", "to another engine"])
def test_a_container_is_gone_before_a_release_starts_whose_unit_knows_nothing_of_it(
    host: FakeHost, engine: str, way: str
) -> None:
    """The new unit has nothing that removes it, and with docker it is no process of the unit: a hung one would stay."""
    plain = host.proven("HARVEST_MIN_R=1\n")
    name = in_container(host)
    host.run("seal", name, "--bundle", str(host.bundle), *run_by(engine))
    assert host.run("activate", name)[0] == 0
    assert host.engine_calls == [], "there was none before"
    last = host.release("HARVEST_MIN_R=2\n")
    if way == "to another engine":
        last = in_container(host, "HARVEST_MIN_R=3\n")
        host.run("seal", last, "--bundle", str(host.bundle), *run_by("docker" if engine == "podman" else "podman"))
    unit = host.systemd.unit_file
    seen: list[tuple[str, str | None, bool, int]] = []
    host.before_effect = lambda what: seen.append(
        (what, host.current, unit.read_text() == host.systemd.loaded, len(host.engine_calls))
    )
    code, answer = host.run("rollback") if way == "back" else host.run("activate", last)
    assert (code, answer["release"]) == (0, plain if way == "back" else last)
    assert host.engine_calls == [f"{engine} rm --force quantum-harvest-brain"]
    stop = ("systemctl stop", name, True, 0)
    assert stop in seen, "by its own unit"
    assert [entry[3] for entry in seen if entry[0] in ("systemctl daemon-reload", "systemctl restart")] == [1, 1]


def test_the_way_back_from_a_container_does_not_need_its_engine(host: FakeHost) -> None:
    plain = host.proven("HARVEST_MIN_R=1\n")
    name = in_container(host)
    host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
    host.run("activate", name)
    host.has_engine = False
    code, answer = host.run("rollback")
    assert (code, answer["release"]) == (0, plain)


def test_from_one_container_to_another_of_the_same_engine_the_unit_does_it(host: FakeHost) -> None:
    for number in range(2):
        name = in_container(host, f"HARVEST_MIN_R={number}\n")
        host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
        assert host.run("activate", name)[0] == 0
    assert host.engine_calls == []


def test_an_image_goes_with_the_last_release_that_needs_it(host: FakeHost) -> None:
    names = [in_container(host, f"HARVEST_MIN_R={number}\n") for number in range(2)]
    for number, name in enumerate(names):
        host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
        os.utime(host.releases / name, (time.time() - 1000 + number,) * 2)
    archive = host.home / "images/1.tar"
    assert host.run("prune", "--keep", "1")[1]["removed"] == [names[0]]
    assert archive.exists()
    assert host.engine_calls == []
    assert host.run("prune", "--keep", "0")[1]["removed"] == [names[1]]
    assert not archive.exists()
    assert host.engine_calls == ["podman image rm sha256:1"]


def test_a_purge_of_the_releases_takes_their_images_along(host: FakeHost) -> None:
    name = in_container(host)
    host.run("seal", name, "--bundle", str(host.bundle), *CONTAINER)
    assert host.run("rollback", "--to", "off", "--purge", "releases")[0] == 0
    assert not (host.home / "images/1.tar").exists()
    assert host.engine_calls == ["podman image rm sha256:1"]


# Pruning.


def aged(host: FakeHost, count: int) -> list[str]:
    """So many releases that were never active, oldest first."""
    names = []
    for number in range(count):
        name = host.release(f"HARVEST_MIN_R={number}\n")
        os.utime(host.releases / name, (time.time() - 1000 + number,) * 2)
        names.append(name)
    return names


def test_the_oldest_go_first(host: FakeHost) -> None:
    names = aged(host, 5)
    code, answer = host.run("prune", "--keep", "2")
    assert code == 0
    assert set(answer["removed"]) == set(names[:3])
    assert set(answer["kept"]) == set(names[3:])
    assert {path.name for path in host.releases.iterdir()} == set(names[3:])
    assert host.run("prune", "--keep", "2")[1]["changed"] is False


def test_current_last_proven_and_previous_are_never_removed(host: FakeHost) -> None:
    oldest = host.proven("HARVEST_MIN_R=0\n")
    middle = host.proven("HARVEST_MIN_R=0.1\n")
    proven = host.proven("HARVEST_MIN_R=0.2\n")
    pending = host.release("HARVEST_MIN_R=0.3\n")
    for name in (oldest, middle, proven, pending):
        os.utime(host.releases / name, (time.time() - 5000,) * 2)
    newer = [host.release(f"HARVEST_MIN_R={number}\n") for number in range(1, 4)]
    host.run("activate", pending, "--no-gate")
    _, answer = host.run("prune", "--keep", "0")
    assert set(answer["kept"]) == {pending, proven}
    assert set(answer["removed"]) == {oldest, middle, *newer}
    host.run("gate")
    assert host.run("prune", "--keep", "0")[1]["changed"] is False
    assert host.run("rollback")[1]["release"] == proven


def test_what_was_removed_is_no_longer_counted_as_proven(host: FakeHost) -> None:
    host.proven("HARVEST_MIN_R=0\n")
    two, three = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    host.run("prune", "--keep", "0")
    assert host.run("status")[1]["proven"] == [two, three]


def test_leftovers_of_an_old_staging_are_removed_but_not_one_that_may_be_under_way(host: FakeHost) -> None:
    old, fresh = host.stage("HARVEST_MIN_R=1\n"), host.stage("HARVEST_MIN_R=2\n")
    os.utime(host.releases / old, (time.time() - 100_000,) * 2)
    _, answer = host.run("prune")
    assert (answer["removed"], answer["kept"]) == ([old], [fresh])


def test_a_release_that_goes_takes_its_permission_to_be_live_along(host: FakeHost) -> None:
    """Else the same release, staged again one day, would be live at once."""
    old = host.release("HARVEST_MIN_R=1\n")
    token = host.log.parent / f"tokens/{old}.json"
    token.parent.mkdir()
    token.write_text("{}")
    host.proven("HARVEST_MIN_R=2\n")
    assert host.run("prune", "--keep", "1")[1]["removed"] == [old]
    assert not token.exists()


def test_neither_side_of_a_switch_that_waits_for_its_verdict_is_removed(host: FakeHost) -> None:
    one, two = host.release("HARVEST_MIN_R=1\n"), host.release("HARVEST_MIN_R=2\n")
    host.run("activate", one, "--no-gate")
    host.run("activate", two, "--no-gate")
    assert host.run("prune", "--keep", "0")[1]["removed"] == []


def test_what_else_lies_among_the_releases_is_left_alone(host: FakeHost) -> None:
    """A link of a person's own leads to a release, which must not be taken apart through it."""
    release = host.proven()
    old = (time.time() - 100_000,) * 2
    (host.releases / "stable").symlink_to(release)
    (host.releases / "nowhere").symlink_to("gone")
    (host.releases / "notes.txt").write_text("mine")
    os.utime(host.releases / "notes.txt", old)
    assert host.run("prune", "--keep", "0")[1]["removed"] == []
    assert host.run("activate", release)[1]["changed"] is False
    assert (host.releases / "notes.txt").exists()
    assert (host.releases / "nowhere").is_symlink()


def test_a_bundle_that_a_killed_controller_left_goes_when_it_is_old(host: FakeHost) -> None:
    host.proven()
    old, fresh = host.log.with_name("bundle.1"), host.log.with_name("bundle.2")
    for path in (old, fresh):
        (path / "wheelhouse").mkdir(parents=True)
    os.utime(old, (time.time() - 100_000,) * 2)
    assert host.run("prune")[1]["changed"] is True
    assert (old.exists(), fresh.exists()) == (False, True)
    assert host.run("prune")[1]["changed"] is False


# Saying it.


def test_the_history_is_append_only_and_names_who_and_what(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "trader")
    first = host.proven("HARVEST_MIN_R=1\n")
    before = host.log.read_text()
    host.run("rollback", "--to", "off")
    assert host.log.read_text().startswith(before)
    _, answer = host.run("history", "--last", "3")
    assert [event["event"] for event in answer["events"]] == ["switching", "off", "disarmed"]
    assert all(event["by"] == "trader" and event["at"].endswith("Z") for event in answer["events"])
    code, text = host.text("history")
    assert code == 0
    assert f"trader: proven release={first}" in text
    assert "token=" not in text


def test_no_text_can_split_a_line_of_the_audit_log(host: FakeHost) -> None:
    """What a server says may hold anything, and must not make a quarantine be forgotten."""
    host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", waits="bad\u2028worse\x85worst")
    assert host.run("activate", bad)[0] == 1
    assert host.run("status")[1]["quarantine"].keys() == {bad}
    assert host.run("activate", bad)[0] == 4


def test_only_root_is_let_in_and_told_what_to_type(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert host.run("status")[0] == 0, "a root elsewhere is anybody's"
    assert host.ctl.main(["status", "--root", "/", "--json"]) == 4
    assert "sudo" in json.loads(host.printed[-1])["message"]
    digests = ("--env", "0" * 64, "--unit", "0" * 64)
    for words in (["verify", "x"], ["name", "--bundle", "x", *digests]):
        assert host.ctl.main([*words, "--root", "/"]) == 4
        assert "sudo" not in host.printed[-1], "a controller needs no rights for that"


def test_a_line_of_the_audit_log_that_is_written_in_part_is_no_line(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up does not always fail; without its token in the log the timer would do nothing."""
    good = host.proven()
    release = host.release("HARVEST_MIN_R=2\n")
    real = os.write
    monkeypatch.setattr("os.write", lambda handle, data: real(handle, data[: len(data) // 2]))
    code, answer = host.run("activate", release)
    assert (code, answer["changed"], host.current) == (4, False, good)
    assert "so nothing was changed" in answer["message"]


def test_the_status_for_a_person(host: FakeHost) -> None:
    good = host.proven()
    bad = host.release("HARVEST_MIN_R=2\n", **{"crash loop": True})
    host.run("activate", bad)
    host.run("activate", host.release("HARVEST_MIN_R=3\n"), "--no-gate")
    code, text = host.text("status")
    assert code == 0
    assert "(not proven)" in text
    assert f"rollback to  {good}" in text
    assert f"quarantined  {bad}" in text
    assert "pending" in text


def test_the_status_of_a_bare_host(host: FakeHost) -> None:
    code, answer = host.run("status")
    assert (code, answer["current"], answer["previous"], answer["releases"]) == (0, None, None, {})


def test_a_status_changes_nothing_not_even_a_directory(host: FakeHost) -> None:
    host.run("status")
    host.run("history")
    assert list(host.root.iterdir()) == []


def test_no_secret_reaches_the_audit_log_or_the_evidence(host: FakeHost) -> None:
    credentials = host.root / "etc/quantum/credentials"
    credentials.mkdir(parents=True)
    (credentials / "redis-password").write_text("sentinel-5ecret\n")
    host.proven()
    host.run("activate", host.release("HARVEST_MIN_R=2\n", **{"crash loop": True}))
    host.run("proof")
    host.run("rollback", "--to", "off", "--purge", "config")
    found = [path for path in host.root.rglob("*") if path.is_file() and b"sentinel-5ecret" in path.read_bytes()]
    assert found == []


def test_a_file_for_python_3_11_and_nothing_but_its_library() -> None:
    program = Path(__file__).parents[3] / "roles/harvest_tools/files/harvestctl"
    lines = program.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/python3 -I"
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    import sys

    assert imported - {"__future__"} <= sys.stdlib_module_names
