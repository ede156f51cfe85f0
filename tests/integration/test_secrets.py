"""A password comes from a file and goes nowhere else: a sentinel is looked for wherever somebody could look."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.support.daemon import DaemonProcess, harvest_brain
from tests.support.server import StartServer
from tests.support.waiting import wait_until
from tests.support.wire import dump, feed, fill, tick

SENTINEL = "s3ntinel-of-the-tests"
WRONG = "wr0ng-sentinel"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_password_is_nowhere_but_in_its_file(start_server: StartServer, tmp_path: Path, form: str) -> None:
    server = start_server(password=SENTINEL)
    file = tmp_path / "password"
    file.write_text(WRONG)
    settings = server.settings() | {"REDIS_PASSWORD_FILE": str(file), "LOG_LEVEL": "DEBUG", "LOG_FORMAT": form}
    seen: list[str] = []

    def look(daemon: DaemonProcess) -> None:
        process = Path(f"/proc/{daemon.pid}")
        seen.extend((process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ"))
        seen.append(daemon.log() + str(daemon.status()))
        seen.extend(path.read_text(errors="replace") for path in daemon.directory.iterdir() if path.is_file())

    daemon = DaemonProcess(settings | {"HARVEST_LEASE_SEC": "2"})
    try:
        daemon.start()
        wait_until(lambda: "password or user name is wrong" in str(daemon.status().get("last_error", "")))
        look(daemon)
        file.write_text(SENTINEL + "\n")
        daemon.wait_for(role="leader")
        with server.client() as client:
            feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
            for words in (("status",), ("status", "--json"), ("doctor",), ("check-config",), ("acl",)):
                done = harvest_brain(*words, settings=settings)
                seen.append(done.stdout + done.stderr)
            assert hashlib.sha256(SENTINEL.encode()).hexdigest() in seen[-1], (
                "an ACL file holds the digest, as Redis does"
            )
            harvest_brain("kill", "--reason", "drill", settings=settings)
            seen.append(str(dump(client)))
        server.kill()
        wait_until(lambda: daemon.status()["state"].startswith("waiting"))
        look(daemon)
        server.start()
        daemon.wait_for(role="leader")
        look(daemon)
        daemon.stop()
        seen.append(daemon.log())
    finally:
        daemon.discard()
    assert len("".join(seen)) > 5_000
    for secret in (SENTINEL, WRONG):
        assert [text for text in seen if secret in text] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"REDIS_PASSWORD": SENTINEL},
        {"REDIS_URL": f"redis://user:{SENTINEL}@127.0.0.1:6379"},
        {"REDIS_PASSWD": SENTINEL},
        {"HARVEST_SECRET": SENTINEL},
    ],
)
def test_a_password_in_the_settings_stops_the_start_up_and_is_not_repeated(settings: dict[str, str]) -> None:
    for command in ("run", "check-config", "status"):
        done = harvest_brain(command, settings=settings)
        assert done.returncode == 2
        assert "REDIS_PASSWORD_FILE" in done.stderr
        assert SENTINEL not in done.stdout + done.stderr
