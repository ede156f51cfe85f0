"""The pipe to Redis: one write for many requests, replies in order, and no use after an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from harvest_brain.redis.transport import Command, RedisTransport


class Pipe:
    """A connection that notes what is done with it and answers from a list, raising what is an exception."""

    def __init__(self, *replies: Any, fault: BaseException | None = None) -> None:
        self.done: list[object] = []
        self._replies = list(replies)
        self._fault = fault

    def connect(self) -> None:
        self.done.append("connect")

    def disconnect(self) -> None:
        self.done.append("disconnect")

    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]:
        return [repr(tuple(command)).encode() for command in commands]

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None:
        if self._fault is not None:
            raise self._fault
        self.done.append((b" ".join(command), check_health))

    def read_response(self, disable_decoding: bool) -> Any:
        assert disable_decoding
        reply = self._replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


def test_it_connects_when_it_is_made() -> None:
    pipe = Pipe()
    RedisTransport(pipe)
    assert pipe.done == ["connect"]


def test_many_commands_go_out_in_one_write_without_a_health_check_between() -> None:
    pipe = Pipe()
    RedisTransport(pipe).send(("GET", "a"), ("GET", "b"))
    assert pipe.done[1:] == [(b"('GET', 'a') ('GET', 'b')", False)]


def test_replies_come_in_order_and_an_error_reply_is_one_of_them() -> None:
    pipe = Pipe(b"1", ResponseError("WRONGTYPE"), None, [1, b"x"])
    transport = RedisTransport(pipe)
    assert transport.receive() == b"1"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        transport.receive()
    assert transport.receive() is None
    assert transport.receive() == [1, b"x"]
    assert "disconnect" not in pipe.done


@pytest.mark.parametrize("fault", [RedisConnectionError("gone"), TimeoutError("slow"), KeyboardInterrupt()])
def test_a_fault_while_receiving_ends_it_for_good(fault: BaseException) -> None:
    pipe = Pipe(fault, b"the reply to something else")
    transport = RedisTransport(pipe)
    with pytest.raises(type(fault)):
        transport.receive()
    assert pipe.done == ["connect", "disconnect"]
    with pytest.raises(RedisConnectionError, match="was closed after an error"):
        transport.receive()
    with pytest.raises(RedisConnectionError, match="was closed after an error"):
        transport.send(("GET", "a"))
    assert pipe.done == ["connect", "disconnect"]


def test_a_fault_while_sending_ends_it_for_good() -> None:
    pipe = Pipe(b"late", fault=RedisConnectionError("reset"))
    transport = RedisTransport(pipe)
    with pytest.raises(RedisConnectionError, match="reset"):
        transport.send(("GET", "a"))
    with pytest.raises(RedisConnectionError, match="was closed after an error"):
        transport.receive()
    assert pipe.done == ["connect", "disconnect"]
