"""A TCP proxy between a daemon and Redis that knows the protocol, so that a connection can be cut at an exact point:
before a request reaches Redis, when it was carried out but before its reply comes back, or in the middle of the reply.

A tap is asked about every request and every reply and may take its time: what it is asked about waits on the wire, as
it would on a slow or stalled network. Reads and writes of one direction are one thread, so a held message holds what is
behind it and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from hashlib import sha1
from typing import NamedTuple, Protocol, cast

from tests.faults.resp import Splitter, Value

_RECEIVE_BYTES = 1 << 20
_HOST = "127.0.0.1"


class Verdict(Enum):
    """What becomes of a message. `HALF` sends its first half and cuts; `CUT` drops it and cuts."""

    PASS = "pass"
    HALF = "half"
    CUT = "cut"


class Command(NamedTuple):
    """A request: its number on this proxy, counted from 1 over all connections; its name, which is COMMIT or LOOK for
    the daemon's two scripts; and its arguments after the name."""

    number: int
    name: str
    arguments: list[bytes]

    @property
    def names(self) -> tuple[str, ...]:
        """The name, and PUBLISH for a commit that has an intent in it."""
        publishes = self.name == "COMMIT" and b"event_type" in self.arguments
        return (self.name, "PUBLISH") if publishes else (self.name,)


class Tap(Protocol):
    """What watches a proxy and decides. Called from the proxy's threads."""

    def request(self, command: Command) -> Verdict:
        """A request is about to go to Redis."""

    def reply(self, command: Command, reply: Value) -> Verdict:
        """The reply to `command` is about to go back; Redis has carried the command out."""


class PassAll:
    """The tap that lets everything through."""

    def request(self, command: Command) -> Verdict:  # noqa: ARG002  # Tap's signature
        return Verdict.PASS

    def reply(self, command: Command, reply: Value) -> Verdict:  # noqa: ARG002
        return Verdict.PASS


class Proxy:
    """Listens on `port` of loopback as long as it lives; connects to Redis on `server_port` once per connection."""

    def __init__(self, server_port: int, tap: Tap) -> None:
        self.tap = tap
        self._server_port = server_port
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._count = 0
        self._scripts: dict[bytes, str] = {}
        self._closed = False
        self._listener = socket.create_server((_HOST, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop all connections at once."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    def close(self) -> None:
        self._closed = True
        # Closing alone does not wake the thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def command(self, words: list[bytes]) -> Command:
        """A request by its number and name. Of the scripts that a daemon loads, one writes and the other does not."""
        name = words[0].decode().upper()
        with self._lock:
            self._count += 1
            if name == "SCRIPT" and words[1].upper() == b"LOAD":
                digest = sha1(words[2], usedforsecurity=False).hexdigest().encode()
                self._scripts[digest] = "LOOK" if b"flags=no-writes" in words[2].splitlines()[0] else "COMMIT"
            elif name == "EVALSHA":
                name = self._scripts.get(words[1], name)
            return Command(self._count, name, words[1:])

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((_HOST, self._server_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            link.start()
            if self._closed:
                link.close()


class _Link:
    """One connection of a daemon, and the one to Redis behind it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._unanswered: deque[Command] = deque()
        self._pumps = 2
        self._lock = threading.Lock()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in (self._pump_requests, self._pump_replies):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def close(self) -> None:
        # A shutdown wakes whoever waits in recv; the descriptors are given back when nobody uses them any more.
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._proxy.forget(self)

    def _run(self, pump: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                pump()
        finally:
            self.close()
            with self._lock:
                self._pumps -= 1
                if not self._pumps:
                    self._client.close()
                    self._server.close()

    def _pump_requests(self) -> None:
        splitter = Splitter()
        while data := self._client.recv(_RECEIVE_BYTES):
            for message in splitter.feed(data):
                command = self._proxy.command(cast("list[bytes]", message.value))
                verdict = self._proxy.tap.request(command)
                if verdict is Verdict.PASS:
                    self._unanswered.append(command)
                if not _forward(self._server, message.raw, verdict):
                    return

    def _pump_replies(self) -> None:
        splitter = Splitter()
        while data := self._server.recv(_RECEIVE_BYTES):
            for message in splitter.feed(data):
                verdict = self._proxy.tap.reply(self._unanswered.popleft(), message.value)
                if not _forward(self._client, message.raw, verdict):
                    return


def _forward(end: socket.socket, raw: bytes, verdict: Verdict) -> bool:
    """Whether the connection goes on after it."""
    if verdict is Verdict.PASS:
        end.sendall(raw)
    elif verdict is Verdict.HALF:
        end.sendall(raw[: len(raw) // 2])
    return verdict is Verdict.PASS
