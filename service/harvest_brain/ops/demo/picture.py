"""The run as one SVG: per symbol the price with entries, stops and harvests, and the size of the position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

from harvest_brain.ops.demo.ledger import Epoch, Exit, Harvest, Ledger, number
from harvest_brain.ops.demo.screen import RUNGS

WIDTH, LEFT, RIGHT, TOP = 1200, 92, 64, 132
PRICE_HEIGHT, SIZE_HEIGHT, GAP = 210, 38, 46
INK, FAINT, PRICE, LONG, SHORT, STOP, HARVEST, BAND = (
    *("#1f2933", "#d5dbe1", "#52606d", "#1d70b8", "#8e44ad", "#c0392b", "#138a4b", "#f6d365"),
)
MARKS = {"stop": STOP, "close": INK}
LABEL = 100, 15  # width and height of what stands at a harvest


@dataclass(frozen=True)
class Caption:
    title: str
    line: str
    quote: str
    live: bool
    band: tuple[float, float] | None  # when the kill-switch was on


@dataclass(frozen=True)
class Frame:
    """From seconds and prices to pixels."""

    top: float
    until: float
    low: float
    high: float

    def x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at, 0), self.until) / self.until

    def y(self, price: Decimal | float) -> float:
        return self.top + PRICE_HEIGHT * (self.high - float(price)) / (self.high - self.low)


def draw(ledger: Ledger, caption: Caption) -> str:
    """The SVG's text."""
    symbols = [symbol for symbol in ledger.prices if any(epoch.symbol == symbol for epoch in ledger.epochs)]
    height = TOP + len(symbols) * (PRICE_HEIGHT + SIZE_HEIGHT + GAP) + 34
    until = max(path[-1][0] for path in ledger.prices.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" fill="{INK}" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(caption.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 30, caption.title, size=19, weight="bold"),
        _text(LEFT, 52, caption.line, size=13),
        *_legend(caption.live),
    ]
    for n, symbol in enumerate(symbols):
        top = TOP + n * (PRICE_HEIGHT + SIZE_HEIGHT + GAP)
        parts += _panel(ledger, symbol, top, until, caption, last=n == len(symbols) - 1)
    return "\n".join([*parts, "</svg>", ""])


def _legend(live: bool) -> Iterator[str]:
    y, x = 86, LEFT
    kinds = [
        ("price", PRICE),
        ("long entry", LONG),
        ("short entry", SHORT),
        ("stop" if live else "first stop", STOP),
    ]
    kinds += [] if live else [("suggested stop", STOP)]
    kinds += [("harvest filled" if live else "harvest suggested", HARVEST)]
    kinds += [("harvest rejected", HARVEST)] if live else []
    kinds += [("stopped out", STOP), ("closed by the trader", INK), ("kill-switch on", BAND)]
    for name, colour in kinds:
        if name in ("price", "stop", "first stop", "suggested stop"):
            dash = ' stroke-dasharray="5 4"' if name == "suggested stop" else ""
            yield f'<path d="M{x},{y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>'
        elif name.endswith("entry"):
            yield _triangle(x + 11, y - 4, up=colour == LONG)
        elif name.startswith("harvest"):
            yield _harvest_mark(x + 11, y - 4, live, rejected=name == "harvest rejected")
        elif name == "kill-switch on":
            yield f'<rect x="{x}" y="{y - 10}" width="22" height="12" fill="{BAND}" fill-opacity="0.5"/>'
        else:
            yield f'<rect x="{x + 7}" y="{y - 8}" width="8" height="8" fill="{colour}"/>'
        yield _text(x + 27, y, name)
        x += 44 + int(6.1 * len(name))


