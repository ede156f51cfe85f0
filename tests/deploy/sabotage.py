"""A bundle like another, but for how its daemon behaves: what the deployment tests break on purpose.

    sabotage.py BUNDLE TARGET WHAT      WHAT is one of `CODE`; an `older` one has an older version as well

The wheel, requirements.txt and SHA256SUMS agree with each other again, as if `make bundle` had made it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

CODE = {
    "crash-loop": "raise SystemExit('sabotaged: it ends at once')",
    "hang": "import time; time.sleep(3600)",
    "crash-in-soak": "import os, threading; threading.Timer(8, os._exit, [1]).start(); return _run(loaded)",
    "harmless": "return _run(loaded)",
    "older": "return _run(loaded)",
}
OLDER = "0.0.9"


def sabotage(bundle: Path, target: Path, what: str) -> None:
    """Make `target` from `bundle`. Raises `KeyError` for an unknown `what`."""
    shutil.copytree(bundle, target, dirs_exist_ok=True)
    wheel = next((target / "wheelhouse").glob("harvest_brain-*.whl"))
    before, version = digest(wheel), wheel.name.split("-")[1]
    extra = f"\n\n_run = run\n\n\ndef run(loaded):  # {what}\n    {CODE[what]}\n"
    with zipfile.ZipFile(wheel) as archive:
        files = {item.filename: archive.read(item).decode() for item in archive.infolist()}
    files["harvest_brain/daemon.py"] += extra
    if what == "older":
        files = {name.replace(version, OLDER): text.replace(version, OLDER) for name, text in files.items()}
        wheel.unlink()
        wheel = wheel.with_name(wheel.name.replace(version, OLDER))
        for name in ("BUNDLE.json", "requirements.txt"):
            (target / name).write_text((target / name).read_text().replace(version, OLDER))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    requirements = target / "requirements.txt"
    requirements.write_text(requirements.read_text().replace(before, digest(wheel)))
    names = [str(path.relative_to(target)) for path in sorted(target.rglob("*")) if path.is_file()]
    sums = target / "SHA256SUMS"
    sums.write_text("".join(f"{digest(target / name)}  {name}\n" for name in names if name != sums.name))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sabotage(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
