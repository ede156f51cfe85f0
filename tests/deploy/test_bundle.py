"""The deployment bundle: complete, installable without network, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.support import engine

import harvest_brain
from harvest_brain.config import template
from harvest_brain.redis.encode import READABLE_SCHEMAS, SCHEMA

ROOT = Path(__file__).parents[2]
NAME = f"harvest-brain-{harvest_brain.__version__}"


def make(out: Path, **environ: str) -> Path:
    """Run tools/bundle.py; the tar."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/bundle.py"), "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        cwd=out.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tar = out / f"{NAME}.tar"
    assert done.stdout.splitlines() == [str(tar), f"sha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}"]
    return tar


@pytest.fixture(scope="session")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bundle") / "dist")


@pytest.fixture
def bundle(tar: Path, tmp_path: Path) -> Path:
    """The tar unpacked, for a test to do with as it likes."""
    with tarfile.open(tar) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / NAME


@pytest.mark.slow
def test_two_builds_have_one_digest_whatever_the_machine(tar: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        again = make(tmp_path / "other", TZ="Asia/Tokyo", LC_ALL="C.UTF-8", SOURCE_DATE_EPOCH="1700000000", HOME="/")
    finally:
        os.umask(before)
    assert again.read_bytes() == tar.read_bytes()


@pytest.mark.containers
@pytest.mark.slow
def test_the_dockerfile_s_bundle_is_the_same_bytes(tar: Path, tmp_path: Path) -> None:
    """By `docker cp`, which works with every builder; `--output` does with one."""
    base = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", "python:3.12-slim-bookworm"],
        capture_output=True,
        check=False,
    )
    image = "python:3.12-slim-bookworm" if base.returncode == 0 else "localhost/python:3.11-bookworm"
    tag = f"{engine.image('DAEMON').partition(':')[0]}-bundle:{os.getpid()}"
    command = ["docker", "build", "--quiet", "--build-arg", f"BASE_IMAGE={image}", "--target", "bundle"]
    built = subprocess.run([*command, "--tag", tag, "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    try:
        created = subprocess.run(["docker", "create", tag, "none"], capture_output=True, text=True, check=True)
        container = created.stdout.strip()
        try:
            subprocess.run(["docker", "cp", f"{container}:/{NAME}.tar", str(tmp_path)], check=True, capture_output=True)
        finally:
            subprocess.run(["docker", "rm", container], check=True, capture_output=True)
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", tag], check=True, capture_output=True)
    assert (tmp_path / f"{NAME}.tar").read_bytes() == tar.read_bytes()


def test_it_holds_all_that_a_host_needs_and_the_checksum_of_each(bundle: Path) -> None:
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    wheels = {name for name in files if name.startswith("wheelhouse/")}
    assert files - wheels == {
        *("BUNDLE.json", "SHA256SUMS", "requirements.txt", "harvestctl", "harvest-brain.env.example"),
        *("quantum-harvest-brain.service", "redis-socket.conf", "restart-steps.conf"),
        *("quantum-harvest-brain-container.service", "harvest-brain-container"),
    }
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, check=False
    )
    assert checked.returncode == 0
    sums = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    assert sums == files - {"SHA256SUMS"}
    assert (bundle / "harvest-brain.env.example").read_text() == template()
    assert json.loads((bundle / "BUNDLE.json").read_text()) == {
        "version": harvest_brain.__version__,
        "python": ">=3.11",
        "schema": {"writes": SCHEMA, "reads": list(READABLE_SCHEMAS)},
    }


def test_every_wheel_is_for_every_python_3_and_every_processor(bundle: Path) -> None:
    wheels = [path.name for path in (bundle / "wheelhouse").iterdir()]
    assert len(wheels) >= 4
    assert all(name.endswith(("-py3-none-any.whl", "-py2.py3-none-any.whl")) for name in wheels), wheels


def test_the_requirements_name_each_wheel_with_its_one_hash_and_its_marker(bundle: Path) -> None:
    text = (bundle / "requirements.txt").read_text()
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (bundle / "wheelhouse").iterdir()}
    assert {word.partition(":")[2] for word in text.split() if word.startswith("--hash=")} == hashes
    assert f"harvest-brain=={harvest_brain.__version__}" in text
    # Debian 12's Python is older than 3.11.3, so it is carried whatever made the bundle.
    assert "async-timeout==" in text
    assert "python_full_version < '3.11.3'" in text


def test_our_own_wheel_has_its_types_and_its_scripts(bundle: Path) -> None:
    [wheel] = (bundle / "wheelhouse").glob("harvest_brain-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"harvest_brain/py.typed", "harvest_brain/redis/commit.lua", "harvest_brain/redis/look.lua"} <= names
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)


def test_owners_modes_and_times_are_fixed(tar: Path) -> None:
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "root", "root")}
    assert {member.mtime for member in members} == {315_532_800}
    modes = {Path(member.name).name: member.mode for member in members if member.isfile()}
    assert {name for name, mode in modes.items() if mode == 0o755} == {"harvestctl", "harvest-brain-container"}
    assert {mode for name, mode in modes.items()} == {0o644, 0o755}
    assert [member.name for member in members[1:]] == sorted(member.name for member in members[1:])


