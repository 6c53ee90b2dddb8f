"""FPS against mIoU as inline SVG, coloured by the style sheet of the page that holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 66, WIDTH - 18, 18, HEIGHT - 54
LETTER, LINE = 7.4, 15  # widest mean letter and line height of the labels' 12-pixel type, in pixels
RADIUS = 6


@dataclass(frozen=True)
class Point:
    """One candidate: name and detail are the two lines of its label; low to high is the interval of its FPS.

    group: candidates are compared with those of their own group only, because groups come from different machines.
    """

    name: str
    detail: str
    fps: float
    low: float
    high: float
    miou: float
    group: int = 0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from (left, top) to (right, bottom)."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Common area in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)

    def area(self) -> float:
        """Width times height in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


FRAME = Box(LEFT, TOP, RIGHT, BOTTOM)


def nice_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """About `wanted` round values (1, 2 or 5 times a power of ten apart) that enclose low and high."""
    raw = (high - low) / (wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def pareto(points: Sequence[Point]) -> list[bool]:
    """True where no other point of the group is at least as fast and as accurate, and better in one of the two."""
    return [
        not any(
            q.group == p.group and q.fps >= p.fps and q.miou >= p.miou and (q.fps > p.fps or q.miou > p.miou)
            for q in points
        )
        for p in points
    ]


def scatter(points: Sequence[Point]) -> str:
    """The plot as one <svg> element; `points` holds one or more."""
    x_ticks = nice_ticks(0, 1.05 * max(p.high for p in points), 8)
    worst, best = min(p.miou for p in points), max(p.miou for p in points)
    margin = max(0.25 * (best - worst), 0.5)
    y_ticks = nice_ticks(max(worst - margin, 0), min(best + margin, 100))

    def at(fps: float, miou: float) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * (fps - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return x, BOTTOM - (BOTTOM - TOP) * (miou - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    front = pareto(points)
    placed = [at(p.fps, p.miou) for p in points]
    bars = [(at(p.low, p.miou)[0], at(p.high, p.miou)[0]) for p in points]
    parts = _axes(x_ticks, y_ticks, at)
    for group in sorted({p.group for p in points}):
        line = sorted(
            xy for p, xy, on_front in zip(points, placed, front, strict=True) if on_front and p.group == group
        )
        parts.append(f'<polyline class="front" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}"/>')
    boxes = place_labels(points, placed, bars)
    for point, (x, y), (low, high), on_front, box in zip(points, placed, bars, front, boxes, strict=True):
        parts.append(_mark(point, x, y, low, high, on_front))
        parts.append(_label(point, x, y, box))
    title = "Throughput in frames per second against mIoU, one point per candidate"
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def place_labels(
    points: Sequence[Point], placed: Sequence[tuple[float, float]], bars: Sequence[tuple[float, float]]
) -> list[Box]:
    """A box per label, in order: near its point, inside the frame, clear of all marks and of the other labels."""
    marks = [
        Box(min(low, x - RADIUS), y - RADIUS, max(high, x + RADIUS), y + RADIUS)
        for (x, y), (low, high) in zip(placed, bars, strict=True)
    ]
    boxes: list[Box] = []
    for point, mark in zip(points, marks, strict=True):
        width = LETTER * max(len(point.name), len(point.detail))
        boxes.append(min(_places(mark, width), key=lambda box: _cost(box, mark, marks, boxes)))
    return boxes


def _places(mark: Box, width: float) -> list[Box]:
    x, y, height = (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2, 2 * LINE
    places = []
    for gap in (5, 16, 30, 48, 70, 96, 126, 160):
        for dx in (1, -1, 0):
            for dy in (0, -1, 1):
                left = {1: mark.right + gap, -1: mark.left - gap - width, 0: x - width / 2}[dx]
                top = {0: y - height / 2, -1: mark.top - gap - height, 1: mark.bottom + gap}[dy]
                if dx or dy:
                    places.append(Box(left, top, left + width, top + height))
    return places


def _cost(box: Box, mark: Box, marks: Sequence[Box], labels: Sequence[Box]) -> float:
    # Any overlap outweighs every distance: square pixels count 1000 times a pixel.
    hidden = box.area() - box.overlap(FRAME) + sum(box.overlap(other) for other in (*marks, *labels))
    return 1000 * hidden + _distance(box, (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2)


def _distance(box: Box, x: float, y: float) -> float:
    return math.hypot(max(box.left - x, 0, x - box.right), max(box.top - y, 0, y - box.bottom))


def _mark(point: Point, x: float, y: float, low: float, high: float, on_front: bool) -> str:
    ends = "".join(f'<line x1="{end:.1f}" x2="{end:.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>' for end in (low, high))
    figures = f"{point.fps:.3g} FPS ({point.low:.3g} to {point.high:.3g}), mIoU {point.miou:.2f}"
    text = f"{point.name}, {point.detail}: {figures}"
    return (
        f'<g class="{"mark pareto" if on_front else "mark"}"><title>{escape(text)}</title>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>{ends}'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/></g>'
    )


def _label(point: Point, x: float, y: float, box: Box) -> str:
    # Toward the point the text is flush, so that its true width does not change the gap.
    right_of, left_of = box.left >= x, box.right <= x
    anchor, at = (
        ("start", box.left) if right_of else ("end", box.right) if left_of else ("middle", (box.left + box.right) / 2)
    )
    leader = ""
    if _distance(box, x, y) > 3 * RADIUS:
        end_x, end_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
        leader = f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{end_x:.1f}" y2="{end_y:.1f}"/>'
    for i, (kind, text) in enumerate((("name", point.name), ("detail", point.detail))):
        place = f'text-anchor="{anchor}" x="{at:.1f}" y="{box.top + 12 + i * LINE:.1f}"'
        leader += f'<text class="{kind}" {place}>{escape(text)}</text>'
    return leader


def _axes(x_ticks: list[float], y_ticks: list[float], at) -> list[str]:  # type: ignore[no-untyped-def]
    parts = []
    for fps in x_ticks:
        x = at(fps, y_ticks[0])[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>')
        parts.append(f'<text class="tick x" text-anchor="middle" x="{x:.1f}" y="{BOTTOM + 18}">{fps:g}</text>')
    for miou in y_ticks:
        y = at(0, miou)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick y" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{miou:g}</text>')
    middle_x, middle_y = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>')
    parts.append(f'<text class="title" text-anchor="middle" x="{middle_x}" y="{HEIGHT - 10}">frames per second</text>')
    turn = f'transform="rotate(-90 16 {middle_y})"'
    return [*parts, f'<text class="title" text-anchor="middle" x="16" y="{middle_y}" {turn}>mIoU in %</text>']
