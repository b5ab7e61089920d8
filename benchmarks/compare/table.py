"""Table: the comparison as text for people and as JSON for programs.

Last stop: `__main__` prints the one and writes the other.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.compare.pairs import WORSE_BELOW, Row
from benchmarks.compare.sides import Side
from benchmarks.isolation import Result
from benchmarks.report.as_markdown import number

FORMAT = 1
HEADER = ("measure", "unit", "old", "new", "new/old", "min..max", "")
MARK = "WORSE"
NUMERIC = frozenset({2, 3, 4, 5})  # columns that are aligned to the right


def text_of(rows: Sequence[Row], failures: Sequence[Result]) -> str:
    """Return the table, what the mark means if there is one, and the runs that failed."""
    cells = [HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place in NUMERIC else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    if any(row.is_worse for row in rows):
        lines.append(f"{MARK}: the new version was below {WORSE_BELOW} of the old one in every repetition")
    lines.extend(f"failed: {failure.run.label}: {failure.error}" for failure in failures)
    return "\n".join(lines)


def json_of(rows: Iterable[Row], failures: Iterable[Result], sides: Iterable[Side], facts: Mapping[str, object]) -> str:
    """Return the whole comparison, every reading included; `facts` say how, when and on what it was made."""
    document = {
        "format": FORMAT,
        **facts,
        "sides": {
            side.name: {"asked": side.asked, "python": side.home.python, "package": side.package} for side in sides
        },
        "rows": [
            {
                "measure": row.measure.name,
                "title": row.measure.title,
                "metric": row.metric.key,
                "unit": row.metric.unit,
                "higher_is_better": row.metric.higher_is_better,
                "median_old": row.median_old,
                "median_new": row.median_new,
                "ratio": row.ratio,
                "least_ratio": min(row.paired_ratios, default=None),
                "greatest_ratio": max(row.paired_ratios, default=None),
                "is_worse": row.is_worse,
                "old": list(row.old),
                "new": list(row.new),
                "paired_ratios": row.paired_ratios,
            }
            for row in rows
        ],
        "failures": [{"run": failure.run.label, "error": failure.error} for failure in failures],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    # The metric is named where a measure has several.
    name = row.measure.name if len(row.measure.metrics) == 1 else f"{row.measure.name}, {row.metric.title}"
    ratios = row.paired_ratios
    return (
        name,
        row.metric.unit,
        number(row.median_old),
        number(row.median_new),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        f"{min(ratios):.2f}..{max(ratios):.2f}" if ratios else "-",
        MARK if row.is_worse else "",
    )
