"""Every setting, every kind of fault, and the files that are made from the table."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_brain.config import (
    RESERVED,
    VARIABLES,
    ConfigError,
    Loaded,
    Settings,
    in_force,
    load,
    load_switch,
    table,
    template,
)
from harvest_brain.core.policy import Dust, Rung
from harvest_brain.redis.client import Endpoint

ROOT = Path(__file__).parents[2]
SENTINEL = "hunter2-sentinel"


def from_text(directory: Path, text: str | bytes) -> Loaded:
    path = directory / "harvest-brain.env"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, {})


def faults_of(directory: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(directory, text)
    return [fault.replace(f"{directory / 'harvest-brain.env'} ", "") for fault in caught.value.faults]


def faults_in(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, environ)
    return list(caught.value.faults)


def endpoint(**environ: str) -> Endpoint:
    return load(None, environ).settings.endpoint()


# Names and defaults.

PROMISED = {
    "HARVEST_MODE": "shadow",
    "HARVEST_MIN_R": "0.5",
    "HARVEST_LADDER": "0.5:0.25,1.0:0.25,1.5:0.25",
    "HARVEST_SET_BE_AT_R": "0.5",
    "HARVEST_TRAIL_ATR_MULT": "2.0",
    "HARVEST_DEDUP_TTL_SEC": "900",
    "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC": "30",
    "HARVEST_REDUCE_ONLY": "true",
    "HARVEST_MAX_ACTIONS_PER_MIN": "30",
    "HARVEST_KILL_SWITCH_KEY": "quantum:kill",
    "REDIS_HOST": "127.0.0.1",
    "REDIS_PORT": "6379",
    "STREAM_EXECUTION_RESULT": "quantum:stream:execution.result",
    "STREAM_POSITION_SNAPSHOT": "quantum:stream:position.snapshot",
    "STREAM_PNL_SNAPSHOT": "quantum:stream:pnl.snapshot",
    "STREAM_TRADE_INTENT": "quantum:stream:trade.intent",
    "STREAM_HARVEST_SUGGESTIONS": "quantum:stream:harvest.suggestions",
    "LOG_LEVEL": "INFO",
    "LOG_FILE": "",
    # Named in the texts beside them.
    "HARVEST_NAMESPACE": "quantum",
    "HARVEST_START": "0",
    "HARVEST_DUST": "leave",
    "HARVEST_FALLBACK_RISK_PCT": "0.02",
    "HARVEST_LIVE_ALLOW_FALLBACK_RISK": "false",
    "HARVEST_MAX_JUMP_PCT": "20",
    "HARVEST_GROUP": "harvest_brain_group",
    "STREAM_MARKET_PRICE": "",
    "STREAM_STOP_INTENT": "quantum:stream:stop.intent",
    "STREAM_HARVEST_REJECTED": "quantum:stream:harvest.rejected",
    "REDIS_URL": "",
    "REDIS_USERNAME": "",
    "REDIS_PASSWORD_FILE": "",
    "REDIS_TLS": "false",
    "REDIS_SENTINELS": "",
    "LOG_FORMAT": "text",
}


@pytest.mark.parametrize(("name", "default"), PROMISED.items())
def test_every_promised_setting_is_there_with_its_default(name: str, default: str) -> None:
    loaded = load(None, {})
    assert loaded.values[name] == default
    assert loaded.origins[name] == "default"


@pytest.mark.parametrize(
    "word",
    [
        *("CONSUMER", "LEASE_SEC", "BATCH_SIZE", "QTY_STEP", "PRICE_TICK", "MIN_QTY", "MIN_NOTIONAL", "MIN_RISK_BPS"),
        *("BE_FEE_RATE", "TRAIL_START_R", "TRAIL_BAR_SEC", "STOP_MIN_STEP_BPS"),
    ],
)
def test_what_the_rules_name_can_be_set(word: str) -> None:
    assert f"HARVEST_{word}" in load(None, {}).values


def test_the_table_and_the_settings_have_the_same_names() -> None:
    assert {variable.attribute for variable in VARIABLES} == {field.name for field in dataclasses.fields(Settings)}
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_every_default_is_accepted() -> None:
    for variable in VARIABLES:
        variable.parse(variable.default)


def test_every_setting_says_what_it_does_and_what_it_accepts() -> None:
    for variable in VARIABLES:
        assert re.fullmatch(r"[A-Za-z].*\.", variable.help)
        assert variable.accepts
        assert not variable.accepts.endswith(".")


def test_the_namespace_is_the_prefix_of_what_is_not_named_itself() -> None:
    settings = load(None, {"HARVEST_NAMESPACE": "{q}", "STREAM_TRADE_INTENT": "orders"}).settings
    assert settings.kill_switch_key == "{q}:kill"
    assert settings.stream_execution_result == "{q}:stream:execution.result"
    assert settings.stream_trade_intent == "orders"


# Where values come from.


def test_without_a_file_settings_come_from_the_environment() -> None:
    loaded = load(None, {"HARVEST_MIN_R": "0.75", "PATH": "/bin", "HOME": "/"})
    assert (loaded.settings.min_r, loaded.origins["HARVEST_MIN_R"]) == (Decimal("0.75"), "environment")


def test_with_a_file_the_environment_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    path.write_text("# mine\n\nHARVEST_MIN_R=0.6\nHARVEST_START=$\nREDIS_USERNAME=\n")
    loaded = load(path, {"HARVEST_MIN_R": "0.7", "HARVEST_MODE": "live", "HARVEST_TYPO": "1"})
    assert (loaded.settings.min_r, loaded.settings.mode, loaded.settings.start) == (Decimal("0.6"), "shadow", "$")
    assert loaded.origins["HARVEST_MIN_R"] == f"{path} line 3"
    assert loaded.origins["HARVEST_MODE"] == "default"


def test_a_file_may_have_the_line_ends_of_windows(tmp_path: Path) -> None:
    assert from_text(tmp_path, "HARVEST_MIN_R=0.6\r\nHARVEST_MODE=live\r\n").settings.live


def test_names_that_the_service_manager_sets_are_no_settings(tmp_path: Path) -> None:
    for name in RESERVED:
        load(None, {name: "x"})
        from_text(tmp_path, f"{name}=x\n")


def test_incident_18_they_count_wherever_they_are_set(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    path.write_text("HARVEST_LIVE_TOKEN_FILE=/in/the/file\n")
    environment = {"HARVEST_RELEASE_ID": "1.0", "HARVEST_LIVE_TOKEN_FILE": "/elsewhere"}
    loaded = load(path, environment)
    assert (loaded.release, loaded.live_token_file) == ("1.0", "/in/the/file")
    assert load(None, environment).live_token_file == "/elsewhere"
    assert (load(None, {}).release, load(None, {}).live_token_file) == ("", "")


def test_of_the_names_with_log_only_our_own_are_looked_at_in_the_environment() -> None:
    assert load(None, {"LOG_DIR": "/var/log", "LOG_LEVEL": "DEBUG"}).settings.log_level == "DEBUG"


def test_every_setting_reaches_the_policy_in_its_unit() -> None:
    settings = load(
        None,
        {
            "HARVEST_MODE": "live",
            "HARVEST_LADDER": "1:0.5,2:0.5",
            "HARVEST_REQUIRE_FRESH_SNAPSHOT_SEC": "7",
            "HARVEST_TRAIL_BAR_SEC": "5",
            "HARVEST_DUST": "close_all",
            "HARVEST_SPOT": "true",
            "HARVEST_MAX_JUMP_PCT": "0",
        },
    ).settings
    policy = settings.policy()
    assert (policy.live, policy.fresh_ms, policy.spot, policy.max_jump_pct) == (True, 7000, True, Decimal(0))
    assert policy.terms.ladder == (Rung(Decimal(1), Decimal("0.5")), Rung(Decimal(2), Decimal("0.5")))
    assert (policy.terms.trail_bar_ms, policy.terms.dust) == (5000, Dust.CLOSE_ALL)


# Faults: one line each, with the variable, the value and what is accepted.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "HARVEST_LADDER=0.5:0.6,0.4:0.6",
            "HARVEST_LADDER='0.5:0.6,0.4:0.6' (line 1): level 0.4 follows 0.5; levels must increase; "
            "accepted: R:fraction pairs, levels increasing, fractions adding up to at most 1",
        ),
        (
            "HARVEST_LADDER=0.5:0.6,0.6:0.6",
            "HARVEST_LADDER='0.5:0.6,0.6:0.6' (line 1): the fractions add up to 1.2, more than the whole position (1); "
            "accepted: R:fraction pairs, levels increasing, fractions adding up to at most 1",
        ),
        (
            "HARVEST_LADDER=half",
            "HARVEST_LADDER='half' (line 1): rung 'half' is not of the form R:fraction, such as 0.5:0.25; "
            "accepted: R:fraction pairs, levels increasing, fractions adding up to at most 1",
        ),
        ("HARVEST_MODE=paper", "HARVEST_MODE='paper' (line 1): not one of them; accepted: shadow or live"),
        ("HARVEST_MODE=", "HARVEST_MODE='' (line 1): not one of them; accepted: shadow or live"),
        (
            "HARVEST_REDUCE_ONLY=false",
            "HARVEST_REDUCE_ONLY='false' (line 1): every order of HarvestBrain reduces; that can't be switched off; "
            "accepted: true",
        ),
        ("HARVEST_SPOT=yes", "HARVEST_SPOT='yes' (line 1): neither; accepted: true or false"),
        ("HARVEST_MIN_R=-0.5", "HARVEST_MIN_R='-0.5' (line 1): out of range; accepted: a number, 0 or more"),
        ("HARVEST_MIN_R=much", "HARVEST_MIN_R='much' (line 1): 'much' is not a number; accepted: a number, 0 or more"),
        (
            "HARVEST_MIN_R=NaN",
            "HARVEST_MIN_R='NaN' (line 1): 'NaN' is not a finite number; accepted: a number, 0 or more",
        ),
        ("HARVEST_QTY_STEP=0", "HARVEST_QTY_STEP='0' (line 1): out of range; accepted: a number above 0"),
        ("HARVEST_BE_FEE_RATE=0.2", "HARVEST_BE_FEE_RATE='0.2' (line 1): out of range; accepted: 0 to 0.1"),
        (
            "HARVEST_LEASE_SEC=1.5",
            "HARVEST_LEASE_SEC='1.5' (line 1): not a whole number in range; accepted: 2 to 300",
        ),
        ("REDIS_PORT=redis", "REDIS_PORT='redis' (line 1): not a whole number in range; accepted: 1 to 65535"),
        ("REDIS_PORT=65536", "REDIS_PORT='65536' (line 1): not a whole number in range; accepted: 1 to 65535"),
        ("REDIS_PORT=０６", "REDIS_PORT='０６' (line 1): not a whole number in range; accepted: 1 to 65535"),
        (
            "REDIS_HOST=redis://here",
            "REDIS_HOST='redis://here' (line 1): not a host name or address; accepted: a host name or address",
        ),
        ("STREAM_TRADE_INTENT=", "STREAM_TRADE_INTENT='' (line 1): not a key name; accepted: a stream's name"),
        ("HARVEST_GROUP=a b", "HARVEST_GROUP='a b' (line 1): not a key name; accepted: a name"),
        (
            "REDIS_SENTINELS=one,b:1",
            "REDIS_SENTINELS='one,b:1' (line 1): 'one' is not host:port; accepted: host:port,host:port, or nothing",
        ),
        (
            "REDIS_SENTINELS=a b:1",
            "REDIS_SENTINELS='a b:1' (line 1): 'a b:1' is not host:port; accepted: host:port,host:port, or nothing",
        ),
        (
            "REDIS_SENTINELS=one:0",
            "REDIS_SENTINELS='one:0' (line 1): 'one:0' is not host:port; accepted: host:port,host:port, or nothing",
        ),
        (
            "REDIS_URL=http://here",
            "REDIS_URL='http://here' (line 1): not a Redis URL; "
            "accepted: redis://, rediss:// or unix:// without a password, or nothing",
        ),
        (
            "HARVEST_LADER=1:1",
            "HARVEST_LADER='1:1' (line 1): there is no such setting; did you mean HARVEST_LADDER?",
        ),
        (
            "HARVEST_SHADOW_MODE=true",
            "HARVEST_SHADOW_MODE='true' (line 1): there is no such setting; did you mean HARVEST_MODE?",
        ),
        (
            "STREAM_XYZZY=1",
            "STREAM_XYZZY='1' (line 1): there is no such setting; `harvest-brain env-template` lists those there are",
        ),
        (
            "REDIS_PASSWORD=" + SENTINEL,
            "REDIS_PASSWORD=… (line 1): there is no such setting; "
            "a password belongs into a file, named in REDIS_PASSWORD_FILE",
        ),
        ("HARVEST_MIN_R 0.5", "line 1: 'HARVEST_MIN_R…' is not of the form NAME=value"),
        ("export HARVEST_MODE=live", "line 1: 'export HARVEST_MODE…' is not of the form NAME=value"),
        ("harvest_mode=live", "line 1: 'harvest_mode…' is not of the form NAME=value"),
        (" HARVEST_MODE=live", "line 1: ' HARVEST_MODE…' is not of the form NAME=value"),
        ("HARVEST_MODE =live", "line 1: 'HARVEST_MODE…' is not of the form NAME=value"),
        ("\ufeffHARVEST_MODE=live", "line 1: '\\ufeffHARVEST_MODE…' is not of the form NAME=value"),
        ("something else", "line 1: '…' is not of the form NAME=value"),
        *(
            (
                f"HARVEST_MODE={value}",
                f"HARVEST_MODE={value!r} (line 1): a value has no quotes, backslashes, $NAME or control characters, "
                "no comment behind it and no spaces around it; accepted: NAME=value",
            )
            for value in (
                *('"live"', "'live'", "`live`", "live # now", "live\t#now", " live", "live ", "$MODE", "${MODE}"),
                *("$(mode)", "live\\", "a\tb", "a\x00b", "a\x7f"),
            )
        ),
    ],
)
def test_each_kind_of_fault_names_the_variable_the_value_and_what_is_accepted(
    tmp_path: Path, line: str, expected: str
) -> None:
    assert faults_of(tmp_path, line + "\n") == [expected]


def test_incident_18_an_unknown_variable_in_the_environment_stops_the_start_up() -> None:
    assert faults_in(HARVEST_SHADOW_MODE="true") == [
        "HARVEST_SHADOW_MODE='true' (environment): there is no such setting; did you mean HARVEST_MODE?"
    ]


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    found = faults_of(tmp_path, "HARVEST_MODE=x\nREDIS_PORT=y\nHARVEST_FOO=z\nwhat\nHARVEST_MIN_R='1'\n")
    assert sorted(re.split(r"[ =:]", fault)[0] for fault in found) == [
        *("HARVEST_FOO", "HARVEST_MIN_R", "HARVEST_MODE", "REDIS_PORT", "line"),
    ]


def test_a_duplicate_is_a_fault_even_with_the_same_value(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "HARVEST_MODE=live\n\nHARVEST_MODE=live\n") == [
        "HARVEST_MODE='live' (line 3): it stands twice, first at line 1; accepted: once"
    ]


def test_a_bad_namespace_is_complained_of_once() -> None:
    assert faults_in(HARVEST_NAMESPACE="a b") == [
        "HARVEST_NAMESPACE='a b' (environment): not a key name; accepted: a prefix without spaces"
    ]


def test_a_file_that_is_not_utf_8_says_where(tmp_path: Path) -> None:
    expected = f"{tmp_path / 'harvest-brain.env'}: not UTF-8 at byte 23"
    assert faults_of(tmp_path, b"HARVEST_MODE=live\n# caf\xe9\n") == [expected]


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.env: No such file or directory"):
        load(tmp_path / "none.env", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"STREAM_TRADE_INTENT": "quantum:stream:harvest.suggestions"},
            "STREAM_HARVEST_SUGGESTIONS='quantum:stream:harvest.suggestions': STREAM_TRADE_INTENT has the same name; "
            "accepted: another one",
        ),
        (
            {"HARVEST_KILL_SWITCH_KEY": "quantum:stream:trade.intent"},
            "STREAM_TRADE_INTENT='quantum:stream:trade.intent': HARVEST_KILL_SWITCH_KEY has the same name; "
            "accepted: another one",
        ),
        *(
            (
                {setting: name},
                f"{setting}={name!r}: HarvestBrain keeps something else under this name; accepted: another one",
            )
            for setting in ("HARVEST_KILL_SWITCH_KEY", "STREAM_HARVEST_REJECTED", "STREAM_TRADE_INTENT")
            for name in (
                *("quantum:harvest:state", "quantum:harvest:lease", "quantum:harvest:rate", "quantum:harvest:audit"),
                *("quantum:stream:harvest.control", "quantum:dedup:harvest:x", "quantum:dedup:fill:x"),
                *("quantum:harvest:history:ETHUSDT", "quantum:config:harvest:ETHUSDT"),
            )
        ),
        ({"REDIS_SENTINELS": "one:1"}, "REDIS_SENTINELS and REDIS_SENTINEL_MASTER: give both or neither"),
        ({"REDIS_SENTINEL_MASTER": "m"}, "REDIS_SENTINELS and REDIS_SENTINEL_MASTER: give both or neither"),
        *(
            ({name: value}, f"{name}: there are no Sentinels; accepted: nothing, or REDIS_SENTINELS")
            for name, value in (
                ("REDIS_SENTINEL_USERNAME", "joe"),
                ("REDIS_SENTINEL_PASSWORD_FILE", "/p"),
                ("REDIS_SENTINEL_TLS", "true"),
            )
        ),
        (
            {"HARVEST_WAIT_REPLICAS": "1", "HARVEST_WAIT_TIMEOUT_MS": "4401"},
            "HARVEST_WAIT_TIMEOUT_MS=4401: too long for REDIS_TIMEOUT_SEC; accepted: 1 to 4400",
        ),
        (
            {"HARVEST_WAIT_AOF": "true", "REDIS_TIMEOUT_SEC": "1"},
            "HARVEST_WAIT_TIMEOUT_MS=1000: too long for REDIS_TIMEOUT_SEC; accepted: 1 to 400",
        ),
        (
            {"REDIS_TLS": "true", "REDIS_TLS_CERT_FILE": "/c"},
            "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: give both or neither",
        ),
        ({"REDIS_URL": "redis://a", "REDIS_SOCKET": "/s"}, "REDIS_URL and REDIS_SOCKET: give one of them"),
        (
            {"REDIS_SOCKET": "/s", "REDIS_SENTINELS": "one:1", "REDIS_SENTINEL_MASTER": "m"},
            "REDIS_SOCKET and REDIS_SENTINELS: give one of them",
        ),
        (
            {"REDIS_URL": "redis://a", "REDIS_HOST": "b"},
            "REDIS_HOST='b': REDIS_URL says otherwise; give one of them",
        ),
        (
            {"REDIS_URL": "redis://a:1", "REDIS_PORT": "2"},
            "REDIS_PORT=2: REDIS_URL says otherwise; give one of them",
        ),
        (
            {"REDIS_URL": "redis://a/0", "REDIS_DB": "2"},
            "REDIS_DB=2: REDIS_URL says otherwise; give one of them",
        ),
        (
            {"REDIS_URL": "redis://joe@a", "REDIS_USERNAME": "jim"},
            "REDIS_USERNAME='jim': REDIS_URL says otherwise; give one of them",
        ),
        ({"REDIS_SOCKET": "/s", "REDIS_HOST": "b"}, "REDIS_HOST='b': REDIS_SOCKET says otherwise; give one of them"),
        (
            {"REDIS_URL": "unix:///s", "REDIS_PORT": "1"},
            "REDIS_PORT=1: REDIS_URL says otherwise; give one of them",
        ),
        (
            {"REDIS_URL": "redis://a", "REDIS_TLS": "true"},
            "REDIS_TLS=true: REDIS_URL names a connection without TLS; accepted: false, or rediss:// in REDIS_URL",
        ),
        (
            {"REDIS_SOCKET": "/s", "REDIS_TLS": "true"},
            "REDIS_TLS=true: REDIS_SOCKET names a connection without TLS; accepted: false, or rediss:// in REDIS_URL",
        ),
        (
            {"REDIS_TLS_CA_FILE": "/ca"},
            "REDIS_TLS_CA_FILE='/ca': there is no TLS; accepted: nothing, or REDIS_TLS=true",
        ),
    ],
)
def test_settings_of_which_one_would_be_ignored_are_a_fault(environ: dict[str, str], expected: str) -> None:
    assert faults_in(**environ) == [expected]


def test_a_wait_that_would_outlast_the_connection_is_a_fault() -> None:
    assert faults_in(HARVEST_WAIT_AOF="true", HARVEST_WAIT_TIMEOUT_MS="4500") == [
        "HARVEST_WAIT_TIMEOUT_MS=4500: too long for REDIS_TIMEOUT_SEC; accepted: 1 to 4400"
    ]
    load(None, {"HARVEST_WAIT_AOF": "true", "HARVEST_WAIT_TIMEOUT_MS": "4400"})
    load(None, {"HARVEST_WAIT_TIMEOUT_MS": "4500"})


def test_a_control_character_is_refused_from_the_environment_too() -> None:
    assert faults_in(REDIS_SOCKET="/run/\x1b[2J") == [
        "REDIS_SOCKET='/run/\\x1b[2J' (environment): it holds a control character; accepted: a path, or nothing"
    ]


def test_how_long_to_wait_for_replicas_matters_only_where_somebody_waits() -> None:
    load(None, {"HARVEST_WAIT_TIMEOUT_MS": "30000"})
    load(None, {"HARVEST_WAIT_TIMEOUT_MS": "4400", "HARVEST_WAIT_REPLICAS": "1"})


def test_the_same_thing_said_twice_is_no_contradiction() -> None:
    assert endpoint(REDIS_URL="redis://joe@a:1/2", REDIS_HOST="a", REDIS_PORT="1", REDIS_DB="2").port == 1
    assert endpoint(REDIS_URL="redis://joe@a:1/2", REDIS_USERNAME="joe").username == "joe"


# Where Redis is.


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Endpoint()),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "7", "REDIS_DB": "3"}, Endpoint("::1", 7, 3)),
        ({"REDIS_URL": "redis://here"}, Endpoint("here")),
        ({"REDIS_URL": "redis://here", "REDIS_PORT": "7", "REDIS_DB": "3"}, Endpoint("here", 7, 3)),
        ({"REDIS_URL": "redis://joe@here:7/3"}, Endpoint("here", 7, 3, username="joe")),
        ({"REDIS_URL": "redis://[::1]:7"}, Endpoint("::1", 7)),
        ({"REDIS_URL": "rediss://jo%40e@here", "REDIS_TLS": "true"}, Endpoint("here", tls=True, username="jo@e")),
        (
            {"REDIS_URL": "rediss://here", "REDIS_TLS_CA_FILE": "/ca"},
            Endpoint("here", tls=True, tls_ca_file="/ca"),
        ),
        ({"REDIS_URL": "unix:///run/a%20b.sock", "REDIS_DB": "3"}, Endpoint(socket="/run/a b.sock", db=3)),
        ({"REDIS_SOCKET": "/run/r.sock", "REDIS_USERNAME": "joe"}, Endpoint(socket="/run/r.sock", username="joe")),
        (
            {"REDIS_SENTINELS": "one:26379, ::1:5", "REDIS_SENTINEL_MASTER": "m"},
            Endpoint(sentinels=(("one", 26379), ("::1", 5)), sentinel_master="m"),
        ),
        (
            {
                "REDIS_SENTINELS": "one:1",
                "REDIS_SENTINEL_MASTER": "m",
                "REDIS_SENTINEL_USERNAME": "joe",
                "REDIS_SENTINEL_PASSWORD_FILE": "/p",
                "REDIS_SENTINEL_TLS": "true",
                "REDIS_TLS_CA_FILE": "/ca",
            },
            Endpoint(
                sentinels=(("one", 1),),
                sentinel_master="m",
                sentinel_username="joe",
                sentinel_password_file="/p",
                sentinel_tls=True,
                tls_ca_file="/ca",
            ),
        ),
        ({"REDIS_PASSWORD_FILE": "/p", "REDIS_TIMEOUT_SEC": "1.5"}, Endpoint(password_file="/p", timeout_sec=1.5)),
    ],
)
def test_redis_is_where_the_settings_say(environ: dict[str, str], expected: Endpoint) -> None:
    assert endpoint(**environ) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", "no host, port 0, or a database that is no number"),
        ("redis://here/first", "no host, port 0, or a database that is no number"),
        ("redis://here:0", "no host, port 0, or a database that is no number"),
        ("redis://here:redis", "it can't be read, or its port is none"),
        ("redis://here:65536", "it can't be read, or its port is none"),
        ("redis://[::1", "it can't be read, or its port is none"),
        ("redis://here?db=3", "what follows ? or # is not read; there are settings of their own"),
        ("redis://here#3", "what follows ? or # is not read; there are settings of their own"),
        ("unix://", "a path must follow unix://, as in unix:///run/redis.sock"),
        ("unix://run/redis.sock", "a path must follow unix://, as in unix:///run/redis.sock"),
        ("here:6379", "not a Redis URL"),
    ],
)
def test_a_url_that_is_none_says_why(url: str, expected: str) -> None:
    [fault] = faults_in(REDIS_URL=url)
    shown = "=…" if "?" in url else f"={url!r}"
    assert fault.startswith(f"REDIS_URL{shown} (environment): {expected}; accepted: redis://, ")


# Secrets.


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SENTINEL}@here:6379/0",
        f"redis://joe:{SENTINEL}@here",
        f"rediss://joe:a/{SENTINEL}@here:notaport",
        f"redis://joe:{SENTINEL}@[::1",
        f"redis://joe:{SENTINEL}@here\u2100",
        f"unix://joe:{SENTINEL}@/run/redis.sock",
        f"redis:joe:{SENTINEL}@here",
        f"joe:{SENTINEL}@here:6379",
        f"redis://here?password={SENTINEL}",
        f"http://joe:{SENTINEL}@here",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    for found in (faults_in(REDIS_URL=url), faults_of(tmp_path, f"REDIS_URL={url}\n")):
        [fault] = found
        assert SENTINEL not in fault
        assert fault.startswith("REDIS_URL=… (")


@pytest.mark.parametrize(
    "line",
    [
        *(f"{name}={SENTINEL}" for name in ("REDIS_PASSWORD", "REDIS_PASS", "REDIS_AUTH", "REDIS_PW", "REDIS_X")),
        *(f"{name}={SENTINEL}" for name in ("HARVEST_REDIS_PASSWORD", "HARVEST_API_KEY", "LOG_TOKEN", "API_SECRET")),
        f'REDIS_PASSWORD="{SENTINEL}"',
        f"REDIS_PASSWORD={SENTINEL}\nREDIS_PASSWORD={SENTINEL}",
        f"REDIS_URL=redis://:{SENTINEL}@here # mine",
        f"export REDIS_PASSWORD={SENTINEL}",
        f"redis_password={SENTINEL}",
        f"REDIS_PASSWORD: {SENTINEL}",
        f"REDIS_URL = redis://:{SENTINEL}@here",
        SENTINEL,
    ],
)
def test_a_password_that_is_put_where_it_does_not_belong_is_not_shown(tmp_path: Path, line: str) -> None:
    for fault in faults_of(tmp_path, line + "\n"):
        assert SENTINEL not in fault
        assert SENTINEL[:3] not in fault


def test_a_password_stays_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SENTINEL + "\n")
    loaded = load(None, {"REDIS_PASSWORD_FILE": str(file)})
    assert loaded.settings.endpoint().password() == SENTINEL
    shown = (repr(loaded), in_force(loaded), repr(loaded.settings.endpoint()), str(loaded.settings.endpoint()))
    assert not any(SENTINEL in text for text in shown)


# Files that are made from the table.


def test_the_committed_template_is_the_one_that_is_printed() -> None:
    assert (ROOT / "harvest-brain.env.example").read_text() == template()


def test_the_template_loads_and_changes_nothing(tmp_path: Path) -> None:
    assert from_text(tmp_path, template()).settings == load(None, {}).settings


def test_the_settings_in_the_readme_are_the_table() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- settings -->\n{table()}<!-- /settings -->" in readme


def test_the_table_has_a_row_per_setting_and_no_cell_breaks_it() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [variable.name for variable in VARIABLES]
    assert all(row.count("|") == 5 for row in rows)


def test_what_is_in_force_stands_in_columns_with_its_origin() -> None:
    lines = in_force(load(None, {"HARVEST_MODE": "live"})).splitlines()
    assert re.fullmatch(r"HARVEST_MODE=live +environment", lines[0])
    assert re.fullmatch(r"HARVEST_KILL_SWITCH_KEY=quantum:kill +default", lines[1])
    assert len(lines) == len(VARIABLES)
    assert len({line.rindex(" ") for line in lines}) == 1


# Whatever is accepted comes back from a file as it was.

NUMBERS = st.decimals(min_value=0, max_value=10**6, places=3).map(str)
NAMES = st.from_regex(r"\A[A-Za-z0-9{}._:/-]{1,30}\Z")
PATHS = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="\"'`\\$#"), max_size=20).map(
    str.strip
)
FLAGS = st.sampled_from(["true", "false"])
VALUES: dict[str, st.SearchStrategy[str]] = {
    "HARVEST_MODE": st.sampled_from(["shadow", "live"]),
    "HARVEST_START": st.sampled_from(["0", "$"]),
    "HARVEST_LADDER": st.sampled_from(["1:1", "0.5:0.25,1.0:0.25,1.5:0.25", " 1 : 0.5 , 2 : 0.5"]).map(str.strip),
    "HARVEST_MIN_R": NUMBERS,
    "HARVEST_FALLBACK_RISK_PCT": st.sampled_from(["1", "0.001", "1e-3"]),
    "HARVEST_SPOT": FLAGS,
    "HARVEST_LEASE_SEC": st.integers(2, 300).map(str),
    "HARVEST_NAMESPACE": NAMES,
    "HARVEST_CONSUMER": st.just("") | NAMES,
    "STREAM_MARKET_PRICE": st.just("") | NAMES.map(lambda name: f"prices-{name}"[:60]),
    "REDIS_DB": st.integers(0, 65535).map(str),
    "REDIS_USERNAME": PATHS,
    "REDIS_PASSWORD_FILE": PATHS,
    "REDIS_TIMEOUT_SEC": st.sampled_from(["1", "2.50", "60"]),
    "LOG_FILE": PATHS,
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_settings_that_load_give_back_the_same_values_from_a_file(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    direct = load(None, values)
    path = tmp_path_factory.getbasetemp() / "round-trip.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in direct.values.items()), encoding="utf-8")
    again = load(path, {})
    assert again.values == direct.values
    assert again.settings == direct.settings


def test_a_mistake_elsewhere_does_not_stand_between_a_person_and_the_switch(tmp_path: Path) -> None:
    file = tmp_path / "harvest-brain.env"
    file.write_text("HARVEST_LADDER=0.5:0.6,0.4:0.6\nHARVEST_LADER=1:1\nREDIS_PORT=6380\nHARVEST_NAMESPACE=mine\n")
    with pytest.raises(ConfigError):
        load(file, {})
    settings = load_switch(file, {}).settings
    assert (settings.redis_port, settings.kill_switch_key) == (6380, "mine:kill")


@pytest.mark.parametrize(
    "line", ['HARVEST_LADDER="1:1"', "HARVEST_MIN_R=1 # one\nHARVEST_MIN_R=1", "LOG_FILE= x", "HARVEST_DUST=\\"]
)
def test_nor_does_a_mistake_in_how_another_line_is_written(tmp_path: Path, line: str) -> None:
    file = tmp_path / "harvest-brain.env"
    file.write_text(f"REDIS_PORT=6380\n{line}\n")
    with pytest.raises(ConfigError):
        load(file, {})
    assert load_switch(file, {}).settings.redis_port == 6380


@pytest.mark.parametrize("line", ['REDIS_PORT="6380"', "export REDIS_PORT=6380", "\ufeffREDIS_PORT=6380"])
def test_but_one_in_a_line_that_says_where_redis_is_does(tmp_path: Path, line: str) -> None:
    file = tmp_path / "harvest-brain.env"
    file.write_text(f"{line}\n")
    with pytest.raises(ConfigError):
        load_switch(file, {})


@pytest.mark.parametrize("line", ["REDIS_PROT=6380", "REDIS_PORT=x", "HARVEST_KILL_SWITCH_KEY=a b", "REDIS PORT"])
def test_a_mistake_that_could_lead_to_the_wrong_switch_stops_even_kill(tmp_path: Path, line: str) -> None:
    file = tmp_path / "harvest-brain.env"
    file.write_text(f"{line}\n")
    with pytest.raises(ConfigError):
        load_switch(file, {})


def test_a_file_that_is_not_there_stops_even_kill(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_switch(tmp_path / "nowhere", {})
