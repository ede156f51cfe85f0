"""The seeds of the fuzzing hold, and they are what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.decode_fuzz import fields_of
from tests.fuzz.invariants import check_entry

from harvest_brain.core.events import Fill, Malformed, OrderUpdate, Passed, Price
from harvest_brain.redis.decode import _KNOWN_NAMES

FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = sorted((FUZZ / "corpus").iterdir())
KINDS = {
    "fill": Fill,
    "signal": Fill,
    "names": Fill,
    "price": Price,
    "rejected": OrderUpdate,
    "cancelled": OrderUpdate,
    "ack": OrderUpdate,
    "skipped": Passed,
    "tick": Malformed,  # on the execution stream; there it has no status
}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_seed_holds_and_becomes_what_its_name_says(path: Path) -> None:
    event = check_entry(fields_of(path.read_bytes()))
    kind = Malformed if path.name.startswith("bad-") else KINDS[path.name.rpartition("-")[2]]
    assert isinstance(event, kind), event


def test_the_fuzzer_knows_every_name_that_the_decoder_looks_for() -> None:
    words = (FUZZ / "words.dict").read_text()
    assert [name for name in _KNOWN_NAMES if f'"{name}"' not in words] == []


def test_the_corpus_stays_small() -> None:
    assert 10 < len(CORPUS) < 60
    assert sum(path.stat().st_size for path in CORPUS) < 20_000
