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

import logging
import os
import secrets
import signal
import socket
import time
from hashlib import blake2b

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from harvest_brain import __version__
from harvest_brain.config import ConfigError, Loaded, Settings
from harvest_brain.core.engine import decide, enter_live, leave_live
from harvest_brain.core.events import Price
from harvest_brain.core.numbers import ZERO, plain
from harvest_brain.core.position import ReservationState
from harvest_brain.notify import Notifier
from harvest_brain.permit import NEVER, live_permit
from harvest_brain.redis.client import make_connection
from harvest_brain.redis.encode import SCHEMA
from harvest_brain.redis.names import Bounds, Names
from harvest_brain.redis.store import (
    Look,
    LostLeaseError,
    NotDurableError,
    RefusedError,
    StateMovedError,
    Store,
    UnusableError,
)
from harvest_brain.redis.transport import RedisTransport
from harvest_brain.report import UNPRICED_AFTER_SEC, Status, StatusFile, set_up_logging

BLOCK_MS = 500
STANDBY_LOOK_SEC = 0.25
BACK_OFF_SEC = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
MAX_PUBLISHED_CLAIMS = 10_000
MAX_LISTED = 20

# How often a daemon that was asked to be live looks again whether it may be.
REVIEW_SEC = 10.0

# The operator is not told the same again within this time.
REPEAT_SEC = 60.0


class ModeChangedError(Exception):
    """What this session may do is not what it was."""


