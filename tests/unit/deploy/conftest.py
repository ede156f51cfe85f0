"""A host in a directory for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.fake_host import FakeHost


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host in a directory. No power is cut here, so nothing waits for the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    return FakeHost(tmp_path)
