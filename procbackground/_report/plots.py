"""The plots of a report as SVG: when each worker was busy, how many were, and what memory was held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from procbackground._figures import merged
from procbackground._printable import printable
from procbackground._report.text import seconds, size

if TYPE_CHECKING:
    from procbackground._figures import Span
    from procbackground._report.run import RunReport

WIDTH = 960
LEFT, RIGHT = 70, 10  # margins, for the labels
ROW = 18
MOST_ROWS = 64
# Of the names that took longest.
COLORS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#999933", "#44aa99", "#882255")  # told apart by all
OTHER_NAMES = "#777799"
FAILED = "#ee6677"
CANCELLED = "#bbbbbb"


def colors_of(report: RunReport) -> dict[str, str]:
    """Return the names that have a color of their own, with it."""
    names = sorted(report.figures.names.items(), key=lambda item: -item[1].wall.total)
    return {name: color for (name, _), color in zip(names, COLORS, strict=False)}


class _Axis:
    """Times of the run as places from left to right."""

    def __init__(self, began_s: float, ended_s: float) -> None:
        self.began_s = began_s
        self.length_s = max(ended_s - began_s, 1e-6)

    def x(self, when_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (when_s - self.began_s) / self.length_s

    def ticks(self, bottom: float) -> str:
        """Return the labels below the plot: seconds since the begin."""
        step_s = _round_step(self.length_s / 8)
        marks = []
        for number in range(int(self.length_s / step_s) + 1):
            x = self.x(self.began_s + number * step_s)
            marks.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
            label = "0" if not number else seconds(number * step_s)
            marks.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
        return "".join(marks)


def timeline(report: RunReport) -> str:
    """Return the plot with a row for each worker, and a bar for each attempt that it ran."""
    figures = report.figures
    if figures.began_s is None or figures.ended_s is None:
        return ""
    axis = _Axis(figures.began_s, figures.ended_s)
    colors = colors_of(report)
    pids = figures.pids()
    shown = pids[:MOST_ROWS]
    height = ROW * len(shown)
    parts = [axis.ticks(height)]
    for row, pid in enumerate(shown):
        spans = merged((span for span in figures.spans if span.pid == pid), axis.length_s / WIDTH)
        parts.append(f'<text x="{LEFT - 6}" y="{row * ROW + 13}" text-anchor="end">{pid}</text>')
        parts += [_bar(axis, row, span, colors) for span in spans]
    note = ""
    if len(pids) > len(shown):
        note = f"<p>{len(pids) - len(shown)} more processes are not shown.</p>"
    if figures.least_span_s:
        note += f"<p>Attempts shorter than {seconds(figures.least_span_s)} are left out here.</p>"
    return _svg(height + 20, parts, "When each worker process was busy") + note


def _bar(axis: _Axis, row: int, span: Span, colors: Mapping[str, str]) -> str:
    x, end = axis.x(span.began_s), axis.x(span.ended_s)
    color = colors.get(span.name, OTHER_NAMES) if span.outcome == "succeeded" else FAILED
    if span.outcome == "cancelled":
        color = CANCELLED
    words = f"{printable(span.name)}: {span.outcome} after {seconds(span.ended_s - span.began_s)}"
    if span.peak_bytes is not None:
        words += f", {size(span.peak_bytes)}"
    return (
        f'<rect x="{x:.1f}" y="{row * ROW + 2}" width="{max(end - x, 0.7):.1f}" height="{ROW - 4}" fill="{color}">'
        f"<title>{escape(words)}</title></rect>"
    )


def utilisation(report: RunReport) -> str:
    """Return the plot of how many workers were busy."""
    figures = report.figures
    shares = report.utilisation()
    if not shares or figures.began_s is None or figures.ended_s is None:
        return ""
    points = [(when_s, share * report.workers) for when_s, share in shares]
    labels = [(0.0, "0"), (float(report.workers), str(report.workers))]
    return _steps(_Axis(figures.began_s, figures.ended_s), points, figures.ended_s, labels, "Workers that were busy")


def memory(report: RunReport) -> str:
    """Return the plot of what memory was held; nothing where it is not known."""
    figures = report.figures
    if figures.began_s is None or figures.ended_s is None:
        return ""
    points = [(when_s, float(held)) for when_s, held in report.memory() if when_s <= figures.ended_s]
    if not points:
        return ""
    most = max(value for _, value in points) or 1.0
    labels = [(0.0, "0"), (most, size(int(most)))]
    axis = _Axis(min(figures.began_s, points[0][0]), figures.ended_s)
    return _steps(axis, points, figures.ended_s, labels, "Memory of all worker processes")


def _steps(
    axis: _Axis,
    points: Sequence[tuple[float, float]],
    ended_s: float,
    labels: Sequence[tuple[float, str]],
    title: str,
) -> str:
    """Return a plot of a value that changes by steps."""
    height = 120
    top = max(labels[-1][0], 1e-9)

    def y(value: float) -> float:
        return height - (height - 10) * min(value / top, 1.0)

    path = [f"M{axis.x(points[0][0]):.1f},{height}"]
    for (when_s, value), (until_s, _) in zip(points, [*points[1:], (ended_s, 0.0)], strict=True):
        path.append(f"L{axis.x(when_s):.1f},{y(value):.1f}L{axis.x(until_s):.1f},{y(value):.1f}")
    path.append(f"L{axis.x(ended_s):.1f},{height}Z")
    parts = [axis.ticks(height), f'<path d="{"".join(path)}" class="area"/>']
    for value, label in labels:
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    return _svg(height + 20, parts, title)


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<div class="scroll"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
        f"{''.join(parts)}</svg></div>"
    )


def _round_step(step: float) -> float:
    """Return the next of 1, 2 or 5 times a power of ten."""
    power = 1e-6
    while power * 10 <= step:
        power *= 10
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= step), power * 10)
