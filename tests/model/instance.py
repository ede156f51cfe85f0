"""The small instance that is explored: four entries, one position, two rungs, one entry that nobody can use."""

from __future__ import annotations

import time
from typing import Any

from harvest_brain.config import load
from tests.faults.reference import Reference
from tests.model.explore import Explorer, Outcome
from tests.model.process import Replayer
from tests.model.server import Oracle

FIRST_HALF = 3

# A position, a price at its first rung, an entry for the dead letters; later a price at its second rung.
_ENTRIES = (
    "FILLED symbol A side BUY qty 1 price 100 stop_loss 98 order_id a",
    "PRICE_UPDATE symbol A price 101.04",
    "PRICE_UPDATE symbol A price 0",
    "PRICE_UPDATE symbol A price 102.1",
)
_PRICES = (1, 3)  # which of them may cause intents


class Instance:
    """The instance that is explored, in one mode."""

    def __init__(self, client: Any, mode: str) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        environ = {
            "HARVEST_MODE": mode,
            "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC": "3600",
            "HARVEST_LIVE_ALLOW_VOLATILE_REDIS": "true",
            "HARVEST_MAX_ACTIONS_PER_MIN": "10000",
            "HARVEST_SET_BE_AT_R": "9",
            "HARVEST_BATCH_SIZE": "2",
        }
        self.loaded = load(None, environ)
        self.names = self.loaded.settings.names()
        self.entries = tuple(
            (f"{self.now_ms - 1000 + number}-0", tuple(f"status {entry}".encode().split()))
            for number, entry in enumerate(_ENTRIES)
        )
        self._client = client

    def explorer(self, kind: type[Explorer] = Explorer, *, is_planted: bool = False) -> Explorer:
        """With a planted fault only what is published is judged: that the state is another one goes without saying."""
        oracle = Oracle(self._client, self.names, self.entries, self.now_ms)
        replayer = Replayer(self.loaded, self.now_ms, counts_sessions=is_planted)
        allowed = self._allowed()
        if is_planted:
            allowed = {thrown: frozenset((out, None) for out, _ in outcomes) for thrown, outcomes in allowed.items()}
        return kind(oracle, replayer, first_half=FIRST_HALF, allowed=allowed)

    def _allowed(self) -> dict[bool, frozenset[Outcome]]:
        """Without a throw: what the core says. With one: what it says when some prices of the first half found the
        switch on."""
        wanted = self._outcome(off=frozenset())
        others = (self._outcome(off=frozenset(off)) for off in ((_PRICES[0],),))
        return {False: frozenset({wanted}), True: frozenset({wanted, *others})}

    def _outcome(self, off: frozenset[int]) -> Outcome:
        reference = Reference(self.loaded.settings, self.now_ms)
        for number, (entry_id, fields) in enumerate(self.entries):
            reference.kill_switch = "1" if number in off else "0"
            reference.take(entry_id, list(fields))
        outputs = tuple(
            (published.stream.encode(), *(word.encode() for word in published.fields))
            for published in reference.published
        )
        state = ((name.encode(), text.encode()) for name, text in reference.state_fields().items())
        return outputs, frozenset(state)
