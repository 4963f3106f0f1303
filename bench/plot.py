"""The growth as an SVG: time and largest process of each load by number of targets, axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from bench.loads import LOADS
from bench.report import Row

WIDE, HIGH = 300, 220  # one panel
COLUMNS = 3
LEFT, TOP, RIGHT, BOTTOM = 52, 30, 30, 36  # around its axes
COLOURS = ["#1b6ca8", "#d1495b", "#8d96a3", "#2e8b57", "#edae49", "#6a4c93"]


def svg(rows: list[Row]) -> str:
    tools = list(dict.fromkeys(r.tool for r in rows))
    colours = dict(zip(tools, COLOURS, strict=False))
    loads = [load for load in LOADS if any(r.load == load for r in rows)]
    panels = [_panel(rows, load, "seconds", lambda r: r.seconds, colours) for load in loads]
    panels += [_panel(rows, load, "MB", lambda r: r.peak_mb, colours) for load in loads]
    width, height = WIDE * COLUMNS, HIGH * math.ceil(len(panels) / COLUMNS) + 30
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    ]
    body.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for n, panel in enumerate(panels):
        x, y = n % COLUMNS * WIDE, 30 + n // COLUMNS * HIGH
        body.append(f'<g transform="translate({x},{y})">{panel}</g>')
    for n, tool in enumerate(tools):
        body.append(f'<rect x="{LEFT + n * 110}" y="8" width="12" height="12" fill="{colours[tool]}"/>')
        body.append(f'<text x="{LEFT + n * 110 + 17}" y="19" font-size="13">{tool}</text>')
    return "\n".join([*body, "</svg>", ""])


def _panel(
    rows: list[Row], load: str, unit: str, value: Callable[[Row], float], colours: dict[str, str]
) -> str:
    mine = [r for r in rows if r.load == load]
    at_x = _scale([r.size for r in mine], LEFT, WIDE - RIGHT)
    at_y = _scale([value(r) for r in mine], HIGH - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="20" font-size="12" font-weight="bold">{load}: {unit}</text>']
    for n in _decades([r.size for r in mine]):
        x = at_x(10**n)
        parts.append(
            f'<path d="M{x:.1f} {TOP}V{HIGH - BOTTOM}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{HIGH - BOTTOM + 15}" font-size="10" text-anchor="middle">{10**n:,}</text>'
        )
    for n in _decades([value(r) for r in mine]):
        y = at_y(10**n)
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 5}" y="{y + 3:.1f}" font-size="10" text-anchor="end">{10**n:g}</text>'
        )
    for tool, colour in colours.items():
        points = [
            (at_x(r.size), at_y(value(r))) for r in sorted(mine, key=lambda r: r.size) if r.tool == tool
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return "".join(parts)


def _decades(values: list[float] | list[int]) -> range:
    """The powers of ten around the values."""
    return range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)


def _scale(values: list[float] | list[int], first: float, last: float) -> Callable[[float], float]:
    decades = _decades(values)
    span = max(1, len(decades) - 1)
    return lambda value: first + (math.log10(value) - decades[0]) / span * (last - first)


def write(path: Path, rows: list[Row]) -> None:
    path.write_text(svg(rows))