class Daemon:
    """One HarvestBrain process. `run` returns when a signal asked it to stop."""

    def __init__(self, loaded: Loaded, logger: logging.Logger) -> None:
        self._settings = settings = loaded.settings
        self._token_file = loaded.live_token_file
        self._log = logger
        self._notifier = Notifier(os.environ)
        self._status_file = StatusFile(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0])
        consumer = settings.consumer or socket.gethostname()
        self._token = f"{consumer}:{os.getpid()}:{secrets.token_hex(8)}"
        self.status = Status(
            release=loaded.release or __version__,
            version=__version__,
            mode=settings.mode,
            asked=settings.mode,
            consumer=consumer,
        )
        self._stop = False
        self._ready = False
        self._published: frozenset[str] = frozenset()
        self._permit_ends, self._review_at = NEVER, 0.0
        self._told: dict[str, float] = {}
        self._priced: dict[str, float] = {}
        self._unpriced: set[str] = set()
        self._status_fault = ""
        self._override_faults: dict[str, tuple[str, ...]] = {}

    def stop(self, *_: object) -> None:
        """Finish the batch in hand, then give the lease back and end."""
        self._stop = True

    def run(self) -> int:
        """Session after session until told to stop. Returns the exit code."""
        failures = 0
        while not self._stop:
            commit_before = self.status.last_commit
            try:
                self._session()
            except (LostLeaseError, StateMovedError, RefusedError, ModeChangedError) as event:
                self._log.info("starting over: %s", event)
                if isinstance(event, RefusedError):
                    self._published = frozenset([*self._published, *event.claims][-MAX_PUBLISHED_CLAIMS:])
            except (RedisError, OSError, UnusableError, NotDurableError) as fault:
                self._trouble(fault)
            failures = 1 if self.status.last_commit != commit_before else failures + 1
            self._pause(BACK_OFF_SEC[min(failures, len(BACK_OFF_SEC)) - 1])
        self._notifier.stopping()
        self._say("stopped", role="none")
        return 0

    # A session: from a fresh connection to the first error.

    def _session(self) -> None:
        transport = RedisTransport(make_connection(self._settings.endpoint()))
        try:
            store = Store(
                transport,
                names_of(self._settings),
                bounds_of(self._settings),
                self._settings.policy(),
                token=self._token,
                config=digest_of(self._settings),
            )
            store.prepare()
            if because := self._objections(store):
                store.stay_in_shadow(because)
            self._wait_for_lease(store)
            if self._stop:
                store.give_back_lease()  # it may have come at the same moment
                return
            self._review(store, idle=True)
            self._load(store)
            self._lead(store)
            store.give_back_lease()
            self._log.info("gave the lease back at cursor %s", store.cursor)
        finally:
            transport.close()

    def _objections(self, store: Store) -> str:
        """Why this daemon stays in shadow although live was asked for, or nothing. Says so when that changes."""
        settings, status = self._settings, self.status
        if not settings.live:
            return ""
        permit = live_permit(
            store.server_facts(),
            allow_volatile=settings.live_allow_volatile_redis,
            token_file=self._token_file,
            release=status.release,
            now=time.time(),
        )
        self._permit_ends, self._review_at = permit.until, time.monotonic() + REVIEW_SEC
        because = "; ".join(permit.objections)
        if status.durability != list(permit.remarks):
            self._log.warning("durability: %s", "; ".join(permit.remarks))
        if because and status.because != because:
            # No error: it is how every release begins that was not promoted yet.
            self._log.warning("in shadow, although live was asked for: %s", because)
        status.mode, status.because, status.durability = "shadow" if because else "live", because, list(permit.remarks)
        return because

    def _review(self, store: Store, *, idle: bool) -> None:
        """See from time to time whether the objections are still the same. Asks the server only when nothing is on its
        way (`idle`); that the token has expired needs no asking."""
        if time.time() >= self._permit_ends:
            raise ModeChangedError("the live token has expired")
        if idle and time.monotonic() >= self._review_at and self._objections(store) != store.meta.because:
            raise ModeChangedError("whether this may be live has changed")

    def _wait_for_lease(self, store: Store) -> None:
        while not self._stop and (wait_ms := store.acquire_lease()):
            leader = store.leader()
            if leader and (self.status.role != "standby" or self.status.leader != leader):
                self._log.info("standing by: %s leads", leader)
            self.status.leader = leader
            self._say("ready", role="standby")
            self._pause(min(wait_ms / 1000, STANDBY_LOOK_SEC))

    def _load(self, store: Store) -> None:
        written_mode = store.load(self._settings.start)
        # Said before anything is written: whoever takes this host back must know what may lie in Redis.
        self.status.schema = SCHEMA
        self._say(self.status.state, role=self.status.role, at_once=True)
        self._priced = {}
        self.status.leader = self._token
        positions = sum(1 for _ in store.state.positions())
        self._log.info("leading from cursor %s with %d positions", store.cursor, positions)
        if written_mode not in ("", store.meta.mode):
            self._change_mode(store)

    def _change_mode(self, store: Store) -> None:
        """The first commit in another mode than the state was written in. The mode is stored with what it changes."""
        self._published = frozenset()
        catch_up = self._settings.live_catch_up
        if not store.policy.live:
            change, text = (
                leave_live(store.state),
                "what is ordered so far stays on its way, and no rung of it comes again",
            )
        elif catch_up:
            change, text = (
                enter_live(store.state, catch_up=True),
                "what was only suggested so far is still to be ordered",
            )
        else:
            change, text = enter_live(store.state), "the rungs crossed so far are skipped in the epochs that are open"
        self._log.warning("from now on %s: %s", store.meta.mode, text)
        store.send_commit(change)
        self._adopt_commit(store)

    def _lead(self, store: Store) -> None:
        """The loop itself. Replies come in the order of the requests, so read it from top to bottom.

        `ahead` says that a read beyond `reading` is on its way, which it is while there is a backlog.
        """
        store.send_read(store.cursors)
        reading = store.receive_read()
        ahead = False
        renew_at = time.monotonic()
        while not self._stop:
            if reading.full and not ahead:
                store.send_read(reading.cursors)
                ahead = True
            events = store.decode(reading)
            self._priced |= dict.fromkeys((event.symbol for event in events if type(event) is Price), time.time())
            store.send_look(events, reading)
            self._adopt_commit(store)
            following = store.receive_read() if ahead else None
            look = store.receive_look(self._published)
            self._review(store, idle=not ahead)
            if look.gap is not None:
                events.insert(0, look.gap)
            decision = decide(store.state, events, look.gate, store.policy)
            if events or time.monotonic() >= renew_at:
                store.send_commit(decision, reading)
                renew_at = time.monotonic() + self._settings.lease_sec / 4
            if following is not None:
                ahead = following.full
                if ahead:
                    store.send_read(following.cursors)
                store.flush()
                reading = following
                self._tell(store, look)
            else:
                store.send_read(reading.cursors, BLOCK_MS)
                self._adopt_commit(store)
                self._tell(store, look)
                reading = store.receive_read()
        self._adopt_commit(store)
        if ahead:
            store.receive_read()

    def _adopt_commit(self, store: Store) -> None:
        """Take in the commit that is on its way, if there is one, and say what it published."""
        decision = store.receive_commit()
        if decision is None:
            return
        self.status.last_commit = time.time()
        self.status.count(decision.counts)
        for intent in decision.intents:
            self._log.info(
                "%s %s %s %s (%s) as %s",
                intent.action.value,
                intent.key,
                intent.side.value,
                plain(intent.qty) if intent.stop_seq == 0 else f"stop {plain(intent.stop or ZERO)}",
                intent.reason,
                intent.intent_id,
            )
            self.status.count({f"published:{intent.action.value}": 1})
        for letter in decision.rejected:
            self._log.warning(
                "entry %s to %s: %s", letter.entry_id, self._settings.stream_harvest_rejected, letter.reason
            )
        for note in decision.notes:
            self._tell_operator(note)

    def _tell_operator(self, note: str) -> None:
        now = time.monotonic()
        self._told = {text: at for text, at in self._told.items() if now - at < REPEAT_SEC}
        if note not in self._told:
            self._told[note] = now
            self._log.warning("%s", note)

    # What it says of itself.

    def _tell(self, store: Store, look: Look) -> None:
        if not self._status_file.is_due and self._ready:
            return
        for symbol, faults in store.override_faults.items():
            if faults != self._override_faults.get(symbol, ()):
                self._log.warning("overrides of %s refused: %s", symbol, "; ".join(faults))
        self._override_faults = dict(store.override_faults)
        status = self.status
        positions = list(store.state.positions())
        status.cursor = store.cursor
        status.lag = look.lag
        status.kill_switch = look.gate.kill_switch
        status.positions = sum(1 for position in positions if position.epoch is not None)
        self._tell_unpriced({p.key.symbol for p in positions if p.epoch is not None})
        status.suspect = [f"{p.key}: {p.suspect}" for p in positions if p.suspect][:MAX_LISTED]
        reserved = [(p.key, r) for p in positions if p.epoch is not None for r in p.epoch.reservations]
        unknown = [f"{key}: {r.intent_id}" for key, r in reserved if r.state is ReservationState.UNKNOWN]
        status.reservations, status.unknown = len(reserved), unknown[:MAX_LISTED]
        self._say("ready", role="leader")

    def _tell_unpriced(self, symbols: set[str]) -> None:
        """Name the open symbols that had no price for long. What is not evaluated would otherwise stay unseen."""
        now = time.time()
        self._priced = {symbol: self._priced.get(symbol, now) for symbol in symbols}
        self.status.evaluated = max(self._priced.values(), default=None)
        unpriced = {symbol for symbol, since in self._priced.items() if now - since > UNPRICED_AFTER_SEC}
        if new := sorted(unpriced - self._unpriced):
            self._log.warning("no price for %d s: %s", UNPRICED_AFTER_SEC, ", ".join(new[:MAX_LISTED]))
        self._unpriced = unpriced
        self.status.unpriced = sorted(unpriced)[:MAX_LISTED]

    def _say(self, state: str, *, role: str, at_once: bool = False) -> None:
        """Status file, systemd's status line and sign of life."""
        status = self.status
        changed = (status.state, status.role) != (state, role)
        if changed and status.state.startswith("waiting") and state == "ready":
            self._log.info("Redis is back")
        status.state, status.role = state, role
        if state == "ready" and not self._ready:
            self._ready = True
            self._notifier.ready()
        try:
            self._status_file.write(status, at_once=changed or at_once)
            self._status_fault = ""
        except OSError as fault:  # no reason to stop working; whoever reads the file sees that it grows old
            if str(fault) != self._status_fault:
                self._log.error("the status can't be written: %s", fault)
            self._status_fault = str(fault)
        self._notifier.alive(status.line())

    def _trouble(self, fault: Exception) -> None:
        """Say what is wrong, once per state."""
        text = explain(fault)
        self.status.errors += 1
        if text != self.status.last_error or not self.status.state.startswith("waiting"):
            self._log.error("waiting for Redis: %s", text)
        self.status.last_error = text
        self._say(f"waiting for Redis: {text}", role="none")

    def _pause(self, seconds: float) -> None:
        """Sleep, but not past a request to stop."""
        until = time.monotonic() + seconds
        while not self._stop and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


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


