"""The Redis protocol (RESP2), cut into whole messages, for a proxy that must know where one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

Value = bytes | int | None | list["Value"] | Exception

_END = b"\r\n"
_SIMPLE: dict[bytes, Callable[[bytes], Value]] = {
    b"+": bytes,
    b"-": lambda text: ValueError(text.decode(errors="replace")),
    b":": int,
}


class Message(NamedTuple):
    """One request or one reply: as it came over the wire, and what it says. An error reply is a `ValueError`."""

    raw: bytes
    value: Value


class Splitter:
    """Takes in what arrives and gives out whole messages; the rest waits for more."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        self._buffer += data
        at = 0
        while at < len(self._buffer):
            found = _parse(self._buffer, at)
            if found is None:
                break
            value, end = found
            yield Message(self._buffer[at:end], value)
            at = end
        self._buffer = self._buffer[at:]


def _parse(data: bytes, at: int) -> tuple[Value, int] | None:
    """The message that begins at `at` and where it ends, or None while a part of it is missing."""
    line_end = data.find(_END, at)
    if line_end < 0:
        return None
    kind, text, after = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind in _SIMPLE:
        return _SIMPLE[kind](text), after
    size = int(text)
    if kind == b"*":
        return _parse_array(data, after, size)
    assert kind == b"$", f"not RESP2: {data[at : at + 40]!r}"
    if size < 0:
        return None, after
    end = after + size + 2
    return (data[after : after + size], end) if end <= len(data) else None


def _parse_array(data: bytes, at: int, size: int) -> tuple[Value, int] | None:
    if size < 0:
        return None, at
    values: list[Value] = []
    for _ in range(size):
        found = _parse(data, at)
        if found is None:
            return None
        value, at = found
        values.append(value)
    return values, at
