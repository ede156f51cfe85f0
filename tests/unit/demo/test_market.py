"""The demo's prices: the same seed or the same file gives the same market, and a bad file says where it is bad."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from harvest_brain.ops.demo.market import InputError, Market, Plan, from_csv, seeded

HEADER = "timestamp,price,quantity\n"
SEEDS = (1, 2, 3, 17, 4711)


def trades(count: int = 200, price: str = "100.50") -> str:
    return HEADER + "".join(f"{1000 + n},{price},{n % 9 + 1}.5\n" for n in range(count))


def written(directory: Path, text: str, name: str = "trades.csv") -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


def path_of(market: Market, symbol: str) -> list[tuple[float, Decimal]]:
    return [(tick.at, tick.price) for tick in market.ticks if tick.symbol == symbol]


def best_r(market: Market, plan: Plan) -> tuple[Decimal, Decimal]:
    """The best R of a position from its entry on, and the worst before that."""
    path = path_of(market, plan.symbol)
    entry = next(price for at, price in reversed(path) if at <= plan.at)
    sign = 1 if plan.side == "BUY" else -1
    rs = [sign * (price - entry) / (entry * plan.risk) for at, price in path if at >= plan.at]
    peak = rs.index(max(rs))
    return rs[peak], min(rs[: peak + 1])


# The seeded market.


@pytest.mark.parametrize("seed", SEEDS)
def test_the_path_is_a_function_of_its_seed(seed: int) -> None:
    assert seeded(seed, 36) == seeded(seed, 36)
    assert seeded(seed, 36).ticks != seeded(seed + 1, 36).ticks


@pytest.mark.parametrize("seconds", [12, 36, 52])
def test_ticks_come_in_order_within_the_time_and_on_the_exchanges_grid(seconds: float) -> None:
    market = seeded(1, seconds)
    assert all(one.at <= other.at for one, other in pairwise(market.ticks))
    assert all(0 <= tick.at < seconds for tick in market.ticks)
    assert all(tick.price > 0 and tick.price % market.price_tick == 0 for tick in market.ticks)
    assert market.symbols == ("ETHUSDT", "SOLUSDT", "BTCUSDT")
    assert all(plan.qty % market.qty_step == 0 for plan in market.plans)
    assert all(plan.at < plan.until < seconds for plan in market.plans)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_story_is_told_whatever_the_seed(seed: int) -> None:
    market = seeded(seed, 36)
    climbs, wrong, comes_back, falls = (
        next(plan for plan in market.plans if (plan.symbol, plan.side) == key)
        for key in (("ETHUSDT", "BUY"), ("SOLUSDT", "BUY"), ("BTCUSDT", "SELL"), ("SOLUSDT", "SELL"))
    )
    assert best_r(market, climbs)[0] > Decimal("1.5")
    assert best_r(market, wrong)[0] < Decimal("0.5")
    assert Decimal("0.5") < best_r(market, comes_back)[0] < Decimal("1.0")
    assert best_r(market, falls)[0] > Decimal("1.0")
    assert best_r(market, falls)[1] > -1  # it is not stopped out on the way


def test_the_names_of_a_market_say_where_it_comes_from(tmp_path: Path) -> None:
    assert seeded(7, 12).name == "seeded path, seed 7"
    assert from_csv(written(tmp_path, trades()), "XRP", 12).name == "trades.csv, 200 trades"


# Trades from a file.


def test_the_trades_of_a_file_are_paced_evenly_and_played_in_the_order_of_time(tmp_path: Path) -> None:
    lines = [f"{5000 - n},{100 + n},1\n" for n in range(150)]
    market = from_csv(written(tmp_path, HEADER + "".join(lines)), "XRP", 30)
    assert [tick.price for tick in market.ticks] == [Decimal(249 - n) for n in range(150)]
    assert [round(tick.at, 6) for tick in market.ticks[:3]] == [0, 0.2, 0.4]
    assert {tick.symbol for tick in market.ticks} == {"XRP"}
    assert [plan.side for plan in market.plans] == ["BUY", "SELL", "BUY"]


def test_the_same_file_gives_the_same_market_packed_or_not(tmp_path: Path) -> None:
    plain = from_csv(written(tmp_path, trades()), "X", 12)
    packed = tmp_path / "trades.csv.gz"
    packed.write_bytes(gzip.compress(trades().encode()))
    again = from_csv(packed, "X", 12)
    assert (again.ticks, again.plans) == (plain.ticks, plain.plans)


@pytest.mark.parametrize(
    "header",
    [
        "timestamp_ms,price,quantity,side,trade_id",
        "Time , Trade_Price,QTY",
        "\ufeffdate,px,amount",
        "datetime,price,size",
        "ts,price,volume",
    ],
)
def test_columns_are_found_by_any_usual_name(tmp_path: Path, header: str) -> None:
    market = from_csv(written(tmp_path, trades().replace(HEADER.strip(), header)), "X", 12)
    assert market.ticks[0].price == Decimal("100.50")


def test_columns_may_stand_in_any_order_and_beside_others(tmp_path: Path) -> None:
    text = "side,quantity,price,timestamp\n" + "".join(f"buy,1,{100 + n},{n}\n" for n in range(100))
    assert from_csv(written(tmp_path, text), "X", 12).ticks[-1].price == 199


def test_times_may_be_iso_8601_and_lines_may_be_empty(tmp_path: Path) -> None:
    text = HEADER + "".join(f"2026-01-18T12:00:{59 - n % 60:02d}.{n:03d},{100 + n},1\n\n" for n in range(120))
    assert from_csv(written(tmp_path, text), "X", 12).ticks[0].price == 159


def test_a_long_file_is_thinned_evenly(tmp_path: Path) -> None:
    text = HEADER + "".join(f"{n},{n + 1},1\n" for n in range(30_000))
    market = from_csv(written(tmp_path, text), "X", 12)
    assert [tick.price for tick in market.ticks[:3]] == [1, 4, 7]
    assert len(market.ticks) == 10_000


@pytest.mark.parametrize(
    ("price", "tick"),
    [("100.50", "0.01"), ("0.00141342", "0.00000001"), ("50", "0.001"), ("68000", "1"), ("1e-12", "1e-16")],
)
def test_the_tick_is_as_fine_as_the_prices_and_fine_enough_for_a_stop_2_percent_away(
    tmp_path: Path, price: str, tick: str
) -> None:
    market = from_csv(written(tmp_path, trades(price=price)), "X", 12)
    assert market.price_tick == Decimal(tick)
    assert Decimal(price) * market.plans[0].risk > 2 * market.price_tick


def test_the_size_follows_what_is_usually_traded(tmp_path: Path) -> None:
    market = from_csv(written(tmp_path, trades()), "X", 12)
    assert (market.plans[0].qty, market.qty_step) == (Decimal(10), Decimal("0.01"))


# Faults.


def replace_line(number: int, line: str) -> str:
    lines = trades().splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "{path}, line 1: no column for the time; found nothing, accepted is one of timestamp_ms, timestamp, time"),
        ("1,2,3\n", "{path}, line 1: no column for the time; found 1, 2, 3, accepted is one of"),
        ("time,cost,qty\n", "{path}, line 1: no column for the price; found time, cost, qty, accepted is one of price"),
        ("time,price\n", "{path}, line 1: no column for the quantity; found time, price, accepted is one of quantity"),
        (trades(99), "{path}: 99 trades are too few for a demo, at least 100 are needed"),
        (HEADER, "{path}: 0 trades are too few for a demo, at least 100 are needed"),
        (replace_line(5, "soon,100,1"), "{path}, line 5: time 'soon' is neither a number nor an ISO 8601 time"),
        (replace_line(5, "NaN,100,1"), "{path}, line 5: time 'NaN' is neither a number nor an ISO 8601 time"),
        (replace_line(5, "1e999,100,1"), "{path}, line 5: time '1e999' is neither a number nor an ISO 8601 time"),
        *(
            (
                replace_line(7, f"1,{price},1"),
                f"{{path}}, line 7: price '{price}' is not a number above 0 with at most 12 digits on either side",
            )
            for price in ("0", "-1", "free", "NaN", "Infinity", "1e12", "1e-13", "")
        ),
        (
            replace_line(9, "1,100"),
            "{path}, line 9: quantity '' is not a number above 0 with at most 12 digits on either side",
        ),
        (
            replace_line(9, "1,100,0"),
            "{path}, line 9: quantity '0' is not a number above 0 with at most 12 digits on either side",
        ),
        (replace_line(9, '1,"100,1'), "{path}, line "),
        (replace_line(9, '1,"' + "1" * 200_000), "{path} is not a CSV file in UTF-8: field larger than field limit"),
        (
            HEADER + "1,999999999999,99999999999\n" * 100,
            "{path}: positions of 100000000000 at up to 999999999999 are too large for a demo",
        ),
    ],
)
def test_a_bad_file_says_where_and_what_is_accepted(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        from_csv(path, "X", 12)
    assert str(caught.value).startswith(expected.format(path=path))


def not_there(path: Path) -> None:
    """Leaves nothing."""


def no_utf_8(path: Path) -> None:
    path.write_bytes(HEADER.encode() + b"\xff,1,1\n")


def cut_short(path: Path) -> None:
    path.write_bytes(gzip.compress(trades().encode())[:-20])


def not_packed(path: Path) -> None:
    path.write_text(trades())


def spoilt(path: Path) -> None:
    packed = bytearray(gzip.compress(trades().encode()))
    packed[10] = 0xFF  # the kind of the first block, behind the ten bytes of the header
    path.write_bytes(packed)


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("none.csv", not_there, "can't be read: No such file or directory"),
        ("text.csv", no_utf_8, "is not a CSV file in UTF-8"),
        ("cut.csv.gz", cut_short, "can't be read: "),
        ("plain.csv.gz", not_packed, "can't be read: Not a gzipped file"),
        ("spoilt.csv.gz", spoilt, "can't be read: Error -3 while decompressing data: invalid block type"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(
    tmp_path: Path, name: str, make: Callable[[Path], None], expected: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        from_csv(tmp_path / name, "X", 12)
    assert str(caught.value).startswith(f"{tmp_path / name}")
    assert expected in str(caught.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        from_csv(tmp_path, "X", 12)
