"""A password that Redis refuses is in nothing that is said about it: log, status, command line."""

from __future__ import annotations

import json
import logging
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_brain.config import load
from harvest_brain.daemon import Daemon
from harvest_brain.ops.cli import main
from harvest_brain.report import set_up_logging

SENTINEL = "hunter2-sentinel"
PATIENCE_SEC = 60


class Refusing(socketserver.StreamRequestHandler):
    """Says of every command that the password is wrong."""

    heard: list[bytes]

    def handle(self) -> None:
        while count := self.rfile.readline():  # *N, then N times a length and a word
            self.heard += [self.rfile.readline() for _ in range(2 * int(count[1:]))]
            self.wfile.write(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A Redis that refuses, to which the environment points; gives what it has heard."""
    heard: list[bytes] = []
    handler = type("Handler", (Refusing,), {"heard": heard})
    password = tmp_path / "password"
    password.write_text(SENTINEL)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("REDIS_PORT", str(server.server_address[1]))
        monkeypatch.setenv("REDIS_USERNAME", "joe")
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(password))
        yield heard
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("kill", "--reason", "news"), ("arm",)])
def test_a_command_says_that_the_password_is_wrong_without_saying_it(
    refusing: list[bytes], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert f"{SENTINEL}\r\n".encode() in refusing
    assert err.startswith("Redis: the password or user name is wrong; see REDIS_PASSWORD_FILE and REDIS_USERNAME")
    assert SENTINEL not in out + err


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_daemon_waits_and_says_so_without_the_password(
    refusing: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    log = tmp_path / "daemon.log"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    logger = set_up_logging("DEBUG", form, str(log))
    daemon = Daemon(load(None, os.environ), logger)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_SEC
        while daemon.status.errors < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        daemon.stop()
        thread.join(PATIENCE_SEC)
        for handler in logging.getLogger("harvest_brain").handlers:
            handler.close()
        logging.getLogger("harvest_brain").handlers = []
    assert daemon.status.errors >= 2
    assert f"{SENTINEL}\r\n".encode() in refusing
    written = [path.read_text() for path in tmp_path.iterdir() if path.name != "password"]
    assert any("the password or user name is wrong" in text for text in written)
    assert "the password or user name is wrong" in json.loads((tmp_path / "status.json").read_text())["last_error"]
    assert not any(SENTINEL in text for text in (*written, daemon.status.line(), daemon.status.text()))
