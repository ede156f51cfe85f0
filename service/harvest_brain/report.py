"""What the daemon says of itself: the log, and `status.json` for whoever looks after the machine."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from logging.handlers import WatchedFileHandler
from pathlib import Path

STATUS_EVERY_SEC = 2.0
MAX_COUNTERS = 200

# An open position without a price for so long is named, and if that is so for all of them, health fails.
UNPRICED_AFTER_SEC = 300


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
