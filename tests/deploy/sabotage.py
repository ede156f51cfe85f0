"""A bundle like another, but for how its daemon behaves: what the deployment tests break on purpose.

    sabotage.py BUNDLE TARGET WHAT      WHAT is one of `CODE`

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
}


def sabotage(bundle: Path, target: Path, what: str) -> None:
    """Make `target` from `bundle`. Raises `KeyError` for an unknown `what`."""
    shutil.copytree(bundle, target, dirs_exist_ok=True)
    wheel = next((target / "wheelhouse").glob("harvest_brain-*.whl"))
    before = digest(wheel)
    extra = f"\n\n_run = run\n\n\ndef run(loaded):  # {what}\n    {CODE[what]}\n"
    with zipfile.ZipFile(wheel) as archive:
        files = {item: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for item, content in files.items():
            archive.writestr(item, content + extra.encode() if item.filename == "harvest_brain/daemon.py" else content)
    requirements = target / "requirements.txt"
    requirements.write_text(requirements.read_text().replace(before, digest(wheel)))
    sums = target / "SHA256SUMS"
    names = [line.split("  ", 1)[1] for line in sums.read_text().splitlines()]
    sums.write_text("".join(f"{digest(target / name)}  {name}\n" for name in names))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sabotage(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
