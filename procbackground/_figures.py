"""The figures of a run, collected while it lasts: how many tasks of each name, how long, how large, and who was busy.

Everything here has a bounded size, whatever the number of tasks, and no clock of its own. The supervisor thread has a
`Figures` and adds to it batch by batch; `_report` makes one from a file of events. Times are those of one clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from procbackground._named import NamedTuple

STEPS = 16  # of a histogram for each doubling: a quantile is within 2.2 % of the truth
MAX_SPANS = 4000
MAX_SLICES = 500
FIRST_SLICE_S = 0.05
MAX_NAMES = 500  # further names share one entry; a name for each task would grow without end
OTHER_NAMES = "(other names)"
KEPT_ERRORS = 3
HANDFUL = 512  # what is noted is added up then: it takes half a millisecond, and no task should wait for longer


class Histogram:
    """Counts of positive numbers in steps that grow with the number."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total: float = 0.0

    def add(self, value: float, count: int = 1) -> None:
        """Add `count` numbers of that value."""
        self.total += value * count
        mantissa, exponent = math.frexp(max(value, 1e-9))
        step = exponent * STEPS + int((mantissa - 0.5) * 2 * STEPS)
        self.counts[step] = self.counts.get(step, 0) + count

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """Return the number that `share` of all are not above, or None without numbers."""
        left = share * self.count
        for step in sorted(self.counts):
            left -= self.counts[step]
            if left <= 1e-9:
                exponent, part = divmod(step, STEPS)
                return math.ldexp(0.5 + (part + 0.5) / (2 * STEPS), exponent)
        return None

    def copy(self) -> Histogram:
        copy = Histogram()
        copy.counts, copy.total = dict(self.counts), self.total
        return copy


class NameFigures:
    """What came of the tasks of one name.

    Attributes:
        ended: tasks by how they ended: "succeeded", "failed", "cancelled". An iteration of a loop that failed counts.
        attempts: attempts by `Outcome`; those are left out that were the first of their task and succeeded.
        wall, cpu: seconds of attempts. CPU time is known of attempts of a millisecond and more.
        waited: seconds that tasks were queued before the first attempt, of those that were.
        peak_bytes: most memory that an attempt held, where it was measured.
        errors: the first messages of failures.
    """

    __slots__ = ("attempts", "cpu", "ended", "errors", "peak_bytes", "retried", "waited", "wall")

    def __init__(self) -> None:
        self.ended: dict[str, int] = {"succeeded": 0, "failed": 0, "cancelled": 0}
        self.attempts: dict[str, int] = {}
        self.retried: int = 0
        self.wall: Histogram = Histogram()
        self.cpu: Histogram = Histogram()
        self.waited: Histogram = Histogram()
        self.peak_bytes: int | None = None
        self.errors: list[str] = []

    def copy(self) -> NameFigures:
        copy = NameFigures()
        copy.ended, copy.attempts, copy.errors = dict(self.ended), dict(self.attempts), list(self.errors)
        copy.retried, copy.peak_bytes = self.retried, self.peak_bytes
        copy.wall, copy.cpu, copy.waited = self.wall.copy(), self.cpu.copy(), self.waited.copy()
        return copy


class Span(NamedTuple):
    """A worker was busy with an attempt, or with several short ones in a row."""

    pid: int
    name: str
    began_s: float
    ended_s: float
    outcome: str
    peak_bytes: int | None