def _panel(ledger: Ledger, symbol: str, top: float, until: float, caption: Caption, last: bool) -> Iterator[str]:
    path = ledger.prices[symbol]
    epochs = [epoch for epoch in ledger.epochs if epoch.symbol == symbol]
    seen = [price for _, price in path] + [epoch.stop for epoch in epochs]
    low, high = float(min(seen)), float(max(seen))
    margin = (high - low) * 0.08 or abs(high) * 0.01
    frame = Frame(top, until, low - margin, high + margin)
    bottom, floor = top + PRICE_HEIGHT, top + PRICE_HEIGHT + SIZE_HEIGHT
    if caption.band:
        start, end = map(frame.x, caption.band)
        yield (
            f'<rect x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{floor - top}" fill="{BAND}" '
            'fill-opacity="0.35"/>'
        )
    for price in _ticks(frame.low, frame.high, 5):
        y = frame.y(price)
        yield f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="{FAINT}"/>'
        yield _text(LEFT - 8, y + 4, f"{price:,f}", anchor="end")
    for at in _ticks(0, until, 9):
        x = frame.x(float(at))
        yield f'<path d="M{x:.1f},{bottom}V{floor + 4}" stroke="{FAINT}"/>'
        yield _text(x, floor + 17, f"{at:f}", anchor="middle")
    yield _text(LEFT, top - 7, symbol, size=14, weight="bold")
    yield _text(LEFT + 10 * len(symbol) + 8, top - 7, f"price in {caption.quote}", fill=PRICE)
    yield _text(LEFT - 8, bottom + SIZE_HEIGHT / 2 + 4, "size", anchor="end", fill=PRICE)
    for epoch in epochs:
        yield from _levels(epoch, frame)
    yield _line(frame, path)
    for epoch in epochs:
        exits = epoch.exits if caption.live else epoch.play(path, advised=True)
        yield from _stops(epoch, exits, frame, caption.live)
        yield from _sizes(epoch, exits, frame, bottom)
        yield from _marks(epoch, exits, frame, caption.live)
    yield f'<path d="M{LEFT},{top}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>'
    if last:
        yield _text((LEFT + WIDTH - RIGHT) / 2, floor + 36, "seconds since the market opened", anchor="middle")


def _levels(epoch: Epoch, frame: Frame) -> Iterator[str]:
    """The rungs, for as long as the position lives."""
    start, end = frame.x(epoch.opened), frame.x(epoch.closed or epoch.until)
    for rung in RUNGS:
        price = epoch.entry + epoch.sign * rung * epoch.r_unit
        if frame.low < price < frame.high:
            y = frame.y(price)
            yield f'<path d="M{start:.1f},{y:.1f}H{end:.1f}" stroke="{HARVEST}" stroke-dasharray="1 4"/>'
            yield _text(end + 5, y + 4, f"{rung} R", fill=HARVEST, size=11, halo=True)


def _stops(epoch: Epoch, exits: list[Exit], frame: Frame, live: bool) -> Iterator[str]:
    """Where the stop was; in shadow mode that is the first one, and beside it the suggested ones."""
    start, end = frame.x(epoch.opened), frame.x(epoch.closed or epoch.until)
    first = f'<path d="M{start:.1f},{frame.y(epoch.stop):.1f}'
    moves = "".join(f"H{frame.x(at):.1f}V{frame.y(stop):.1f}" for at, stop in epoch.stops if at <= exits[-1].at)
    look = f'fill="none" stroke="{STOP}" stroke-width="1.5"'
    yield f'{first}{moves if live else ""}H{end:.1f}" {look}/>'
    if moves and not live:
        yield f'{first}{moves}H{frame.x(exits[-1].at):.1f}" {look} stroke-dasharray="5 4"/>'


def _line(frame: Frame, path: list[tuple[float, Decimal]]) -> str:
    """The price; where many share a pixel, its extremes."""
    columns: dict[int, list[float]] = {}
    for at, price in path:
        columns.setdefault(round(2 * frame.x(at)), []).append(frame.y(price))
    points = []
    for x, ys in columns.items():
        kept = ys if len(ys) <= 2 else [ys[0], min(ys), max(ys), ys[-1]]
        points += [f"{x / 2:g},{y:.1f}" for y in kept]
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{PRICE}" stroke-width="1.3"/>'


