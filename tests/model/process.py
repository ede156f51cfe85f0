"""A daemon as a value: its token, what it knows from before this session, and the replies that this session got so far.

The real `Daemon.run` is deterministic between one reply and the next. So what it has asked for by now is found out by
running it on these replies, and stopping it where it wants one more. With a session everything in memory is forgotten
but the claims that were refused as published: that, too, is the real code's doing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple
from unittest.mock import patch

import redis

from harvest_brain import daemon as product
from harvest_brain.config import Loaded
from tests.model.server import Command, Failed, Reply, thawed


class Process(NamedTuple):
    """`session` counts the sessions where it matters which one it is, else it stays 0."""

    token: bytes
    session: int = 0
    published: frozenset[str] = frozenset()
    replies: tuple[Reply, ...] = ()


class Asked(NamedTuple):
    """All that the session has sent. If it has `ended`, `next_process` is how the process begins the next one."""

    commands: tuple[Command, ...]
    ended: str
    next_process: Process


class _WantsMoreError(BaseException):
    """The session waits for a reply that it has not got. No `Exception`, so that the product can't catch it."""


class _OverError(BaseException):
    """The session is over, and the product is about to begin another one."""


class _Line:
    """The transport of a replayed session."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.sent: list[Command] = []
        self._replies = iter(replies)

    def send(self, *commands: Sequence[str | bytes | int]) -> None:
        for command in commands:
            self.sent.append(tuple(word if isinstance(word, bytes) else str(word).encode() for word in command))

    def receive(self) -> Any:
        for reply in self._replies:
            if isinstance(reply, Failed):
                raise redis.ResponseError(reply.text)
            return thawed(reply)
        raise _WantsMoreError

    def call(self, *command: str | bytes | int) -> Any:
        self.send(command)
        return self.receive()

    def close(self) -> None:
        pass


class _StandingClock:
    """`time` for the daemon: it stands still, and sleeping takes none of it."""

    def __init__(self, now_ms: int) -> None:
        self._now = now_ms / 1000

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _: float) -> None:
        pass


class Replayer:
    """`counts_sessions`: a planted fault draws lots, so that sessions which got the same replies still differ."""

    def __init__(self, loaded: Loaded, now_ms: int, *, counts_sessions: bool = False) -> None:
        self._loaded = loaded
        self._clock = _StandingClock(now_ms)
        self._counts_sessions = counts_sessions
        self._logger = logging.getLogger("harvest_brain.model")
        self._logger.disabled = True
        self._known: dict[Process, Asked] = {}

    def ask(self, process: Process) -> Asked:
        """What it has asked for with the replies that it got."""
        if process not in self._known:
            self._known[process] = self._replay(process)
        return self._known[process]

    def restarted(self, process: Process, published: frozenset[str]) -> Process:
        """The process at the beginning of its next session."""
        return Process(process.token, process.session + self._counts_sessions, published)

    def _replay(self, process: Process) -> Asked:
        line = _Line(process.replies)
        daemon = product.Daemon(self._loaded, self._logger)
        daemon._token = process.token.decode()
        daemon._published = process.published
        reasons: list[str] = []
        session = daemon._session
        is_inside = False

        def enter() -> None:
            nonlocal is_inside
            is_inside = True
            try:
                session()
            finally:
                is_inside = False

        def pause(_: float) -> None:
            if not is_inside:
                raise _OverError

        with (
            patch.object(product, "time", self._clock),
            patch.object(product, "make_connection"),
            patch.object(product, "RedisTransport", lambda _: line),
            patch.object(daemon, "_session", enter),
            patch.object(daemon, "_pause", pause),
            patch.object(daemon._log, "info", lambda text, *words: reasons.append(text % words)),
            patch.object(daemon._report, "trouble", lambda fault: reasons.append(f"trouble: {fault}")),
        ):
            try:
                daemon.run()
            except _WantsMoreError:
                ended = ""
            except _OverError:
                ended = reasons[-1]
        return Asked(tuple(line.sent), ended, self.restarted(process, daemon._published))


@contextmanager
def lots() -> Iterator[None]:
    """Whoever draws lots draws numbers."""
    numbers = count()
    with patch("secrets.token_hex", lambda _: f"lot{next(numbers)}"):
        yield
