"""One Redis for each worker, emptied before each test; servers of their own for the tests that break them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.support.daemon import DaemonProcess, StartDaemon
from tests.support.server import RedisServer, StartServer, redis_server


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A Redis that is empty. A test that changes more than data takes `start_server`."""
    with shared_server.client() as client:
        client.flushall()
        client.script_flush()
    return shared_server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Any]:
    """A client of `server`."""
    with server.client() as client:
        yield client


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers for this test alone."""
    with ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(redis_server(options, **more))


@pytest.fixture
def start_daemon(server: RedisServer) -> Iterator[StartDaemon]:
    """Starts daemons, of `server` unless the settings say otherwise, and waits until they are ready."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(DaemonProcess(server.settings() | settings))