def test_it_says_nothing_of_the_machine_it_was_made_on(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            assert str(ROOT).encode() not in path.read_bytes(), path


def environment_of(bundle: Path, directory: Path) -> Any:
    """pip as a host runs it."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    return subprocess.run(
        [
            *(str(directory / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-index"),
            *("--find-links", str(bundle / "wheelhouse"), "--only-binary", ":all:", "--require-hashes"),
            *("--requirement", str(bundle / "requirements.txt")),
        ],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )


@pytest.mark.slow
def test_it_installs_without_network_by_hashes_alone_and_runs(bundle: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    done = environment_of(bundle, venv)
    assert done.returncode == 0, done.stderr
    program = [str(venv / "bin/harvest-brain")]
    told = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True, cwd="/", env={})
    assert told.stdout.strip() == harvest_brain.__version__
    told = subprocess.run([*program, "env-template"], capture_output=True, text=True, check=True, cwd="/", env={})
    assert told.stdout == template()
    site = next(venv.glob("lib/python*/site-packages/harvest_brain"))
    assert (site / "py.typed").exists()
    assert (site / "redis/commit.lua").exists()


HOSTS = {"HOST_DEBIAN12": "3.11", "HOST_DEBIAN13": "3.13", "HOST_UBUNTU2404": "3.12"}
INSTALL = """
set -e
python3 -m venv /tmp/venv
cd /bundle
/tmp/venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links wheelhouse --only-binary :all: \
    --require-hashes --requirement requirements.txt
python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])'
/tmp/venv/bin/harvest-brain --version
"""


@pytest.mark.containers
@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_it_installs_on_a_host_that_has_no_network_at_all(bundle: Path, host: str) -> None:
    if f"TEST_IMAGE_{host}" not in engine.findings():
        pytest.skip(f"the image of {host} is made by `make all-hosts`")
    command = ["docker", "run", "--rm", "--network", "none", "--volume", f"{bundle}:/bundle:ro", "--entrypoint", "sh"]
    done = subprocess.run([*command, engine.image(host), "-c", INSTALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [HOSTS[host], harvest_brain.__version__]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_wheel_is_there_for_each_supported_python_and_processor(
    bundle: Path, tmp_path: Path, python: str, processor: str
) -> None:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-index"),
        *("--find-links", str(bundle / "wheelhouse"), "--only-binary", ":all:", "--require-hashes"),
        *("--platform", f"manylinux2014_{processor}", "--python-version", python, "--dest", str(tmp_path / "found")),
        *("--requirement", str(bundle / "requirements.txt")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False)
    assert done.returncode == 0, done.stderr
    found = {path.name.split("-")[0] for path in (tmp_path / "found").iterdir()}
    assert {"harvest_brain", "redis"} <= found


@pytest.mark.slow
def test_a_tampered_wheel_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    [wheel] = (bundle / "wheelhouse").glob("harvest_brain-*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("harvest_brain/evil.py", "")
    done = environment_of(bundle, tmp_path / "venv")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_its_own_parser_checks_settings_without_being_installed(bundle: Path) -> None:
    path = os.pathsep.join(str(wheel) for wheel in (bundle / "wheelhouse").iterdir())
    settings = bundle / "settings.env"
    settings.write_text("HARVEST_LADER=0.5:0.25\n")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harvest_brain", "check-config", str(settings)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean HARVEST_LADDER?" in done.stderr


def test_a_wheel_for_one_processor_only_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import bundle as tool  # type: ignore[import-not-found]  # a program, found by the line above

    def download(*words: Any) -> None:
        Path(words[words.index("--dest") + 1], "redis-8.1.0-cp311-cp311-linux_x86_64.whl").touch()

    monkeypatch.setattr(tool, "pip", download)
    with pytest.raises(tool.BundleError, match=r"linux_x86_64\.whl is not for every Python 3"):
        tool.fetched_wheels(tmp_path / "wheels")


def test_a_dependency_without_a_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import bundle as tool

    monkeypatch.setattr(tool, "pip", lambda *_: None)
    with pytest.raises(tool.BundleError, match="no wheel came for async-timeout, python-dotenv, redis"):
        tool.fetched_wheels(tmp_path / "wheels")


def test_packing_anew_depends_on_the_content_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import bundle as tool

    def zipped(names: list[str], year: int, method: int, mode: int) -> bytes:
        path = tmp_path / "some.whl"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, (year, 5, 6, 7, 8, 9))
                entry.external_attr = mode << 16
                archive.writestr(entry, name)
        return path.read_bytes()

    one = zipped(["a", "b"], 2020, zipfile.ZIP_DEFLATED, 0o100600)
    two = zipped(["b", "a"], 2030, zipfile.ZIP_STORED, 0o100755)
    assert one != two
    assert tool.repacked(one) == tool.repacked(two)
