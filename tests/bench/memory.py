"""Resident memory of a process, and the trend of a series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def slope_of(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the least-squares line through (x, y), and the slope's standard error. Needs three samples or more."""
    mean_x, mean_y = fmean(x for x, _ in samples), fmean(y for _, y in samples)
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in samples)
    return slope, sqrt(rest / (len(samples) - 2) / spread)
