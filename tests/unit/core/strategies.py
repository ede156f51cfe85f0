"""What Hypothesis draws from: numbers, terms, fills and whole histories of a trader's account."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import strategies as st

from harvest_brain.core.policy import Rung


def decimals(low: str, high: str, places: int) -> st.SearchStrategy[Decimal]:
    """Numbers of at most `places` decimal places between `low` and `high`."""
    scale = 10**places
    whole = st.integers(int(Decimal(low) * scale), int(Decimal(high) * scale))
    return whole.map(lambda number: Decimal(number) / scale)


def quantities() -> st.SearchStrategy[Decimal]:
    """Sizes in base asset, mostly round, some fine."""
    return st.one_of(decimals("0.1", "9", 1), decimals("0.001", "3", 3), decimals("0.00000001", "100000", 8))


def steps() -> st.SearchStrategy[Decimal]:
    """Steps of an exchange's sizes."""
    return st.sampled_from([Decimal(text) for text in ("1", "0.1", "0.01", "0.001", "0.00001", "0.25", "0.003")])


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Rung, ...]:
    """One to six rungs, levels increasing, fractions adding up to at most 1."""
    levels = draw(st.lists(decimals("0.1", "5", 1), min_size=1, max_size=6, unique=True).map(sorted))
    hundredths = 100
    rungs = []
    for left, level in zip(range(len(levels) - 1, -1, -1), levels, strict=True):
        share = draw(st.integers(1, hundredths - left))
        hundredths -= share
        rungs.append(Rung(level, Decimal(share) / 100))
    return tuple(rungs)
