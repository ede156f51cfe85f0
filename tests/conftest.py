"""Tests that are marked `containers` are skipped where none can run, and fail there with REQUIRE_CONTAINERS=1."""

from __future__ import annotations

import pytest

from tests.support import engine

engine.findings()


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = engine.why_no_containers()
    if reason and item.get_closest_marker("containers"):
        if engine.containers_required():
            pytest.fail(f"REQUIRE_CONTAINERS=1, but {reason}", pytrace=False)
        pytest.skip(reason)
