"""TLS to a real Redis that speaks it, with an authority made for the test: what is not to be trusted is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import engine
from tests.support.certificates import make_authority, sign
from tests.support.daemon import DaemonProcess, StartDaemon, harvest_brain
from tests.support.server import HOST, RedisServer, StartServer
from tests.support.waiting import wait_until
from tests.support.wire import EXECUTIONS, feed, fill, group_of, harvests, tick

pytestmark = pytest.mark.skipif(
    bool(engine.why_no_containers()) and shutil.which("redis-server") is None,
    reason="neither a container nor a redis-server on PATH: no Redis here speaks TLS",
)
HERE = f"IP:{HOST},DNS:localhost"
StartTls = Callable[..., RedisServer]


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def start_tls(start_server: StartServer, authority: Path) -> StartTls:
    """Starts a server whose certificate is for `hosts`."""

    def start(*options: str, hosts: str = HERE) -> RedisServer:
        sign(authority, "server", hosts)
        options = options or ("--tls-auth-clients", "no")
        return start_server(*options, certificates=authority)

    return start


def trusting(server: RedisServer, authority: Path, **more: str) -> dict[str, str]:
    return {
        "REDIS_HOST": HOST,
        "REDIS_PORT": str(server.tls_port),
        "REDIS_TLS": "true",
        "REDIS_TLS_CA_FILE": str(authority / "ca.crt"),
        **more,
    }


def assert_works(server: RedisServer, daemon: DaemonProcess) -> None:
    daemon.wait_for(role="leader")
    with server.client() as client:
        feed(client, fill("ETHUSDT", "BUY", "1.0", "2500", stop_loss="2450"), tick("ETHUSDT", "2526"))
        assert len(harvests(client)) == 1


def assert_refused(server: RedisServer, settings: dict[str, str], complaint: str) -> None:
    """The daemon waits and says why, the command line says so too, and the server was told nothing."""
    daemon = DaemonProcess(settings)
    try:
        daemon.start()
        wait_until(lambda: complaint in str(daemon.status().get("last_error", "")), what=complaint)
        assert daemon.status()["role"] == "none"
        assert f"ERROR waiting for Redis: {daemon.status()['last_error']}" in daemon.log()
    finally:
        daemon.discard()
    done = harvest_brain("status", settings=settings)
    assert done.returncode == 1
    assert done.stderr.startswith("Redis: ")
    with server.client() as client:
        assert not client.exists(EXECUTIONS)
        assert group_of(client) == {}


def test_with_the_authority_in_a_file_all_goes_over_tls(
    start_tls: StartTls, start_daemon: StartDaemon, authority: Path
) -> None:
    server = start_tls()
    settings = trusting(server, authority)
    assert_works(server, start_daemon(**settings))
    with server.client() as client:
        names: list[Any] = [found for found in client.client_list() if found["name"] == "harvest-brain"]
        assert [found["laddr"].rpartition(":")[2] for found in names] != [str(server.port)]
    assert harvest_brain("status", settings=settings).returncode == 0


def test_a_rediss_url_means_tls(start_tls: StartTls, authority: Path) -> None:
    server = start_tls()
    url = {"REDIS_URL": f"rediss://localhost:{server.tls_port}", "REDIS_TLS_CA_FILE": str(authority / "ca.crt")}
    with DaemonProcess(url) as daemon:
        assert_works(server, daemon)


def test_a_certificate_of_another_authority_is_refused(start_tls: StartTls, tmp_path: Path) -> None:
    server = start_tls()
    other = make_authority(tmp_path / "other")
    assert_refused(server, trusting(server, other), "the server's certificate is not to be trusted")


def test_without_the_authoritys_file_a_certificate_of_ones_own_is_refused(start_tls: StartTls, authority: Path) -> None:
    server = start_tls()
    settings = {name: value for name, value in trusting(server, authority).items() if name != "REDIS_TLS_CA_FILE"}
    assert_refused(server, settings, "the server's certificate is not to be trusted")


@pytest.mark.parametrize("hosts", ["DNS:elsewhere.example", "IP:127.0.0.2"])
def test_a_certificate_for_another_host_is_refused(start_tls: StartTls, authority: Path, hosts: str) -> None:
    server = start_tls(hosts=hosts)
    assert_refused(server, trusting(server, authority), "is not valid for '127.0.0.1'")


def test_where_the_server_wants_a_certificate_of_the_client_the_own_one_is_shown(
    start_tls: StartTls, start_daemon: StartDaemon, authority: Path
) -> None:
    server = start_tls("--tls-auth-clients", "yes")
    assert_refused(server, trusting(server, authority), "certificate required")
    sign(authority, "client", "DNS:client.example")
    own = {
        "REDIS_TLS_CERT_FILE": str(authority / "client.crt"),
        "REDIS_TLS_KEY_FILE": str(authority / "client.key"),
    }
    assert_works(server, start_daemon(**trusting(server, authority, **own)))


def test_a_server_without_tls_is_not_spoken_to_in_the_clear(server: RedisServer, authority: Path) -> None:
    settings = trusting(server, authority, REDIS_TIMEOUT_SEC="1") | server.settings()
    assert_refused(server, settings, "Timeout connecting to server")
