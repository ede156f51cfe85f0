"""Reading, committing, recovering and the lease: everything HarvestBrain does with Redis, over one connection.

The order of requests on the connection is the protocol. A look is sent after the commit before it, so it sees that
commit's effects; a read may be sent ahead of time, because reading has no effect. See `commit.lua` for what is checked
and written. Entries are read by cursor and not handed out by the group: a read that hands entries out can't be fenced.

A session ends with any exception. Then everything in memory is void: connect, lead, load, go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from itertools import chain
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from harvest_brain.core.books import Book, book_of
from harvest_brain.core.engine import Decision, Gate, State, remembered_names
from harvest_brain.core.events import Event, Fill, Gap, Malformed, Price, Snapshot, parse_id
from harvest_brain.core.intents import Action
from harvest_brain.core.market import Market
from harvest_brain.core.policy import Policy, Terms, override_terms
from harvest_brain.core.position import Position
from harvest_brain.redis.decode import decode, decode_control, decode_market, decode_pnl, decode_snapshot
from harvest_brain.redis.encode import (
    MARKET_PREFIX,
    META_FIELD,
    Meta,
    intent_entry,
    letter_entry,
    market_text,
    meta_text,
    parse_market,
    parse_meta,
    parse_position,
    position_text,
)
from harvest_brain.redis.figures import Figures
from harvest_brain.redis.names import Bounds, Names
from harvest_brain.redis.transport import Argument, Command, RedisTransport, parse_info, parse_pairs

OLDEST_REDIS, OLDEST_REDIS_WITH_WAITAOF = (7, 0), (7, 2)
MINUTE_MS = 60_000

# A batch is counted in entries, and what one entry may weigh is the producer's affair. So a session begins with few
# and asks for twice as many after each batch, but for fewer after one that was heavier than this.
FIRST_BATCH = 10
HEAVY_BATCH_BYTES = 16 * 1024 * 1024
NEVER_ENDS = -1  # what PTTL says of a key without an end


Entry = tuple[bytes, list[bytes]]


class LostLeaseError(Exception):
    """Another daemon may be writing."""


class StateMovedError(Exception):
    """What is stored is not what this decision started from."""


class UnusableError(Exception):
    """Redis holds or permits something that only a person can put right; the text says what."""


class NotDurableError(Exception):
    """A commit stands on this server, and is not yet as safe as was asked for: read everything anew."""


class RefusedError(Exception):
    """The gate was not what the decision assumed, and nothing was written: look again, decide again.

    `claims` are those that turned out to be published already.
    """

    def __init__(self, reason: str, claims: frozenset[str] = frozenset()) -> None:
        super().__init__(reason)
        self.claims = claims


class Read(NamedTuple):
    """A read that is on its way: of what follows `cursors`, at most `limit` entries of each stream."""

    cursors: Mapping[str, str]
    limit: int


class Reading(NamedTuple):
    """A reply to a read, not decoded yet: entries of the execution stream, those of the others by stream, every cursor
    after them, and whether there may be more of the first."""

    entries: Sequence[Entry]
    aside: Mapping[str, Sequence[Entry]]
    cursors: Mapping[str, str]
    full: bool


class Question(NamedTuple):
    """What a look asks about: a reading, the names under which its fills may be remembered, and the symbols whose terms
    it needs."""

    reading: Reading
    remembered: Sequence[str]
    symbols: Sequence[str]


class Look(NamedTuple):
    """What a look saw: the gate, how many entries wait behind those that were read, and what will never be read."""

    gate: Gate
    lag: int
    gap: Gap | None


COMMIT = resources.files(__package__).joinpath("commit.lua").read_text()
LOOK = resources.files(__package__).joinpath("look.lua").read_text()
RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Store:
    """One session with Redis, for the daemon that holds (or waits for) `token`. It stays in shadow, although live was
    asked for, where there is a reason (`because`), which is kept beside the mode."""

    def __init__(
        self,
        transport: RedisTransport,
        names: Names,
        bounds: Bounds,
        policy: Policy,
        *,
        token: str,
        config: str,
        because: str = "",
    ) -> None:
        self.transport = transport
        self._call = transport.call
        self._names = names
        self._bounds = bounds
        self.policy = replace(policy, live=False) if because else policy
        self._token = token
        self._commit = self._look = b""
        self._stored = ""
        self._pending: tuple[Decision, Meta] | None = None
        self.state = State()
        self.meta = Meta("live" if self.policy.live else "shadow", because, config, {}, 0)
        self._market_place: dict[str, str] = {}
        # Read only when the execution stream is, for what they say is for books that are up to date.
        aside = {names.control: decode_control, names.snapshots: decode_snapshot, names.pnl: decode_pnl}
        self._aside: dict[str, Callable[[str, list[bytes]], Event]] = {key: read for key, read in aside.items() if key}
        self._gap: Gap | None = None
        self._outbox: list[Command] = []
        self._batch_size = min(FIRST_BATCH, bounds.batch_size)
        self.override_faults: dict[str, tuple[str, ...]] = {}

    def flush(self) -> None:
        """Send what was asked for, in one write. Receiving does so too."""
        if self._outbox:
            self.transport.send(*self._outbox)
            self._outbox.clear()

    def _receive(self) -> Any:
        self.flush()
        return self.transport.receive()

    # The lease.

    def acquire_lease(self) -> int:
        """0 when this daemon leads now, else in how many milliseconds the lease may be free."""
        taken = self._call("SET", self._names.lease, self._token, "NX", "PX", self._bounds.lease_ms)
        if taken is not None or self.leader() == self._token:
            return 0
        left = int(self._call("PTTL", self._names.lease))
        # A lease that never ends was not written by a daemon; a person may take it away at any time.
        return max(left, 1) if left != NEVER_ENDS else self._bounds.lease_ms

    def leader(self) -> str:
        """The token that holds the lease, or nothing."""
        return (self._call("GET", self._names.lease) or b"").decode(errors="replace")

    def give_back_lease(self) -> None:
        """Let the next daemon lead at once. Only the own lease is given back."""
        self._call("EVAL", GIVE_BACK, 1, self._names.lease, self._token)

    # Starting.

    def prepare(self) -> None:
        """Check the server's version and the types of our keys, and hand it the scripts.

        Raises `UnusableError` for a server that is too old, or a key that holds something else.
        """
        server = parse_info(self._call("INFO", "server"))
        version = server.get("valkey_version") or server["redis_version"]
        numbers = tuple(int(part) for part in version.split(".")[:2])
        if numbers < OLDEST_REDIS:
            raise UnusableError(f"Redis {version} is too old; HarvestBrain needs Redis 7.0 or newer, or Valkey")
        if numbers < OLDEST_REDIS_WITH_WAITAOF and self._bounds.wait_aof:
            raise UnusableError(f"Redis {version} is too old; HARVEST_WAIT_AOF needs Redis 7.2 or newer, or Valkey")
        names = self._names
        types = {names.lease: b"string", names.state: b"hash", names.rate: b"list", names.executions: b"stream"}
        types |= dict.fromkeys((names.market, *self._aside), b"stream")
        for key, kind in types.items():
            if key and self._call("TYPE", key) not in (b"none", kind):
                raise UnusableError(_FOREIGN.format(key))
        # The server keeps a script under the digest that it returns.
        self._commit, self._look = (self._call("SCRIPT", "LOAD", script) for script in (COMMIT, LOOK))

    def load(self, start: str) -> str:
        """Make the durable state the state in memory; returns the mode it was written in, or nothing if there was none.

        The cursor is the stored one; on a first start the group's, if the group exists, else `start` ("0" or "$"). The
        group is created with its stream. Raises `UnusableError` for a state that this release can't read.
        """
        raw = self._call("HGETALL", self._names.state)
        written_mode = ""
        try:
            fields = {name: text.decode() for name, text in parse_pairs(raw).items()}
            self._stored = fields.pop(META_FIELD, "")
            if self._stored:
                stored = parse_meta(self._stored)
                written_mode = stored.mode
                self.meta = stored._replace(mode=self.meta.mode, config=self.meta.config, because=self.meta.because)
            self.state = _parse_state(fields)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as fault:
            raise UnusableError(f"{self._names.state} can't be read: {fault!r}") from None
        self.state.waiting = self.meta.waiting
        cursor, entries_read = self._place(start)
        # What was said before anybody listened says nothing of now.
        beside = {name: self.meta.cursors.get(name) or self._newest(name) for name in self._aside}
        self.meta = self.meta._replace(cursors={self._names.executions: cursor, **beside}, entries_read=entries_read)
        self._create_group()
        if self._names.market:
            self._market_place = {self._names.market: self._newest(self._names.market)}
        return written_mode

    def note_going_live(self) -> None:
        """Remember which entries are there now: what their prices cross was crossed before live mode."""
        self.meta = self.meta._replace(live_after=self._newest(self._names.executions))

    def _place(self, start: str) -> tuple[str, int]:
        """The cursor, and how many entries the stream had up to there (what ENTRIESREAD counts)."""
        name, figures = self._names.executions, self._figures()
        removed = figures.added - figures.length
        entries_read: int | None
        if name in self.meta.cursors:
            cursor, entries_read = self.cursor, self.meta.entries_read
        elif figures.added and (group := self._group()):
            cursor, entries_read = group["last-delivered-id"].decode(), group.get("entries-read")
        elif start == "$":
            return figures.last, figures.added
        else:
            return "0-0", removed
        if entries_read is not None and not figures.are_of_another_stream(cursor, entries_read):
            return cursor, entries_read
        if name in self.meta.cursors:
            self._gap = Gap(0, f"stream gap: {name} was deleted and created anew; what it held after {cursor} is lost")
        if parse_id(figures.last) < parse_id(cursor):
            return "0-0", removed
        return cursor, figures.added - self._count_after(cursor)

    def _figures(self) -> Figures:
        name = self._names.executions
        return Figures.of(parse_pairs(self._call("XINFO", "STREAM", name))) if self._call("EXISTS", name) else Figures()

    def _newest(self, stream: str) -> str:
        newest = self._call("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    @property
    def cursors(self) -> dict[str, str]:
        """Where reading goes on after the last commit, by stream; in the market's from where that was at the start."""
        return {**self.meta.cursors, **self._market_place}

    @property
    def cursor(self) -> str:
        """The id of the last entry of the execution stream whose effect is in the state."""
        return self.meta.cursors[self._names.executions]

    def _count_after(self, cursor: str) -> int:
        """How many entries follow `cursor`. Keeps the lease meanwhile, since there may be millions."""
        count = 0
        while page := self._call("XRANGE", self._names.executions, f"({cursor}", "+", "COUNT", self._batch_size):
            count += len(page)
            self._weigh(self._batch_size, page)
            cursor = page[-1][0].decode()
            if not self._call("EVAL", RENEW, 1, self._names.lease, self._token, self._bounds.lease_ms):
                raise LostLeaseError("the lease was lost while the entries were counted")
        return count

    def _group(self) -> dict[str, Any] | None:
        groups = (parse_pairs(raw) for raw in self._call("XINFO", "GROUPS", self._names.executions))
        return next((group for group in groups if group["name"].decode() == self._names.group), None)

    def _create_group(self) -> None:
        try:
            self._call(
                *("XGROUP", "CREATE", self._names.executions, self._names.group, self.cursor),
                *("MKSTREAM", "ENTRIESREAD", self.meta.entries_read),
            )
        except ResponseError as fault:
            if not str(fault).startswith("BUSYGROUP"):
                raise

    # Reading. Has no effect, so it may be done ahead.

    def send_read(self, cursors: Mapping[str, str], block_ms: int = 0) -> Read:
        """Ask for what follows `cursors` in the execution stream and the market's; with `block_ms`, wait that long for
        it to come, and ask for the other streams too."""
        block: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        streams = [name for name in cursors if block_ms or name not in self._aside]
        places = (cursors[name] for name in streams)
        self._outbox.append(("XREAD", "COUNT", self._batch_size, *block, "STREAMS", *streams, *places))
        return Read(cursors, self._batch_size)

    def receive_read(self, read: Read) -> Reading:
        """What `read` has brought."""
        found: dict[str, Sequence[Entry]] = {stream.decode(): entries for stream, entries in self._receive() or ()}
        self._weigh(read.limit, chain.from_iterable(found.values()))
        full = len(found.get(self._names.executions, ())) == read.limit
        if full:
            found = {name: entries for name, entries in found.items() if name not in self._aside}
        cursors = {**read.cursors, **{name: entries[-1][0].decode() for name, entries in found.items()}}
        return Reading(found.pop(self._names.executions, ()), found, cursors, full)

    def _weigh(self, asked: int, entries: Iterable[Entry]) -> None:
        """Set how many entries to ask for next, after a reply to asking for so many."""
        weight = sum(sum(map(len, fields or ())) for _, fields in entries)
        if weight > HEAVY_BATCH_BYTES:
            self._batch_size = max(asked * HEAVY_BATCH_BYTES // weight, 1)
        else:
            self._batch_size = min(2 * asked, self._bounds.batch_size)

    def decode(self, reading: Reading) -> list[Event]:
        """The events of a reading. Prices of the market stream are the newest per symbol, and they are left out while
        there may be more of the execution stream: they are for positions that are known to the last fill."""
        # A deleted entry can be listed without fields.
        events: list[Event] = [decode(entry_id.decode(), fields or []) for entry_id, fields in reading.entries]
        newest: dict[str, Event] = {}
        for name, entries in reading.aside.items():
            read = self._aside.get(name, decode_market)
            for entry_id, fields in entries:
                event = read(entry_id.decode(), fields or [])
                if isinstance(event, Malformed):
                    events.append(event._replace(stream=name))
                elif isinstance(event, Price):
                    newest[event.symbol] = event
                else:
                    events.append(event)
        return events if reading.full else [*events, *newest.values()]

    # Looking and committing.

    def send_look(self, events: Sequence[Event], reading: Reading) -> Question:
        """Ask for what deciding about `events`, which are those of `reading`, needs to know."""
        names, remembered = self._names, remembered_names(self.state, events)
        # Of those whose terms are needed an epoch may open.
        opening = (event.key.symbol for event in events if type(event) is Fill or type(event) is Snapshot)
        symbols = list(dict.fromkeys(opening))
        before = self._pending[1] if self._pending is not None else self.meta
        keys = [
            *(names.lease, names.kill_switch, names.rate, names.executions),
            *map(names.fill, remembered),
            *map(names.overrides, symbols),
        ]
        place = (reading.cursors[names.executions], before.entries_read + len(reading.entries), int(not reading.full))
        self._outbox.append(("EVALSHA", self._look, len(keys), *keys, len(remembered), *place))
        return Question(reading, remembered, symbols)

    def receive_look(self, question: Question, published: frozenset[str]) -> Look:
        """What the look saw, once the commit before it was received; `published` are claims known from refusals. Raises
        `LostLeaseError` when another leads."""
        reply = self._receive()
        if reply[0] == b"type":
            raise UnusableError(_FOREIGN.format(reply[1].decode()))
        now_ms, lease, kill, times, fills, overrides, stream = reply
        if lease != self._token.encode():
            raise LostLeaseError(f"the lease is held by {lease.decode(errors='replace') if lease else 'nobody'}")
        recent = sum(now_ms - int(time) < MINUTE_MS for time in times)
        known = zip(question.remembered, fills, strict=True)
        gate = Gate(
            now_ms=now_ms,
            kill_switch=None if kill is None else kill.decode(errors="replace"),
            tokens=max(self._bounds.max_actions_per_min - recent, 0),
            known_fills={name: content.decode() for name, content in known if content is not None},
            published=published,
            terms=self._terms(question.symbols, overrides),
            live_after=parse_id(self.meta.live_after),
        )
        added, length, first, last, deleted, after = stream
        figures = Figures(added, length, first.decode(), last.decode(), deleted.decode(), after)
        lag = self._notice_gap(figures, question.reading)
        return Look(gate, lag, self._gap)

    def _notice_gap(self, figures: Figures, reading: Reading) -> int:
        """Note what will never be read, and return how many entries wait behind those that were."""
        name, entries_read = self._names.executions, self.meta.entries_read
        if figures.are_of_another_stream(self.cursor, entries_read):
            raise StateMovedError(f"{name} was deleted and created anew")
        batch = [entry_id for entry_id, _ in reading.entries]
        missed = figures.missed(self.cursor, entries_read, batch)
        if missed:
            self._gap = Gap(missed, f"stream gap: {missed} entries of {name} were removed before they were read")
        return figures.added - entries_read - len(batch) - missed

    def _terms(self, symbols: Sequence[str], overrides: Sequence[list[bytes] | None]) -> dict[str, Terms]:
        terms = {}
        for symbol, raw in zip(symbols, overrides, strict=True):
            if raw is None:
                self.override_faults[symbol] = (f"{self._names.overrides(symbol)} is no hash",)
                continue
            texts = [value.decode(errors="replace") for value in raw]
            fields = dict(zip(texts[::2], texts[1::2], strict=True))
            if fields:
                terms[symbol], faults = override_terms(self.policy.terms, fields)
                self.override_faults[symbol] = faults
        return terms

    def send_commit(self, decision: Decision, reading: Reading | None = None) -> None:
        """Ask for `decision`, which took in `reading`, to become true."""
        names, bounds = self._names, self._bounds
        meta = self.meta._replace(waiting=decision.waiting)
        if reading is not None:
            missed, self._gap = self._gap.missed if self._gap else 0, None
            meta = meta._replace(
                cursors={name: reading.cursors[name] for name in meta.cursors},
                entries_read=meta.entries_read + len(reading.entries) + missed,
            )
        if decision.books or decision.applied or decision.rejected or meta_text(meta) != self._stored:
            meta = meta._replace(commits=meta.commits + 1)
        self._pending = decision, meta
        sets, deletes = _changes(self.state.books, decision.books)
        claims = [claim for intent in decision.intents for claim in intent.claims]
        symbols = list(dict.fromkeys(i.key.symbol for i in decision.intents if i.action is Action.HARVEST))
        keys = [
            *(names.lease, names.kill_switch, names.state, names.rate, names.executions, names.rejected),
            names.trade_intents if self.policy.live else names.suggestions,
            names.stop_intents if self.policy.live else names.suggestions,
            *map(names.claim, claims),
            *map(names.fill, decision.applied),
            *map(names.history, symbols),
        ]
        price_times = [intent.trigger.time_ms for intent in decision.intents] or [0]
        arguments: list[Argument] = [
            *(self._token, bounds.lease_ms, int(self.policy.live), self._stored, meta_text(meta)),
            *(names.group, meta.cursors[names.executions], meta.entries_read),
            *(self.policy.fresh_ms, min(price_times), max(price_times), bounds.max_actions_per_min),
            *(bounds.dedup_ttl_sec, bounds.fill_dedup_ttl_sec, bounds.stream_maxlen),
            *(len(claims), len(decision.applied), len(symbols), len(sets), len(deletes)),
            *(len(decision.intents), len(decision.rejected)),
            *decision.applied.values(),
        ]
        for name, value in sets.items():
            arguments += (name, value)
        arguments += deletes
        for intent in decision.intents:
            harvest = intent.action is Action.HARVEST
            entry = intent_entry(intent, live=self.policy.live)
            history = symbols.index(intent.key.symbol) + 1 if harvest else 0
            arguments += (7 if harvest else 8, history, len(entry), *entry)
        for letter in decision.rejected:
            fields = letter_entry(letter, names.executions)
            arguments += (len(fields), *fields)
        self._outbox.append(("EVALSHA", self._commit, len(keys), *keys, *arguments))
        self._outbox += self._waits

    def receive_commit(self) -> Decision | None:
        """The decision of the commit that is on its way, if there is one, now adopted. Raises what speaks against."""
        if self._pending is None:
            return None
        (decision, meta), self._pending = self._pending, None
        reply = self._receive()
        code = reply[0].decode()
        if code == "ok":
            self._must_be_durable()
            self.state.adopt(decision)
            self.meta, self._stored = meta, meta_text(meta)
            return decision
        if code in _ENDS:
            error, text = _ENDS[code]
            raise error(text.format(*(word.decode() for word in reply[1:]), group=self._names.group))
        claims = [claim for intent in decision.intents for claim in intent.claims]
        raise RefusedError(code, frozenset(claims[index - 1] for index in reply[1:]))

    @property
    def _waits(self) -> list[Command]:
        """What makes a commit as durable as was asked for."""
        bounds = self._bounds
        if bounds.wait_aof:
            return [("WAITAOF", 1, bounds.wait_replicas, bounds.wait_timeout_ms)]
        return [("WAIT", bounds.wait_replicas, bounds.wait_timeout_ms)] if bounds.wait_replicas else []

    def _must_be_durable(self) -> None:
        bounds = self._bounds
        for _ in self._waits:
            reply = self._receive()
            local, replicas = reply if bounds.wait_aof else (1, reply)
            if local < 1 or replicas < bounds.wait_replicas:
                where = f"on {replicas} of {bounds.wait_replicas} replicas" + ("" if local else ", not synced here")
                raise NotDurableError(
                    f"after {bounds.wait_timeout_ms} ms a commit is {where}; it stands on this server"
                )


_FOREIGN = "{} holds another type than HarvestBrain's; rename or delete it"

# What a commit's refusal says, by its code, where deciding again from the same state would not help.
_ENDS: Mapping[str, tuple[type[Exception], str]] = {
    "lease": (LostLeaseError, "the lease was lost before the commit"),
    "cursor": (StateMovedError, "the stored state moved on"),
    "group": (StateMovedError, "the group {group} is gone"),
    "type": (UnusableError, _FOREIGN),
    "full": (UnusableError, "{} has used up its ids; rename or delete it"),
    "denied": (UnusableError, "the Redis user may not {} what HarvestBrain writes"),
}


def _parse_state(fields: Mapping[str, str]) -> State:
    markets: dict[str, Market] = {}
    positions: dict[str, list[Position]] = {}
    for name, text in fields.items():
        if name.startswith(MARKET_PREFIX):
            markets[name.removeprefix(MARKET_PREFIX)] = parse_market(text)
        else:
            position = parse_position(text)
            positions.setdefault(position.key.symbol, []).append(position)
    return State(
        {symbol: book_of(markets.get(symbol) or Market(held[0].average), held) for symbol, held in positions.items()}
    )


def _changes(before: Mapping[str, Book], after: Mapping[str, Book]) -> tuple[dict[str, str], list[str]]:
    """Fields of the state hash to set and to delete. What is the same object as before was not changed."""
    sets: dict[str, str] = {}
    deletes: list[str] = []
    for symbol, book in after.items():
        old = before.get(symbol) or Book(None, ())
        if book.market is not old.market:
            if book.market is not None:
                sets[MARKET_PREFIX + symbol] = market_text(book.market)
            else:
                deletes.append(MARKET_PREFIX + symbol)
        if book.positions is not old.positions:
            gone = {position.key: position for position in old.positions}
            for position in book.positions:
                if gone.pop(position.key, None) is not position:
                    sets[str(position.key)] = position_text(position)
            deletes += map(str, gone)
    return sets, deletes
