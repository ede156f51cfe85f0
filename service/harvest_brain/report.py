"""What the daemon says of itself to whoever looks after the machine: the log, `status.json` and systemd's status line.

What is wrong is said once per change of state and not once per attempt, and in words that say what a person can do.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from logging.handlers import WatchedFileHandler
from pathlib import Path

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import MasterNotFoundError

from harvest_brain.core.engine import Decision
from harvest_brain.core.numbers import ZERO, plain
from harvest_brain.core.position import ReservationState
from harvest_brain.notify import Notifier
from harvest_brain.redis.store import Look, Store

STATUS_EVERY_SEC = 2.0
MAX_COUNTERS = 200

# An open position without a price for so long is named, and if that is so for all of them, health fails.
UNPRICED_AFTER_SEC = 300

# The operator is not told the same again within this time.
REPEAT_SEC = 60.0
MAX_LISTED = 20


@dataclass(slots=True)
class Status:
    """How it goes. `mode` is the one in force, `asked` the one that was set; where they differ, `because` says of what.
    `durability` is what a power cut could lose (live mode only). `schema` is the version of the state that it may have
    written, None before it leads; `role` is leader, standby or none; `lag` the entries behind the cursor; times are
    epoch seconds; `positions` counts the open ones, `unpriced` lists symbols of them that had no price for long,
    `evaluated` is when any of them last had one (or when that began to matter); `reservations` counts the orders on
    their way, `unknown` lists those that nothing is heard of; `errors` counts what ended a session, and `last_error`
    is the newest of them."""

    release: str
    version: str
    mode: str
    asked: str
    consumer: str
    role: str = "none"
    state: str = "starting"
    schema: int | None = None
    leader: str = ""
    started: float = field(default_factory=time.time)
    updated: float = 0.0
    cursor: str = ""
    lag: int | None = None
    last_commit: float | None = None
    kill_switch: str | None = None
    because: str = ""
    durability: list[str] = field(default_factory=list)
    positions: int = 0
    reservations: int = 0
    unknown: list[str] = field(default_factory=list)
    unpriced: list[str] = field(default_factory=list)
    evaluated: float | None = None
    suspect: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    last_error: str = ""

    def count(self, counts: Mapping[str, int]) -> None:
        """Add `counts`. Statuses come from outside, so their number is bounded."""
        for name, number in counts.items():
            self.counts[name if name in self.counts or len(self.counts) < MAX_COUNTERS else "other"] += number

    def text(self) -> str:
        """All of it as JSON."""
        return json.dumps({spec.name: getattr(self, spec.name) for spec in fields(self)}) + "\n"

    def line(self) -> str:
        """One line for systemd and for people."""
        lag = "unknown" if self.lag is None else str(self.lag)
        mode = self.mode + (f" (live was asked for: {self.because})" if self.because else "")
        return f"{mode}, {self.role}, {self.state}: {self.positions} positions, lag {lag}"


class StatusFile:
    """`status.json` in a directory, replaced at once by a rename, so that a reader never sees half of it."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / "status.json" if directory else None
        self._written = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the last writing is some seconds ago."""
        return time.monotonic() - self._written >= STATUS_EVERY_SEC

    def write(self, status: Status, *, at_once: bool = False) -> None:
        """Write `status` when it is due, or `at_once`. Raises `OSError` where that can't be."""
        if not at_once and not self.is_due:
            return
        self._written = time.monotonic()
        if self._path is None:
            return
        status.updated = time.time()
        draft = self._path.with_suffix(".tmp")
        draft.write_text(status.text())
        draft.replace(self._path)


