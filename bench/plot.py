"""A growth curve as an SVG: log-log axes, a line for each series, no library, no scripts.

Readable on light and on dark: colours of text and background follow the preference of the browser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 800, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 290, 54, 52
"""Margins around the axes; the legend is in the right margin."""

TICKS_MAX = 8
"""Of one axis: above it only whole decades get a label, because labels would overlap."""

COLOURS = ("#2a7fd4", "#d9822b", "#2f9e61", "#c2466b", "#8a63d2", "#7f8a99")
"""Each has a contrast of at least 3 on white and on near black."""

STYLE = (
    "svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#1f2328}"
    ".axis{stroke:#1f2328}.grid{stroke:#d8dee4}"
    "@media(prefers-color-scheme:dark)"
    "{svg{background:#0d1117}text{fill:#e6edf3}.axis{stroke:#e6edf3}"
    ".grid{stroke:#30363d}}"
)

Series = Mapping[str, Sequence[tuple[float, float]]]


def curve(title: str, unit_x: str, unit_y: str, series: Series) -> str:
    """Plot one growth curve; points must be positive."""
    points = [point for line in series.values() for point in line]
    ends_x, ends_y = (_ends([point[axis] for point in points]) for axis in (0, 1))

    def x(value: float) -> float:
        return LEFT + _share(value, ends_x) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, ends_y) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for tick in _ticks(ends_x):
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_label(tick)}</text>'
        )
    for tick in _ticks(ends_y):
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end">{_label(tick)}</text>'
        )
    frame = f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"
    parts.append(f'<path class="axis" d="{frame}" fill="none"/>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(unit_x)}</text>'
    )
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 8}">{escape(unit_y)}</text>')
    for index, (name, line) in enumerate(series.items()):
        colour, row = COLOURS[index % len(COLOURS)], TOP + 10 + 20 * index
        path = " ".join(f"{x(size):.1f},{y(cost):.1f}" for size, cost in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += (
            f'<circle cx="{x(size):.1f}" cy="{y(cost):.1f}" r="3.5" fill="{colour}"/>'
            for size, cost in line
        )
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 16}" y="{row - 9}" width="10" height="10" fill="{colour}"/>'
        )
        parts.append(f'<text x="{WIDTH - RIGHT + 32}" y="{row}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ends(values: list[float]) -> tuple[float, float]:
    """Return the ends of an axis: with a margin, and at least a factor of ten apart."""
    low, high = min(values) / 1.15, max(values) * 1.15
    widen = max(1.0, math.sqrt(10 * low / high))
    return low / widen, high * widen


def _share(value: float, ends: tuple[float, float]) -> float:
    """Return the place of a value between the ends, 0 to 1."""
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


def _ticks(ends: tuple[float, float]) -> list[float]:
    decades = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    fine = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    ticks = [tick for tick in fine if ends[0] <= tick <= ends[1]]
    if len(ticks) <= TICKS_MAX:
        return ticks
    return [10.0**decade for decade in decades if ends[0] <= 10.0**decade <= ends[1]]


def _label(value: float) -> str:
    for size, letter in ((1_000_000, " M"), (1_000, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
