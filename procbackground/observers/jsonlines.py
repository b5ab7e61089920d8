"""Writes events as JSON lines: one object for each event, in one write, so that the file can be followed."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from typing import IO, Any

from procbackground import events
from procbackground._log import logger
from procbackground.errors import repr_of
from procbackground.observers.base import Observer

LONGEST_INT = 2000  # bits: Python refuses to write numbers of some thousand digits
FORMAT = 1  # of the lines; a reader ignores fields that it does not know


class JsonLinesObserver(Observer):
    """Appends a JSON object for each event to a file. `procbackground` never reads it; other programs may follow it.

    Every object has `time` (seconds since 1970) and `event` (the method's name without `on_`, such as "task_failed").
    The first line of a manager's run, "opened", has `format` (1) and `pid`, the manager's.

    Events of tasks have `id` (a number within this run), `task` (the name) and `attempt`. Besides,

        task_added      `meta`, if the task has any; values that JSON has not are written as their `repr`
        task_started    `pid`
        task_progress   `done`, `total`, `message`
        task_output     `line`, `stream` ("stdout", "stderr", or null where both are one)
        task_stalled    `silent_for` in seconds, `stack`
        task_retrying   `error`, `delay` in seconds, and the figures of the attempt
        task_succeeded  the figures of the last attempt
        task_failed     `error`, and the figures of the last attempt
        task_cancelled  the figures of the last attempt, if there was one

    The figures are `pid`, `outcome` (of `Outcome`), `started` and `ended` (as `time`), `cpu_seconds`, `peak_memory` in
    bytes and `exit_code`, each null where it is unknown. An `error` is an object of `type`, `message` and `module`.
    Events of processes have `pid`, and `process_exited` has `exit_code`; `process_sampled` is written only with
    `samples`, and has `rss` in bytes, `cpu_percent` and, while it runs a task, `id` and `task`. Results and arguments
    are never written. A number that JSON has not (NaN, infinity) is null.

    The file stays open until the manager closes. To rotate it, copy it and truncate it, as logrotate's `copytruncate`
    does: the next event is written at its new end. A file that is renamed goes on getting the events.

    Args:
        target: a path, to which is appended; or a text stream; standard error by default.
        samples: whether to write the memory and CPU of processes, four times a second.
    """

    def __init__(self, target: str | os.PathLike[str] | IO[str] | None = None, *, samples: bool = False) -> None:
        self._stream: IO[str] | None = None
        self._path: str | os.PathLike[str] | None = None
        self._fd = -1
        self._is_torn = False  # the last line was not written whole
        self._has_failed = False  # the last write
        if target is None:
            self._stream = sys.stderr
        elif not isinstance(target, (str, os.PathLike)):
            self._stream = target
        else:
            self._path = target
            self._open()  # now, so that a wrong path is an error where it is given
        self._ids: dict[Any, int] = {}
        self._next_id = itertools.count(1)
        self._has_opened = False
        if samples:
            setattr(self, "on_process_sampled", self._process_sampled)  # noqa: B010  # an observer that has it wants it

    # -- tasks ---------------------------------------------------------------------------------------------

    def on_task_added(self, event: events.TaskAdded) -> None:
        meta = {"meta": dict(event.task.meta)} if event.task.meta else {}
        self._task(event, meta)

    def on_task_started(self, event: events.TaskStarted) -> None:
        self._task(event, {"pid": event.pid})

    def on_task_progress(self, event: events.TaskProgress) -> None:
        self._task(event, {"done": event.done, "total": event.total, "message": event.message})

    def on_task_output(self, event: events.TaskOutput) -> None:
        self._task(event, {"line": event.line, "stream": event.stream})

    def on_task_stalled(self, event: events.TaskStalled) -> None:
        self._task(event, {"silent_for": event.silent_for, "stack": event.stack})

    def on_task_retrying(self, event: events.TaskRetrying) -> None:
        figures = _figures_of(event.handle, event.attempt)
        self._task(event, {"error": _error(event.error), "delay": event.delay, **figures})

    def on_task_reassigned(self, event: events.TaskReassigned) -> None:
        self._task(event, {"pid": event.pid, "node": event.node, "lost_node": event.lost_node})

    def on_task_succeeded(self, event: events.TaskSucceeded) -> None:
        self._task(event, _figures_of(event.handle))

    def on_task_failed(self, event: events.TaskFailed) -> None:
        self._task(event, {"error": _error(event.error), **_figures_of(event.handle)})

    def on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._task(event, _figures_of(event.handle))

    # -- processes and the manager -------------------------------------------------------------------------

    def on_process_started(self, event: events.ProcessStarted) -> None:
        self._write(event, {"pid": event.pid})

    def _process_sampled(self, event: events.ProcessSampled) -> None:
        sample = event.sample
        facts: dict[str, Any] = {"pid": event.pid, "rss": sample.rss, "cpu_percent": sample.cpu_percent}
        if event.handle is not None and event.task is not None:
            facts |= {"id": self._ids.get(event.handle), "task": event.task.name}
        self._write(event, facts)

    def on_process_exited(self, event: events.ProcessExited) -> None:
        self._write(event, {"pid": event.pid, "exit_code": event.exit_code})

    def on_admission_held(self, event: events.AdmissionHeld) -> None:
        facts = {"reason": event.reason, "free": event.free, "min_free": event.min_free, "error": _error(event.error)}
        self._write(event, facts)

    def on_admission_resumed(self, event: events.AdmissionResumed) -> None:
        self._write(event, {"reason": event.reason, "held_for": event.held_for, "free": event.free})

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        report = event.report
        names = ("finished", "cancelled", "stopped", "killed", "leftovers", "left", "seconds")
        self._write(event, {name: getattr(report, name) for name in names})
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._has_opened = -1, False

    # -- writing -------------------------------------------------------------------------------------------

    def _task(self, event: Any, facts: dict[str, Any]) -> None:
        handle = event.handle
        number = self._ids.get(handle)
        if number is None:
            number = self._ids[handle] = next(self._next_id)
        self._write(event, {"id": number, "task": event.task.name, "attempt": event.attempt, **facts})
        is_end = isinstance(event, (events.TaskSucceeded, events.TaskFailed, events.TaskCancelled))
        if is_end and handle.done():  # for a loop, a failed iteration is not the end
            self._ids.pop(handle, None)

    def _open(self) -> None:
        assert self._path is not None
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _write(self, event: Any, facts: dict[str, Any]) -> None:
        line = _encode({"time": event.time, "event": _NAMES[type(event)], **facts})
        if not self._has_opened:
            self._has_opened = True
            line = _encode({"time": event.time, "event": "opened", "format": FORMAT, "pid": os.getpid()}) + line
        if self._stream is not None:
            self._stream.write(line)
            self._stream.flush()
            return
        if self._fd < 0:
            self._open()  # the observer of an earlier manager
        data = line.encode("ascii")
        if self._is_torn:
            data = b"\n" + data  # the disk was full, and is not any more
        self._is_torn = True
        try:
            self._is_torn = os.write(self._fd, data) != len(data)
        except OSError as error:
            if not self._has_failed:  # once, and not for each event
                logger.error("events cannot be written to %r, and are lost meanwhile: %s", self._path, error.strerror)
            self._has_failed = True
        else:
            self._has_failed = False


_NAMES = {cls: name.removeprefix("on_") for name, cls in events.BY_METHOD.items()}


def _figures_of(handle: Any, number: int | None = None) -> dict[str, Any]:
    """Return the figures of the last attempt, or of attempt `number`."""
    for attempt in reversed(handle.attempts):
        if number is None or attempt.number == number:
            return {
                "pid": attempt.pid,
                "outcome": attempt.outcome,
                "started": attempt.started,
                "ended": attempt.ended,
                "cpu_seconds": attempt.cpu_seconds,
                "peak_memory": attempt.peak_memory,
                "exit_code": attempt.exit_code,
            }
    return {}


def _error(error: BaseException | None) -> dict[str, str] | None:
    if error is None:
        return None
    try:
        message = str(error)
    except Exception:
        message = f"(an error whose text could not be made: {type(error).__name__})"
    return {"type": type(error).__qualname__, "module": type(error).__module__, "message": message}


def _encode(facts: dict[str, Any]) -> str:
    try:
        return json.dumps(facts, default=repr_of, allow_nan=False) + "\n"
    except Exception:  # of the user's own classes, too
        return json.dumps(_plain(facts), allow_nan=False) + "\n"


def _plain(value: Any, depth: int = 0) -> Any:
    """Return what JSON can hold of `value`."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and value.bit_length() <= LONGEST_INT:
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth < 20 and isinstance(value, dict):
        return {
            str(key) if isinstance(key, str) else repr_of(key): _plain(each, depth + 1) for key, each in value.items()
        }
    if depth < 20 and isinstance(value, (list, tuple)):
        return [_plain(each, depth + 1) for each in value]
    return repr_of(value)[:1000]
