"""The server's replies (RESP 2), taken off a connection.

A backlog is a million entries of a dozen values each, and redis-py's own parser, which asks its buffer for each line
and each value, takes more time over them than deciding does. Here all that has arrived is cut at its line ends in one
go. A value that holds line ends itself is put together again by its length, and a long one is taken by its length to
begin with, so neither the result nor the effort depends on what a value holds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from redis import connection as wire
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

END = b"\r\n"
LONG = 64 * 1024  # bytes

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
        self._arrived = _arrived(connection._sock.recv, self._read_size)  # noqa: SLF001  # so redis-py's parsers do

    def on_disconnect(self) -> None:
        """A connection is not used again."""

    def read_response(self, **_: object) -> Any:
        try:
            reply = _reply(self._arrived)
        except ValueError as fault:
            raise InvalidResponse(f"no reply of Redis: {fault}") from None
        if isinstance(reply, RedisConnectionError):
            raise reply
        return reply


# Gives a line without its end; to a length that is sent, so many bytes, after which a line end is passed.
Arrived = Generator[bytes, int | None, None]


def _arrived(receive: Callable[[int], bytes], read_size: int) -> Arrived:
    rest = b""
    while True:
        *lines, rest = rest.split(END)
        ahead = iter(lines)
        for line in ahead:
            length = yield line
            if length is not None:
                parts = [END.join([*ahead, rest])]
                missing = length + len(END) - len(parts[0])
                while missing > 0:
                    parts.append(_received(receive, read_size))
                    missing -= len(parts[-1])
                rest = b"".join(parts)
                yield rest[:length]
                rest = rest[length + len(END) :]
                break
        else:
            rest += _received(receive, read_size)


def _received(receive: Callable[[int], bytes], read_size: int) -> bytes:
    chunk = receive(read_size)
    if not chunk:
        raise RedisConnectionError("the server closed the connection")
    return chunk


def _reply(arrived: Arrived) -> Any:
    line = next(arrived)
    size = _SIZES.get(line)
    if size is not None:
        return _value(arrived, size)
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        count = int(rest)
        return None if count < 0 else [_reply(arrived) for _ in range(count)]
    if kind == b"$":
        return _value(arrived, int(rest))
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    if kind == b"-":
        return _ERRORS.parse_error(rest.decode(errors="replace"))
    raise ValueError(repr(line[:60]))


def _value(arrived: Arrived, size: int) -> bytes | None:
    if size < 0:
        return None
    if size > LONG:
        return arrived.send(size)
    value = next(arrived)
    if len(value) == size:
        return value
    parts, missing = [value], size - len(value)
    while missing > 0:
        parts.append(next(arrived))
        missing -= len(END) + len(parts[-1])
    if missing < 0:
        raise ValueError(f"a value of {size} bytes has more")
    return END.join(parts)
