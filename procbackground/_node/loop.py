"""The supervisor of a node: a manager's, but that nothing is loaded, judged or kept here: all is reported pickled.

Jobs are made from requests. What a manager does with answers, messages and events, these parts turn into reports; which
attempt is run where and when, limits, and how processes end are the same code.
"""

from __future__ import annotations

import _thread
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from procbackground._state import commands as c
from procbackground._state.fleet import GONE, Worker
from procbackground._state.job import Job
from procbackground._supervisor.answers import Answers
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.judge import Verdict
from procbackground._supervisor.loop import Loop
from procbackground._supervisor.output import Outputs, Pipes
from procbackground._supervisor.settle import Settler
from procbackground._supervisor.supervisor import Supervisor
from procbackground._sync import Sleeper
from procbackground._wire import attempts as w
from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.parcel import ReceivedParcel
from procbackground.errors import SerializationError
from procbackground.handle import Owner, TaskHandle
from procbackground.task import Task

# The pause of a loop after a failed iteration. It does not end: the manager stops the loop, and has the policy.
FOR_EVER_S = 1e9

_RELAYED = frozenset(
    f"on_task_{name}"
    for name in ("started", "progress", "output", "stalled", "retrying", "succeeded", "failed", "cancelled")
)


class NodeHandle(TaskHandle[Any]):
    """The handle of one request: sends its reports, and knows when the request has ended."""

    __slots__ = ("_send", "has_begun", "has_ended", "is_withdrawn", "number", "wants_end")

    def __init__(self, owner: Owner, number: int, name: str, send: Callable[[w.Report], None]) -> None:
        super().__init__(owner, None, Task(_nothing, name=name))
        self.number = number
        self._send = send
        self.has_begun = False
        self.has_ended = False
        self.is_withdrawn = False
        self.wants_end = _thread.allocate_lock()  # released when `NodeAgent.run` has something to do
        self.wants_end.acquire()

    def send(self, kind: str, *facts: Any) -> None:
        """Report something of the running attempt, in the supervisor thread."""
        if not self.has_ended:
            self._send((self.number, kind, *facts))

    def begin(self, pid: int, node: str) -> None:
        """Report that the attempt has begun, unless that is reported."""
        if not self.has_begun:
            self.has_begun = True
            self.send(w.STARTED, pid, node)

    def end(self, kind: str, *facts: Any) -> None:
        """Report the end, the first time."""
        if not self.has_ended:
            self.send(kind, *facts)
            self.has_ended = True
            self.wake()

    def _settle(
        self, state: str, result: Any, exception: BaseException | None, sleepers: list[Sleeper] | None = None
    ) -> bool:
        has_callbacks = super()._settle(state, result, exception, sleepers)
        if exception is not None and not isinstance(exception, Ended):
            self.end(w.REFUSED, dump_failure(exception, frames_to_skip=0))  # the supervisor can run nothing
        return has_callbacks

    def plain_rows(self) -> int:
        """The manager counts the rows of chunks."""
        return 0

    def wake(self) -> None:
        """Let `NodeAgent.run` go on."""
        if self.wants_end.locked():
            self.wants_end.release()


class Ended(Exception):
    """How an attempt ended that returned no value, for the manager to judge."""

    def __init__(self, *report: Any) -> None:
        super().__init__(*report)
        self.report = report


class NodeEvents(Events):
    """Turns events into reports, in the supervisor thread."""

    node: str = ""

    def __init__(self, observers: Iterable[Any], name: str) -> None:
        super().__init__((), name)
        self.wanted = _RELAYED
        self.has_started = self.has_succeeded = self.has_failed = True

    def start(self) -> None:
        """There is no thread of observers."""

    def stop(self, timeout_s: float, is_hurried: Callable[[], bool] = lambda: True) -> bool:
        return True

    def started(self, job: Job, worker: Worker) -> None:
        if job.recipe.is_chunk:
            job.handle.begin(worker.pid, self.node)  # type: ignore[attr-defined]
        else:
            super().started(job, worker)

    def task(self, name: str, job: Job, attempt: int | None = None, **facts: Any) -> None:
        if self._stalls and job in self._stalls:
            self.stall_explained(job, None)
        handle: Any = job.handle
        match name:
            case "on_task_started":
                handle.begin(facts["pid"], self.node)
            case "on_task_progress":
                handle.send(w.PROGRESS, facts["done"], facts["total"], facts["message"])
            case "on_task_stalled":
                handle.send(w.STALLED, facts["silent_for"], facts["stack"])
            case "on_task_retrying":
                handle.wake()  # a loop whose iteration failed, which was reported: it ends here
            case "on_task_succeeded":
                handle.end(*facts["result"])
            case "on_task_failed":
                if isinstance(facts["error"], Ended):
                    handle.end(*facts["error"].report)
            case "on_task_cancelled" if not handle.is_withdrawn:  # else once its processes are gone
                handle.end(w.LOOP_ENDED if job.recipe.is_loop else w.STOPPED)


class NodeSettler(Settler):
    """Has every end reported as it came."""

    def judge(self, command: c.Judge) -> None:
        report = _report_of(command)
        job = command.job
        if command.kind == c.VALUE and report[0] == w.VALUE:
            verdict = Verdict(report, None, None, False)
        elif job.recipe.is_loop and (command.kind != c.FAILURE or command.waits):
            if command.kind == c.FAILURE:
                iterations = 0 if job.history is None else job.history.iterations
                job.handle.send(w.ITERATION, command.body, iterations)  # type: ignore[attr-defined]
                verdict = Verdict(None, Ended(), FOR_EVER_S, False)
            else:
                verdict = Verdict(None, Ended(*report), None, True)  # its process died: so it ends on this node
        else:
            verdict = Verdict(None, Ended(*report), None, True)
        self._take_verdict(command, verdict)


