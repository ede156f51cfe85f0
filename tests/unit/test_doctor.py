"""The group and the cursor are read one after the other while a daemon moves both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harvest_brain.ops.doctor import _group


def at(place: str) -> dict[str, Any]:
    return {"last-delivered-id": place.encode(), "pending": 0}


@pytest.mark.parametrize(
    ("earlier", "later", "trouble"),
    [
        ("5-0", "5-0", False),
        ("4-0", "5-0", False),
        ("5-0", "10-0", False),
        ("4-0", "10-0", False),
        ("4-0", "4-9", True),
        ("6-0", "10-0", True),
    ],
)
def test_only_a_group_that_the_cursor_was_never_at_was_moved_by_hand(earlier: str, later: str, trouble: bool) -> None:
    names: Any = SimpleNamespace(group="harvest_brain_group")
    seen: Any = SimpleNamespace(cursor="5-0")
    [finding] = _group(names, seen, at(earlier), at(later))
    assert finding.trouble is trouble
