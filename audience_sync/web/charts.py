"""Charts as inline SVG: drawn here, coloured by the style sheet, readable without either by their titles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 26
Along = Callable[[float], float]
"""Where on the drawing something of this number or value stands."""


@dataclass(frozen=True)
class Point:
    """One sync of an audience."""

    at: datetime
    size: int
    entered: int = 0
    exited: int = 0
    changed: int = 0
    initial: bool = False


def sizes(points: Sequence[Point], what: str) -> Markup:
    """The size over time, as a line over an area."""
    if not points:
        return Markup("")
    low, high, ticks = _scale(min(p.size for p in points), max(p.size for p in points))
    x = _across(points)
    y = _down(low, high)
    line = " ".join(f"{x(n):.1f},{y(p.size):.1f}" for n, p in enumerate(points))
    base = f"{HEIGHT - BOTTOM}"
    area = f"{x(0):.1f},{base} {line} {x(len(points) - 1):.1f},{base}"
    dots = Markup("").join(
        Markup(
            '<g><title>{}</title><circle class="hit" cx="{:.1f}" cy="{:.1f}" r="9"/>'
            '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{}"/></g>'
        ).format(
            f"{p.at:%d %b %Y %H:%M} UTC: {p.size:,}", x(n), y(p.size), x(n), y(p.size), 2.5 if len(points) <= 60 else 0
        )
        for n, p in enumerate(points)
    )
    label = f"{what}: {points[0].size:,} on {points[0].at:%d %b %Y}, {points[-1].size:,} on {points[-1].at:%d %b %Y}"
    body = Markup('{}<polygon class="area" points="{}"/><polyline class="line" points="{}"/>{}{}').format(
        _grid(ticks, y), area, line, dots, _dates(points, x)
    )
    return _svg("chart", label, body)


def changes(points: Sequence[Point], what: str) -> Markup:
    """Who entered, upwards, and who exited, downwards, at each sync but the first, which would dwarf the others."""
    points = [point for point in points if not point.initial]
    if not points:
        return Markup("")
    up, down = max(p.entered for p in points), max(p.exited for p in points)
    most = max(up, down, 1)
    _, high, _ = _scale(0, most)
    low = -high if down else 0
    y = _down(low, high if up or not down else 0)
    x = _across(points, inset=True)
    room = (WIDTH - LEFT - RIGHT) / len(points)
    width = max(1.0, min(26.0, room * 0.7))
    zero = y(0)
    bars = Markup("").join(
        Markup(
            '<g><title>{}</title><rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
            '<rect class="entered" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
            '<rect class="exited" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/></g>'
        ).format(
            f"{p.at:%d %b %Y %H:%M} UTC: {p.entered:,} entered, {p.exited:,} exited",
            x(n) - room / 2,
            TOP,
            room,
            HEIGHT - TOP - BOTTOM,
            x(n) - width / 2,
            y(p.entered),
            width,
            zero - y(p.entered),
            x(n) - width / 2,
            zero,
            width,
            y(-p.exited) - zero,
        )
        for n, p in enumerate(points)
    )
    ticks = [tick for tick in (high, 0, low) if tick or tick == 0]
    total = f"{what}: {sum(p.entered for p in points):,} entered, {sum(p.exited for p in points):,} exited"
    body = Markup("{}{}{}").format(_grid(sorted(set(ticks)), y), bars, _dates(points, x))
    return _svg("chart", total, body)


def sparkline(points: Sequence[Point]) -> Markup:
    """The size over time, small enough for a row."""
    if len(points) < 2:
        return Markup("")
    width, height, edge = 120, 28, 3
    low, high = min(p.size for p in points), max(p.size for p in points)
    if low == high:
        low, high = low - 1, high + 1
    span = high - low
    steps = [
        (edge + n * (width - 2 * edge) / (len(points) - 1), height - edge - (p.size - low) / span * (height - 2 * edge))
        for n, p in enumerate(points)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" aria-hidden="true"><polyline class="line" points="{}"/>'
        '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2"/></svg>'
    ).format(width, height, line, *steps[-1])


def _svg(kind: str, label: str, body: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, WIDTH, HEIGHT, label, body
    )


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round bounds and a few round ticks between them; from 0 unless the values are close together far above it."""
    if low < high * 0.6 or low <= 0:
        low = min(0, low)
    span = (high - low) or max(abs(high), 1)
    step = 10 ** len(str(int(span))) / 100
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        if span / (step * factor) <= 4:
            step *= factor
            break
    step = max(1.0, step)
    bottom = step * (low // step)
    ticks = [bottom]
    while ticks[-1] < high:
        ticks.append(ticks[-1] + step)
    if len(ticks) == 1:
        ticks.append(bottom + step)
    return bottom, ticks[-1], ticks


def _across(points: Sequence[Point], inset: bool = False) -> Along:
    room = WIDTH - LEFT - RIGHT
    count = len(points)
    if inset:
        return lambda n: LEFT + (n + 0.5) * room / count
    return lambda n: LEFT + (n * room / (count - 1) if count > 1 else room / 2)


def _down(low: float, high: float) -> Along:
    span = (high - low) or 1
    return lambda value: TOP + (high - value) / span * (HEIGHT - TOP - BOTTOM)


def _grid(ticks: Sequence[float], y: Along) -> Markup:
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 8, y(tick) + 4, short(abs(tick)))
        for tick in ticks
    )


def _dates(points: Sequence[Point], x: Along) -> Markup:
    shown = sorted({0, len(points) - 1} | ({len(points) // 2} if len(points) > 4 else set()))
    long = (points[-1].at - points[0].at).days >= 1
    anchors = {0: "start", len(points) - 1: "end"}
    return Markup("").join(
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            x(n),
            HEIGHT - 6,
            anchors.get(n, "middle") if len(points) > 1 else "middle",
            f"{points[n].at:%d %b}" if long else f"{points[n].at:%H:%M}",
        )
        for n in shown
    )


def short(number: float) -> str:
    """`950`, `12k`, `3.4M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:,.0f}"
