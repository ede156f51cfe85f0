"""The server's replies (RESP 2), taken off a connection.

A backlog is a million entries of a dozen values each, and redis-py's own parser, which asks its buffer for each line
and each value, takes more time over them than deciding does. Here all that has arrived is cut at its line ends in one
go. A value that holds line ends itself is put together again by its length, so nothing depends on what a value holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from redis import connection as wire
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

RECEIVE_BYTES = 64 * 1024
END = b"\r\n"

# The heads of short values, which nearly all are: looked up, not parsed.
_SIZES = {b"$%d" % size: size for size in range(256)}

# redis-py's classes carry no types. This one knows which exception an error reply means.
_ERRORS: Any = wire.DefaultParser


class ReplyParser:
    """What redis-py asks of a parser, for one connection. Values are bytes, int, None or lists of these; an error reply
    is an exception that is returned, as redis-py expects. Raises `InvalidResponse` for what is no reply, and what the
    socket raises."""

    def __init__(self, socket_read_size: int) -> None:
        self._read_size = socket_read_size

    def on_connect(self, connection: Any) -> None:
        self._take = _lines(connection._sock.recv, self._read_size).__next__  # noqa: SLF001  # so redis-py's parsers do

    def on_disconnect(self) -> None:
        """A connection is not used again."""

    def read_response(self, **_: object) -> Any:
        try:
            reply = _reply(self._take)
        except ValueError as fault:
            raise InvalidResponse(f"no reply of Redis: {fault}") from None
        if isinstance(reply, RedisConnectionError):
            raise reply
        return reply


def _lines(receive: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    parts: list[bytes] = []
    while True:
        chunk = receive(size)
        if not chunk:
            raise RedisConnectionError("the server closed the connection")
        parts.append(chunk)
        # An end may be cut in two. Only where one has come is it worth joining: a value can be hundreds of megabytes.
        if END in chunk or chunk[0] == END[1]:
            *lines, rest = b"".join(parts).split(END)
            parts = [rest]
            yield from lines


def _reply(take: Callable[[], bytes]) -> Any:
    line = take()
    size = _SIZES.get(line)
    if size is not None:
        return _value(take, size)
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        count = int(rest)
        return None if count < 0 else [_reply(take) for _ in range(count)]
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else _value(take, size)
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    if kind == b"-":
        return _ERRORS.parse_error(rest.decode(errors="replace"))
    raise ValueError(repr(line[:60]))


def _value(take: Callable[[], bytes], size: int) -> bytes:
    value = take()
    if len(value) == size:
        return value
    parts, missing = [value], size - len(value)
    while missing > 0:
        parts.append(take())
        missing -= len(END) + len(parts[-1])
    if missing < 0:
        raise ValueError(f"a value of {size} bytes has more")
    return END.join(parts)