def digest_of(settings: Settings) -> str:
    """Twelve hex digits that change with any setting."""
    return blake2b(repr(settings).encode(), digest_size=6).hexdigest()


def names_of(settings: Settings) -> Names:
    """The keys and streams of `settings`."""
    return Names(
        namespace=settings.namespace,
        kill_switch=settings.kill_switch_key,
        group=settings.group,
        executions=settings.stream_execution_result,
        market=settings.stream_market_price,
        snapshots=settings.stream_position_snapshot,
        pnl=settings.stream_pnl_snapshot,
        suggestions=settings.stream_harvest_suggestions,
        trade_intents=settings.stream_trade_intent,
        stop_intents=settings.stream_stop_intent,
        rejected=settings.stream_harvest_rejected,
    )


def bounds_of(settings: Settings) -> Bounds:
    """The bounds of `settings`."""
    return Bounds(
        lease_ms=int(settings.lease_sec * 1000),
        max_actions_per_min=settings.max_actions_per_min,
        dedup_ttl_sec=settings.dedup_ttl_sec,
        fill_dedup_ttl_sec=settings.fill_dedup_ttl_sec,
        stream_maxlen=settings.stream_maxlen,
        batch_size=settings.batch_size,
        wait_replicas=settings.wait_replicas,
        wait_aof=settings.wait_aof,
        wait_timeout_ms=settings.wait_timeout_ms,
    )


def run(loaded: Loaded) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit code. Raises `ConfigError` for a log that can't be
    opened."""
    settings = loaded.settings
    try:
        logger = set_up_logging(settings.log_level, settings.log_format, settings.log_file)
    except OSError as fault:
        accepted = "a path that can be written, or nothing"
        raise ConfigError((f"LOG_FILE={settings.log_file!r}: {fault.strerror}; accepted: {accepted}",)) from None
    daemon = Daemon(loaded, logger)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, daemon.stop)
    ladder = ",".join(f"{plain(rung.level)}:{plain(rung.fraction)}" for rung in settings.ladder)
    logger.info(
        "HarvestBrain %s mode=%s ladder=%s reads %s as group %s, publishes to %s, Redis %s",
        __version__,
        settings.mode,
        ladder,
        ", ".join(filter(None, (settings.stream_execution_result, settings.stream_market_price))),
        settings.group,
        settings.stream_trade_intent if settings.mode == "live" else settings.stream_harvest_suggestions,
        settings.endpoint(),
    )
    return daemon.run()
