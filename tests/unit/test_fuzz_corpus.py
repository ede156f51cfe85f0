"""The seeds of the fuzzing hold, and they are what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.decode_fuzz import fields_of
from tests.fuzz.invariants import ENTRY_ID, POLICIES, RESERVED, check_entry, with_position

from harvest_brain.core.events import (
    Clear,
    Fill,
    Malformed,
    OrderUpdate,
    Passed,
    PnlSnapshot,
    Price,
    Release,
    Snapshot,
)
from harvest_brain.redis.decode import _EXACT, decode_control, decode_market, decode_pnl, decode_snapshot

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
    # On the execution stream these have no status; each is read by the decoder of its own stream.
    **dict.fromkeys(("tick", "snapshot", "flat", "pnl", "release", "clear"), Malformed),
}
ASIDE = {
    "flat-tick": (decode_market, Price),
    "aside-snapshot": (decode_snapshot, Snapshot),
    "aside-flat": (decode_snapshot, Snapshot),
    "aside-pnl": (decode_pnl, PnlSnapshot),
    "aside-release": (decode_control, Release),
    "aside-clear": (decode_control, Clear),
}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_seed_holds_and_becomes_what_its_name_says(path: Path) -> None:
    event = check_entry(fields_of(path.read_bytes()))
    kind = Malformed if path.name.startswith("bad-") else KINDS[path.name.rpartition("-")[2]]
    assert isinstance(event, kind), event


@pytest.mark.parametrize("name", ASIDE)
def test_a_seed_of_another_stream_is_read_there(name: str) -> None:
    read, kind = ASIDE[name]
    assert isinstance(read(ENTRY_ID, fields_of((FUZZ / "corpus" / name).read_bytes())), kind)


def test_the_position_of_the_fuzzing_has_the_harvest_that_its_words_name_on_its_way() -> None:
    reserved = [
        [reservation.intent_id for position in with_position(policy).positions() if position.epoch
         for reservation in position.epoch.reservations]
        for policy in POLICIES
    ]  # fmt: skip
    assert reserved == [[RESERVED] if policy.live else [] for policy in POLICIES]
    assert f'"{RESERVED}"' in (FUZZ / "words.dict").read_text()


def test_the_fuzzer_knows_every_name_that_the_decoder_looks_for() -> None:
    words = (FUZZ / "words.dict").read_text()
    assert [name for name in _EXACT if f'"{name}"' not in words] == []


def test_the_corpus_stays_small() -> None:
    assert 10 < len(CORPUS) < 60
    assert sum(path.stat().st_size for path in CORPUS) < 20_000
