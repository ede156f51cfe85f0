"""Make the deployment bundle: everything a host needs, in one directory and a tar of it, the same bytes every time.

    python tools/bundle.py [--out dist]

The wheels of requirements/runtime.txt are fetched by their hashes; HarvestBrain's own is built here. All are pure
Python, so one wheelhouse serves Python 3.11 to 3.13 on every processor; a wheel that is not is refused. Nothing in the
bundle depends on when, where or by whom it was made: names are sorted, owners, modes and times are fixed, and the own
wheel and the tar are stored without compression, whose output differs between zlib's relatives. Run with the Python of
an environment that has requirements/build.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements/runtime.txt"
HOST_FILES = (
    "roles/harvest_release/files/quantum-harvest-brain.service",
    "roles/harvest_release/files/quantum-harvest-brain-container.service",
    "roles/harvest_release/files/harvest-brain-container",
    "roles/harvest_release/files/redis-socket.conf",
    "roles/harvest_release/files/restart-steps.conf",
    "roles/harvest_tools/files/harvestctl",
    "harvest-brain.env.example",
)
PROGRAMS = ("harvestctl", "harvest-brain-container")
# The first instant that a zip can name, so that it serves the tar as well.
ZERO_HOUR = (1980, 1, 1, 0, 0, 0)
ZERO_SECOND = 315_532_800
PURE = re.compile(r"[^-]+-[^-]+-py(2\.py)?3-none-any\.whl")


class BundleError(Exception):
    """The bundle can't be made; the text says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the deployment bundle.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where to put it (dist)")
    options = parser.parse_args()
    try:
        tar = make(options.out)
    except (BundleError, OSError, subprocess.CalledProcessError) as fault:
        print(f"bundle: {fault}", file=sys.stderr)
        return 1
    print(f"{tar}\nsha256:{hashlib.sha256(tar.read_bytes()).hexdigest()}")
    return 0


def make(out: Path) -> Path:
    """The bundle's directory and its tar below `out`. Returns the tar."""
    with tempfile.TemporaryDirectory() as work:
        wheels = [*fetched_wheels(Path(work, "fetched")), own_wheel(Path(work, "own"))]
        version = wheels[-1].name.split("-")[1]
        name = f"harvest-brain-{version}"
        bundle = Path(work, name)
        (bundle / "wheelhouse").mkdir(parents=True)
        for wheel in wheels:
            shutil.copyfile(wheel, bundle / "wheelhouse" / wheel.name)
        (bundle / "requirements.txt").write_text(requirements(sorted(bundle.glob("wheelhouse/*.whl"))))
        (bundle / "BUNDLE.json").write_text(json.dumps(about(version), indent=1) + "\n")
        for file in HOST_FILES:
            shutil.copyfile(ROOT / file, bundle / Path(file).name)
        (bundle / "SHA256SUMS").write_text("".join(checksums(bundle)))
        for path in [bundle, *bundle.rglob("*")]:
            path.chmod(mode_of(path))
        target = out / name
        shutil.rmtree(target, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(bundle, target)
        tar = out / f"{name}.tar"
        tar.write_bytes(packed(target))
    return tar


def mode_of(path: Path) -> int:
    return 0o755 if path.is_dir() or path.name in PROGRAMS else 0o644


def about(version: str) -> dict[str, object]:
    """What RELEASE.json needs to know of the code. Asked of the code itself, in a process that has nothing else."""
    code = "from harvest_brain.redis.encode import READABLE_SCHEMAS, SCHEMA; print(SCHEMA, *READABLE_SCHEMAS)"
    said = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": str(ROOT / "service")},
        capture_output=True,
        text=True,
        check=True,
    )
    writes, *reads = map(int, said.stdout.split())
    return {"version": version, "python": ">=3.11", "schema": {"writes": writes, "reads": reads}}


# --- wheels ---


def fetched_wheels(directory: Path) -> list[Path]:
    """The wheels of the lock file, whatever Python this is: a marker says where one is installed."""
    directory.mkdir()
    wanted = directory / "wanted.txt"
    wanted.write_text(re.sub(r" ; [^\\\n]*", " ", LOCK.read_text()))
    pip(
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--dest",
        directory,
        "--requirement",
        wanted,
    )
    wheels = sorted(directory.glob("*.whl"))
    for wheel in wheels:
        if not PURE.fullmatch(wheel.name):
            raise BundleError(f"{wheel.name} is not for every Python 3 and every processor")
    missing = locked().keys() - {normal(wheel.name.split("-")[0]) for wheel in wheels}
    if missing:
        raise BundleError(f"no wheel came for {', '.join(sorted(missing))}")
    return wheels


def own_wheel(directory: Path) -> Path:
    """HarvestBrain's wheel, built from a clean copy and packed anew."""
    source = directory / "source"
    shutil.copytree(
        ROOT / "service", source / "service", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory, source)
    (wheel,) = directory.glob("*.whl")
    wheel.write_bytes(repacked(wheel.read_bytes()))
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("harvest_brain/py.typed", "harvest_brain/redis/commit.lua", "harvest_brain/redis/look.lua"):
        if needed not in names:
            raise BundleError(f"{wheel.name} lacks {needed}")
    return wheel


def repacked(wheel: bytes) -> bytes:
    """The same files in a zip that depends on nothing but them."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(wheel)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            entry = zipfile.ZipInfo(name, ZERO_HOUR)
            entry.create_system = 3  # Unix, so that the mode holds
            entry.external_attr = 0o100644 << 16
            new.writestr(entry, old.read(name))
    return out.getvalue()


def pip(*words: object) -> None:
    """Its output only when it fails."""
    command = [
        sys.executable,
        "-m",
        "pip",
        *map(str, words),
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"pip {words[0]} failed:\n{done.stderr.strip()}")


def normal(name: str) -> str:
    """A project's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """The lock file's requirement lines by project, with their markers."""
    lines = re.findall(r"^[a-z][^\\\n]*", LOCK.read_text(), re.MULTILINE)
    return {normal(line.split("==")[0]): line.strip() for line in lines}


def requirements(wheels: list[Path]) -> str:
    """What pip installs from: each wheel's requirement with this one hash."""
    lines = locked()
    found = []
    for wheel in wheels:
        project, version = wheel.name.split("-")[:2]
        line = lines.get(normal(project), f"{normal(project)}=={version}")
        found.append(f"{line} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(found)


# --- packing ---


def checksums(bundle: Path) -> Iterator[str]:
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bundle)}\n"


def packed(directory: Path) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in [directory, *sorted(directory.rglob("*"))]:
            entry = tarfile.TarInfo(str(path.relative_to(directory.parent)))
            entry.mtime, entry.mode = ZERO_SECOND, mode_of(path)
            entry.uname = entry.gname = "root"
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                content = path.read_bytes()
                entry.size = len(content)
                tar.addfile(entry, BytesIO(content))
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
