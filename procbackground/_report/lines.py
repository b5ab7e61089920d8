"""Reads the figures of a run from the file of events that `JsonLinesObserver` wrote, also while it still writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from procbackground._figures import Figures

KNOWN_FORMAT = 1
_ENDS = {"task_succeeded": "succeeded", "task_failed": "failed", "task_cancelled": "cancelled"}


def figures_of(path: Path) -> Figures:
    """Return the figures of all runs in the file. Raises: `OSError`, `ValueError`."""
    reader = _Reader()
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break  # it is being written, or the disk was full
            try:
                event = json.loads(line)
            except ValueError:
                if number == 1:
                    raise ValueError(f"{path}, line 1: no JSON; this is no file of JsonLinesObserver") from None
                continue  # torn by a full disk; the observer goes on with a new line
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError(f"{path}, line {number}: no event; this is no file of JsonLinesObserver")
            try:
                reader.take(event)
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error!r} in an event {event['event']!r}") from error
    reader.end()
    return reader.figures


class _Reader:
    def __init__(self) -> None:
        self.figures = Figures()
        self._together: dict[Any, list[dict[str, Any]]] = {}  # by pid: successes of one time, which it ran in a row
        self._added_s: dict[Any, float] = {}  # by the task's number in its run
        self._held: dict[Any, int] = {}  # by pid: memory

    def take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "opened":
            if event["format"] > KNOWN_FORMAT:
                raise ValueError(f"format {event['format']} of events is newer than this version of procbackground")
            self._added_s.clear()
            self._held.clear()
        elif kind == "task_added":
            self._added_s[event["id"]] = event["time"]
        elif kind == "task_started":
            added_s = self._added_s.pop(event["id"], None)
            if added_s is not None:
                self.figures.waited(event["task"], max(0.0, event["time"] - added_s))
        elif kind == "task_retrying":
            self.figures.of(event["task"]).retried += 1
            self._take_attempt(event)
        elif kind in _ENDS:
            self._added_s.pop(event["id"], None)
            error = event.get("error")
            told = None if error is None else f"{error['type']}: {error['message']}"[:200]
            self._take_attempt(event)
            self.figures.end(event["task"], _ENDS[kind], told)
        elif kind == "process_sampled":
            self._held[event["pid"]] = event["rss"]
            self.figures.hold(event["time"], sum(self._held.values()))
        elif kind == "process_exited":
            self._held.pop(event["pid"], None)

    def end(self) -> None:
        """Nothing follows."""
        for successes in self._together.values():
            self._add_row(successes)
        self._together.clear()

    def _take_attempt(self, event: dict[str, Any]) -> None:
        began_s, ended_s, pid = event.get("started"), event.get("ended"), event.get("pid")
        if began_s is None or ended_s is None:
            return
        if event.get("outcome") == "succeeded" and pid is not None:
            successes = self._together.setdefault(pid, [])
            if successes and (successes[0]["started"], successes[0]["ended"]) != (began_s, ended_s):
                self._add_row(successes)
                successes.clear()
            successes.append(event)
            return
        self.figures.attempt(
            pid, event["task"], event.get("outcome") or "unknown", began_s, ended_s,
            event.get("cpu_seconds"), event.get("peak_memory"),
        )  # fmt: skip

    def _add_row(self, successes: list[dict[str, Any]]) -> None:
        """Add short tasks of one worker that came back together: each has the time of all, and had its share of it."""
        began_s, ended_s = successes[0]["started"], successes[0]["ended"]
        each_s = (ended_s - began_s) / len(successes)
        for number, event in enumerate(successes):
            self.figures.attempt(
                event["pid"], event["task"], "succeeded", began_s + number * each_s, began_s + (number + 1) * each_s,
                event.get("cpu_seconds"), event.get("peak_memory"),
            )  # fmt: skip
