"""Line charts as SVG: no script, no request, colours by CSS classes, so that they follow dark, light and paper.

A line is told apart by its colour, by its dash and by its name in the legend. Each chart has a title for readers of
screens; the figures themselves are in tables beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 210
# At the left there is room for 100 000 ms, a latency of a server that falls behind.
LEFT, RIGHT, TOP, BOTTOM = 64, 22, 26, 36
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line; `style` 0 to 5 is its colour and dash."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """The scale of one axis."""

    low: float
    high: float
    label: str
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.logarithmic:
            value, low, high = (math.log10(max(each, 1e-9)) for each in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))

    def ticks(self) -> list[float]:
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1) if self.low <= 10.0**power <= self.high * 1.001]
        step = _round_step((self.high - self.low) / TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [round(number * step, 10) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(step: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten that is not smaller."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)


def linear(values: Sequence[float], label: str) -> Axis:
    """An axis from 0 to a little above the highest value."""
    return Axis(0.0, max([*values, 0.0]) * 1.05 or 1.0, label)


def logarithmic(values: Sequence[float], label: str) -> Axis:
    """An axis of whole powers of ten around the positive values."""
    positive = [value for value in values if value > 0] or [1.0]
    return Axis(10.0 ** math.floor(math.log10(min(positive))), 10.0 ** math.ceil(math.log10(max(positive)) + 1e-9),
                label, logarithmic=True)  # fmt: skip


def number(value: float) -> str:
    """A figure as people read it: three digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


def svg(title: str, x: Axis, y: Axis, lines: Sequence[Line], *, shaded_until: float | None = None) -> str:
    """A chart with its legend. `shaded_until`: the warm-up on the x axis."""

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            LEFT + x.share(point[0]) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y.share(point[1]) * (HEIGHT - TOP - BOTTOM),
        )

    name = html.escape(title)
    parts = [f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>']
    if shaded_until is not None:
        right = place((shaded_until, 0))[0]
        parts.append(f'<rect class="warm" x="{LEFT}" y="{TOP}" width="{right - LEFT:.1f}" '
                     f'height="{HEIGHT - TOP - BOTTOM}"/>')  # fmt: skip
    parts += _grid(x, y, place)
    for line in lines:
        parts += _drawn(line, place)
    parts.append("</svg>")
    if len(lines) > 1:
        parts.append("<figcaption>" + "".join(_legend(line) for line in lines) + "</figcaption>")
    return "".join([*parts, "</figure>\n"])


def _grid(x: Axis, y: Axis, place: object) -> list[str]:
    assert callable(place)
    parts = []
    for tick in y.ticks():
        at = place((0, tick))[1]
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
                     f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')  # fmt: skip
    for tick in x.ticks():
        at = place((tick, 0))[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(x.label)}'
                 f'</text><text class="label" x="2" y="13">{html.escape(y.label)}</text>')  # fmt: skip
    return parts


def _drawn(line: Line, place: object) -> list[str]:
    assert callable(place)
    points = [place(point) for point in line.points]
    if not points:
        return []
    path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
    parts = [f'<path class="line s{line.style}" d="M{path}"/>']
    if len(points) <= 40:
        parts += [f'<circle class="dot s{line.style}" cx="{a:.1f}" cy="{d:.1f}" r="2"/>' for a, d in points]
    return parts


def _legend(line: Line) -> str:
    sample = f'<svg viewBox="0 0 28 10" aria-hidden="true"><path class="line s{line.style}" d="M0 5H28"/></svg>'
    return f'<span class="key">{sample}{html.escape(line.name)}</span>'
