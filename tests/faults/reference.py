"""What must come out: the pure core, run over the same entries one by one, in one process, with nothing to fail.

It is the daemon's opposite: no batches, no Redis, no crash. What it says is compared with what the daemons left in
Redis, byte for byte: the intents, the dead letters, the state, the fills that are remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from harvest_brain.config import Settings, load
from harvest_brain.core.engine import Decision, Gate, State, decide, remembered_names
from harvest_brain.core.events import Event, Gap, Malformed
from harvest_brain.core.intents import Action, Intent
from harvest_brain.core.mode import change_mode
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import override_terms
from harvest_brain.redis.decode import decode, decode_control, decode_pnl, decode_snapshot
from harvest_brain.redis.encode import MARKET_PREFIX, intent_entry, market_text, position_text

_DECODERS = {"snapshots": decode_snapshot, "pnl": decode_pnl, "control": decode_control}


class Published(NamedTuple):
    """An entry of an output stream, and the intent behind it."""

    stream: str
    fields: tuple[str, ...]
    intent: Intent


@dataclass
class Reference:
    """`overrides` are the operator's terms per symbol, as the hashes in Redis hold them. `now_ms` is the clock of the
    gate: any time at which all prices that are meant to be fresh are fresh."""

    settings: Settings
    now_ms: int
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kill_switch: str | None = "0"
    state: State = field(default_factory=State)
    fills: dict[str, str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    rejected: list[Malformed] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self.policy = self.settings.policy()
        self.pass_minute()
        self._terms = {
            symbol: override_terms(self.policy.terms, fields)[0] for symbol, fields in self.overrides.items() if fields
        }

    def take(self, entry_id: str, fields: list[bytes]) -> Decision:
        """Take in one entry of the execution stream."""
        decision = self._decide(decode(entry_id, fields))
        self._adopt(decision)
        self.taken += 1
        return decision

    def _decide(self, event: Event) -> Decision:
        known = {name: self.fills[name] for name in remembered_names(self.state, [event]) if name in self.fills}
        gate = Gate(self.now_ms, self.kill_switch, self.tokens, known, frozenset(), self._terms)
        return decide(self.state, [event], gate, self.policy)

    def take_beside(self, stream: str, entry_id: str, fields: list[bytes]) -> None:
        """Take in one entry of the streams beside it: "snapshots", "pnl" or "control"."""
        event: Event = _DECODERS[stream](entry_id, fields)
        if isinstance(event, Malformed):
            event = event._replace(stream=getattr(self.settings.names(), stream))
        self._adopt(self._decide(event))

    def miss(self, entries: int) -> None:
        """So many entries were removed before they were read."""
        name = self.settings.stream_execution_result
        self._adopt(
            self._decide(Gap(entries, f"stream gap: {entries} entries of {name} were removed before they were read"))
        )
        self.taken += entries

    def change_mode(self, mode: str) -> None:
        """The daemons were stopped in one mode and are started in the other."""
        self.policy = replace(self.policy, live=mode == "live")
        catch_up = self.settings.live_catch_up
        self._adopt(change_mode(self.state, live=self.policy.live, catch_up=catch_up))

    def change_freshness(self, seconds: int) -> None:
        """The daemons were stopped and are started with another bound for the age of prices."""
        self.policy = replace(self.policy, fresh_ms=seconds * 1000)

    def pass_minute(self) -> None:
        """The rate allows again what it allows in a minute."""
        self.tokens = self.settings.max_actions_per_min

    def _adopt(self, decision: Decision) -> None:
        self.state.adopt(decision)
        self.tokens -= len(decision.intents)
        self.fills.update(decision.applied)
        self.rejected += decision.rejected
        self.counts.update(decision.counts)
        for intent in decision.intents:
            fields = tuple(intent_entry(intent, live=self.policy.live))
            self.published.append(Published(self._stream(intent), fields, intent))

    def _stream(self, intent: Intent) -> str:
        if not self.policy.live:
            return self.settings.stream_harvest_suggestions
        if intent.action is Action.HARVEST:
            return self.settings.stream_trade_intent
        return self.settings.stream_stop_intent

    def state_fields(self) -> dict[str, str]:
        """The state hash, without the daemon's own `_meta`."""
        fields = {}
        for symbol, book in self.state.books.items():
            if book.market is not None:
                fields[MARKET_PREFIX + symbol] = market_text(book.market)
            for position in book.positions:
                fields[str(position.key)] = position_text(position)
        return fields

    def harvested(self) -> dict[str, Decimal]:
        """Per epoch, how much was published to be closed (base asset)."""
        sums: dict[str, Decimal] = {}
        for published in self.published:
            intent = published.intent
            if intent.action is Action.HARVEST:
                sums[intent.epoch_id] = sums.get(intent.epoch_id, ZERO) + intent.qty
        return sums


def settings_of(environ: Mapping[str, str]) -> Settings:
    """What the daemon makes of its environment."""
    return load(None, environ).settings
