"""Every setting, typed, in one table.

The table is the only source: parsing, `check-config`, the env template and the documentation all come from it. An
unknown name, a duplicate, or a bad value stops the start-up, with one line per fault that names the variable, the value
and what is accepted; a setting that is silently ignored has cost people money.

The file's grammar is what systemd's EnvironmentFile, Docker's --env-file and python-dotenv read alike: `NAME=value`, no
quotes, no trailing comments, comments on lines of their own. python-dotenv reads it, without interpolation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from dotenv import dotenv_values

from harvest_brain.core.numbers import parse_decimal, shorten
from harvest_brain.core.policy import Dust, Policy, Rung, Terms, parse_ladder
from harvest_brain.redis.client import Endpoint
from harvest_brain.redis.names import Bounds, Names

PREFIXES = ("HARVEST_", "STREAM_", "REDIS_")  # all of these are ours; of LOG_ only the names that we know
DEFAULT_NAMESPACE = "quantum"

# Set by whoever starts the daemon, not by the trader; they are no settings but share the prefix.
RESERVED = ("HARVEST_RELEASE_ID", "HARVEST_LIVE_TOKEN_FILE")


class ConfigError(Exception):
    """`faults`: one sentence each."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting: its name, default text, parser (raises `ValueError`), what it accepts, and what it does."""

    name: str
    default: str
    parse: Callable[[str], Any]
    accepts: str
    help: str
    section: str

    @property
    def attribute(self) -> str:
        """Its name in `Settings`."""
        return self.name.removeprefix("HARVEST_").lower()


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, parsed. Times as the name says, levels in R, fractions of one, prices in quote currency."""

    mode: str
    namespace: str
    start: str
    live_catch_up: bool
    live_allow_volatile_redis: bool
    ladder: tuple[Rung, ...]
    min_r: Decimal
    set_be_at_r: Decimal
    be_fee_rate: Decimal
    trail_start_r: Decimal
    trail_atr_mult: Decimal
    trail_atr_period: int
    trail_bar_sec: int
    stop_min_step_bps: Decimal
    fallback_risk_pct: Decimal
    live_allow_fallback_risk: bool
    min_risk_bps: Decimal
    qty_step: Decimal
    price_tick: Decimal
    min_qty: Decimal
    min_notional: Decimal
    dust: str
    spot: bool
    pending_timeout_sec: int
    snapshot_settle_sec: int
    reduce_only: bool
    require_fresh_snapshot_sec: int
    max_actions_per_min: int
    max_jump_pct: Decimal
    kill_switch_key: str
    dedup_ttl_sec: int
    fill_dedup_ttl_sec: int
    lease_sec: int
    batch_size: int
    stream_maxlen: int
    wait_replicas: int
    wait_aof: bool
    wait_timeout_ms: int
    group: str
    consumer: str
    stream_execution_result: str
    stream_position_snapshot: str
    stream_pnl_snapshot: str
    stream_market_price: str
    stream_trade_intent: str
    stream_stop_intent: str
    stream_harvest_suggestions: str
    stream_harvest_rejected: str
    redis_host: str
    redis_port: int
    redis_db: int
    redis_url: str
    redis_socket: str
    redis_username: str
    redis_password_file: str
    redis_tls: bool
    redis_tls_ca_file: str
    redis_tls_cert_file: str
    redis_tls_key_file: str
    redis_sentinels: tuple[tuple[str, int], ...]
    redis_sentinel_master: str
    redis_sentinel_username: str
    redis_sentinel_password_file: str
    redis_sentinel_tls: bool
    redis_timeout_sec: Decimal
    log_level: str
    log_format: str
    log_file: str

    @property
    def live(self) -> bool:
        return self.mode == "live"

    def default_terms(self) -> Terms:
        """The terms of symbols without overrides."""
        return Terms(
            ladder=self.ladder,
            min_r=self.min_r,
            be_at_r=self.set_be_at_r,
            be_fee_rate=self.be_fee_rate,
            trail_start_r=self.trail_start_r,
            trail_atr_mult=self.trail_atr_mult,
            trail_atr_period=self.trail_atr_period,
            trail_bar_ms=self.trail_bar_sec * 1000,
            stop_min_step_bps=self.stop_min_step_bps,
            fallback_risk=self.fallback_risk_pct,
            min_risk_bps=self.min_risk_bps,
            qty_step=self.qty_step,
            price_tick=self.price_tick,
            min_qty=self.min_qty,
            min_notional=self.min_notional,
            dust=Dust(self.dust),
        )

    def policy(self) -> Policy:
        """What the core decides by."""
        return Policy(
            terms=self.default_terms(),
            live=self.live,
            live_allow_fallback=self.live_allow_fallback_risk,
            fresh_ms=self.require_fresh_snapshot_sec * 1000,
            max_jump_pct=self.max_jump_pct,
            spot=self.spot,
            pending_ms=self.pending_timeout_sec * 1000,
            settle_ms=self.snapshot_settle_sec * 1000,
        )

    def names(self) -> Names:
        """The keys and streams."""
        return Names(
            namespace=self.namespace,
            kill_switch=self.kill_switch_key,
            group=self.group,
            executions=self.stream_execution_result,
            market=self.stream_market_price,
            snapshots=self.stream_position_snapshot,
            pnl=self.stream_pnl_snapshot,
            suggestions=self.stream_harvest_suggestions,
            trade_intents=self.stream_trade_intent,
            stop_intents=self.stream_stop_intent,
            rejected=self.stream_harvest_rejected,
        )

    def bounds(self) -> Bounds:
        """What the commit holds to."""
        return Bounds(
            lease_ms=int(self.lease_sec * 1000),
            max_actions_per_min=self.max_actions_per_min,
            dedup_ttl_sec=self.dedup_ttl_sec,
            fill_dedup_ttl_sec=self.fill_dedup_ttl_sec,
            stream_maxlen=self.stream_maxlen,
            batch_size=self.batch_size,
            wait_replicas=self.wait_replicas,
            wait_aof=self.wait_aof,
            wait_timeout_ms=self.wait_timeout_ms,
        )

    def digest(self) -> str:
        """Twelve hex digits that change with any setting."""
        return blake2b(repr(self).encode(), digest_size=6).hexdigest()

    def endpoint(self) -> Endpoint:
        """Where Redis is."""
        host, port, db, tls, username = (
            self.redis_host,
            self.redis_port,
            self.redis_db,
            self.redis_tls,
            self.redis_username,
        )
        socket = self.redis_socket
        if self.redis_url:
            url = urlsplit(self.redis_url)
            tls = url.scheme == "rediss"
            username = unquote(url.username) if url.username else username
            if url.scheme == "unix":
                socket = unquote(url.path)
            else:
                host, port = url.hostname or host, url.port or port
                db = int(url.path.lstrip("/") or db)
        return Endpoint(
            host=host,
            port=port,
            db=db,
            socket=socket,
            username=username,
            password_file=self.redis_password_file,
            tls=tls,
            tls_ca_file=self.redis_tls_ca_file,
            tls_cert_file=self.redis_tls_cert_file,
            tls_key_file=self.redis_tls_key_file,
            sentinels=self.redis_sentinels,
            sentinel_master=self.redis_sentinel_master,
            sentinel_username=self.redis_sentinel_username,
            sentinel_password_file=self.redis_sentinel_password_file,
            sentinel_tls=self.redis_sentinel_tls,
            timeout_sec=float(self.redis_timeout_sec),
        )


class Loaded(NamedTuple):
    """The settings, and of each variable where its value came from; the id under which this release was deployed, and
    the file of its live token, where these are given."""

    settings: Settings
    origins: Mapping[str, str]
    values: Mapping[str, str]
    release: str = ""
    live_token_file: str = ""


# Parsers. Each takes the text and raises ValueError; what is accepted stands beside it in the table.


def _decimal(low: str, high: str = "", *, above: bool = False) -> Callable[[str], Decimal]:
    def parse(text: str) -> Decimal:
        value = parse_decimal(text)
        if value < Decimal(low) or (above and value == Decimal(low)) or (high and value > Decimal(high)):
            raise ValueError("out of range")
        return value

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError("not a whole number in range")
        return int(text)

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("not one of them")
        return text

    return parse


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither")
    return text == "true"


def _always_true(text: str) -> bool:
    if text != "true":
        raise ValueError("every order of HarvestBrain reduces; that can't be switched off")
    return True


def _key_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9{}._:/-]{1,128}", text):
        raise ValueError("not a key name")
    return text


def _optional(parse: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: parse(text) if text else ""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", text):
        raise ValueError("not a host name or address")
    return text


def _url(text: str) -> str:
    if not text:
        return ""
    # Looked for before anything is parsed, since a parser's complaint would quote it.
    if re.search(":.*@", text.partition("://")[2] or text):
        raise ValueError(f"it holds a password; {_PASSWORD_ADVICE}")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("it can't be read, or its port is none") from None
    if url.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("not a Redis URL")
    if url.query or url.fragment:
        raise ValueError("what follows ? or # is not read; there are settings of their own")
    if url.scheme == "unix" and (url.hostname or not url.path):
        raise ValueError("a path must follow unix://, as in unix:///run/redis.sock")
    if url.scheme != "unix" and (not url.hostname or port == 0 or not re.fullmatch(r"/?[0-9]{0,5}", url.path)):
        raise ValueError("no host, port 0, or a database that is no number")
    return text


def _sentinels(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(",") if text else ():
        host, _, port = part.strip().rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}:[0-9]{1,5}", f"{host}:{port}") or not 0 < int(port) < 65536:
            raise ValueError(f"{shorten(part)!r} is not host:port")
        found.append((host, int(port)))
    return tuple(found)


_POSITIVE = "a number above 0"
_NOT_NEGATIVE = "a number, 0 or more"
_STREAM = "a stream's name"
_STREAM_OR_NOTHING = "a stream's name, or nothing"
_FLAG = "true or false"
_PATH = "a path, or nothing"
_PASSWORD_ADVICE = "a password belongs into a file, named in REDIS_PASSWORD_FILE"  # noqa: S105  # an advice, not a password

VARIABLES: tuple[Variable, ...] = (
    Variable("HARVEST_MODE", "shadow", _choice("shadow", "live"), "shadow or live",
             "shadow publishes suggestions and touches nothing; live publishes orders.", "Mode"),
    Variable("HARVEST_KILL_SWITCH_KEY", "quantum:kill", _key_name, "a key's name",
             "The key that stops all publishing while it is not 0. In live mode it must exist.", "Mode"),
    Variable("HARVEST_NAMESPACE", DEFAULT_NAMESPACE, _key_name, "a prefix without spaces",
             "Prefix of all keys and streams that are not named themselves; {quantum} keeps them in one cluster slot.",
             "Mode"),
    Variable("HARVEST_START", "0", _choice("0", "$"), "0 or $",
             "Where a first start begins, without state or group: 0 the oldest entry, $ only new ones.", "Mode"),
    Variable("HARVEST_LIVE_CATCH_UP", "false", _flag, _FLAG,
             "Whether going from shadow to live orders what shadow mode only suggested. Else open positions skip it.",
             "Mode"),
    Variable("HARVEST_LIVE_ALLOW_VOLATILE_REDIS", "false", _flag, _FLAG,
             "Whether live mode may run on a Redis without append-only file or with eviction. Else it stays in shadow.",
             "Mode"),
    Variable("HARVEST_LADDER", "0.5:0.25,1.0:0.25,1.5:0.25", parse_ladder,
             "R:fraction pairs, levels increasing, fractions adding up to at most 1",
             "At each R, close that fraction of the position's peak size.", "Ladder"),
    Variable("HARVEST_MIN_R", "0.5", _decimal("0"), _NOT_NEGATIVE, "Nothing is harvested below this R.", "Ladder"),
    Variable("HARVEST_DUST", "leave", _choice("leave", "close_all"), "leave or close_all",
             "What the last rung does with a remainder below the exchange's minimum.", "Ladder"),
    Variable("HARVEST_FALLBACK_RISK_PCT", "0.02", _decimal("0", "1", above=True), "a fraction above 0 and at most 1",
             "Risk as a fraction of the entry price when the opening order has no usable stop (0.02 is 2 %).", "Risk"),
    Variable("HARVEST_LIVE_ALLOW_FALLBACK_RISK", "false", _flag, _FLAG,
             "Whether live mode harvests positions whose risk is the fallback.", "Risk"),
    Variable("HARVEST_MIN_RISK_BPS", "5", _decimal("0", "10000"), "0 to 10000",
             "A risk per unit of no more than this (basis points of the entry) is too small to be harvested.", "Risk"),
    Variable("HARVEST_SET_BE_AT_R", "0.5", _decimal("0"), _NOT_NEGATIVE, "The R at which the stop goes to break-even.",
             "Stops"),
    Variable("HARVEST_BE_FEE_RATE", "0.0005", _decimal("0", "0.1"), "0 to 0.1",
             "One-way fee rate that break-even pays for (0.0005 is 0.05 %).", "Stops"),
    Variable("HARVEST_TRAIL_START_R", "1.0", _decimal("0"), _NOT_NEGATIVE, "The R from which the stop trails.",
             "Stops"),
    Variable("HARVEST_TRAIL_ATR_MULT", "2.0", _decimal("0"), _NOT_NEGATIVE,
             "Distance of the trailing stop in average true ranges; 0 switches trailing off.", "Stops"),
    Variable("HARVEST_TRAIL_ATR_PERIOD", "14", _integer(1, 1000), "1 to 1000", "Bars of the average true range.",
             "Stops"),
    Variable("HARVEST_TRAIL_BAR_SEC", "60", _integer(1, 86400), "1 to 86400", "Length of a bar in seconds.", "Stops"),
    Variable("HARVEST_STOP_MIN_STEP_BPS", "5", _decimal("0", "10000"), "0 to 10000",
             "A stop moves only by at least this much (basis points of the new stop).", "Stops"),
    Variable("HARVEST_QTY_STEP", "0.0001", _decimal("0", above=True), _POSITIVE,
             "Step of the exchange's quantities (base asset); set it per symbol where it differs.", "Exchange"),
    Variable("HARVEST_PRICE_TICK", "0.00000001", _decimal("0", above=True), _POSITIVE,
             "Tick of the exchange's prices (quote currency).", "Exchange"),
    Variable("HARVEST_MIN_QTY", "0", _decimal("0"), _NOT_NEGATIVE,
             "Smallest order (base asset); less is carried to the next rung.", "Exchange"),
    Variable("HARVEST_MIN_NOTIONAL", "0", _decimal("0"), _NOT_NEGATIVE,
             "Smallest order value (quote currency); less is carried to the next rung.", "Exchange"),
    Variable("HARVEST_SPOT", "false", _flag, _FLAG, "On spot, fees in the base asset reduce the position.", "Exchange"),
    Variable("HARVEST_PENDING_TIMEOUT_SEC", "60", _integer(1, 86400), "1 to 86400",
             "After so long a silence (seconds) an order's fate is unknown: still reserved, never retried.",
             "Exchange"),
    Variable("HARVEST_SNAPSHOT_SETTLE_SEC", "5", _integer(0, 3600), "0 to 3600",
             "A snapshot this soon after a fill (seconds) may not show it yet and is ignored.", "Exchange"),
    Variable("HARVEST_REDUCE_ONLY", "true", _always_true, "true",
             "Every order is reduce-only. It stands here to be seen; false is refused.", "Gates"),
    Variable("HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC", "30", _integer(1, 3600), "1 to 3600",
             "How old a price may be at the instant of publishing, in seconds.", "Gates"),
    Variable("HARVEST_MAX_ACTIONS_PER_MIN", "30", _integer(1, 10000), "1 to 10000",
             "How many intents may be published in any 60 seconds; more wait in order.", "Gates"),
    Variable("HARVEST_MAX_JUMP_PCT", "20", _decimal("0", "10000"), "0 to 10000",
             "A price that jumps by more percent needs a second tick that confirms it; 0 switches this off.", "Gates"),
    Variable("HARVEST_DEDUP_TTL_SEC", "900", _integer(1, 31536000), "1 to 31536000",
             "How long the key of a published intent is kept, in seconds. The durable guard is the state.", "Gates"),
    Variable("HARVEST_FILL_DEDUP_TTL_SEC", "86400", _integer(1, 31536000), "1 to 31536000",
             "How long a fill's identity is remembered, in seconds; a repeat after that counts as new.", "Gates"),
    Variable("HARVEST_LEASE_SEC", "10", _integer(2, 300), "2 to 300",
             "How long a silent leader keeps the lease, in seconds; a standby takes over after that.", "Running"),
    Variable("HARVEST_CONSUMER", "", _optional(_key_name), "a name, or nothing for the host's",
             "What this daemon calls itself in the lease and in the status.", "Running"),
    Variable("HARVEST_GROUP", "harvest_brain_group", _key_name, "a name",
             "Consumer group that shows the progress; it is moved in the commit.", "Running"),
    Variable("HARVEST_BATCH_SIZE", "2000", _integer(1, 5000), "1 to 5000", "Entries read at once.", "Running"),
    Variable("HARVEST_STREAM_MAXLEN", "100000", _integer(100, 10**9), "100 to 1000000000",
             "Length to which the streams are trimmed that only HarvestBrain writes.", "Running"),
    Variable("HARVEST_WAIT_REPLICAS", "0", _integer(0, 100), "0 to 100",
             "So many replicas must have a commit before it counts as done.", "Running"),
    Variable("HARVEST_WAIT_AOF", "false", _flag, _FLAG,
             "Whether it must be synced to the append-only file, here and on those replicas (needs Redis 7.2).",
             "Running"),
    Variable("HARVEST_WAIT_TIMEOUT_MS", "1000", _integer(1, 30000), "1 to 30000",
             "How long to wait for that, in milliseconds; then everything is read anew.", "Running"),
    Variable("STREAM_EXECUTION_RESULT", "quantum:stream:execution.result", _key_name, _STREAM,
             "In: fills, prices and order news.", "Streams"),
    Variable("STREAM_POSITION_SNAPSHOT", "quantum:stream:position.snapshot", _optional(_key_name), _STREAM_OR_NOTHING,
             "In: position snapshots, which the books are held against. Nothing: not read.", "Streams"),
    Variable("STREAM_PNL_SNAPSHOT", "quantum:stream:pnl.snapshot", _optional(_key_name), _STREAM_OR_NOTHING,
             "In: profit snapshots, a cross-check that is only reported. Nothing: not read.", "Streams"),
    Variable("STREAM_MARKET_PRICE", "", _optional(_key_name), _STREAM_OR_NOTHING,
             "In: prices at any rate, of which only the newest per symbol counts. Nothing: not read.", "Streams"),
    Variable("STREAM_TRADE_INTENT", "quantum:stream:trade.intent", _key_name, _STREAM, "Out, live: harvests.",
             "Streams"),
    Variable("STREAM_STOP_INTENT", "quantum:stream:stop.intent", _key_name, _STREAM, "Out, live: stop moves.",
             "Streams"),
    Variable("STREAM_HARVEST_SUGGESTIONS", "quantum:stream:harvest.suggestions", _key_name, _STREAM,
             "Out, shadow: what would have been done.", "Streams"),
    Variable("STREAM_HARVEST_REJECTED", "quantum:stream:harvest.rejected", _key_name, _STREAM,
             "Out: entries that could not be used, with the reason.", "Streams"),
    Variable("REDIS_HOST", "127.0.0.1", _host, "a host name or address", "Where Redis is.", "Redis"),
    Variable("REDIS_PORT", "6379", _integer(1, 65535), "1 to 65535", "Its port.", "Redis"),
    Variable("REDIS_DB", "0", _integer(0, 65535), "0 to 65535", "Its database.", "Redis"),
    Variable("REDIS_SOCKET", "", _printable, _PATH, "Its Unix socket, instead of host and port.", "Redis"),
    Variable("REDIS_URL", "", _url, "redis://, rediss:// or unix:// without a password, or nothing",
             "All of that in one, instead of host, port and database.", "Redis"),
    Variable("REDIS_USERNAME", "", _printable, "a name, or nothing", "The ACL user.", "Redis"),
    Variable("REDIS_PASSWORD_FILE", "", _printable, _PATH, "File that holds the password, and nothing else.", "Redis"),
    Variable("REDIS_TLS", "false", _flag, _FLAG, "Whether to speak TLS; the server's certificate is always checked.",
             "Redis"),
    Variable("REDIS_TLS_CA_FILE", "", _printable, _PATH, "CA certificates to trust instead of the system's.", "Redis"),
    Variable("REDIS_TLS_CERT_FILE", "", _printable, _PATH, "Own certificate, where the server wants one.", "Redis"),
    Variable("REDIS_TLS_KEY_FILE", "", _printable, _PATH, "Its key.", "Redis"),
    Variable("REDIS_SENTINELS", "", _sentinels, "host:port,host:port, or nothing",
             "Sentinels to ask for the master.", "Redis"),
    Variable("REDIS_SENTINEL_MASTER", "", _printable, "a name, or nothing", "The master's name there.", "Redis"),
    Variable("REDIS_SENTINEL_USERNAME", "", _printable, "a name, or nothing", "The ACL user there.", "Redis"),
    Variable("REDIS_SENTINEL_PASSWORD_FILE", "", _printable, _PATH,
             "File that holds the Sentinels' password, and nothing else.", "Redis"),
    Variable("REDIS_SENTINEL_TLS", "false", _flag, _FLAG,
             "Whether the Sentinels speak TLS, with the CA and the certificate of REDIS_TLS_.", "Redis"),
    Variable("REDIS_TIMEOUT_SEC", "5", _decimal("1", "60"), "1 to 60",
             "How long to wait for a connection or a reply, in seconds.", "Redis"),
    Variable("LOG_LEVEL", "INFO", _choice("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR",
             "What is logged.", "Log"),
    Variable("LOG_FORMAT", "text", _choice("text", "json"), "text or json", "As lines of text or of JSON.", "Log"),
    Variable("LOG_FILE", "", _printable, _PATH, "File to log to; nothing: stderr.", "Log"),
)  # fmt: skip  # a table reads better as one

_BY_NAME = {variable.name: variable for variable in VARIABLES}


def load(env_file: Path | None, environ: Mapping[str, str]) -> Loaded:
    """The settings from `env_file`, else from `environ`. Raises `ConfigError` with every fault at once."""
    faults: list[str] = []
    if env_file is None:
        given = {name: value for name, value in environ.items() if name.startswith(PREFIXES) or name in _BY_NAME}
        origins = dict.fromkeys(given, "environment")
    else:
        given, origins = _read_file(env_file, faults)
    faults += [
        _unknown(name, value, origins[name])
        for name, value in given.items()
        if name not in _BY_NAME and name not in RESERVED
    ]
    namespace = _namespace(given)
    values: dict[str, str] = {}
    parsed: dict[str, Any] = {}
    for variable in VARIABLES:
        default = re.sub(f"^{DEFAULT_NAMESPACE}:", lambda _: f"{namespace}:", variable.default)
        text = given.get(variable.name, default)
        values[variable.name] = text
        try:
            parsed[variable.attribute] = variable.parse(text)
        except ValueError as fault:
            where = origins.get(variable.name, "default")
            faults.append(f"{_shown(variable.name, text)} ({where}): {fault}; accepted: {variable.accepts}")
    if not faults:
        faults += _contradictions(parsed)
    if faults:
        raise ConfigError(tuple(faults))
    origins = {name: origins.get(name, "default") for name in _BY_NAME}
    release, live_token_file = (given.get(name) or environ.get(name, "") for name in RESERVED)
    return Loaded(Settings(**parsed), origins, values, release, live_token_file)


def load_switch(env_file: Path | None, environ: Mapping[str, str]) -> Loaded:
    """As `load`, but only where Redis is and which key is the kill-switch count, all else is at its default.

    A mistake in the ladder must not stand between a person and the switch. One that could lead to the wrong server or
    key still does: then `ConfigError` is raised.
    """
    faults: list[str] = []
    needed = ("REDIS_", "HARVEST_KILL_SWITCH_KEY", "HARVEST_NAMESPACE")
    given = environ if env_file is None else _read_file(env_file, faults, needed)[0]
    if faults:
        raise ConfigError(tuple(faults))
    return load(None, {name: value for name, value in given.items() if name.startswith(needed)})


def _namespace(given: Mapping[str, str]) -> str:
    """The namespace that the defaults of other settings have; a bad one is complained of once, not in each of them."""
    try:
        return _key_name(given.get("HARVEST_NAMESPACE", DEFAULT_NAMESPACE))
    except ValueError:
        return DEFAULT_NAMESPACE


def _read_file(path: Path, faults: list[str], needed: tuple[str, ...] = ("",)) -> tuple[dict[str, str], dict[str, str]]:
    """The assignments of an env file to names that begin with one of `needed`, and where each stands."""
    try:
        text = path.read_bytes().decode()
    except OSError as fault:
        faults.append(f"{path}: {fault.strerror or fault}")
        return {}, {}
    except UnicodeDecodeError as fault:
        faults.append(f"{path}: not UTF-8 at byte {fault.start}")
        return {}, {}
    origins: dict[str, str] = {}
    kept: list[str] = []
    # Not by splitlines, which knows line ends that systemd and Docker take for a part of the value.
    for number, line in enumerate(re.split("\r?\n", text), start=1):
        where = f"{path} line {number}"
        if line.startswith("#") and re.search(r"\\$|[\x00-\x08\x0b-\x1f\x7f]", line):
            # Where another reader goes on with the next line, or ends the comment before its end.
            faults.append(f"{where}: a comment ends in a backslash or holds a control character; accepted: # and text")
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([A-Z][A-Z0-9_]*)=(.*)", line)
        if found is None:
            faults.append(f"{where}: {_start_of(line)!r} is not of the form NAME=value")
            continue
        name, value = found.groups()
        if not name.startswith(needed):
            continue
        if value != value.strip() or not value.isprintable() or re.search(r"[\"'`\\]|\s#|\$[A-Za-z_{(]", value):
            faults.append(
                f"{_shown(name, value)} ({where}): a value has no quotes, backslashes, $NAME or control characters, "
                "no comment behind it and no spaces around it; accepted: NAME=value"
            )
            continue
        if name in origins:
            faults.append(f"{_shown(name, value)} ({where}): it stands twice, first at {origins[name]}; accepted: once")
            continue
        origins[name] = where
        kept.append(line)
    read = dotenv_values(stream=StringIO("\n".join(kept) + "\n"), interpolate=False)
    return {name: value or "" for name, value in read.items()}, origins


def _start_of(line: str) -> str:
    """What may be shown of a line that is no assignment: it may well be a password that was put into the wrong file."""
    name = re.match(r"\W*(?:export\s+)?(?:HARVEST|STREAM|REDIS|LOG)_\w*", line, re.IGNORECASE)
    return f"{shorten(name[0])}…" if name else "…"


def _is_secret(name: str, value: str) -> bool:
    """Whether the value may hold what must not be shown: a URL with a user, or a name that sounds like a secret."""
    if name in _BY_NAME:
        return name == "REDIS_URL" and re.search("[@?]", value) is not None
    return name.startswith("REDIS_") or re.search(r"PASS|PWD|SECRET|TOKEN|AUTH|CRED|KEY", name) is not None


def _shown(name: str, value: str) -> str:
    return f"{name}=…" if _is_secret(name, value) else f"{name}={shorten(value)!r}"


def _unknown(name: str, value: str, where: str) -> str:
    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    if re.search(r"PASS(WORD)?$|PWD$|SECRET$|AUTH$", name):
        return f"{_shown(name, value)} ({where}): there is no such setting; {_PASSWORD_ADVICE}"
    hint = f"did you mean {near[0]}?" if near else "`harvest-brain env-template` lists those there are"
    return f"{_shown(name, value)} ({where}): there is no such setting; {hint}"


def _contradictions(parsed: Mapping[str, Any]) -> Iterator[str]:
    """Settings of which one would be ignored without a word."""
    yield from _shared_names(parsed)
    for one, other_name in (
        ("REDIS_SENTINELS", "REDIS_SENTINEL_MASTER"),
        ("REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"),
    ):
        if bool(parsed[one.lower()]) != bool(parsed[other_name.lower()]):
            yield f"{one} and {other_name}: give both or neither"
    for name in ("REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD_FILE", "REDIS_SENTINEL_TLS"):
        if parsed[name.lower()] and not parsed["redis_sentinels"]:
            yield f"{name}: there are no Sentinels; accepted: nothing, or REDIS_SENTINELS"
    url = urlsplit(parsed["redis_url"])
    yield from _two_addresses(parsed, url)
    yield from _tls_in_vain(parsed, url)
    if parsed["wait_replicas"] or parsed["wait_aof"]:
        # A blocking read may stand behind the wait on the same connection.
        longest = int(parsed["redis_timeout_sec"] * 1000) - 600
        if parsed["wait_timeout_ms"] > longest:
            said = parsed["wait_timeout_ms"]
            yield f"HARVEST_WAIT_TIMEOUT_MS={said}: too long for REDIS_TIMEOUT_SEC; accepted: 1 to {longest}"


def _shared_names(parsed: Mapping[str, Any]) -> Iterator[str]:
    """Keys and streams that are the same one: what is written to one would destroy or feed the other."""
    names = Settings(**parsed).names()
    own = (names.lease, names.state, names.control, names.audit, names.rate)
    families = (names.claim(""), names.fill(""), names.history(""), names.overrides(""))
    seen: dict[str, str] = {}
    for variable in VARIABLES:
        value = parsed[variable.attribute]
        if not value or not (variable.section == "Streams" or variable.name == "HARVEST_KILL_SWITCH_KEY"):
            continue
        if value in own or value.startswith(families):
            yield f"{variable.name}={value!r}: HarvestBrain keeps something else under this name; accepted: another one"
        elif value in seen:
            yield f"{variable.name}={value!r}: {seen[value]} has the same name; accepted: another one"
        seen[value] = variable.name


def _two_addresses(parsed: Mapping[str, Any], url: SplitResult) -> Iterator[str]:
    ways = [name for name in ("REDIS_URL", "REDIS_SOCKET", "REDIS_SENTINELS") if parsed[name.lower()]]
    if len(ways) > 1:
        yield f"{' and '.join(ways)}: give one of them"
    by_tcp = url.scheme in ("redis", "rediss")
    said: dict[str, object] = {} if by_tcp or not ways else {"REDIS_HOST": "another way", "REDIS_PORT": "another way"}
    if by_tcp:
        said["REDIS_HOST"] = url.hostname
    if url.port:
        said["REDIS_PORT"] = url.port
    if by_tcp and url.path.strip("/"):
        said["REDIS_DB"] = int(url.path.strip("/"))
    if url.username:
        said["REDIS_USERNAME"] = unquote(url.username)
    for name, elsewhere in said.items():
        value = parsed[name.lower()]
        if value not in (elsewhere, _BY_NAME[name].parse(_BY_NAME[name].default)):
            yield f"{name}={value!r}: {ways[0]} says otherwise; give one of them"


def _tls_in_vain(parsed: Mapping[str, Any], url: SplitResult) -> Iterator[str]:
    tls = url.scheme == "rediss" or (parsed["redis_tls"] and not url.scheme and not parsed["redis_socket"])
    if parsed["redis_tls"] and not tls:
        way = "REDIS_SOCKET" if parsed["redis_socket"] else "REDIS_URL"
        yield f"REDIS_TLS=true: {way} names a connection without TLS; accepted: false, or rediss:// in REDIS_URL"
    for name in ("REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"):
        if parsed[name.lower()] and not tls and not parsed["redis_sentinel_tls"]:
            yield f"{name}={parsed[name.lower()]!r}: there is no TLS; accepted: nothing, or REDIS_TLS=true"


def template() -> str:
    """The documented env file with every setting at its default, in the grammar that `load` reads."""
    lines = [
        "# HarvestBrain's settings, each at its default.",
        "# NAME=value, without quotes and without comments behind the value.",
    ]
    section = ""
    for variable in VARIABLES:
        if variable.section != section:
            section = variable.section
            lines += ["", f"# --- {section} ---"]
        lines += ["", f"# {variable.help}", f"# Accepted: {variable.accepts}.", f"{variable.name}={variable.default}"]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The settings as a Markdown table."""
    rows = ["| setting | default | accepted | what it does |", "|---|---|---|---|"]
    for variable in VARIABLES:
        default = f"`{variable.default}`" if variable.default else ""
        rows.append(f"| `{variable.name}` | {default} | {variable.accepts} | {variable.help} |")
    return "\n".join(rows) + "\n"


def in_force(loaded: Loaded) -> str:
    """Every setting with its value and where that came from, in columns."""
    width = max(len(name) + len(loaded.values[name]) for name in loaded.values) + 1
    return "".join(
        f"{f'{name}={value}'.ljust(width)}  {loaded.origins[name]}\n" for name, value in loaded.values.items()
    )
