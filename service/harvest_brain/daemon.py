"""The loop.

    lead -> load state and cursor
    repeat:  read what follows the cursor -> decode -> decide(state, events, gate) -> commit -> adopt the new state
    on any error: forget everything in memory, reconnect, start at the top

Requests go down one connection in order. While there is a backlog, the read after the next batch goes out with the
commit, so the server works while the next batch is decoded; when caught up, the commit and a blocking read go out in
one write. Memory is a cache of what Redis says: a reply that never came is an error like any other, and the stored
state says whether that commit happened.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import time
from contextlib import closing, suppress

from redis.exceptions import RedisError

from harvest_brain import __version__
from harvest_brain.config import ConfigError, Loaded
from harvest_brain.core.engine import decide
from harvest_brain.core.events import Price
from harvest_brain.core.mode import change_mode
from harvest_brain.core.numbers import plain
from harvest_brain.permit import live_permit, server_facts
from harvest_brain.redis.client import make_connection
from harvest_brain.redis.encode import SCHEMA
from harvest_brain.redis.store import (
    LostLeaseError,
    NotDurableError,
    RefusedError,
    StateMovedError,
    Store,
    UnusableError,
)
from harvest_brain.redis.transport import RedisTransport
from harvest_brain.report import Reporter, Status, set_up_logging

BLOCK_MS = 500
STANDBY_LOOK_SEC = 0.25

# A batch makes tens of thousands of objects, and they go when nobody refers to them any more. To look for cycles among
# them after every 700, as Python does by itself, finds none and takes an eighth of the time.
OBJECTS_BETWEEN_COLLECTIONS = 200_000

BACK_OFF_SEC = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
MAX_PUBLISHED_CLAIMS = 10_000

# How often a daemon that was asked to be live looks again whether it may be.
REVIEW_SEC = 10.0


class ModeChangedError(Exception):
    """What this session may do is not what it was."""


class Daemon:
    """One HarvestBrain process. `run` returns when a signal asked it to stop."""

    def __init__(self, loaded: Loaded, logger: logging.Logger) -> None:
        self._settings = settings = loaded.settings
        self._token_file = loaded.live_token_file
        self._log = logger
        consumer = settings.consumer or socket.gethostname()
        self._token = f"{consumer}:{os.getpid()}:{secrets.token_hex(8)}"
        self.status = Status(
            release=loaded.release or __version__,
            version=__version__,
            mode=settings.mode,
            asked=settings.mode,
            consumer=consumer,
        )
        self._report = Reporter(self.status, logger, os.environ)
        self._stop = False
        self._published: frozenset[str] = frozenset()
        self._review_at = 0.0

    def stop(self, *_: object) -> None:
        """Finish the batch in hand, then give the lease back and end."""
        self._stop = True

    def run(self) -> int:
        """Session after session until told to stop. Returns the exit code."""
        failures, broken = 0, False
        while not self._stop:
            commit_before, broken = self.status.last_commit, True
            try:
                self._session()
                broken = False
            except (LostLeaseError, StateMovedError, RefusedError, ModeChangedError) as event:
                self._log.info("starting over: %s", event)
                if isinstance(event, RefusedError):
                    self._published = frozenset([*self._published, *event.claims][-MAX_PUBLISHED_CLAIMS:])
            except (RedisError, OSError, UnusableError, NotDurableError) as fault:
                self._report.trouble(fault)
            failures = 1 if self.status.last_commit != commit_before else failures + 1
            self._pause(BACK_OFF_SEC[min(failures, len(BACK_OFF_SEC)) - 1])
        if broken:
            # It may have left the lease behind. Another session does nothing now but give that back.
            with suppress(RedisError, OSError, UnusableError):
                self._session()
        self._report.stopped()
        return 0

    # A session: from a fresh connection to the first error.

    def _session(self) -> None:
        with closing(RedisTransport(make_connection(self._settings.endpoint()))) as transport:
            store = Store(
                transport,
                self._settings.names(),
                self._settings.bounds(),
                self._settings.policy(),
                token=self._token,
                config=self._settings.digest(),
                because=self._objections(transport),
            )
            store.prepare()
            self._wait_for_lease(store)
            if self._stop:
                store.give_back_lease()  # it may have come at the same moment
                return
            self._review(store)
            self._load(store)
            self._lead(store)
            store.give_back_lease()
            self._log.info("gave the lease back at cursor %s", store.cursor)

    def _objections(self, transport: RedisTransport) -> str:
        """Why this daemon stays in shadow although live was asked for, or nothing. Says so when that changes."""
        settings, status, now = self._settings, self.status, time.time()
        if not settings.live:
            return ""
        permit = live_permit(
            server_facts(transport),
            allow_volatile=settings.live_allow_volatile_redis,
            token_file=self._token_file,
            release=status.release,
            now=now,
        )
        self._review_at = time.monotonic() + min(REVIEW_SEC, permit.until - now)
        because = "; ".join(permit.objections)
        if status.durability != list(permit.remarks):
            self._log.warning("durability: %s", "; ".join(permit.remarks))
        if because and status.because != because:
            # No error: it is how every release begins that was not promoted yet.
            self._log.warning("in shadow, although live was asked for: %s", because)
        status.mode, status.because, status.durability = "shadow" if because else "live", because, list(permit.remarks)
        return because

    def _review(self, store: Store) -> None:
        """See from time to time, and when the live token ends, whether the objections are still the same. Asks the
        server, so nothing may be on its way."""
        if time.monotonic() >= self._review_at and self._objections(store.transport) != store.meta.because:
            raise ModeChangedError("whether this may be live has changed")

    def _wait_for_lease(self, store: Store) -> None:
        while not self._stop and (wait_ms := store.acquire_lease()):
            leader = store.leader()
            if leader and (self.status.role != "standby" or self.status.leader != leader):
                self._log.info("standing by: %s leads", leader)
            self.status.leader = leader
            self._report.say("ready", role="standby")
            self._pause(min(wait_ms / 1000, STANDBY_LOOK_SEC))

    def _load(self, store: Store) -> None:
        written_mode = store.load(self._settings.start)
        # Said before anything is written: whoever takes this host back must know what may lie in Redis.
        self.status.schema = SCHEMA
        self._report.say(self.status.state, role=self.status.role, at_once=True)
        self._report.lead()
        self.status.leader = self._token
        positions = sum(1 for _ in store.state.positions())
        self._log.info("leading from cursor %s with %d positions", store.cursor, positions)
        if written_mode not in ("", store.meta.mode):
            # The first commit in another mode than the state was written in. It stores the mode with what that changes.
            self._published = frozenset()
            live, catch_up = store.policy.live, self._settings.live_catch_up
            if live and not catch_up:
                store.note_going_live()
            store.send_commit(change_mode(store.state, live=live, catch_up=catch_up))
            self._adopt_commit(store)

    def _lead(self, store: Store) -> None:
        """The loop itself. Replies come in the order of the requests, so read it from top to bottom.

        While there is a backlog, the read after `reading` is on its way while that is decided.
        """
        reading = store.receive_read(store.send_read(store.cursors))
        renew_at = time.monotonic()
        while not self._stop:
            ahead = store.send_read(reading.cursors) if reading.full else None
            store.flush()
            events = store.decode(reading)
            self._report.priced({event.symbol for event in events if type(event) is Price})
            question = store.send_look(events, reading)
            self._adopt_commit(store)
            following = store.receive_read(ahead) if ahead else None
            look = store.receive_look(question, self._published)
            self._review(store)
            if look.gap is not None:
                events.insert(0, look.gap)
            decision = decide(store.state, events, look.gate, store.policy)
            if events or time.monotonic() >= renew_at:
                store.send_commit(decision, reading)
                renew_at = time.monotonic() + self._settings.lease_sec / 4
            if following is None:
                blocking = store.send_read(reading.cursors, BLOCK_MS)
                self._adopt_commit(store)
                self._report.progress(store, look)
                following = store.receive_read(blocking)
            else:
                self._report.progress(store, look)
            reading = following
        self._adopt_commit(store)

    def _adopt_commit(self, store: Store) -> None:
        """Take in the commit that is on its way, if there is one."""
        decision = store.receive_commit()
        if decision is not None:
            self.status.last_commit = time.time()
            self._report.committed(decision, self._settings.stream_harvest_rejected)

    def _pause(self, seconds: float) -> None:
        """Sleep, but not past a request to stop."""
        until = time.monotonic() + seconds
        while not self._stop and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


def run(loaded: Loaded) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit code. Raises `ConfigError` for a log that can't be
    opened."""
    settings = loaded.settings
    try:
        logger = set_up_logging(settings.log_level, settings.log_format, settings.log_file)
    except OSError as fault:
        accepted = "a path that can be written, or nothing"
        raise ConfigError((f"LOG_FILE={settings.log_file!r}: {fault.strerror}; accepted: {accepted}",)) from None
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    daemon = Daemon(loaded, logger)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, daemon.stop)
    ladder = ",".join(f"{plain(rung.level)}:{plain(rung.fraction)}" for rung in settings.ladder)
    names = settings.names()
    read = names.executions, names.market, names.snapshots, names.pnl
    published = (names.trade_intents, names.stop_intents) if settings.live else (names.suggestions,)
    logger.info(
        "HarvestBrain %s mode=%s ladder=%s reads %s as group %s, publishes to %s, Redis %s",
        __version__,
        settings.mode,
        ladder,
        ", ".join(filter(None, read)),
        settings.group,
        ", ".join(published),
        settings.endpoint(),
    )
    return daemon.run()
