"""How long a deployment takes, and how long the next one, which has nothing to do.

    python -m tests.bench.deploy [--record FILE]

Deploys to a bare host, made as for Molecule's scenario `upgrade`, and then once more. The machine's own speed is in
both times, so their ratio is the figure to compare: it may be a third at most, and the second deployment must change
nothing. Needs what `make bench-deploy` sets up: Ansible, Molecule, the host's image, and the bundle in dist/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCENARIO = "upgrade"
RATIO = 1 / 3


def containers() -> dict[str, str]:
    """What tests/containers/prepare.sh has noted. Raises `SystemExit` where no container can run."""
    lines = (ROOT / ".containers/env").read_text().splitlines()
    noted = dict(line.split("=", 1) for line in lines)
    if missing := noted.get("TEST_CONTAINERS_MISSING"):
        raise SystemExit(f"not run: {missing}")
    return noted


def run(words: list[str], environment: dict[str, str]) -> str:
    """What the command says. Raises `SystemExit` with the end of it when it fails."""
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{shlex.join(words)}` failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def deploy(inventory: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Seconds, and how many tasks changed something."""
    began = time.perf_counter()
    said = run(["ansible-playbook", "--inventory", str(inventory), "playbooks/deploy.yml"], environment)
    return time.perf_counter() - began, sum(map(int, re.findall(r"changed=(\d+)", said)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="file for the result as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **os.environ,
            **containers(),
            "ANSIBLE_NOCOLOR": "1",
            "MOLECULE_EPHEMERAL_DIRECTORY": directory,
        }

        inventory = Path(directory, "inventory")
        # What creates a host prepares it as well: a Redis, and fills that flow.
        run(["molecule", "destroy", "--scenario-name", SCENARIO], environment)
        try:
            run(["molecule", "create", "--scenario-name", SCENARIO], environment)
            load = os.getloadavg()[0]
            first, changed = deploy(inventory, environment)
            second, changed_again = deploy(inventory, environment)
        finally:
            run(["molecule", "destroy", "--scenario-name", SCENARIO], environment)
    result = {
        "first_s": round(first, 1),
        "second_s": round(second, 1),
        "ratio": round(second / first, 3),
        "first_changed": changed,
        "second_changed": changed_again,
        "load_before": round(load, 2),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result))
    if options.record:
        options.record.write_text(json.dumps(result, indent=1) + "\n")
    if changed_again:
        raise SystemExit(f"the second deployment changed {changed_again} things, not none")
    if second > RATIO * first:
        raise SystemExit(f"the second deployment took {second / first:.2f} of the first one's time, more than a third")


if __name__ == "__main__":
    main()
