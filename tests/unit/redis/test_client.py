"""How Redis is reached: which kind of connection an endpoint means, and that the password stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from redis import connection as wire
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import MasterNotFoundError

from harvest_brain.redis import client
from harvest_brain.redis.client import Endpoint, connect, make_connection

SENTINEL = "hunter2-sentinel"


def made(endpoint: Endpoint) -> Any:
    """The connection object; nothing is connected."""
    return make_connection(endpoint)


def test_tcp_is_the_default() -> None:
    connection = made(Endpoint("here", 7, 3, username="joe", timeout_sec=1.5))
    assert type(connection) is wire.Connection
    assert (connection.host, connection.port, connection.db) == ("here", 7, 3)
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (1.5, 1.5)
    assert connection.username == "joe"


def test_a_socket_comes_before_host_and_port() -> None:
    connection = made(Endpoint("here", 7, 3, socket="/run/r.sock"))
    assert type(connection) is wire.UnixDomainSocketConnection
    assert (connection.path, connection.db) == ("/run/r.sock", 3)


def test_tls_always_checks_the_servers_certificate_and_name() -> None:
    connection = made(Endpoint("here", tls=True, tls_ca_file="/ca", tls_cert_file="/c", tls_key_file="/k"))
    assert type(connection) is wire.SSLConnection
    assert connection.cert_reqs.name == "CERT_REQUIRED"
    assert connection.check_hostname is True
    assert (connection.ca_certs, connection.certfile, connection.keyfile) == ("/ca", "/c", "/k")


class Sentinels:
    """Of two, "one" is away."""

    asked: ClassVar[list[tuple[str, object]]] = []

    def __init__(self, addresses: list[tuple[str, int]], sentinel_kwargs: dict[str, object]) -> None:
        [(self.host, _)] = addresses
        self.options = sentinel_kwargs
        self.sentinels = [self]

    def ping(self) -> None:
        if self.host == "one":
            raise RedisConnectionError("away")

    def discover_master(self, name: str) -> tuple[str, int]:
        self.asked.append((name, self.options))
        return "master", 6380


@pytest.fixture
def sentinels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(client, "_SENTINEL", Sentinels)
    monkeypatch.setattr(Sentinels, "asked", [])
    return Sentinels.asked


def test_the_first_sentinel_that_answers_is_asked_for_the_master(sentinels: list[Any]) -> None:
    endpoint = Endpoint("unused", sentinels=(("one", 1), ("two", 2)), sentinel_master="m", timeout_sec=2)
    connection = made(endpoint)
    assert (connection.host, connection.port) == ("master", 6380)
    [(name, options)] = sentinels
    assert name == "m"
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (2, 2)
    assert (options["username"], options["password"]) == (None, None)
    assert options["ssl"] is False
    assert options["retry"].get_retries() == 0
    assert connect(endpoint).connection_pool.connection_kwargs["host"] == "master"


def test_where_no_sentinel_answers_it_is_said_of_each(sentinels: list[Any]) -> None:
    with pytest.raises(MasterNotFoundError, match=r"^one:1: away; one:2: away$"):
        made(Endpoint(sentinels=(("one", 1), ("one", 2)), sentinel_master="m"))
    assert sentinels == []


def test_sentinels_have_a_login_and_a_tls_of_their_own(sentinels: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SENTINEL}\n")
    endpoint = Endpoint(
        sentinels=(("two", 2),),
        sentinel_master="m",
        sentinel_username="joe",
        sentinel_password_file=str(file),
        sentinel_tls=True,
        tls_ca_file="/ca",
    )
    connection = made(endpoint)
    assert type(connection) is wire.Connection
    assert (connection.username, connection.password) == (None, None)
    [(_, options)] = sentinels
    assert (options["username"], options["password"]) == ("joe", SENTINEL)
    assert (options["ssl"], options["ssl_ca_certs"], options["ssl_check_hostname"]) == (True, "/ca", True)
    with pytest.raises(OSError, match=f"^REDIS_SENTINEL_PASSWORD_FILE {tmp_path}/none: No such file or directory$"):
        Endpoint(sentinel_password_file=f"{tmp_path}/none").sentinel_password()


@pytest.mark.parametrize(
    "endpoint", [Endpoint(), Endpoint(socket="/run/r.sock"), Endpoint(tls=True)], ids=["tcp", "socket", "tls"]
)
def test_a_command_is_never_repeated_by_itself(endpoint: Endpoint) -> None:
    connection = made(endpoint)
    assert connection.retry.get_retries() == 0
    assert not connection.retry_on_error
    pool: Any = connect(endpoint).connection_pool.make_connection()
    assert pool.retry.get_retries() == 0


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        (Endpoint("here", 7, 3), wire.Connection),
        (Endpoint(socket="/run/r.sock"), wire.UnixDomainSocketConnection),
        (Endpoint("here", tls=True, tls_ca_file="/ca"), wire.SSLConnection),
    ],
)
def test_a_persons_commands_take_the_same_way_as_the_daemon(endpoint: Endpoint, kind: type) -> None:
    assert type(connect(endpoint).connection_pool.make_connection()) is kind
    assert type(made(endpoint)) is kind


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint("here", 7, 3), "redis://here:7/3"),
        (Endpoint("here", tls=True), "rediss://here:6379/0"),
        (Endpoint(socket="/run/r.sock", db=2), "unix:/run/r.sock db 2"),
        (Endpoint(sentinels=(("one", 1),), sentinel_master="m"), "master m of 1 sentinels"),
    ],
)
def test_an_endpoint_says_in_words_where_it_is(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text


# The password.


@pytest.mark.parametrize("content", [SENTINEL, f"{SENTINEL}\n", f"{SENTINEL}\r\n"])
def test_a_password_is_the_file_without_the_newline_that_ends_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    endpoint = Endpoint(password_file=str(file))
    assert endpoint.password() == SENTINEL
    assert made(endpoint).password == SENTINEL


def test_without_a_file_there_is_no_password() -> None:
    assert Endpoint().password() is None


def test_a_password_is_in_no_text_of_the_objects_that_hold_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SENTINEL)
    endpoint = Endpoint(username="joe", password_file=str(file))
    for thing in (endpoint, made(endpoint), connect(endpoint)):
        assert SENTINEL not in repr(thing)
        assert SENTINEL not in str(thing)


def test_a_password_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(OSError, match=f"^REDIS_PASSWORD_FILE {missing}: No such file or directory$"):
        Endpoint(password_file=str(missing)).password()
    binary = tmp_path / "binary"
    binary.write_bytes(SENTINEL.encode() + b"\xff")
    with pytest.raises(OSError, match=f"^REDIS_PASSWORD_FILE {binary}: not UTF-8$") as caught:
        Endpoint(password_file=str(binary)).password()
    assert caught.value.__cause__ is None
    assert SENTINEL not in str(caught.value)


def test_a_client_is_one_of_redis_py() -> None:
    assert isinstance(connect(Endpoint()), redis.Redis)