class Reporter:
    """Says how it goes, in all three places. `status` is the daemon's own, which it fills in further."""

    def __init__(self, status: Status, logger: logging.Logger, environ: Mapping[str, str]) -> None:
        self._status = status
        self._log = logger
        self._notifier = Notifier(environ)
        self._file = StatusFile(environ.get("RUNTIME_DIRECTORY", "").split(":")[0])
        self._file_fault = ""
        self._is_ready = False
        self._told: dict[str, float] = {}
        self._priced: dict[str, float] = {}
        self._unpriced: set[str] = set()
        self._override_faults: dict[str, tuple[str, ...]] = {}

    def say(self, state: str, *, role: str, at_once: bool = False) -> None:
        """Status file, systemd's status line and sign of life."""
        status = self._status
        changed = (status.state, status.role) != (state, role)
        if changed and status.state.startswith("waiting") and state == "ready":
            self._log.info("Redis is back")
        status.state, status.role = state, role
        if state == "ready" and not self._is_ready:
            self._is_ready = True
            self._notifier.ready()
        try:
            self._file.write(status, at_once=changed or at_once)
            self._file_fault = ""
        except OSError as fault:  # no reason to stop working; whoever reads the file sees that it grows old
            if str(fault) != self._file_fault:
                self._log.error("the status can't be written: %s", fault)
            self._file_fault = str(fault)
        self._notifier.alive(status.line())

    def trouble(self, fault: Exception) -> None:
        """A fault that ended a session, said once per state."""
        status, text = self._status, explain(fault)
        status.errors += 1
        if text != status.last_error or not status.state.startswith("waiting"):
            self._log.error("waiting for Redis: %s", text)
        status.last_error = text
        self.say(f"waiting for Redis: {text}", role="none")

    def stopped(self) -> None:
        """The last thing that is said."""
        self._notifier.stopping()
        self.say("stopped", role="none")

    def committed(self, decision: Decision, dead_letters: str) -> None:
        """What a commit published, sent to the stream of `dead_letters`, and found that the operator should read."""
        self._status.count(decision.counts)
        for intent in decision.intents:
            size = plain(intent.qty) if intent.stop_seq == 0 else f"stop {plain(intent.stop or ZERO)}"
            said = (intent.action.value, intent.key, intent.side.value, size, intent.reason, intent.intent_id)
            self._log.info("%s %s %s %s (%s) as %s", *said)
            self._status.count({f"published:{intent.action.value}": 1})
        for letter in decision.rejected:
            self._log.warning("entry %s to %s: %s", letter.entry_id, dead_letters, letter.reason)
        now = time.monotonic()
        self._told = {text: at for text, at in self._told.items() if now - at < REPEAT_SEC}
        for note in decision.notes:
            if note not in self._told:
                self._told[note] = now
                self._log.warning("%s", note)

    def lead(self) -> None:
        """Leading begins: what was seen of prices before says nothing of now."""
        self._priced = {}

    def priced(self, symbols: Iterable[str]) -> None:
        """There were prices of `symbols`."""
        self._priced |= dict.fromkeys(symbols, time.time())

    def progress(self, store: Store, look: Look) -> None:
        """How far it is, when that is due."""
        if not self._file.is_due and self._is_ready:
            return
        for symbol, faults in store.override_faults.items():
            if faults != self._override_faults.get(symbol, ()):
                self._log.warning("overrides of %s refused: %s", symbol, "; ".join(faults))
        self._override_faults = dict(store.override_faults)
        status = self._status
        positions = list(store.state.positions())
        status.cursor = store.cursor
        status.lag = look.lag
        status.kill_switch = look.gate.kill_switch
        status.positions = sum(1 for position in positions if position.epoch is not None)
        self._name_unpriced({p.key.symbol for p in positions if p.epoch is not None})
        status.suspect = [f"{p.key}: {p.suspect}" for p in positions if p.suspect][:MAX_LISTED]
        reserved = [(p.key, r) for p in positions if p.epoch is not None for r in p.epoch.reservations]
        unknown = [f"{key}: {r.intent_id}" for key, r in reserved if r.state is ReservationState.UNKNOWN]
        status.reservations, status.unknown = len(reserved), unknown[:MAX_LISTED]
        self.say("ready", role="leader")

    def _name_unpriced(self, symbols: set[str]) -> None:
        """Name the open symbols that had no price for long. What is not evaluated would otherwise stay unseen."""
        now = time.time()
        self._priced = {symbol: self._priced.get(symbol, now) for symbol in symbols}
        self._status.evaluated = max(self._priced.values(), default=None)
        unpriced = {symbol for symbol, since in self._priced.items() if now - since > UNPRICED_AFTER_SEC}
        if new := sorted(unpriced - self._unpriced):
            self._log.warning("no price for %d s: %s", UNPRICED_AFTER_SEC, ", ".join(new[:MAX_LISTED]))
        self._unpriced = unpriced
        self._status.unpriced = sorted(unpriced)[:MAX_LISTED]


def explain(fault: Exception) -> str:
    """A fault of Redis in one sentence that says what a person can do, where there is something."""
    text = str(fault) or type(fault).__name__
    for kind, sign, sentence in _ADVICE:
        if isinstance(fault, kind) and sign in text:
            return f"{sentence} ({text})"
    return text


# By the client's exception, since it takes the code off the text; where it knows none, by the code.
_ADVICE: tuple[tuple[type[Exception], str, str], ...] = (
    (AuthenticationError, "required", "Redis wants a password; see REDIS_PASSWORD_FILE"),
    (
        AuthenticationError,
        "",
        "the password or user name is wrong; see REDIS_PASSWORD_FILE and REDIS_USERNAME",
    ),
    (
        MasterNotFoundError,
        "",
        "no Sentinel names the master; see REDIS_SENTINELS, REDIS_SENTINEL_MASTER, REDIS_SENTINEL_PASSWORD_FILE and "
        "REDIS_SENTINEL_TLS",
    ),
    (NoPermissionError, "", "the Redis user lacks a right; see the ACL file in the documentation"),
    (OutOfMemoryError, "", "Redis is out of memory and takes no writes; raise maxmemory or free some"),
    (ReadOnlyError, "", "this Redis is a read-only replica"),
    (BusyLoadingError, "", "Redis is loading its data"),
    (
        RedisConnectionError,
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is not to be trusted; see REDIS_TLS_CA_FILE and the name in REDIS_HOST",
    ),
    (ResponseError, "MISCONF", "Redis can't persist and takes no writes; look at its disk and its log"),
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(level: str, form: str, file: str) -> logging.Logger:
    """The daemon's logger, to stderr or to `file`, as text or as JSON, times in UTC. Raises `OSError` for a file that
    can't be opened; one that was moved away (log rotation) is opened anew."""
    handler = WatchedFileHandler(file, encoding="utf-8") if file else logging.StreamHandler()
    formatter = JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("harvest_brain")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger
