"""`harvest-brain status`: what Redis holds, for a person and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis

from harvest_brain.config import load
from harvest_brain.core.engine import Gate, State, decide
from harvest_brain.core.policy import Policy, RungState
from harvest_brain.core.position import Position, Reservation
from harvest_brain.ops import cli
from harvest_brain.ops.status import Overview, overview
from harvest_brain.redis.decode import decode
from harvest_brain.redis.encode import Meta, market_text, meta_text, position_text
from harvest_brain.redis.store import UnusableError

NOON_MS = 1_768_737_600_000
SETTINGS = load(None, {}).settings
NAMES = SETTINGS.names()


class FakeRedis:
    """Answers the few commands of an overview from `replies`, by command and key."""

    def __init__(self, **replies: Any) -> None:
        self.state: dict[bytes, bytes] = {}
        self.strings: dict[str, Any] = {}
        self.lengths: dict[str, int] = {}
        self.groups: list[dict[str, Any]] | None = None
        self.lease_ms = -2
        self.__dict__.update(replies)

    def execute_command(self, command: str, key: str = "") -> Any:
        answers: dict[str, Callable[[], Any]] = {
            "HGETALL": lambda: self.state,
            "GET": lambda: self.strings.get(key),
            "PTTL": lambda: self.lease_ms,
            "TIME": lambda: [b"%d" % (NOON_MS // 1000), b"0"],
            "XLEN": lambda: self.lengths.get(key, 0),
        }
        answer = answers[command]()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def exists(self, _: str) -> bool:
        return self.groups is not None

    def xinfo_groups(self, _: str) -> list[dict[str, Any]]:
        return self.groups or []


def seen(mode: str = "shadow", **replies: Any) -> Overview:
    client: Any = FakeRedis(**replies)
    return overview(client, NAMES, mode)


def state_of(*entries: str) -> State:
    state = State()
    events = [decode(f"{NOON_MS}-{index}", text.encode().split()) for index, text in enumerate(entries)]
    state.adopt(decide(state, events, Gate(NOON_MS, "0", 30), Policy(SETTINGS.default_terms())))
    return state


def stored(state: State, *, mode: str = "shadow", positions: list[Position] | None = None) -> dict[bytes, bytes]:
    fields = {"_meta": meta_text(Meta(mode, "", "", {NAMES.executions: "5-1"}, 9))}
    for symbol, book in state.books.items():
        if book.market is not None:
            fields[f"_market:{symbol}"] = market_text(book.market)
    for position in positions if positions is not None else state.positions():
        fields[str(position.key)] = position_text(position)
    return {name.encode(): text.encode() for name, text in fields.items()}


OPENING = "symbol ETHUSDT side BUY qty 1.0 price 2500.0 status FILLED stop_loss 2450 order_id A1"
PRICE = "symbol ETHUSDT price 2526 status PRICE_UPDATE"


def test_an_empty_redis_has_a_status_too() -> None:
    assert seen().lease_ms == 0
    assert seen().text().splitlines() == [
        "mode         shadow",
        "kill-switch  absent: running",
        "leader       nobody: no daemon runs",
        "cursor       nothing read yet, lag unknown",
        *(
            f"stream       {name}: 0 entries"
            for name in (NAMES.executions, NAMES.suggestions, NAMES.trade_intents, NAMES.stop_intents, NAMES.rejected)
        ),
        "positions    0",
    ]


def test_a_running_daemon_is_shown_with_its_lease_cursor_lag_and_streams() -> None:
    shown = seen(
        state=stored(State()),
        strings={NAMES.lease: b"host:1:abc", NAMES.kill_switch: b"0"},
        lease_ms=8_000,
        lengths={NAMES.executions: 12, NAMES.rejected: 1},
        groups=[{"name": b"other", "lag": 7}, {"name": b"harvest_brain_group", "lag": 3}],
    ).text()
    assert "kill-switch  0: running" in shown
    assert "leader       host:1:abc (lease 8 s)" in shown
    assert "cursor       5-1, lag 3 entries" in shown
    assert f"stream       {NAMES.executions}: 12 entries" in shown
    assert f"stream       {NAMES.rejected}: 1 entries" in shown


@pytest.mark.parametrize(
    ("value", "mode", "text"),
    [
        (b"0", "live", "0: running"),
        (b"1", "shadow", "1: stopped"),
        (b"off\xff", "shadow", "off\ufffd: stopped"),
        (None, "shadow", "absent: running"),
        (None, "live", "absent: stopped, live mode needs it set to 0 (harvest-brain arm)"),
        (redis.ResponseError("WRONGTYPE"), "shadow", "unreadable: stopped"),
    ],
)
def test_the_switch_is_shown_as_the_daemon_reads_it(value: Any, mode: str, text: str) -> None:
    client: Any = FakeRedis()
    client.execute_command = lambda command, key="", ask=client.execute_command: (
        _raise_or_return(value) if key == NAMES.kill_switch else ask(command, key)
    )
    assert overview(client, NAMES, mode).kill_switch == text


def _raise_or_return(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def test_incident_19_a_mode_that_differs_from_the_configured_one_is_pointed_out() -> None:
    shown = seen("live", state=stored(State(), mode="shadow"))
    assert shown.text().splitlines()[0] == "mode         shadow (set: live)"
    assert (shown.mode, shown.configured_mode) == ("shadow", "live")


@pytest.mark.parametrize(
    "groups", [[], [{"name": b"other", "lag": 7}], [{"name": b"harvest_brain_group", "lag": None}]]
)
def test_a_lag_that_the_server_cannot_tell_is_unknown(groups: list[dict[str, Any]]) -> None:
    assert seen(groups=groups).lag is None


def test_a_position_is_shown_with_its_numbers_exactly_and_its_rungs() -> None:
    [line] = seen(state=stored(state_of(OPENING, PRICE))).positions
    assert (line.key, line.qty, line.average, line.price, line.r) == ("ETHUSDT", "1", "2500", "2526", "+0.52")
    assert (line.rungs, line.outstanding, line.risk, line.suspect) == ("●○○", "0", "50 (stop)", "")


def test_a_short_in_the_red_has_its_signs() -> None:
    short = "symbol ETHUSDT side SELL qty 2 price 2500 status FILLED stop_loss 2550"
    [line] = seen(state=stored(state_of(short, "symbol ETHUSDT price 2510 status PRICE_UPDATE"))).positions
    assert (line.qty, line.r) == ("-2", "-0.20")


def test_every_state_of_a_rung_has_its_mark_and_what_is_on_its_way_is_reserved() -> None:
    state = state_of(OPENING)
    [position] = state.positions()
    epoch = replace(
        position.open_epoch,
        rungs=(RungState.FIRED, RungState.CARRIED, RungState.SKIPPED),
        reservations=(Reservation("hb-1-r1", Decimal("0.25"), 0), Reservation("hb-1-r2", Decimal("0.10"), 0)),
        stop=None,
    )
    [line] = seen(state=stored(State(), positions=[replace(position, epoch=epoch)])).positions
    assert (line.rungs, line.outstanding, line.stop, line.price, line.r) == ("●◐x", "0.35", "", "", "")
    assert [(order.intent_id, order.qty, order.state) for order in line.orders] == [
        ("hb-1-r1", "0.25", "published"),
        ("hb-1-r2", "0.1", "published"),
    ]


def test_beside_r_stands_what_the_whole_epoch_has_earned_in_r() -> None:
    half = "symbol ETHUSDT side SELL qty 0.5 price 2600 status FILLED order_id A2 fee 1 fee_asset USDT"
    [line] = seen(state=stored(state_of(OPENING, half, PRICE))).positions
    assert (line.r, line.money_r) == ("+0.52", "+1.24")
    [line] = seen(state=stored(State(), positions=list(state_of(OPENING).positions()))).positions
    assert (line.r, line.money_r) == ("", "")


def test_a_risk_that_is_too_small_is_pointed_out() -> None:
    tight = "symbol ETHUSDT side BUY qty 1 price 2500 status FILLED stop_loss 2499.5"
    [line] = seen(state=stored(state_of(tight))).positions
    assert line.risk == "0.5 (stop), too small"


def test_a_suspect_position_is_listed_with_the_contradiction_even_when_it_is_flat() -> None:
    [position] = state_of(OPENING).positions()
    flat = Position(position.key._replace(symbol="BTCUSDT"), suspect="a clash")
    shown = seen(state=stored(State(), positions=[replace(position, suspect="late fill"), flat]))
    assert [line.key for line in shown.positions] == ["BTCUSDT", "ETHUSDT"]
    assert shown.positions[0].qty == "0"
    assert shown.text().splitlines()[-2:] == ["suspect      BTCUSDT: a clash", "suspect      ETHUSDT: late fill"]


def test_a_flat_position_that_is_only_watched_for_late_fills_is_not_shown() -> None:
    [position] = state_of(OPENING).positions()
    assert seen(state=stored(State(), positions=[Position(position.key, adopted_ms=NOON_MS)])).positions == []


def test_positions_stand_in_columns() -> None:
    other = "symbol BTCUSDT side SELL qty 0.5 price 68000 status FILLED stop_loss 69000"
    lines = seen(state=stored(state_of(OPENING, PRICE, other))).text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("  position"))
    head, *rows, legend = lines[start:]
    for title in ("qty", "entry", "price", "R", "money R", "stop", "rungs", "reserved", "risk per unit"):
        column = head.index(f"  {title}") + 2
        assert all(row[column - 1] == " " and row[column] != " " for row in rows)
    assert (
        legend == "  rungs: ● published, ◐ carried to the next, x skipped, ○ armed, ◌ suggested and still to be ordered"
    )


@pytest.mark.parametrize(
    "state",
    [
        {b"_meta": b"{"},
        {b"_meta": b'{"schema":99}'},
        {b"_meta": b"\xff"},
        {b"ETHUSDT": b"[]"},
        {b"ETHUSDT": b'{"key":["","E","NET"],"qty":"x"}'},
        {b"_market:ETHUSDT": b"[1]"},
    ],
)
def test_a_state_that_cannot_be_read_is_said_in_a_sentence(state: dict[bytes, bytes]) -> None:
    with pytest.raises(UnusableError, match=r"^quantum:harvest:state can't be read: "):
        seen(state=state)


def test_status_prints_the_text_or_with_json_one_object(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "connect", lambda _: FakeRedis(state=stored(state_of(OPENING, PRICE))))
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.startswith("mode         shadow\n")
    assert cli.main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "shadow"
    assert told["positions"][0]["key"] == "ETHUSDT"


def test_status_of_a_state_that_cannot_be_read_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "connect", lambda _: FakeRedis(state={b"_meta": b"{}"}))
    assert cli.main(["status"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Redis: quantum:harvest:state can't be read: ")
