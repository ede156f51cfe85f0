"""Redis as a value. `Server` holds all that matters of it; `Oracle.carry_out` says what becomes of it by a command.

The oracle asks a real Redis: it puts the value in, runs the command (the real scripts too) and takes the value out
again. A command has the same effect on the same value, so each pair is asked once. What a clock puts into replies is
replaced by a constant.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import redis

from harvest_brain.redis.names import Names

# Only a first start asks the group how far it has read.
_AT_THE_BEGINNING = ("MKSTREAM", "ENTRIESREAD", 0)

Entry = tuple[bytes, ...]
Command = tuple[bytes, ...]
Reply = Hashable


class Failed(NamedTuple):
    """An error reply."""

    text: str


class Server(NamedTuple):
    """`produced` entries of the execution stream are there. `outputs` and `letters` are what was appended, without ids;
    `marks` are the keys of claims and of remembered fills, with what they hold, except for the time."""

    produced: int
    lease: bytes = b""
    kill: bytes = b"0"
    state: frozenset[tuple[bytes, bytes]] = frozenset()
    marks: frozenset[tuple[bytes, bytes]] = frozenset()
    outputs: tuple[Entry, ...] = ()
    letters: tuple[Entry, ...] = ()
    group: bytes = b"0-0"


class Oracle:
    """`entries` are those that the execution stream will ever have; `client` goes to a Redis that nobody else uses;
    `now_ms` is what all replies say of the time."""

    def __init__(self, client: Any, names: Names, entries: tuple[tuple[str, Entry], ...], now_ms: int) -> None:
        self.names = names
        self.entries = entries
        self.asked = 0
        self._client = client
        self._now_ms = now_ms
        self._known: dict[tuple[Server, Command], tuple[Server, Reply]] = {}
        self._constant: dict[Command, Reply] = {}
        self._outputs = (names.suggestions, names.trade_intents, names.stop_intents)

    def carry_out(self, server: Server, command: Command) -> tuple[Server, Reply]:
        """The server after `command`, and the reply."""
        name = command[0].upper()
        if name in (b"INFO", b"CONFIG", b"SCRIPT"):  # the same whatever the value is
            if command not in self._constant:
                self._constant[command] = self._run(command)
            return server, self._constant[command]
        found = self._known.get((server, command))
        if found is None:
            self.asked += 1
            self._put(server)
            reply = self._run(command)
            found = self._known[server, command] = self._take(server), reply
        return found

    def _run(self, command: Command) -> Reply:
        connection = self._client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            reply = connection.read_response()
        except redis.ResponseError as fault:
            return Failed(str(fault))
        finally:
            self._client.connection_pool.release(connection)
        return self._timeless(command, reply)

    def _timeless(self, command: Command, reply: Any) -> Reply:
        """The reply as a value, with the server's time replaced."""
        if isinstance(reply, list) and reply and command[0] == b"EVALSHA":
            if reply[0] == b"ok":
                reply = [b"ok", self._now_ms]
            elif isinstance(reply[0], int):  # a look: the time, and when intents were published
                reply = [self._now_ms, *reply[1:3], [], *reply[4:]]
        return _frozen(reply)

    def _put(self, server: Server) -> None:
        names = self.names
        pipeline = self._client.pipeline(transaction=False)
        pipeline.flushdb()
        for entry_id, fields in self.entries[: server.produced]:
            pipeline.execute_command("XADD", names.executions, entry_id, *fields)
        pipeline.execute_command("XGROUP", "CREATE", names.executions, names.group, server.group, *_AT_THE_BEGINNING)
        pipeline.set(names.kill_switch, server.kill)
        if server.lease:
            pipeline.set(names.lease, server.lease)
        if server.state:
            pipeline.hset(names.state, mapping=dict(server.state))
        for key, value in server.marks:
            pipeline.set(key, value)
        for entry in server.outputs:
            pipeline.execute_command("XADD", entry[0], "*", *entry[1:])
        for entry in server.letters:
            pipeline.execute_command("XADD", names.rejected, "*", *entry)
        pipeline.execute()

    def _take(self, before: Server) -> Server:
        names, client = self.names, self._client
        marks = set()
        for prefix in (names.claim(""), names.fill("")):
            for key in client.scan_iter(f"{prefix}*", count=1000):
                value = client.get(key)
                # A live claim holds the time of its publishing.
                marks.add((key, b"1" if value.isdigit() and prefix == names.claim("") else value))
        outputs = []
        for stream in self._outputs:
            outputs += [(stream.encode(), *fields) for _, fields in client.xrange(stream)]
        # The order between streams is not kept; a new entry goes behind those that were there.
        fresh = list(outputs)
        for entry in before.outputs:
            fresh.remove(entry)
        group = next(group for group in client.xinfo_groups(names.executions))
        return Server(
            before.produced,
            client.get(names.lease) or b"",
            client.get(names.kill_switch) or b"",
            frozenset(client.hgetall(names.state).items()),
            frozenset(marks),
            (*before.outputs, *fresh),
            tuple(tuple(fields) for _, fields in client.xrange(names.rejected)),
            group["last-delivered-id"],
        )


def _frozen(reply: Any) -> Reply:
    return tuple(map(_frozen, reply)) if isinstance(reply, list) else reply


def thawed(reply: Reply) -> Any:
    """The reply as a client library gives it."""
    return list(map(thawed, reply)) if isinstance(reply, tuple) and not isinstance(reply, Failed) else reply


def client_of(port: int) -> Any:
    """A client for the oracle: RESP2, bytes, streams as they come."""
    client = redis.Redis(port=port, protocol=2)
    client.set_response_callback("XRANGE", lambda reply, **_: reply)
    return client
