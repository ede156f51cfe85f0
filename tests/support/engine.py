"""Which containers can run here, as `tests/containers/prepare.sh` found it (`make containers`).

It leaves its findings in `.containers/env`: the images, the settings of testcontainers, or the reason why no container
can run. A test that needs one is then skipped with that reason; with REQUIRE_CONTAINERS=1 it fails instead. The
reason can also be given in the environment (TEST_CONTAINERS_MISSING), to run the tests without containers.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from dotenv import dotenv_values

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / ".containers" / "env"


@cache
def findings() -> dict[str, str]:
    """What was found. The settings of testcontainers are put into the environment, before it is ever imported."""
    if reason := os.environ.get("TEST_CONTAINERS_MISSING"):
        return {"TEST_CONTAINERS_MISSING": reason}
    if not FINDINGS.exists():
        return {"TEST_CONTAINERS_MISSING": "containers were not prepared; run `make containers`"}
    found = {name: value or "" for name, value in dotenv_values(FINDINGS, interpolate=False).items()}
    for name, value in found.items():
        if name.startswith("TESTCONTAINERS_"):
            os.environ.setdefault(name, value)
    return found


def why_no_containers() -> str:
    """Why no container can run, or nothing if they can."""
    return findings().get("TEST_CONTAINERS_MISSING", "")


def containers_required() -> bool:
    """Whether a test that can't run for want of a container is a failure."""
    return os.environ.get("REQUIRE_CONTAINERS", "0") == "1"


def image(name: str) -> str:
    """The image that the tests call `name`: REDIS, DAEMON, ..."""
    return findings()[f"TEST_IMAGE_{name}"]
