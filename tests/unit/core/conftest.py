"""Every rule holds for both sides, and where the mode makes a difference, in both modes."""

from __future__ import annotations

import pytest
from tests.support.world import LONG, SHORT, Way


@pytest.fixture(params=[LONG, SHORT], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    value: Way = request.param
    return value


@pytest.fixture(params=[False, True], ids=["shadow", "live"])
def live(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value
