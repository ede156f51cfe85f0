"""Which key and which stream holds what, and the bounds that go with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """Keys and streams of one namespace. `market`, `snapshots` and `pnl` are empty where they are not read."""

    namespace: str
    kill_switch: str
    group: str
    executions: str
    market: str
    snapshots: str
    pnl: str
    suggestions: str
    trade_intents: str
    stop_intents: str
    rejected: str

    @property
    def lease(self) -> str:
        """Who may write: the token is the fence."""
        return f"{self.namespace}:harvest:lease"

    @property
    def state(self) -> str:
        """A hash: a field per position, one per symbol's price memory, and `_meta`."""
        return f"{self.namespace}:harvest:state"

    @property
    def control(self) -> str:
        """A stream: what the operator says to the one who writes."""
        return f"{self.namespace}:stream:harvest.control"

    @property
    def audit(self) -> str:
        """A stream: who did what by hand, and why."""
        return f"{self.namespace}:harvest:audit"

    @property
    def rate(self) -> str:
        """A list: when the last intents were published, newest first, in milliseconds."""
        return f"{self.namespace}:harvest:rate"

    def claim(self, claim: str) -> str:
        """A decision that was published."""
        return f"{self.namespace}:dedup:harvest:{claim}"

    def fill(self, identity: str) -> str:
        """A fill that was applied, and with which content; and when a position's last fill was."""
        return f"{self.namespace}:dedup:fill:{identity}"

    def history(self, symbol: str) -> str:
        """The last harvests of a symbol."""
        return f"{self.namespace}:harvest:history:{symbol}"

    def overrides(self, symbol: str) -> str:
        """The operator's terms for a symbol."""
        return f"{self.namespace}:config:harvest:{symbol}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the commit holds to. Times in milliseconds unless the name says seconds; lengths in entries."""

    lease_ms: int = 10_000
    fresh_ms: int = 30_000
    max_actions_per_min: int = 30
    dedup_ttl_sec: int = 900
    fill_dedup_ttl_sec: int = 86_400
    stream_maxlen: int = 100_000
    batch_size: int = 1_000
    wait_replicas: int = 0
    wait_aof: bool = False
    wait_timeout_ms: int = 1_000
