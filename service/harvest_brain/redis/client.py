"""How Redis is reached: TCP, TLS, a Unix socket, or the master that a Sentinel names.

redis-py does the connecting. It is told never to retry by itself: what a lost reply means is decided above, by looking
at the state, and a command sent twice is what this project exists to prevent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis
from redis import connection as wire
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from harvest_brain.redis.transport import Connection

CLIENT_NAME = "harvest-brain"

# redis-py's classes for connections and Sentinels carry no types.
_UNIX: Any = wire.UnixDomainSocketConnection
_TCP: Any = wire.Connection
_TLS: Any = wire.SSLConnection
_SENTINEL: Any = Sentinel


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Redis is and how to log in. A password stays in its file until a connection is made."""

    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    socket: str = ""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_master: str = ""
    sentinel_username: str = ""
    sentinel_password_file: str = ""
    sentinel_tls: bool = False
    timeout_sec: float = 5.0

    def __str__(self) -> str:
        if self.sentinels:
            return f"master {self.sentinel_master} of {len(self.sentinels)} sentinels"
        if self.socket:
            return f"unix:{self.socket} db {self.db}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"

    def password(self) -> str | None:
        """The password of the file, without the newline that ends it. Raises `OSError` where it can't be read."""
        return _password("REDIS_PASSWORD_FILE", self.password_file)

    def sentinel_password(self) -> str | None:
        """That of the Sentinels, likewise."""
        return _password("REDIS_SENTINEL_PASSWORD_FILE", self.sentinel_password_file)


def _password(setting: str, file: str) -> str | None:
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\n")
    except OSError as fault:
        raise OSError(f"{setting} {file}: {fault.strerror}") from None
    except ValueError:  # whose text would quote it
        raise OSError(f"{setting} {file}: not UTF-8") from None


def _pool(endpoint: Endpoint) -> redis.ConnectionPool:
    """Where connections come from. With Sentinels the master is asked for now."""
    options = _options(endpoint, endpoint.username, endpoint.password(), tls=endpoint.tls and not endpoint.socket)
    options |= {"db": endpoint.db, "client_name": CLIENT_NAME}
    if endpoint.socket:
        return redis.ConnectionPool(_UNIX, path=endpoint.socket, **options)
    host, port = _address(endpoint)
    return redis.ConnectionPool(_TLS if endpoint.tls else _TCP, host=host, port=port, socket_keepalive=True, **options)


def _options(endpoint: Endpoint, username: str, password: str | None, *, tls: bool) -> dict[str, Any]:
    """How to connect, be it to Redis or to a Sentinel."""
    options = {
        "username": username or None,
        "password": password,
        "socket_timeout": endpoint.timeout_sec,
        "socket_connect_timeout": endpoint.timeout_sec,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    if tls:
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": endpoint.tls_ca_file or None,
            "ssl_certfile": endpoint.tls_cert_file or None,
            "ssl_keyfile": endpoint.tls_key_file or None,
        }
    return options


def _address(endpoint: Endpoint) -> tuple[str, int]:
    if not endpoint.sentinels:
        return endpoint.host, endpoint.port
    tls = endpoint.sentinel_tls
    options = _options(endpoint, endpoint.sentinel_username, endpoint.sentinel_password(), tls=tls)
    faults = []
    for address in endpoint.sentinels:
        sentinel = _SENTINEL([address], sentinel_kwargs=options | {"ssl": tls})
        try:
            sentinel.sentinels[0].ping()  # what `discover_master` would say of a fault is no use to anybody
            host, port = sentinel.discover_master(endpoint.sentinel_master)
        except (RedisConnectionError, RedisTimeoutError) as fault:
            faults.append(f"{address[0]}:{address[1]}: {fault}")
        else:
            return host, port
    raise MasterNotFoundError("; ".join(faults))


def make_connection(endpoint: Endpoint) -> Connection:
    """One connection object, not connected yet."""
    return cast("Connection", _pool(endpoint).make_connection())


def connect(endpoint: Endpoint) -> redis.Redis:
    """A client for commands that a person runs; replies are bytes."""
    return redis.Redis.from_pool(_pool(endpoint))