def _sizes(epoch: Epoch, exits: list[Exit], frame: Frame, base: float) -> Iterator[str]:
    """The size of the position as steps, its peak being the full height."""
    floor, left = base + SIZE_HEIGHT, epoch.peak
    full = SIZE_HEIGHT - 8
    shape = f"M{frame.x(epoch.opened):.1f},{floor}V{floor - full}"
    for exit_ in exits:
        left -= exit_.qty
        shape += f"H{frame.x(exit_.at):.1f}V{floor - full * float(left / epoch.peak):.1f}"
    colour = LONG if epoch.sign > 0 else SHORT
    yield f'<path d="{shape}V{floor}Z" fill="{colour}" fill-opacity="0.3" stroke="{colour}"/>'
    yield _text(frame.x(epoch.opened) + 4, floor - 6, f"{epoch.side} {number(epoch.peak)}", fill=colour, size=11)


def _marks(epoch: Epoch, exits: list[Exit], frame: Frame, live: bool) -> Iterator[str]:
    told = [harvest for harvest in epoch.harvests if live or harvest.at <= exits[-1].at]
    yield _triangle(frame.x(epoch.opened), frame.y(epoch.entry), up=epoch.sign > 0)
    for harvest in told:
        if harvest.state == "rejected":
            yield _harvest_mark(frame.x(harvest.at), frame.y(harvest.price), live, rejected=True)
    for exit_ in exits:
        x, y = frame.x(exit_.at), frame.y(exit_.price)
        if exit_.kind == "harvest":
            yield _harvest_mark(x, y, live, rejected=False)
        else:
            yield f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{MARKS[exit_.kind]}"/>'
    yield from _labels(epoch, told, frame)


def _labels(epoch: Epoch, harvests: list[Harvest], frame: Frame) -> Iterator[str]:
    """What each harvest was, on the side that the price is heading for: above a long's, below a short's, and never on
    another label."""
    first, next_line = (-12, -LABEL[1]) if epoch.sign > 0 else (22, LABEL[1])
    placed: list[tuple[float, float]] = []
    for harvest in harvests:
        x, y = frame.x(harvest.at), frame.y(harvest.price) + first
        while any(abs(x - other[0]) < LABEL[0] and abs(y - other[1]) < LABEL[1] for other in placed):
            y += next_line
        placed.append((x, y))
        text = f"{number(harvest.qty)} at {harvest.r:.2f} R"
        yield _text(x, y, text, anchor="middle", fill=HARVEST, weight="bold", halo=True)


def _harvest_mark(x: float, y: float, live: bool, rejected: bool) -> str:
    if rejected:
        return f'<path d="M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8" stroke="{HARVEST}" stroke-width="2.5"/>'
    fill = HARVEST if live else "white"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{HARVEST}" stroke-width="2"/>'


def _triangle(x: float, y: float, up: bool) -> str:
    shape, colour = ("-6,5h12l-6,-11z", LONG) if up else ("-6,-5h12l-6,11z", SHORT)
    return f'<path d="M{x:.1f},{y:.1f}m{shape}" fill="{colour}" stroke="white"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "",
    fill: str = "",
    halo: bool = False,
) -> str:
    more = f' font-weight="{weight}"' if weight else ""
    more += f' fill="{fill}"' if fill else ""
    start, rest = (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"',
        f"{more}>{escape(text)}</text>",
    )
    behind = f'{start} stroke="white" stroke-width="4"{rest}' if halo else ""  # readable across lines
    return f"{behind}{start}{rest}"


def _ticks(low: float, high: float, about: int) -> Sequence[Decimal]:
    """Round numbers between the two, 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = math.floor(math.log10(raw))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= raw * 0.999)
    step = Decimal(factor).scaleb(power)
    first = math.ceil(Decimal(low) / step)
    last = math.floor(Decimal(high) / step)
    return [(n * step).quantize(step) if power < 0 else n * step for n in range(first, last + 1)]
