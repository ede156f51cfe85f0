"""The picture is XML that shows what happened, and the summary adds it up."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.demo.streams import (
    Streams,
    enter,
    fill_harvest,
    harvest,
    ledger_of,
    live_run,
    plan,
    price_at,
    shadow_run,
)

from harvest_brain.ops.demo.ledger import SWITCH, Ledger
from harvest_brain.ops.demo.picture import BAND, HARVEST, LONG, SHORT, STOP, WIDTH, Caption, _ticks, draw
from harvest_brain.ops.demo.summary import FILLED, HYPOTHETICAL, heading, summarise, told

NAMESPACE = "{http://www.w3.org/2000/svg}"
both_sides = pytest.mark.parametrize("side", ["long", "short"])


def drawn(
    ledger: Ledger, *, live: bool = False, band: tuple[float, float] | None = None, title: str = "t"
) -> ET.Element:
    return ET.fromstring(draw(ledger, Caption(title, "a line", "USDT", live, band)))  # noqa: S314  # our own text


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{NAMESPACE}text")]


def shapes(picture: ET.Element, tag: str, **wanted: str) -> list[ET.Element]:
    found = picture.iter(f"{NAMESPACE}{tag}")
    return [e for e in found if all(e.get(name.replace("_", "-")) == value for name, value in wanted.items())]


# The picture.


@both_sides
def test_a_shadow_run_is_drawn_with_entry_rungs_suggestion_and_both_stops(side: str) -> None:
    picture = drawn(ledger_of(shadow_run(side), plan(side)))
    said = texts(picture)
    assert {"ETHUSDT", "0.5 R", "1.0 R", "0.25 at 0.50 R", f"{side} 1", "first stop", "suggested stop"} <= set(said)
    assert "harvest rejected" not in said
    colour = LONG if side == "long" else SHORT
    assert (
        len([e for e in shapes(picture, "path", fill=colour) if "m-6," in (e.get("d") or "")]) == 2
    )  # and the legend's
    assert len(shapes(picture, "circle", stroke=HARVEST, fill="white")) == 2
    assert shapes(picture, "path", stroke=STOP, stroke_dasharray="5 4")


@both_sides
def test_a_live_run_is_drawn_with_what_was_filled(side: str) -> None:
    picture = drawn(ledger_of(live_run(side), plan(side)), live=True)
    assert {"stop", "harvest filled", "harvest rejected", "0.25 at 0.50 R"} <= set(texts(picture))
    assert len(shapes(picture, "circle", fill=HARVEST)) == 2
    assert not shapes(picture, "path", stroke_dasharray="5 4")


def test_a_rejected_harvest_is_a_cross() -> None:
    def crosses(picture: ET.Element) -> int:
        return len([e for e in shapes(picture, "path", stroke=HARVEST) if "l8,8" in (e.get("d") or "")])

    streams = live_run()
    assert crosses(drawn(ledger_of(streams), live=True)) == 1  # the legend's
    harvest(streams, at=6.0, live=True, correlation_id="hb-1-r2")
    streams.result(6.1, symbol="ETHUSDT", status="REJECTED", correlation_id="hb-1-r2")
    assert crosses(drawn(ledger_of(streams), live=True)) == 2


def test_the_time_of_the_switch_is_a_band_in_each_panel() -> None:
    ledger = ledger_of(shadow_run())
    assert len(shapes(drawn(ledger), "rect", fill=BAND)) == 1  # the legend's
    bands = shapes(drawn(ledger, band=(4.0, 5.0)), "rect", fill=BAND)
    assert len(bands) == 2
    assert float(bands[1].get("width") or 0) == pytest.approx((WIDTH - 92 - 64) / 8.9, abs=0.1)


def test_a_stop_that_was_hit_is_red_and_a_close_is_ink() -> None:
    streams = Streams()
    enter(streams)
    streams.price(3.0, "ETHUSDT", price_at("long", "-1.1"))
    picture = drawn(ledger_of(streams))
    assert len(shapes(picture, "rect", width="8", fill=STOP)) == 2  # and the legend's


@both_sides
def test_labels_of_harvests_close_together_stand_above_one_another(side: str) -> None:
    streams = shadow_run(side)
    for index in range(2, 5):
        harvest(streams, side, at=3.0 + index / 10, correlation_id=f"hb-1-r{index}")
    picture = drawn(ledger_of(streams, plan(side)))
    labels = {e.get("y") or "" for e in shapes(picture, "text") if e.text == "0.25 at 0.50 R"}
    heights = sorted(map(float, labels))
    assert len(heights) == 4
    assert all(below - above >= 15 for above, below in pairwise(heights))


def test_words_are_escaped() -> None:
    picture = drawn(ledger_of(shadow_run()), title='<a> & "b"')
    assert picture[0].text == '<a> & "b"'
    assert '<a> & "b"' in texts(picture)


def test_every_symbol_with_a_position_has_a_panel_and_others_have_none() -> None:
    streams = shadow_run()
    enter(streams, "short", symbol="BTCUSDT")
    streams.price(5.0, "BTCUSDT", "99")
    streams.price(5.0, "DOGEUSDT", "1")
    picture = drawn(ledger_of(streams, plan(), plan("short", "BTCUSDT")))
    assert [text for text in texts(picture) if text.endswith("USDT") and " " not in text] == ["ETHUSDT", "BTCUSDT"]
    assert int(picture.get("height") or 0) > int(drawn(ledger_of(shadow_run())).get("height") or 0)


def test_every_point_is_inside_the_picture() -> None:
    picture = drawn(ledger_of(live_run()), live=True)
    height = float(picture.get("height") or 0)
    for line in picture.iter(f"{NAMESPACE}polyline"):
        for point in (line.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= height


def test_a_path_of_many_thousand_prices_keeps_its_extremes_and_stays_small() -> None:
    streams = shadow_run()
    ledger = ledger_of(streams)
    path = ledger.prices["ETHUSDT"]
    path += [(8.9 + n / 1e6, Decimal(100 + n % 7)) for n in range(50_000)]
    assert len(draw(ledger, Caption("t", "l", "USDT", live=False, band=None))) < 50_000


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 36, ["0", "5", "10", "15", "20", "25", "30", "35"]),
        (2448.3, 2601.2, ["2450", "2500", "2550", "2600"]),
        (0.00141, 0.00154, ["0.00145", "0.00150"]),
    ],
)
def test_an_axis_has_round_numbers(low: float, high: float, expected: list[str]) -> None:
    assert [f"{tick:f}" for tick in _ticks(low, high, 9 if low == 0 else 5)] == expected


@given(st.floats(1e-9, 1e9), st.floats(1e-6, 10))
def test_an_axis_has_a_few_numbers_and_all_of_them_between_its_ends(low: float, share: float) -> None:
    high = low * (1 + share)
    ticks = _ticks(low, high, 5)
    assert 1 <= len(ticks) <= 11
    assert all(low * 0.9999999 <= tick <= high * 1.0000001 for tick in ticks)


# The summary.


def summary_of(streams: Streams, *, live: bool, side: str = "long") -> dict[str, Any]:
    ledger = ledger_of(streams, plan(side))
    return {
        "mode": "live" if live else "shadow",
        "market": "a market",
        "quote": "USDT",
        "picture": "p.svg",
        **summarise(ledger, live, ledger.faults),
    }


@both_sides
def test_in_live_the_money_is_what_was_filled(side: str) -> None:
    summary = summary_of(live_run(side), live=True, side=side)
    sign = 1 if side == "long" else -1
    held = sign * (Decimal(price_at(side, "1")) - 100) - Decimal("0.0005") * (Decimal(price_at(side, "1")) + 100)
    assert summary["held"] == {"quote": float(f"{held:.6g}"), "r": round(float(held / 2), 3)}
    assert summary["harvested_is"] == FILLED
    assert (summary["intents"], summary["fills"], summary["rejects"], summary["stop_moves"]) == (1, 1, 0, 1)
    [position] = summary["positions"]
    assert (position["symbol"], position["side"], position["peak"], position["entry"]) == ("ETHUSDT", side, 1.0, 100.0)
    assert position["harvests"] == [
        {
            "correlation_id": "hb-1-r1",
            "qty": 0.25,
            "price": float(price_at(side, "0.5")),
            "r": 0.5,
            "filled": 0.25,
            "rungs": [0.5],
            "state": "filled",
        }
    ]


@both_sides
def test_in_shadow_the_money_is_what_following_it_would_have_earned_and_that_is_said(side: str) -> None:
    summary = summary_of(shadow_run(side), live=False, side=side)
    assert summary["harvested_is"] == HYPOTHETICAL
    assert summary["harvested"]["r"] == pytest.approx(0.25 * 0.5 + 0.75 * 1 - 0.05, abs=0.01)
    assert summary["held"]["r"] == pytest.approx(0.95, abs=0.01)
    assert "Shadow: nothing was filled." in told(summary)
    assert "1 suggested harvests, 1 suggested stop moves" in told(summary)


def test_the_summary_is_json_and_its_totals_are_the_sums() -> None:
    summary = summary_of(live_run(), live=True)
    assert json.loads(json.dumps(summary)) == summary
    for which in ("harvested", "held"):
        for unit in ("quote", "r"):
            assert summary[which][unit] == pytest.approx(sum(p[which][unit] for p in summary["positions"]))


def test_a_check_that_failed_is_told_with_what_it_found() -> None:
    ledger = ledger_of(shadow_run())
    ledger.faults[SWITCH] = [f"fault {n}" for n in range(9)]
    summary = summary_of(shadow_run(), live=False) | summarise(ledger, False, ledger.faults)
    assert [check["ok"] for check in summary["checks"]] == [False, True, True, True, True, True]
    text = told(summary)
    assert "FAILED  nothing was published while the kill-switch was on\n        fault 0\n" in text
    assert "fault 5" not in text
    assert re.search(r"^ok      no correlation id was used twice$", text, re.MULTILINE)


def test_what_a_person_reads_in_live_counts_orders_fills_and_rejections() -> None:
    streams = live_run()
    fill_harvest(streams, at=8.0, status="REJECTED", correlation_id="hb-1-r1")
    text = told(summary_of(streams, live=True))
    assert "1 harvest orders, 1 fills (0 of them partial), 1 rejected, 0 cancelled, 1 stop moves" in text
    assert text.endswith("\nPicture: p.svg")


@pytest.mark.parametrize("live", [True, False])
def test_the_pictures_heading_says_mode_market_and_both_results(live: bool) -> None:
    title, line = heading(summary_of(live_run() if live else shadow_run(), live=live))
    assert title == f"HarvestBrain demo, {'live mode on a paper exchange' if live else 'shadow mode'}: a market"
    assert line.startswith(
        "Harvested: +1." if live else "Hypothetical, had the suggestions been filled at their price: +1."
    )
    assert "USDT (+0." in line
    assert line.endswith("After fees.")
