"""Pictures of `benchmarks.compare` and `benchmarks.growth`: bars and curves, by hand: there is no more to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

COLOURS: Final = {"direct": "#9aa5b1", "nginx": "#2f7d4f", "litellm": "#b7791f", "sealed": "#2b5fa8"}
QUANTITIES: Final = {
    "median_ms": "milliseconds, median",
    "requests_per_s": "requests a second",
    "cpu_ms": "CPU milliseconds a request, all processes",
}
_CURVES: Final = ("#2b5fa8", "#2f7d4f", "#b7791f", "#9b2c2c")
_WIDTH: Final = 420
_BAR, _GAP, _HEIGHT, _TOP, _LEFT, _BOTTOM = 14, 18, 240, 48, 56, 64


def pictures(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SVG by name: each quantity, of answers that come whole and of streams."""
    found = {}
    for quantity, says in QUANTITIES.items():
        for streamed in (False, True):
            shown = [cell for cell in cells if cell["streamed"] is streamed and cell[quantity]]
            if shown:
                kind = "streamed" if streamed else "whole"
                found[f"{quantity}_{kind}"] = _picture(shown, quantity, f"{says} ({kind}, logarithmic)")
    return found


def _picture(cells: Sequence[Mapping[str, Any]], quantity: str, title: str) -> str:
    groups = _unique((cell["body"], cell["concurrency"]) for cell in cells)
    sides = [side for side in COLOURS if any(cell["side"] == side for cell in cells)]
    values = {(cell["body"], cell["concurrency"], cell["side"]): float(cell[quantity]) for cell in cells}
    low = math.floor(math.log10(min(values.values())))
    high = max(low + 1, math.ceil(math.log10(max(values.values()))))
    group_width = len(sides) * _BAR + _GAP
    width = _LEFT + len(groups) * group_width + _GAP
    size = f'width="{width}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 18, title, size=14),
        *_legend(sides),
        *_scale(low, high, width),
    ]
    for number, (body, concurrency) in enumerate(groups):
        left = _LEFT + _GAP + number * group_width
        for place, side in enumerate(sides):
            if (value := values.get((body, concurrency, side))) is not None:
                top = _at(value, low, high)
                where = f'x="{left + place * _BAR}" y="{top:.1f}" width="{_BAR - 2}"'
                look = f'height="{_TOP + _HEIGHT - top:.1f}" fill="{COLOURS[side]}"'
                parts.append(f"<rect {where} {look}><title>{side}: {value:.2f}</title></rect>")
        middle = left + len(sides) * _BAR / 2
        parts.append(_text(middle, _TOP + _HEIGHT + 18, str(body), anchor="middle"))
        parts.append(_text(middle, _TOP + _HEIGHT + 34, f"x {concurrency}", anchor="middle"))
    return "\n".join([*parts, "</svg>", ""])


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """SVG of curves by name, each of points (x, y); both scales are logarithmic. across: what x is."""
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points if y > 0]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)
    width, wide = _LEFT + _WIDTH + 2 * _GAP, math.log(xs[-1] / xs[0]) or 1.0
    size = f'width="{width}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 18, title, size=14),
        *_scale(low, high, width),
    ]
    places = {x: _LEFT + _GAP + _WIDTH * math.log(x / xs[0]) / wide for x in xs}
    for number, (name, points) in enumerate(series.items()):
        colour = _CURVES[number % len(_CURVES)]
        shown = [(places[x], _at(y, low, high)) for x, y in points if y > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in shown]
        parts.append(f'<rect x="{_LEFT + 130 * number}" y="26" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(_LEFT + 130 * number + 14, 35, name))
    parts += [_text(place, _TOP + _HEIGHT + 18, f"{x:g}", anchor="middle") for x, place in places.items()]
    parts.append(_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 36, across, anchor="middle"))
    return "\n".join([*parts, "</svg>", ""])


def _at(value: float, low: int, high: int) -> float:
    return _TOP + _HEIGHT * (1 - (math.log10(value) - low) / (high - low))


def _legend(sides: Sequence[str]) -> Iterator[str]:
    for number, side in enumerate(sides):
        left = _LEFT + 80 * number
        yield f'<rect x="{left}" y="26" width="10" height="10" fill="{COLOURS[side]}"/>'
        yield _text(left + 14, 35, side)


def _scale(low: int, high: int, width: int) -> Iterator[str]:
    for exponent in range(low, high + 1):
        y = _at(10.0**exponent, low, high)
        yield f'<line x1="{_LEFT}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(_LEFT - 6, y + 4, f"{10.0**exponent:g}", anchor="end")


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def _unique(items: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys(items))
