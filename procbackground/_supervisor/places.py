"""Places: workers of a manager with an engine. Each has one attempt at a time, wherever that runs.

The scheduler gives work to places as it does to workers. Here its commands become requests to the engine, and reports
of nodes become facts for the scheduler, or messages for handles, observers and log handlers.

    place without a request → send: request to the engine → reports → its end: answer or death → next request
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from procbackground._load import load
from procbackground._printable import printable
from procbackground._state import commands as c
from procbackground._state import fleet
from procbackground._state.fleet import ALIVE, Death, Worker
from procbackground._state.job import Job
from procbackground._supervisor.breakage import Breakage
from procbackground._supervisor.judge import load_failure_safely
from procbackground._supervisor.output import AttemptOutput, write_lines
from procbackground._supervisor.place import Place, request_of, shares_of
from procbackground._supervisor.settle import ResultBatch
from procbackground._supervisor.workers import Workers
from procbackground._wire import attempts as w
from procbackground._wire import frames as wire
from procbackground._wire.output import CAPTURE, TAGGED
from procbackground._wire.parcel import Parcel, receive_stored
from procbackground.errors import SerializationError
from procbackground.report import Progress

if TYPE_CHECKING:
    from procbackground._supervisor.engine_loop import EngineLoop
    from procbackground._wire.shares import SharedFile

MOST_REFUSALS = 3  # of nodes that can start no process
ON_ANOTHER_MACHINE = "the process is on another machine"
NO_CONNECTIONS = "the arguments hold connections or sockets, which cannot cross to another machine"


class Places(Workers):
    """The hands of the scheduler, where workers are places."""

    def __init__(self, loop: EngineLoop) -> None:
        super().__init__(
            loop.scheduler, loop.inbox, loop.watches, loop.page, loop.events, loop.monitor, loop.stacks,
            loop.settler.fail, loop.shares, loop.user_code.put,
        )  # fmt: skip
        self._places = loop.scheduler
        self._loop = loop
        self._engine = loop.engine
        self._last_number = 0
        self._workers: dict[int, Worker] = {}  # by the number of their request
        self._requests: list[w.Request] = []  # not given to the engine yet
        self._cancelled: list[int] = []
        self._suspects: deque[tuple[Worker, Job]] = deque()  # that may take nodes down
        self._shared: set[int] = set()  # numbers of the shared values that the engine has
        self._suspect: int = 0  # the request of the one that was tried last

    # -- towards the engine --------------------------------------------------------------------------------

    def launch(self, worker: Worker) -> None:
        """A place needs no start."""
        worker.process = Place()
        now_s = time.monotonic()
        self._places.process_came(worker, now_s)
        self._places.said_hello(worker, now_s)

    def send(self, worker: Worker, jobs: list[Job]) -> None:
        """Give the first job of the worker to the engine. Others have to wait."""
        self._begin(worker)

    def _begin(self, worker: Worker, is_anew: bool = False) -> None:
        """Give the engine the next attempt, if the place has one; or, `is_anew`, the same one again."""
        place: Place = worker.process
        while not place.number and (job := worker.current) is not None and not place.is_closed:
            now_s = time.monotonic()
            if job.worker is not worker and worker.loop is None:  # it was cancelled in the queue
                self._places.skipped(worker, job.sequence, now_s)
                continue
            payload = job.payload.stored() if isinstance(job.payload, Parcel) else job.payload
            if payload is None:
                self._lose(worker, SerializationError(NO_CONNECTIONS))
                return
            for share in shares_of(job):
                self._share(share)
            self._last_number = place.number = self._last_number + 1
            worker.pid = 0
            place.is_waiting = place.wants_next = False
            if not is_anew:
                place.begins = place.losses = place.refusals = 0
            self._workers[place.number] = worker
            self._requests.append(request_of(job, place.number, payload, place.losses > 0 or place.begins > 1))

    def _share(self, share: SharedFile) -> None:
        """Have the engine know a shared value, until nothing here refers to it."""
        if share.number not in self._shared:
            self._shared.add(share.number)
            self._shares.watch(share)
            self._engine.share(share.number, share.parts())

    def release_share(self, number: int) -> None:
        """Nothing refers to a shared value any more: let the engine forget it."""
        self._shared.discard(number)
        self._engine.unshare(number)

    def flush(self) -> None:
        """Give the engine what has come together in this step."""
        if self._suspects:
            self._try_suspect()
        if self._requests:
            requests, self._requests = self._requests, []
            self._engine.submit(requests)
        if self._cancelled:
            cancelled, self._cancelled = self._cancelled, []
            self._engine.cancel(cancelled)

    def terminate(self, worker: Worker, wants_stack: bool) -> None:
        """Stop what runs in this place: it is gone once the node says so."""
        place: Place = worker.process
        if place.number:
            self._cancelled.append(place.number)
        if not place.number or not place.has_begun:
            self._gone(worker, Death(no_stack_reason="it had not begun"))

    def kill(self, worker: Worker) -> None:
        """Wait no longer for the node."""
        place: Place = worker.process
        if place.number:
            self._cancelled.append(place.number)
        self._gone(worker, Death(no_stack_reason=ON_ANOTHER_MACHINE))

    def dismiss(self, worker: Worker) -> None:
        self._gone(worker, ALIVE)

    def end_loop(self, worker: Worker) -> None:
        """Let the worker's loop end after its running iteration."""
        place: Place = worker.process
        place.is_ending = True
        if place.is_waiting:
            # After the verdict on its last iteration, which is on its way through that queue.
            self._loop.user_code.put(self._inbox.put, lambda: self._end_waiting(worker))
        elif place.has_begun:
            self._engine.end_loop(place.number)
        elif place.number:
            self._cancelled.append(place.number)
            self._places.loop_ended(worker, time.monotonic())

    def _end_waiting(self, worker: Worker) -> None:
        if worker.loop is not None and not worker.process.is_closed:
            self._places.loop_ended(worker, time.monotonic())

    def continue_loop(self, worker: Worker) -> None:
        """Let a loop whose iteration failed begin the next one, after its pause, on any node."""
        loop = worker.loop
        assert loop is not None
        if loop.recipe.interval_s:
            due_s = time.monotonic() + loop.recipe.interval_s
            self._places.timers.at(due_s, lambda state, subject, now_s: self._continue(subject), worker)
        else:
            self._continue(worker)

    def _continue(self, worker: Worker) -> None:
        place: Place = worker.process
        place.wants_next = True
        if worker.loop is not None and worker.state == fleet.BUSY and not place.is_ending:
            self._begin(worker)

    def revoke(self, worker: Worker, up_to: int) -> None:
        """Only the first request is with the engine, so there is nothing to call back."""

    def read_mark(self, worker: Worker, up_to: int) -> None:
        current = worker.current
        self._places.mark_seen(worker, 0 if current is None else current.sequence, up_to, time.monotonic())

    def ask_for_look(self, worker: Worker) -> None:
        """Nodes look at the clock themselves."""

    def note_ready(self, worker: Worker) -> None:
        """A place is no process."""

    def running(self) -> dict[int, tuple[Worker, Job]]:
        """Return the places whose requests the engine has, with their jobs, by the numbers of the requests."""
        return {number: (worker, job) for number, worker in self._workers.items() if (job := worker.current)}

    # -- from the engine -----------------------------------------------------------------------------------

    def take(self, reports: Sequence[w.Report]) -> None:
        """Take reports of nodes. Those of requests that have ended are ignored."""
        for number, kind, *facts in reports:
            worker = self._workers.get(number)
            if worker is None:
                continue
            if kind in w.ENDS:
                del self._workers[number]
                worker.process.number = 0
                self._take_end(worker, kind, facts)
            elif kind == w.STARTED:
                self._take_start(worker, *facts)
            elif kind == w.ITERATION:
                worker.process.is_waiting = True
                body, iterations = facts
                self._places.iteration_failed(worker, body, iterations, time.monotonic())
            elif (job := worker.current) is not None and not job.has_settled:
                self._take_message(worker, job, kind, facts)

    def _take_start(self, worker: Worker, pid: int, node: str) -> None:
        place: Place = worker.process
        lost_node, place.node, worker.pid = place.node, node, pid
        place.begins += 1
        now_s = time.monotonic()
        worker.pipeline.head_since_s = now_s
        job = worker.current
        if job is None or job.has_settled:
            return
        job.started_s = now_s
        if place.begins > 1:
            self._events.task("on_task_reassigned", job, pid=pid, node=node, lost_node=lost_node)
        elif worker.loop is not None:
            self._events.loop_started(job, worker)
        else:
            self._events.started(job, worker)

    def _take_message(self, worker: Worker, job: Job, kind: str, facts: list[Any]) -> None:
        answers = self._loop.answers
        match kind, *facts:
            case w.PROGRESS, done, total, message:
                job.handle._shown()._progress = Progress(done, total, message)
                self._events.task("on_task_progress", job, done=done, total=total, message=message)
            case w.STALLED, silent_for, stack:
                self._events.task("on_task_stalled", job, silent_for=silent_for, stack=stack)
            case w.OUTPUT, stream, data:
                self._take_output(worker, job, stream, data)
            case w.LOGGED, body:
                worker.process.relayed.add(job.sequence)
                answers.take_message(worker, wire.LOG_RECORD, job.sequence, body, job)
            case w.SAVED, body:
                answers.take_message(worker, wire.CHECKPOINT, job.sequence, body, job)
            case w.PART, body:
                answers.take_message(worker, wire.PARTIAL, job.sequence, body, job)

    def _take_output(self, worker: Worker, job: Job, stream: str | None, data: bytes) -> None:
        kept = job.handle._output
        if not isinstance(kept, AttemptOutput):
            kept = job.handle._output = AttemptOutput()
        kept.add(data)
        lines = data.decode(errors="replace").splitlines()
        for line in lines:
            self._events.task("on_task_output", job, line=line, stream=stream)
        mode = job.recipe.output.mode
        if mode != CAPTURE and stream is not None:
            prefix = f"[{printable(job.recipe.name)}] " if mode == TAGGED else ""
            worker.process.relayed.add(job.sequence)  # its handle waits for these lines, too
            self._loop.log_records.put(write_lines, stream, "".join(f"{prefix}{line}\n" for line in lines))

    # -- ends ----------------------------------------------------------------------------------------------

    def _take_end(self, worker: Worker, kind: str, facts: list[Any]) -> None:
        now_s = time.monotonic()
        job = worker.current
        if job is None:
            return
        match kind, *facts:
            case w.VALUE, body, is_stored, cost:
                self._take_value(worker, job, receive_stored(body) if is_stored else body, cost, now_s)
            case w.FAILURE, body, cost:
                worker.pipeline.head_since_s = now_s - cost.took_s
                self._places.failure_came(worker, body, now_s, job.sequence, cost[1:])
                self._go_on(worker)
            case w.DEATH, reason, death, row, cost:
                worker.pipeline.head_since_s = job.started_s = now_s - cost.took_s
                job.handle._ended_at_row = row
                if reason != c.DIED:
                    self._places.stopped_on_node(worker, reason, now_s)
                self._gone(worker, death)
            case w.REFUSED, body:
                self._take_refusal(worker, load_failure_safely(body)[0])
            case (w.LOOP_ENDED,):
                self._places.loop_ended(worker, now_s)
            case (w.STOPPED,):
                self._take_stop(worker, job)

    def _take_value(self, worker: Worker, job: Job, body: Any, cost: w.Cost, now_s: float) -> None:
        since_s = worker.pipeline.head_since_s = now_s - cost.took_s
        jobs = self._places.answers_came(worker, 1, job.sequence, now_s)
        measured: Any = None if cost.cpu_s is None else cost[1:]
        self._loop.settler.batches.append(ResultBatch(worker, jobs, [body], measured, since_s, now_s))
        self._go_on(worker)

    def _take_refusal(self, worker: Worker, error: BaseException) -> None:
        """A node can start no process for it: perhaps another one can. But the initializer is everywhere the same."""
        place: Place = worker.process
        place.refusals += 1
        if isinstance(error, load("procbackground.errors").InitializerError):
            self._loop.break_manager(Breakage(str(error), True, cause=error.__cause__))
            self._lose(worker, error)
        elif place.refusals < MOST_REFUSALS and worker.state == fleet.BUSY:
            self._begin(worker, is_anew=True)
        else:
            self._lose(worker, error)

    def _take_stop(self, worker: Worker, job: Job) -> None:
        place: Place = worker.process
        if worker.state in (fleet.STOPPING, fleet.RECALLING):
            self._gone(worker, Death(no_stack_reason=ON_ANOTHER_MACHINE))
        elif not place.is_waiting:
            # We did not ask for it: its node is closing, or the engine has changed its mind. It begins anew.
            self._begin(worker, is_anew=True)
        elif place.is_ending:
            self.end_loop(worker)
        elif place.wants_next:
            self._begin(worker)

    def _go_on(self, worker: Worker) -> None:
        """The place has answered: give it the next request, unless a stop is due."""
        if worker.state in (fleet.STOPPING, fleet.RECALLING):
            self._gone(worker, ALIVE)
        else:
            self._places.refill(worker, time.monotonic())
            self._begin(worker)

    def fail(self, number: int, error: BaseException, is_poison: bool = False) -> None:
        """The engine has given up a request; `is_poison`: since nodes that had it were lost.

        It may only have been beside the one that took them down. So such tasks run once more, one after the other.
        """
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        place: Place = worker.process
        place.number = 0
        place.losses += 1
        job = worker.current
        if is_poison and place.losses == 1 and job is not None and worker.state == fleet.BUSY:
            self._suspects.append((worker, job))
        else:
            self._lose(worker, error)

    def _try_suspect(self) -> None:
        """Give the engine the next suspect, if none is with it."""
        while self._suspects and self._suspect not in self._workers:
            worker, job = self._suspects.popleft()
            if not worker.process.is_closed and worker.current is job:
                self._begin(worker, is_anew=True)
                self._suspect = worker.process.number

    def fail_all(self, make_error: Any) -> None:
        """The engine has lost all requests."""
        self._requests, self._cancelled = [], []
        for worker in list(self._places.workers):
            if worker.process is not None and worker.is_running:
                self._workers.pop(worker.process.number, None)
                worker.process.number = 0
                self._lose(worker, make_error())

    def _lose(self, worker: Worker, error: BaseException) -> None:
        was_loop = worker.loop is not None
        self._places.lost_by_engine(worker, error, time.monotonic())
        if was_loop or worker.state in (fleet.STOPPING, fleet.RECALLING):
            self._gone(worker, ALIVE)
        else:
            self._go_on(worker)

    def _gone(self, worker: Worker, death: Death) -> None:
        """The place is no more."""
        place: Place = worker.process
        if place.is_closed:
            return
        place.is_closed = True
        self._workers.pop(place.number, None)
        place.number = 0
        current = worker.current
        started = current.sequence if current is not None and place.has_begun else 0
        now_s = time.monotonic()
        self._places.process_ended(worker, now_s)
        self._places.worker_gone(worker, started, death, now_s)