class Figures:
    """Collects. All seconds are of one clock; a copy may be read in another thread.

    What comes with every task is only noted at first, and added up when there is a handful: adding up one takes 20
    calls, a tenth of a round trip. Between two tasks of 20 ms their code is in no cache, and they would be a fifth of
    the parent's CPU time.
    """

    def __init__(self) -> None:
        # Tuples of plain data, which the garbage collector need not follow.
        self._waits: list[tuple[Any, ...]] = []
        self._successes: list[tuple[Any, ...]] = []
        self.names: dict[str, NameFigures] = {}
        self.spans: list[Span] = []  # the longer ones; all, if there are few
        self.least_span_s: float = 0.0  # shorter ones were left out
        self.slice_s: float = FIRST_SLICE_S
        self.busy: dict[int, float] = {}  # by number of slice: seconds that workers were busy in it
        self.memory: dict[int, int] = {}  # by number of slice: most that the processes held together in it
        self.began_s: float | None = None
        self.ended_s: float | None = None

    def of(self, name: str) -> NameFigures:
        """Return the figures of a name, to be added to."""
        found = self.names.get(name)
        if found is None:
            if len(self.names) >= MAX_NAMES:
                name = OTHER_NAMES
            found = self.names.setdefault(name, NameFigures())
        return found

    # -- adding --------------------------------------------------------------------------------------------

    def note_waited(self, *facts: Any) -> None:
        """Have `waited(*facts)` called with a handful of others, before the figures are copied."""
        self._waits.append(facts)

    def note_succeeded(self, *facts: Any) -> None:
        """Have `succeeded(*facts)` called with a handful of others, before the figures are copied."""
        self._successes.append(facts)
        if len(self._successes) >= HANDFUL:
            self._add_noted()

    def _add_noted(self) -> None:
        waits, successes = self._waits, self._successes
        self._waits, self._successes = [], []
        for facts in waits:
            self.waited(*facts)
        for facts in successes:
            self.succeeded(*facts)

    def waited(self, name: str, seconds: float, count: int = 1) -> None:
        """Add `count` tasks that were queued for so long before their first attempt."""
        self.of(name).waited.add(seconds, count)

    def succeeded(
        self,
        pid: int,
        name: str,
        count: int,
        began_s: float,
        ended_s: float,
        cpu_s: float | None = None,
        peak_bytes: int | None = None,
        ended: int = 0,
    ) -> None:
        """Add `count` attempts that one worker ran in a row, each the first of its task, and with success.

        With 0 they are those of a map's chunk, whose rows `rows` counts. `ended` of the tasks have ended with that.
        """
        figures = self.names.get(name) or self.of(name)
        figures.ended["succeeded"] += ended
        if count:
            figures.wall.add((ended_s - began_s) / count, count)
        if cpu_s is not None or peak_bytes is not None:  # of short ones neither is
            self._add_cost(figures, cpu_s, peak_bytes)
        self._add_span(pid, name, began_s, ended_s, "succeeded", peak_bytes)

    def rows(self, name: str, count: int, took_s: float) -> None:
        """Add `count` rows of a map's chunk that succeeded; the time of the worker is added by `succeeded`."""
        figures = self.of(name)
        figures.ended["succeeded"] += count
        if took_s > 0 and count:
            figures.wall.add(took_s / count, count)

    def attempt(
        self,
        pid: int | None,
        name: str,
        outcome: str,
        began_s: float,
        ended_s: float,
        cpu_s: float | None = None,
        peak_bytes: int | None = None,
    ) -> None:
        """Add an attempt of a task whose end is added by `end`."""
        figures = self.of(name)
        figures.attempts[outcome] = figures.attempts.get(outcome, 0) + 1
        figures.wall.add(ended_s - began_s)
        self._add_cost(figures, cpu_s, peak_bytes)
        if pid is not None:
            self._add_span(pid, name, began_s, ended_s, outcome, peak_bytes)

    def end(self, name: str, how: str, error: str | None = None, count: int = 1) -> None:
        """Add tasks that ended; `how` as in `NameFigures.ended`."""
        figures = self.of(name)
        figures.ended[how] += count
        if error is not None and len(figures.errors) < KEPT_ERRORS and error not in figures.errors:
            figures.errors.append(error)

    def hold(self, when_s: float, memory_bytes: int) -> None:
        """Add how much memory all processes held together at that time."""
        number = int(when_s / self.slice_s)
        self.memory[number] = max(self.memory.get(number, 0), memory_bytes)

    def _add_cost(self, figures: NameFigures, cpu_s: float | None, peak_bytes: int | None) -> None:
        if cpu_s is not None:
            figures.cpu.add(cpu_s)
        if peak_bytes is not None:
            figures.peak_bytes = max(figures.peak_bytes or 0, peak_bytes)

    def _add_span(
        self, pid: int, name: str, began_s: float, ended_s: float, outcome: str, peak_bytes: int | None
    ) -> None:
        took_s = max(0.0, ended_s - began_s)
        ended_s = began_s + took_s
        if self.began_s is None or began_s < self.began_s:
            self.began_s = began_s
        if self.ended_s is None or ended_s > self.ended_s:
            self.ended_s = ended_s
        self._add_busy(began_s, ended_s)
        if took_s < self.least_span_s:
            return
        self.spans.append(Span(pid, name, began_s, ended_s, outcome, peak_bytes))
        if len(self.spans) > MAX_SPANS:
            lengths = sorted(each.ended_s - each.began_s for each in self.spans)
            self.least_span_s = max(lengths[MAX_SPANS // 2], 1e-9)
            self.spans = [each for each in self.spans if each.ended_s - each.began_s > self.least_span_s]

    def _add_busy(self, began_s: float, ended_s: float) -> None:
        assert self.began_s is not None
        assert self.ended_s is not None
        while (self.ended_s - self.began_s) / self.slice_s > MAX_SLICES:
            self._widen()
        slice_s, busy = self.slice_s, self.busy
        first, last = int(began_s / slice_s), int(ended_s / slice_s)
        if first == last:
            busy[first] = busy.get(first, 0.0) + ended_s - began_s
            return
        busy[first] = busy.get(first, 0.0) + (first + 1) * slice_s - began_s
        for number in range(first + 1, last):
            busy[number] = busy.get(number, 0.0) + slice_s
        busy[last] = busy.get(last, 0.0) + ended_s - last * slice_s

    def _widen(self) -> None:
        """Make slices twice as wide: their numbers halve."""
        self.slice_s *= 2
        narrow_busy, narrow_memory = self.busy, self.memory
        self.busy, self.memory = {}, {}
        for number, seconds in narrow_busy.items():
            self.busy[number // 2] = self.busy.get(number // 2, 0.0) + seconds
        for number, memory_bytes in narrow_memory.items():
            self.memory[number // 2] = max(self.memory.get(number // 2, 0), memory_bytes)

    # -- reading -------------------------------------------------------------------------------------------

    def copy(self) -> Figures:
        """Return a copy, which later additions do not change."""
        self._add_noted()
        copy = Figures()
        copy.__dict__.update(self.__dict__)
        copy._waits, copy._successes = [], []
        copy.names = {name: figures.copy() for name, figures in self.names.items()}
        copy.spans, copy.busy, copy.memory = list(self.spans), dict(self.busy), dict(self.memory)
        return copy

    @property
    def busy_s(self) -> float:
        """Seconds that workers were busy, all together."""
        return sum(self.busy.values())

    def pids(self) -> list[int]:
        """Return the workers of the spans that were kept, in the order in which they began."""
        return list(dict.fromkeys(span.pid for span in sorted(self.spans, key=lambda span: span.began_s)))

    def most_at_once(self) -> int:
        """Return how many workers were busy at once, at the most, as far as the spans that were kept say."""
        changes: list[tuple[float, int]] = []
        ended_s: dict[int, float] = {}  # by worker: attempts that are answered together overlap
        for span in sorted(self.spans, key=lambda span: span.began_s):
            began_s = max(span.began_s, ended_s.get(span.pid, span.began_s))
            if span.ended_s > began_s:
                ended_s[span.pid] = span.ended_s
                changes += [(began_s, 1), (span.ended_s, -1)]
        return max(accumulate(change for _, change in sorted(changes)), default=0)


def merged(spans: Iterable[Span], gap_s: float) -> list[Span]:
    """Return spans of one worker, those of one name and outcome as one where less than `gap_s` is between them."""
    result: list[Span] = []
    for span in sorted(spans, key=lambda span: span.began_s):
        last = result[-1] if result else None
        if (
            last is not None
            and (last.name, last.outcome) == (span.name, span.outcome)
            and span.began_s - last.ended_s < gap_s
        ):
            result[-1] = last._replace(ended_s=max(last.ended_s, span.ended_s))
        else:
            result.append(span)
    return result
