"""The report of a run: what `Manager.report` returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from procbackground._figures import Figures, Histogram, NameFigures

QUANTILES = (0.5, 0.9, 0.99)


class RunReport:
    """The figures of a run up to now, or up to its end.

    Get it by `Manager.report()`, or by `RunReport.of_events(path)` from a file that `JsonLinesObserver` has written.
    Printing it prints `text()`.
    """

    def __init__(self, figures: Figures, workers: int | None = None, to_wall_s: float = 0.0) -> None:
        self._figures = figures
        self._workers = workers
        self._to_wall_s = to_wall_s  # from the clock of the figures to `time.time()`

    @classmethod
    def of_events(cls, path: str | os.PathLike[str]) -> RunReport:
        """Return the report of the runs whose events are in a file of JSON lines.

        Raises: `OSError`; `ValueError` with the number of the line, for a file that is none of `JsonLinesObserver`.
        """
        from procbackground._report.lines import figures_of

        return cls(figures_of(Path(path)))

    # -- figures -------------------------------------------------------------------------------------------

    @property
    def figures(self) -> Figures:
        """The figures themselves, for the modules of this package."""
        return self._figures

    @property
    def workers(self) -> int:
        """How many workers could be busy at once: the manager's `max_workers`, or else the most that were."""
        return self._workers or self._figures.most_at_once() or 1

    @property
    def seconds(self) -> float:
        """From the start of the first attempt to the end of the last one."""
        figures = self._figures
        return 0.0 if figures.began_s is None or figures.ended_s is None else figures.ended_s - figures.began_s

    @property
    def speed_up(self) -> float | None:
        """How many workers were busy in the mean: the attempts' time, by the time that passed. None before any."""
        return self._figures.busy_s / self.seconds if self.seconds > 0 else None

    def total(self) -> NameFigures:
        """Return the figures of all names together."""
        total = NameFigures()
        for figures in self._figures.names.values():
            for counts, more in ((total.ended, figures.ended), (total.attempts, figures.attempts)):
                for key, count in more.items():
                    counts[key] = counts.get(key, 0) + count
            total.retried += figures.retried
            for own, other in ((total.wall, figures.wall), (total.cpu, figures.cpu), (total.waited, figures.waited)):
                own.total += other.total
                for step, count in other.counts.items():
                    own.counts[step] = own.counts.get(step, 0) + count
            if figures.peak_bytes is not None:
                total.peak_bytes = max(total.peak_bytes or 0, figures.peak_bytes)
            total.errors += [error for error in figures.errors if error not in total.errors]
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict of plain values, which `json` can write.

        `began` and `ended` are as `time.time()`, all else in seconds and bytes. Durations have `count`, `sum` and the
        quantiles `p50`, `p90`, `p99` and `max`, which are within 2.2 % of the truth; they are None without a count.
        `utilisation` and `memory` are lists of pairs of a time and what was seen until the next: the share of the
        workers that were busy, and the bytes that all processes held together: by samples in a file of events, else
        the sum of the peaks of the attempts that ran.
        """
        figures = self._figures
        to_wall = self._to_wall_s
        return {
            "began": None if figures.began_s is None else figures.began_s + to_wall,
            "ended": None if figures.ended_s is None else figures.ended_s + to_wall,
            "seconds": self.seconds,
            "workers": self.workers,
            "busy_seconds": figures.busy_s,
            "speed_up": self.speed_up,
            "total": _named(self.total()),
            "tasks": {name: _named(each) for name, each in figures.names.items()},
            "utilisation": [(when_s + to_wall, share) for when_s, share in self.utilisation()],
            "memory": [(when_s + to_wall, held) for when_s, held in self.memory()],
            "attempts": [
                {
                    "pid": span.pid,
                    "task": span.name,
                    "began": span.began_s + to_wall,
                    "ended": span.ended_s + to_wall,
                    "outcome": span.outcome,
                    "peak_memory": span.peak_bytes,
                }
                for span in sorted(figures.spans, key=lambda span: span.began_s)
            ],
            "shorter_attempts_left_out": figures.least_span_s,
        }

    def utilisation(self) -> list[tuple[float, float]]:
        """Return pairs of a time and the share of the workers that were busy from then on, up to the next."""
        figures = self._figures
        if figures.began_s is None or figures.ended_s is None:
            return []
        slice_s = figures.slice_s
        shares: list[tuple[float, float]] = []
        for number in range(int(figures.began_s / slice_s), int(figures.ended_s / slice_s) + 1):
            begin_s = max(number * slice_s, figures.began_s)
            length_s = min((number + 1) * slice_s, figures.ended_s) - begin_s
            busy_s = figures.busy.get(number, 0.0)
            shares.append((begin_s, min(1.0, busy_s / (length_s * self.workers)) if length_s > 1e-9 else 0.0))
        return shares

    def memory(self) -> list[tuple[float, int]]:
        """Return pairs of a time and the bytes that were held from then on, up to the next."""
        figures = self._figures
        slice_s = figures.slice_s
        if figures.memory or figures.began_s is None:
            return [(number * slice_s, held) for number, held in sorted(figures.memory.items())]
        peaks: dict[int, dict[int, int]] = {}  # of each process, by number of slice
        for span in figures.spans:
            if span.peak_bytes:
                for number in range(int(span.began_s / slice_s), int(span.ended_s / slice_s) + 1):
                    of_slice = peaks.setdefault(number, {})
                    of_slice[span.pid] = max(of_slice.get(span.pid, 0), span.peak_bytes)
        numbers = range(min(peaks), max(peaks) + 2) if peaks else ()
        return [(max(number * slice_s, figures.began_s), sum(peaks.get(number, {}).values())) for number in numbers]

    # -- for people ----------------------------------------------------------------------------------------

    def text(self, width: int | None = None, *, color: bool = False) -> str:
        """Return the report as text: a table of the task names, and lines on the whole.

        Args:
            width: of the terminal; columns of the table that do not fit are left out. By default there is room for all.
            color: with a bold head, by the codes of a terminal.
        """
        from procbackground._report.text import text_of

        return text_of(self, width, color)

    def html(self, path: str | os.PathLike[str]) -> None:
        """Write the report to `path` as one page, which needs no other file and no network. Raises: `OSError`."""
        from procbackground._report.page import page_of

        Path(path).write_text(page_of(self), encoding="utf-8")

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        ended = self.total().ended
        return f"<RunReport of {sum(ended.values())} tasks in {self.seconds:.3g} s>"


def _named(figures: NameFigures) -> dict[str, Any]:
    return {
        **figures.ended,
        "retried": figures.retried,
        "attempts": dict(figures.attempts),
        "wall_seconds": _durations(figures.wall),
        "cpu_seconds": _durations(figures.cpu),
        "waited_seconds": _durations(figures.waited),
        "peak_memory": figures.peak_bytes,
        "errors": list(figures.errors),
    }


def _durations(histogram: Histogram) -> dict[str, float | None]:
    quantiles = {f"p{share * 100:g}": histogram.quantile(share) for share in QUANTILES}
    return {"count": histogram.count, "sum": histogram.total, **quantiles, "max": histogram.quantile(1.0)}
