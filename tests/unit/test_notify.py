"""What systemd is told, through a real datagram socket."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_brain.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_ready_stopping_and_the_sign_of_life_arrive_as_systemd_reads_them(manager: socket.socket) -> None:
    said = notifier(manager)
    said.ready()
    said.alive("live, leader, ready: 3 positions, lag 0")
    said.stopping()
    assert manager.recv(4096) == b"READY=1"
    assert manager.recv(4096) == b"WATCHDOG=1\nSTATUS=live, leader, ready: 3 positions, lag 0"
    assert manager.recv(4096) == b"STOPPING=1"


def test_a_status_is_told_when_it_changes_and_the_sign_of_life_each_time(manager: socket.socket) -> None:
    said = notifier(manager)
    for status in ("one", "one", "two"):
        said.alive(status)
    assert [manager.recv(4096) for _ in range(3)] == [
        b"WATCHDOG=1\nSTATUS=one",
        b"WATCHDOG=1",
        b"WATCHDOG=1\nSTATUS=two",
    ]


def test_a_status_of_two_lines_is_no_second_message(manager: socket.socket) -> None:
    notifier(manager).alive("waiting for Redis: odd\nSTOPPING=1")
    assert manager.recv(4096) == b"WATCHDOG=1\nSTATUS=waiting for Redis: odd STOPPING=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_socket_in_the_abstract_namespace_is_reached() -> None:
    name = f"harvest-brain-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert manager.recv(4096) == b"READY=1"


def test_without_a_socket_nothing_is_said() -> None:
    said = Notifier({})
    said.ready()
    said.alive("fine")
    said.stopping()


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path: Path, manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    said = notifier(manager)
    for number in range(5_000):  # more than any queue holds
        said.alive(f"status {number}")
    assert manager.recv(4096) == b"WATCHDOG=1\nSTATUS=status 0"
