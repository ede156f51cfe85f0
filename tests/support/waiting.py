"""Waiting for what is about to be true, on machines that may be many times slower than this one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Nothing waits for this long unless something is wrong. TEST_PATIENCE stretches it on a machine that is slower still.
PATIENCE_SEC = 30 * float(os.environ.get("TEST_PATIENCE", "1"))
POLL_SEC = 0.02


def wait_until(
    predicate: Callable[[], T], timeout: float = PATIENCE_SEC, *, what: str = "", poll: float = POLL_SEC
) -> T:
    """The first true value of `predicate`, asked every `poll` seconds.

    Raises `AssertionError` after `timeout` seconds with the last value and `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what or predicate}; last: {value!r}")
        time.sleep(poll)


def stays(predicate: Callable[[], object], seconds: float, *, what: str = "", poll: float = POLL_SEC) -> None:
    """Assert that `predicate` is true for as long as `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert predicate(), what or predicate
        time.sleep(poll)
