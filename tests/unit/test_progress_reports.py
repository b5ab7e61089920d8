"""The numbers of progress reports, where threads of a task report at once."""

from __future__ import annotations

from typing import Any

from procbackground._wire import progress as wire
from procbackground._wire.page import ROW
from procbackground._worker import progress


class Words:
    """The words of a page; `meanwhile` runs in the middle of a report, as another thread may."""

    def __init__(self) -> None:
        self.obj = bytearray(wire.BEGIN + (1 << 16))
        self._words = memoryview(self.obj).cast("Q")
        self.meanwhile: Any = None

    def __getitem__(self, place: int) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if place == ROW and meanwhile is not None:
            meanwhile()
        return self._words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self._words[place] = value


class Channel:
    def __init__(self) -> None:
        self.reports: list[wire.Report] = []

    def send(self, kind: int, sequence: int, body: bytes) -> None:
        self.reports.append(wire.unpack(body))


def test_a_thread_that_reports_late_does_not_set_the_numbers_back(monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL_NS", 0)  # each is sent
    words, channel = Words(), Channel()
    reporter = progress.Reporter(channel, words)
    reporter.open(0)

    def report_from_another_thread() -> None:
        for done in range(10):
            reporter.report(1, done, 10, None)

    words.meanwhile = report_from_another_thread
    reporter.report(1, 0, 10, None)
    reporter.report(1, 10, 10, "all")
    numbers = [report.number for report in channel.reports]
    assert len(set(numbers)) == len(numbers) == 12
    assert channel.reports[-1].message == "all"
    assert numbers[-1] == max(numbers)  # the parent drops a report with a number below that of the last one
