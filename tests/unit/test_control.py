"""`harvest-brain release` and `clear`: what is refused, what is written, and what is said while no daemon leads."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from harvest_brain.config import load
from harvest_brain.core.events import Key, OrderRef, PositionSide
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Epoch, Position, Reservation, ReservationState
from harvest_brain.ops import cli, control
from harvest_brain.redis.encode import Meta, meta_text, position_text
from harvest_brain.redis.names import Names

NOW_MS = 1_800_000_000_000
INTENT = "hb-0123456789abcdef-r1"
SETTINGS = load(None, {}).settings
NAMES: Names = SETTINGS.names()


def held(reservation: Reservation | None = None, *, suspect: str = "") -> Position:
    terms = SETTINGS.default_terms()
    epoch = Epoch(
        epoch_id="0123456789abcdef",
        sign=1,
        opened_ms=0,
        opening_order=OrderRef(),
        terms=terms,
        r_unit=Decimal(50),
        risk_source="stop",
        peak=Decimal(1),
        rungs=(RungState.FIRED, RungState.ARMED, RungState.ARMED),
        reservations=(reservation,) if reservation else (),
    )
    return Position(Key("", "ETHUSDT", PositionSide.NET), Decimal(1), Decimal(2500), suspect, epoch)


class FakeRedis:
    """A Redis with one position, and a daemon that takes what is said when `leads`, doing as it is told if `obeys`."""

    def __init__(self, position: Position, *, leads: bool = True, obeys: bool = True) -> None:
        self.position = position
        self.leads = leads
        self.obeys = obeys
        self.streams: dict[str, list[dict[str, str]]] = {}
        self.cursor = "5-0"

    def xadd(self, key: str, fields: dict[str, str], maxlen: int) -> bytes:
        assert maxlen == 1000
        self.streams.setdefault(key, []).append(fields)
        if key == NAMES.control and self.leads:
            self.cursor = "7-0"
            if self.obeys and fields["action"] == "release":
                self.position = replace(self.position, epoch=replace(self.position.open_epoch, reservations=()))
        return b"7-0"

    def hget(self, key: str, field: str) -> bytes:
        assert (key, field) == (NAMES.state, "_meta")
        return meta_text(Meta("live", "", "", {NAMES.executions: "9-0", NAMES.control: self.cursor}, 0)).encode()

    def execute_command(self, command: str, *_: str) -> Any:
        state = {b"_meta": self.hget(NAMES.state, "_meta"), b"ETHUSDT": position_text(self.position).encode()}
        answers = {"HGETALL": state, "TIME": [b"%d" % (NOW_MS // 1000), b"0"], "XLEN": 0, "PTTL": -2}
        return answers.get(command)

    def exists(self, _: str) -> bool:
        return False


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TAKEN_WITHIN_SEC", 0.02)
    monkeypatch.setattr(control, "ASK_EVERY_SEC", 0.001)
    monkeypatch.setenv("SUDO_USER", "jo")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], client: FakeRedis, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(cli, "connect", lambda _: client)
    code = cli.main([*words, "--reason", "looked at it"])
    out, err = capsys.readouterr()
    return code, out, err


def unknown(silent_sec: int = 300) -> Reservation:
    return Reservation(INTENT, Decimal("0.25"), NOW_MS - silent_sec * 1000, ReservationState.UNKNOWN)


def test_an_order_of_unknown_fate_is_released_and_who_said_so_is_written_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeRedis(held(unknown()))
    told = run(monkeypatch, capsys, client, "release", INTENT)
    assert told == (0, f"{INTENT} is released; the next rung carries what was left of it\n", "")
    assert client.streams[NAMES.control] == [{"action": "release", "symbol": "ETHUSDT", "intent": INTENT}]
    [written] = client.streams[NAMES.audit]
    assert written.pop("at")
    assert written == {
        "action": "release",
        "symbol": "ETHUSDT",
        "intent": INTENT,
        "reason": "looked at it",
        "by": "jo",
    }


@pytest.mark.parametrize("silent_sec", [61, 300])
def test_silence_counts_also_where_no_entry_has_told_the_daemon_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent_sec: int
) -> None:
    published = unknown(silent_sec)._replace(state=ReservationState.PUBLISHED)
    assert run(monkeypatch, capsys, FakeRedis(held(published)), "release", INTENT)[0] == 0


def test_while_an_answer_may_still_come_an_order_is_not_released(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeRedis(held(unknown(60)._replace(state=ReservationState.ACKED)))
    code, out, err = run(monkeypatch, capsys, client, "release", INTENT)
    assert (code, out) == (1, "")
    assert err == f"{INTENT}: it is acked, and silent for 60 s; only after 60 s can it be released\n"
    assert client.streams == {}


def test_an_order_that_is_not_on_its_way_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeRedis(held(unknown()))
    code, _, err = run(monkeypatch, capsys, client, "release", "hb-1-r9")
    assert code == 1
    assert err == "there is no order 'hb-1-r9' on its way; `harvest-brain status` lists those there are\n"
    assert client.streams == {}


def test_an_order_that_was_heard_of_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys, FakeRedis(held(unknown()), obeys=False), "release", INTENT)
    assert (code, out, err) == (1, "", f"{INTENT} stays: something was heard of it meanwhile\n")


@pytest.mark.parametrize("words", [("release", INTENT), ("clear", "ETHUSDT")])
def test_while_no_daemon_leads_it_waits_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    client = FakeRedis(held(unknown(), suspect="a clash"), leads=False)
    told = run(monkeypatch, capsys, client, *words)
    assert told == (0, "no daemon has taken it yet; the next one that leads will\n", "")
    assert len(client.streams[NAMES.control]) == 1


def test_a_suspect_symbol_is_cleared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeRedis(held(suspect="a clash"))
    told = run(monkeypatch, capsys, client, "clear", "ETHUSDT")
    assert told == (0, "ETHUSDT is trusted again; the rungs crossed by now are skipped\n", "")
    assert client.streams[NAMES.control] == [{"action": "clear", "symbol": "ETHUSDT"}]
    assert client.streams[NAMES.audit][0]["reason"] == "looked at it"


@pytest.mark.parametrize(("suspect", "listed"), [("", "none"), ("a clash", "ETHUSDT")])
def test_a_symbol_that_is_not_suspect_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suspect: str, listed: str
) -> None:
    client = FakeRedis(held(suspect=suspect))
    code, out, err = run(monkeypatch, capsys, client, "clear", "BTCUSDT")
    assert (code, out, err) == (1, "", f"'BTCUSDT' is not suspect; suspect are: {listed}\n")
    assert client.streams == {}


@pytest.mark.parametrize("words", [("release", INTENT), ("clear", "ETHUSDT")])
def test_both_want_a_reason(words: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2


def test_status_lists_the_orders_on_their_way_with_their_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "connect", lambda _: FakeRedis(held(unknown(75))))
    assert cli.main(["status"]) == 0
    assert f"order        {INTENT} of ETHUSDT: 0.25 unknown, silent 75 s\n" in capsys.readouterr().out
