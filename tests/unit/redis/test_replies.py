"""Replies come off the wire as they were sent, however the network cuts them and whatever they hold."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from harvest_brain.redis.replies import ReplyParser

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=40)
    | st.text(alphabet="\r\n$*:+-1", max_size=12).map(str.encode)
    | st.integers(250, 260).map(lambda size: b"x" * size),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


def sent(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    return b"*%d\r\n" % len(value) + b"".join(map(sent, value))


def parser(stream: bytes, cuts: list[int] | None = None) -> ReplyParser:
    """A parser on a socket that gives `stream` in pieces of the sizes in `cuts`, over and over, and then ends."""
    sizes = list(cuts or [len(stream) or 1])
    place = 0

    def receive(limit: int) -> bytes:
        nonlocal place
        sizes.append(sizes.pop(0))
        begin, place = place, place + min(sizes[-1], limit)
        return stream[begin:place]

    made = ReplyParser(socket_read_size=65_536)
    made.on_connect(SimpleNamespace(_sock=SimpleNamespace(recv=receive)))
    return made


@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_every_value_comes_as_it_was_sent_however_the_network_cuts_it(values: list[Any], cuts: list[int]) -> None:
    replies = parser(b"".join(map(sent, values)), cuts)
    assert [replies.read_response(disable_decoding=True, timeout=None) for _ in values] == values


def test_a_list_that_is_not_there_is_none() -> None:
    assert parser(b"*-1\r\n").read_response() is None


def test_a_status_is_its_text() -> None:
    assert parser(b"+OK\r\n").read_response() == b"OK"


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (b"-ERR no such key\r\n", ResponseError, "no such key"),
        (b"-NOPERM this user may not\r\n", NoPermissionError, "this user may not"),
        (b"-ODD \xff\r\n", ResponseError, "ODD \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_an_error_is_a_reply_of_its_kind(line: bytes, kind: type[Exception], text: str) -> None:
    error = parser(line).read_response()
    assert type(error) is kind
    assert text in str(error)


def test_an_error_within_a_list_keeps_its_place() -> None:
    first, error, last = parser(b"*3\r\n:1\r\n-ERR bad\r\n:2\r\n").read_response()
    assert (first, str(error), last) == (1, "bad", 2)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"-ERR max number of clients reached\r\n", RedisConnectionError),
        (b"-WRONGPASS invalid\r\n", AuthenticationError),
    ],
)
def test_a_server_that_does_not_let_us_in_is_a_fault_of_the_connection(line: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parser(line).read_response()


@pytest.mark.parametrize("stream", [b"", b"$3\r\nab", b"*2\r\n:1\r\n"])
def test_a_connection_that_ends_before_the_reply_does_is_a_fault(stream: bytes) -> None:
    with pytest.raises(RedisConnectionError, match="the server closed the connection"):
        parser(stream).read_response()


@pytest.mark.parametrize(
    "stream",
    [b"HTTP/1.1 400\r\n", b"\r\n", b":one\r\n", b"*x\r\n", b"$x\r\n", b"$3\r\nabcd\r\n", b"$3\r\na\r\nbcd\r\n"],
)
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    with pytest.raises(InvalidResponse, match="no reply of Redis"):
        parser(stream).read_response()


@pytest.mark.parametrize("piece", [b"x", b"\r\n", b"\n", b"\r", b"$3\r\n"])
@pytest.mark.parametrize("size", [65_536, 65_537, 200_000])
@pytest.mark.parametrize("cut", [1_000, 65_536])
def test_a_long_value_may_hold_anything_and_what_follows_is_not_lost(piece: bytes, size: int, cut: int) -> None:
    value = (piece * size)[:size]
    replies = parser(sent([value, 5]) + sent(b"next"), [cut])
    assert replies.read_response() == [value, 5]
    assert replies.read_response() == b"next"


@pytest.mark.parametrize("piece", [b"x", b"\r\n"])
def test_a_value_of_a_hundred_megabytes_takes_hardly_more_room_than_itself(piece: bytes) -> None:
    stream = sent(piece * (100_000_000 // len(piece)))
    replies = parser(stream, [65_536])
    tracemalloc.start()
    try:
        size = len(replies.read_response())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 100_000_000
    assert peak < 350_000_000
