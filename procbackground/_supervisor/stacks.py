"""Python stacks of workers, taken without waiting: asked for by a signal, and read when they are there.

A dump takes a fraction of a millisecond in a process that runs, and nothing announces its end: it is complete when two
looks in a row see the same. A process that is stopped or swapped out never dumps anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from procbackground import _platform
from procbackground._state.fleet import Worker

LOOK_S = 0.003
GIVE_UP_S = 0.05

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
EXECUTOR = os.path.join(OURS, "_worker", "execute.py")
_FRAME, _EXECUTOR_FRAME = '  File "', f'  File "{EXECUTOR}", '

Taken = Callable[[str | None, str | None], None]  # gets the stacks, or None and the reason why there are none


def shorten(raw: str) -> str:
    """Return the stacks without what is below the call of the task: a dozen frames, the same for every task."""
    kept: list[str] = []  # from the end on
    frames: list[str] = []  # of the thread whose lines are being read: the first call comes first
    has_call = False
    for line in reversed(raw.splitlines(keepends=True)):
        if not line.startswith(_FRAME):
            kept += [*frames, line]
            frames, has_call = [], False
            continue
        if not has_call and line.startswith(_EXECUTOR_FRAME):
            frames, has_call = [], True
        frames.append(line)
    return "".join(reversed(kept + frames))


class _Dump:
    __slots__ = ("give_up_s", "look_s", "seen", "then")

    def __init__(self, now_s: float, then: Taken) -> None:
        self.look_s = now_s + LOOK_S
        self.give_up_s = now_s + GIVE_UP_S
        self.seen: str | None = None
        self.then = [then]


class StackDumps:
    """The dumps that are under way, one for each worker."""

    def __init__(self) -> None:
        self.dumps: dict[Worker, _Dump] = {}

    def take(self, worker: Worker, now_s: float, then: Taken) -> None:
        """Have `then` called with the worker's stacks: in a few milliseconds, or now where there can be none."""
        dump = self.dumps.get(worker)
        if dump is not None:
            dump.then.append(then)
        elif worker.process is not None and worker.process.ask_for_stack():
            self.dumps[worker] = _Dump(now_s, then)
        else:
            then(None, None)

    @property
    def next_due_s(self) -> float:
        return min((dump.look_s for dump in self.dumps.values()), default=float("inf"))

    def look(self, now_s: float) -> None:
        """Read the dumps that are due for a look."""
        for worker, dump in list(self.dumps.items()):
            if now_s < dump.look_s:
                continue
            seen, dump.seen = dump.seen, worker.process.read_notes()
            is_complete = dump.seen is not None and dump.seen == seen
            if is_complete or now_s >= dump.give_up_s:
                self._finish(worker, None if is_complete else _platform.why_not_running(worker.pid))
            else:
                dump.look_s = now_s + LOOK_S

    def forget(self, worker: Worker) -> None:
        """The worker's process has ended: what it has dumped so far is all."""
        if worker in self.dumps:
            self.dumps[worker].seen = worker.process.read_notes()
            self._finish(worker, None)

    def abandon(self) -> None:
        """The supervisor looks at nothing any more: what has been dumped so far is all."""
        for worker in list(self.dumps):
            self.forget(worker)

    def _finish(self, worker: Worker, reason: str | None) -> None:
        dump = self.dumps.pop(worker)
        stacks = None if dump.seen is None else shorten(dump.seen)
        for then in dump.then:
            then(stacks, reason)
