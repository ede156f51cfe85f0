"""docs/deploy.md: each promise of a deployment names tests that hold it, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {
    int(number): re.findall(r"`([^`]+)`", held)
    for number, held in re.findall(
        r"^\| (\d+) \| .* \| (`.*`) \|$", (ROOT / "docs/deploy.md").read_text(), flags=re.MULTILINE
    )
}


def test_thirteen_promises_are_held_by_tests() -> None:
    assert sorted(ROWS) == list(range(1, 14))


@pytest.mark.parametrize("name", sorted({name for names in ROWS.values() for name in names}))
def test_a_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    text = (ROOT / file).read_text()
    if function:
        assert re.search(rf"^def {function}\(", text, flags=re.MULTILINE)
    else:
        steps = (ROOT / file).parent.joinpath("molecule.yml").read_text()
        assert re.search(rf"- (verify {Path(file).name}|{Path(file).stem})$", steps, flags=re.MULTILINE), (
            "the scenario runs it"
        )
