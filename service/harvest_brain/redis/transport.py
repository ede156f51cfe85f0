"""One connection, used as a pipe: requests go out in one write, replies come back in the same order.

This is the whole of what the store asks of a Redis client, so that another one can take its place. The connection
itself (TCP, TLS, Unix socket, authentication) is redis-py's; what is left out is its convenience on top: retries, which
must never repeat a commit whose reply was lost, and reply objects, which cost more than the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

Argument = str | bytes | int
Command = Sequence[Argument]


class Connection(Protocol):
    """What is used of redis-py's connection, whose own methods carry no types."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def read_response(self, disable_decoding: bool) -> Any: ...


class RedisTransport:
    """A redis-py connection, connected here and never again. Replies are bytes, int, None or lists of these. A fault of
    the connection ends it: what was sent may or may not have been carried out, and only a new connection and a fresh
    look at the state can tell."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open = True
        connection.connect()

    def send(self, *commands: Command) -> None:
        """Write all `commands` at once, without waiting for replies."""
        self._must_be_open()
        try:
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        except BaseException:
            self.close()
            raise

    def receive(self) -> Any:
        """The reply to the oldest command that was not yet answered. Raises `redis.RedisError` for an error reply."""
        self._must_be_open()
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError:
            raise  # an error reply is a reply: the order of the replies still holds
        except BaseException:
            self.close()
            raise

    def call(self, *command: Argument) -> Any:
        """The reply to one command, while nothing else is on its way. Raises as `receive` does."""
        self.send(command)
        return self.receive()

    def close(self) -> None:
        """Drop the connection."""
        self._open = False
        self._connection.disconnect()

    def _must_be_open(self) -> None:
        # redis-py would connect anew on the next command; a reply that is still owed would then be lost unnoticed.
        if not self._open:
            raise RedisConnectionError("the connection to Redis was closed after an error")


def parse_info(reply: bytes) -> dict[str, str]:
    """What a reply to INFO says, by name."""
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


def parse_pairs(reply: Sequence[Any]) -> dict[str, Any]:
    """A reply of name, value, name, value as a dictionary."""
    return {reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)}
