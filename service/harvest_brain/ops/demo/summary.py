"""What the run came to: numbers for a program, lines for a person, the heading of the picture."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from harvest_brain.ops.demo.ledger import Epoch, Exit, Ledger

Summary = dict[str, Any]  # the object that --json prints

FILLED = "what the paper exchange filled"
HYPOTHETICAL = "hypothetical: had these suggestions been filled at their price"


def summarise(ledger: Ledger, live: bool, faults: dict[str, list[str]]) -> Summary:
    """Money in quote currency after fees, R in multiples of what each position risked."""
    positions = [_position(epoch, ledger, live) for epoch in ledger.epochs]
    return {
        "intents": ledger.counts["harvests"],
        "stop_moves": ledger.counts["stop_moves"],
        "fills": ledger.counts["fills"],
        "partial_fills": ledger.counts["partial_fills"],
        "rejects": ledger.counts["rejected"],
        "cancelled": ledger.counts["canceled"],
        "harvested_is": FILLED if live else HYPOTHETICAL,
        "harvested": _total(positions, "harvested"),
        "held": _total(positions, "held"),
        "positions": positions,
        "checks": [{"check": name, "ok": not found, "faults": found[:5]} for name, found in faults.items()],
    }


def told(summary: Summary) -> str:
    """The summary for a person."""
    shadow = summary["mode"] == "shadow"
    lines = [
        f"\nResult in {summary['quote']} after fees, and in R (1 R: what a position risked)",
        f"{'':30}{'if followed' if shadow else 'harvested':>24}{'simply held':>24}",
    ]
    rows = [(f"{p['symbol']} {p['side']} {p['peak']:g} at {p['entry']:g}", p) for p in summary["positions"]]
    for name, row in [*rows, ("all", summary)]:
        cells = (f"{_money(row[which]['quote'])} {row[which]['r']:+8.2f} R" for which in ("harvested", "held"))
        lines.append(f"{name:30}" + "".join(f"{cell:>24}" for cell in cells))
    if shadow:
        lines.append("Shadow: nothing was filled. 'If followed' is " + HYPOTHETICAL + ".")
        lines.append(f"{summary['intents']} suggested harvests, {summary['stop_moves']} suggested stop moves")
    else:
        what = "{intents} harvest orders, {fills} fills ({partial_fills} of them partial), {rejects} rejected, "
        lines.append((what + "{cancelled} cancelled, {stop_moves} stop moves").format(**summary))
    lines.append("")
    for check in summary["checks"]:
        lines.append(f"{'ok    ' if check['ok'] else 'FAILED'}  {check['check']}")
        lines += [f"        {fault}" for fault in check["faults"]]
    return "\n".join([*lines, "", f"Picture: {summary['picture']}"])


def heading(summary: Summary) -> tuple[str, str]:
    """Title and first line of the picture."""
    live = summary["mode"] == "live"
    taken, held = (
        f"{_money(summary[which]['quote'])} {summary['quote']} ({summary[which]['r']:+.2f} R)"
        for which in ("harvested", "held")
    )
    mode = "live mode on a paper exchange" if live else "shadow mode"
    followed = "Harvested" if live else "Hypothetical, had the suggestions been filled at their price"
    title = f"HarvestBrain demo, {mode}: {summary['market']}"
    return title, f"{followed}: {taken}. Simply held: {held}. After fees."


def _position(epoch: Epoch, ledger: Ledger, live: bool) -> Summary:
    path = ledger.prices[epoch.symbol]

    def outcome(exits: list[Exit]) -> dict[str, float]:
        money = epoch.money(exits)
        return {"quote": _short(money), "r": round(float(epoch.in_r(money)), 3)}

    return {
        "symbol": epoch.symbol,
        "side": epoch.side,
        "peak": float(epoch.peak),
        "entry": float(epoch.entry),
        "harvested": outcome(epoch.exits if live else epoch.play(path, advised=True)),
        "held": outcome(epoch.play(path, advised=False)),
        "harvests": [
            {
                "correlation_id": harvest.correlation_id,
                **{name: float(getattr(harvest, name)) for name in ("qty", "price", "r", "filled")},
                "rungs": [float(rung) for rung in harvest.rungs],
                "state": harvest.state,
            }
            for harvest in epoch.harvests
        ],
    }


def _total(positions: list[Summary], which: str) -> dict[str, float]:
    quote = sum((Decimal(str(position[which]["quote"])) for position in positions), Decimal(0))
    return {"quote": _short(quote), "r": round(sum(position[which]["r"] for position in positions), 3)}


def _short(value: Decimal) -> float:
    """Six digits that count: money is shown here, not kept."""
    return float(f"{value:.6g}")


def _money(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 1 else f"{value:+.3g}"
