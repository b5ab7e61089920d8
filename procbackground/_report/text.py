"""The report of a run as text: a table with aligned columns, and lines on the whole."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from procbackground._printable import printable

if TYPE_CHECKING:
    from procbackground._figures import NameFigures
    from procbackground._report.run import RunReport

MOST_NAME_COLUMNS = 60  # of a terminal, that a task's name takes; the page has it in full
LEAST_NAME_COLUMNS = 24  # before figures are left out
LINE_COLUMNS = 200

HEADS = ("task", "succeeded", "failed", "cancelled", "retried", "median", "90 %", "longest", "CPU", "peak", "waited")


def text_of(report: RunReport, width: int | None = None, color: bool = False) -> str:
    """Return the report as text; see `RunReport.text`."""
    names = sorted(report.figures.names.items(), key=lambda item: -item[1].wall.total)
    rows = [row_of(name, figures) for name, figures in names]
    if len(rows) > 1:
        rows.append(row_of("total", report.total()))
    lines = [*lines_of(report), *errors_of(report)]
    return "\n".join([_table(rows, width, color), *(shortened(line, width or LINE_COLUMNS) for line in lines)])


def row_of(name: str, figures: NameFigures) -> list[str]:
    """Return the cells of one name, one for each of `HEADS`."""
    wall = figures.wall
    counts = [f"{figures.ended[how]:,}" for how in ("succeeded", "failed", "cancelled")]
    times = [seconds(wall.quantile(share)) for share in (0.5, 0.9, 1.0)]
    cpu = seconds(figures.cpu.total) if figures.cpu.counts else "-"
    waited = seconds(figures.waited.quantile(0.5))
    return [printable(name), *counts, f"{figures.retried:,}", *times, cpu, size(figures.peak_bytes), waited]


def lines_of(report: RunReport) -> list[str]:
    """Return what is to be said of the run as a whole."""
    speed_up = report.speed_up
    if speed_up is None:
        return ["nothing has run"]
    workers = "1 worker" if report.workers == 1 else f"{report.workers} workers"
    lines = [
        f"{seconds(report.seconds)} with {workers}, busy {speed_up / report.workers:.0%} of it: {speed_up:.2f} times "
        "one worker"
    ]
    attempts = report.total().attempts
    failed = {outcome: count for outcome, count in attempts.items() if outcome != "succeeded" and count}
    if failed:
        lines.append("failed attempts: " + ", ".join(f"{count:,} {outcome}" for outcome, count in failed.items()))
    return lines


def errors_of(report: RunReport) -> list[str]:
    """Return the first errors of each name."""
    return [printable(f"{name}: {error}") for name, figures in report.figures.names.items() for error in figures.errors]


def seconds(duration_s: float | None) -> str:
    """Return a duration for people, or "-" where it is not known."""
    if duration_s is None:
        return "-"
    for limit_s, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (100, 1, "s")):
        if duration_s < limit_s:
            return f"{duration_s * factor:.3g} {unit}"
    minutes, rest_s = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest_s:02} s"


def size(bytes_: int | None) -> str:
    """Return a size for people, or "-" where it is not known."""
    if bytes_ is None:
        return "-"
    if bytes_ < 1000 * 2**10:
        return f"{bytes_ / 2**10:.3g} KiB"
    return f"{bytes_ / 2**20:.3g} MiB" if bytes_ < 1000 * 2**20 else f"{bytes_ / 2**30:.3g} GiB"


def shortened(text: str, columns: int) -> str:
    """Return `text` as one line that takes so many columns of a terminal at the most."""
    line = printable(text)
    if columns_of(line) <= columns:
        return line
    while columns_of(line) >= columns:
        line = line[:-1]
    return f"{line}…"


def columns_of(line: str) -> int:
    """Return how many columns of a terminal a line takes: two for a wide character, none for an accent of its own."""
    return sum(map(_columns_of_one, line))


def _columns_of_one(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _table(rows: list[list[str]], width: int | None, color: bool) -> str:
    """Return the table as aligned columns; where `width` is too small for all, without the last ones."""
    columns = list(zip(HEADS, *rows, strict=True))
    widths = [max(map(columns_of, column)) for column in columns]
    most = MOST_NAME_COLUMNS
    if width is not None:
        most = min(most, max(LEAST_NAME_COLUMNS, width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    columns[0] = tuple(shortened(name, most) for name in columns[0])
    widths[0] = max(map(columns_of, columns[0]))
    while width is not None and len(widths) > 2 and sum(widths) + 2 * (len(widths) - 1) > width:
        columns.pop()
        widths.pop()
    aligned = [
        [_padded(cell, broad, is_number=number > 0) for cell in column]
        for number, (column, broad) in enumerate(zip(columns, widths, strict=True))
    ]
    lines = ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
    if color:
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return "\n".join(lines)


def _padded(cell: str, columns: int, *, is_number: bool) -> str:
    space = " " * (columns - columns_of(cell))
    return space + cell if is_number else cell + space