def _report_of(command: c.Judge) -> tuple[Any, ...]:
    """Return kind and facts of the report on the end of an attempt."""
    job, body = command.job, command.body
    cost = w.Cost(max(0.0, time.monotonic() - job.started_s), *(command.cost or (None, None)))
    if command.kind == c.VALUE:
        if type(body) is not ReceivedParcel:
            return w.VALUE, body, False, cost
        stored = body.stored()
        if stored is not None:
            return w.VALUE, stored, True, cost
        refusal = SerializationError("the result holds connections or sockets, which cannot cross to another machine")
        return w.FAILURE, dump_failure(refusal, "result"), cost
    if command.kind == c.FAILURE:
        return w.FAILURE, body, cost
    assert command.worker is not None
    return w.DEATH, command.kind, command.worker.death, job.handle._ended_at_row, cost


class NodeOutputs(Outputs):
    """Reports what attempts write."""

    def _pass_on(self, pipes: Pipes, stream: str | None, lines: list[bytes]) -> None:
        end = b"\n" if pipes.fds else b""  # without descriptors this is the rest, which had no end
        pipes.job.handle.send(w.OUTPUT, stream, b"".join(line + end for line in lines))  # type: ignore[attr-defined]


class NodeAnswers(Answers):
    """Reports the messages of workers."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.outputs = NodeOutputs(self._watches, self._events, self._log_records)

    def take_message(self, worker: Worker, kind: int, sequence: int, body: bytes, current: Job | None) -> None:
        report = _OF_MESSAGE.get(kind)
        if report is None or current is None or current.sequence != sequence:
            super().take_message(worker, kind, sequence, body, current)
            return
        if kind == wire.LOG_RECORD:
            worker.process.note_record(sequence, body)
        current.handle.send(report, body)  # type: ignore[attr-defined]


_OF_MESSAGE = {wire.PARTIAL: w.PART, wire.CHECKPOINT: w.SAVED, wire.LOG_RECORD: w.LOGGED}


class NodeLoop(Loop):
    """The thread of a node's supervisor."""

    make_events = NodeEvents
    make_settler = NodeSettler
    make_answers = NodeAnswers

    def __init__(self, owner: Any, options: Any) -> None:
        super().__init__(owner, options)
        self._withdrawn: dict[Worker, NodeHandle] = {}  # whose processes are being ended

    def withdraw(self, handle: NodeHandle, is_running_too: bool) -> None:
        """End a request, and report that once its processes are gone; see `NodeSupervisor`. In its thread."""
        job = handle._job
        if job is None:
            return  # it has ended
        worker = job.worker
        is_running = worker is not None and worker.current is job
        if is_running and not is_running_too:
            return
        handle.is_withdrawn = True
        if not self.intake.cancel(handle):
            handle.is_withdrawn = False  # its answer is on the way, or it is ending anyway
        elif worker is not None and is_running and worker.state != GONE:
            self._withdrawn[worker] = handle
        else:
            handle.end(w.STOPPED)

    def _carry_out(self, command: c.Command) -> None:
        super()._carry_out(command)
        if isinstance(command, c.ProcessGone) and command.worker in self._withdrawn:
            self._withdrawn.pop(command.worker).end(w.STOPPED)

    def _run(self, passes: deque[None]) -> None:
        try:
            super()._run(passes)
        finally:
            for handle in self._withdrawn.values():
                handle.end(w.STOPPED)  # the supervisor has failed, and hears no more of their processes


class NodeSupervisor(Supervisor):
    """Runs the requests of one manager on this node."""

    make_loop = NodeLoop
    _loop: NodeLoop

    def __init__(self, node: str, **options: Any) -> None:
        super().__init__(**options)
        events: Any = self._loop.events
        events.node = node

    def withdraw(self, handle: NodeHandle, *, is_running_too: bool = True) -> None:
        """End a request, unless it runs and only those that wait are meant. From any thread; does not wait."""
        self._do(lambda: self._loop.withdraw(handle, is_running_too))

    def process_facts(self) -> list[tuple[Any, ...]]:
        """Return of each process the number of its request, or 0, and the facts of its `ProcessInfo` but the task."""
        if not self._loop.is_ready:
            return []
        return [
            (0 if job is None else _number_of(job), info.pid, info.attempt, info.since, info.rss, info.cpu_percent)
            for info, job in self._loop.sampler.sample()
        ]

    def stack_facts(self) -> list[tuple[Any, ...]]:
        """Return of each request that runs its number, for how long, and its raw stacks or why there are none."""
        numbers = self.ask(lambda: {
            worker.pid: _number_of(job)
            for worker in self._loop.scheduler.workers
            if worker.pid and (job := worker.current) is not None
        })  # fmt: skip
        return [
            (numbers[each.pid], each.running_for_s, each.raw_stack, each.reason)
            for each in self.stacks()
            if each.pid in numbers
        ]


def _number_of(job: Job) -> int:
    handle: Any = job.handle
    number: int = handle.number
    return number


def _nothing() -> None:
    """Stands in for the function of a request, which only the child loads."""
