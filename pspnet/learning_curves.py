"""Curves over the epochs of training runs, with the range over their seeds, as a picture of its own (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pspnet.plots import nice_ticks

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 62, WIDTH - 240, 18, HEIGHT - 52
NAME_LINE = 17  # height of a name beside the plot, in pixels
LONGEST_NAME = 30

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#56b4e9", "#8c6d1f", "#444444")
"""Okabe and Ito's colours, which are told apart with colour blindness, the pale ones replaced."""

DASHES = ("", "7 4", "2 3")
"""Of the lines, so that many recipes and a black-and-white print are told apart, too."""

STYLE = (
    "svg{background:#fff;font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1b1f24}.grid{stroke:#e2e6ea}"
    ".axis{stroke:#5c6670;fill:none}.tick,.title{fill:#5c6670}.line{fill:none;stroke-width:2}.range{opacity:.14}"
)


@dataclass(frozen=True)
class Line:
    """Values per epoch of every seed, in percent; runs may be of different lengths."""

    name: str
    runs: tuple[tuple[float, ...], ...]

    def columns(self) -> list[list[float]]:
        """For each epoch the values of the seeds that reached it."""
        return [[run[i] for run in self.runs if i < len(run)] for i in range(max(map(len, self.runs)))]

    def means(self) -> list[float]:
        """Mean over the seeds, epoch by epoch."""
        return [sum(values) / len(values) for values in self.columns()]


def learning_curves(lines: Sequence[Line], x_title: str, y_title: str) -> str:
    """One <svg>: per line its mean, and where there are several seeds their range as a band; names at the lines' ends.

    lines: one or more, each with a run of one epoch or more. The x axis counts epochs from 1.
    """
    values = [value for line in lines for run in line.runs for value in run]
    longest = max(len(line.columns()) for line in lines)
    x_ticks = [tick for tick in nice_ticks(0, max(longest, 2), 8) if tick == int(tick)]
    low, high = min(values), max(values)
    y_ticks = nice_ticks(low, high if high > low else low + 1)

    def at(epoch: float, value: float) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * epoch / x_ticks[-1]
        return x, BOTTOM - (BOTTOM - TOP) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    parts = [f"<style>{STYLE}</style>", *_axes(x_ticks, y_ticks, x_title, y_title)]
    ends = []
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        columns, means = line.columns(), line.means()
        if len(line.runs) > 1:
            upper = [at(epoch, max(column)) for epoch, column in enumerate(columns, 1)]
            lower = [at(epoch, min(column)) for epoch, column in enumerate(columns, 1)]
            parts.append(f'<polygon class="range" fill="{colour}" points="{_points([*upper, *reversed(lower)])}"/>')
        mean = [at(epoch, value) for epoch, value in enumerate(means, 1)]
        stroke = f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
        title = escape(f"{line.name}: {means[-1]:.2f} after epoch {len(means)}")
        # A line of one point has no length: the dot at its end shows it.
        parts.append(f'<polyline class="line" {stroke} points="{_points(mean)}"><title>{title}</title></polyline>')
        parts.append(f'<circle cx="{mean[-1][0]:.1f}" cy="{mean[-1][1]:.1f}" r="3" fill="{colour}"/>')
        ends.append((mean[-1][1], f"{_short(line.name)} {means[-1]:.1f}", colour, mean[-1]))
    parts += _names(ends)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    label = escape(f"{y_title} over the {x_title}", quote=True)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">{"".join(parts)}</svg>\n'


def _axes(x_ticks: list[float], y_ticks: list[float], x_title: str, y_title: str) -> list[str]:
    parts = []
    for tick in x_ticks:
        x = LEFT + (RIGHT - LEFT) * tick / x_ticks[-1]
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{BOTTOM + 18}">{tick:g}</text>')
    for tick in y_ticks:
        y = BOTTOM - (BOTTOM - TOP) * (tick - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick:g}</text>')
    middle = ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)
    turned = f'transform="rotate(-90 16 {middle[1]})"'
    return [
        *parts, f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
        f'<text class="title" text-anchor="middle" x="{middle[0]}" y="{HEIGHT - 12}">{escape(x_title)}</text>',
        f'<text class="title" text-anchor="middle" x="16" y="{middle[1]}" {turned}>{escape(y_title)}</text>',
    ]  # fmt: skip


def _names(ends: list[tuple[float, str, str, tuple[float, float]]]) -> list[str]:
    """The names beside the plot, in the order of the lines' ends and clear of each other."""
    ends = sorted(ends)
    places = [y for y, *_ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + NAME_LINE)
    over = max(places[-1] - (HEIGHT - NAME_LINE), 0)
    for i in reversed(range(len(places))):  # the lowest moves up into the picture, and pushes those above it
        limit = places[i] - over if i == len(places) - 1 else places[i + 1] - NAME_LINE
        places[i] = min(places[i], limit)
    parts = []
    for place, (_, text, colour, (x, y)) in zip(places, ends, strict=True):
        parts.append(f'<path d="M{x + 5:.1f} {y:.1f}L{RIGHT + 12} {place:.1f}" stroke="{colour}" opacity=".5"/>')
        parts.append(f'<text fill="{colour}" x="{RIGHT + 16}" y="{place + 4:.1f}">{escape(text)}</text>')
    return parts


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
