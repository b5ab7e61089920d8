"""A world for the scheduler to decide about: workers that are a few deques, and a clock that tests turn.

It obeys commands as the supervisor and its workers do: a worker takes its requests in order, marks what it begins and
skips what was revoked. Nothing ends by itself: tests say which worker answers, fails or dies.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from procbackground._state import scheduler as s
from procbackground._state.fleet import GONE, Worker
from procbackground._state.job import Job, Recipe
from procbackground._state.scheduler import Scheduler


class Child:
    """What the process of a worker has been told, and how far it has come."""

    def __init__(self) -> None:
        self.requests: deque[Job] = deque()  # written, not begun
        self.sequences: deque[int] = deque()  # theirs; a job that was taken back gets another one elsewhere
        self.running: Job | None = None
        self.started = 0  # the mark: the request that was begun last
        self.revoked = 0
        self.last_sent = 0
        self.has_said_hello = False
        self.is_told_to_end = False  # by a signal or by the end of its task pipe
        self.waits_for_verdict = False  # a loop
        self.ran: list[Job] = []  # all that it began


class World:
    """A scheduler, its workers and the time. With `is_prompt`, workers start, stop and are judged at once."""

    def __init__(self, *, is_prompt: bool = True, delay_s: float = 0.0, **options: Any) -> None:
        self.now_s = 1000.0
        self.is_prompt = is_prompt
        self.delay_s = delay_s  # that the policy asks for
        self.scheduler = Scheduler(**{"max_workers": 2, "wall": lambda at_s: at_s, **options})
        self.children: dict[Worker, Child] = {}  # of the living
        self.verdicts: deque[s.Judge] = deque()  # that are due
        self.log: list[s.Command] = []
        self.began: list[Job] = []  # in order, once for each attempt
        self.ended: dict[Job, str] = {}
        self.most_active = 0
        self.looked_s: dict[Worker, float] = {}  # when their chunks last looked at the clock
        self.past_look: set[Worker] = set()  # whose chunks are at a later row than they were then

    # -- what callers do -----------------------------------------------------------------------------------

    def add(self, recipe: Recipe | None = None, **limits: Any) -> Job:
        job = Job(None, recipe or Recipe("task", b"", **limits), b"")  # type: ignore[arg-type]
        if job.recipe.is_loop:
            if not self.scheduler.accept_loop(job, self.now_s):
                self._settle(job, "cancelled")
        else:
            worker = self.scheduler.accept(job, self.now_s)
            if worker is not None:
                self._write(worker, [job])
                worker.in_writing = None
        if job.recipe.is_loop or self.scheduler.needs_look:
            self.scheduler.staff(self.now_s)
        self.obey()
        return job

    def add_many(self, count: int, recipe: Recipe | None = None, **limits: Any) -> list[Job]:
        recipe = recipe or Recipe("task", b"", **limits)
        return [self.add(recipe) for _ in range(count)]

    def cancel(self, job: Job) -> bool:
        if not self.scheduler.cancel(job, self.now_s):
            return False
        self._settle(job, "cancelled")
        self.obey()
        return True

    def close(self, timeout_s: float | None = None) -> None:
        self.scheduler.close(timeout_s, self.now_s)
        self.scheduler.staff(self.now_s)
        self.obey()

    def advance(self, seconds: float) -> None:
        """Let time pass, with a stop wherever something is due."""
        until_s = self.now_s + seconds
        while self.scheduler.next_due_s <= until_s:
            self.now_s = max(self.now_s, self.scheduler.next_due_s)
            self.scheduler.clock_advanced(self.now_s, self._clocks_s)
            self.obey()
        self.now_s = until_s

    def _clocks_s(self, worker: Worker) -> s.Clocks:
        looked_s = self.looked_s.get(worker, worker.head_since_s)
        return s.Clocks(looked_s, looked_s, worker not in self.past_look)

    # -- what workers do -----------------------------------------------------------------------------------

    def say_hello(self, worker: Worker) -> None:
        self.children[worker].has_said_hello = True
        self.scheduler.said_hello(worker, self.now_s)
        self.obey()

    def answer(self, job: Job, *, is_failure: bool = False, after_s: float = 0.0) -> None:
        """The job runs; it returns, or fails."""
        worker = self.worker_of(job)
        self.advance(after_s)
        self.answer_of(worker, is_failure=is_failure)

    def answer_of(self, worker: Worker, *, is_failure: bool = False) -> None:
        child = self.children[worker]
        assert child.running is not None
        child.running = None
        returned: list[Job] = []
        if is_failure:
            self.scheduler.failure_came(worker, b"", self.now_s)
        else:
            returned = self.scheduler.answers_came(worker, 1, child.started, self.now_s)
        self._write(worker, self.scheduler.refill(worker, self.now_s))
        for job in returned:
            if job.recipe.needs_judge:
                self.scheduler.value_wants_judging(job, b"", worker, None)
            elif not job.has_settled:
                self._settle(job, "succeeded")
        self.obey()

    def fail_iteration(self, worker: Worker, iterations: int) -> None:
        self.children[worker].waits_for_verdict = True
        self.scheduler.iteration_failed(worker, b"", iterations, self.now_s)
        self.obey()

    def die(self, worker: Worker) -> None:
        child = self.children.pop(worker)
        self.scheduler.worker_gone(worker, child.started, self.now_s)
        assert worker.state == GONE
        self.obey()

    def judge(self) -> None:
        """Pass the verdict that has been due for longest."""
        command = self.verdicts.popleft()
        job, retry = command.job, command.job.recipe.retry
        delay_s = None
        if retry is not None and command.kind not in (s.FOR_DEADLINE, s.VALUE):
            may_go_on = retry.max_attempts is None or job.attempt < retry.max_attempts
            delay_s = self.delay_s if may_go_on else None
        if job.recipe.is_loop and command.kind != s.FOR_DEADLINE:
            waiting = command.worker if command.waits else None
            self.scheduler.loop_judged(job, waiting, delay_s, self.now_s)
        elif self.scheduler.judged(job, delay_s, self.now_s) == s.OVER:
            self._settle(job, "succeeded" if command.kind == s.VALUE else "failed")
        self.obey()

    # -- how commands are obeyed ---------------------------------------------------------------------------

    def obey(self) -> None:
        while self.scheduler.commands:
            commands, self.scheduler.commands = self.scheduler.commands, []
            for command in commands:
                self.log.append(command)
                self._carry_out(command)
        self.most_active = max(self.most_active, self.scheduler.active)
        if self.is_prompt and self.verdicts:
            self.judge()

    def _carry_out(self, command: s.Command) -> None:
        match command:
            case s.Launch(worker):
                self.children[worker] = Child()
                worker.pid = 100 + worker.number
                if self.is_prompt:
                    self.say_hello(worker)
            case s.Send(worker, jobs):
                self._write(worker, jobs)
            case s.Terminate(worker) | s.Kill(worker) | s.Dismiss(worker):
                if worker in self.children:
                    self.children[worker].is_told_to_end = True
                    if self.is_prompt:
                        self.die(worker)
            case s.EndLoop(worker):
                if self.is_prompt:
                    self.end_loop(worker)
            case s.Revoke(worker, up_to):
                if worker in self.children:
                    self.children[worker].revoked = up_to
            case s.LookAtMark(worker, up_to):
                if worker in self.children:
                    self.scheduler.mark_seen(worker, self.children[worker].started, up_to, self.now_s)
            case s.AskForLook(worker):
                self.scheduler.look_was_asked(worker, self.now_s, self.now_s)
            case s.GoOn(worker):
                self.children[worker].waits_for_verdict = False
            case s.Judge():
                self.verdicts.append(command)
            case s.Cancelled(job):
                self._settle(job, "cancelled")
            case s.Broke(job):
                self._settle(job, "failed")

    def end_loop(self, worker: Worker) -> None:
        if worker in self.children and worker.loop is not None:
            self.scheduler.loop_ended(worker, self.now_s)
            self.obey()

    def _write(self, worker: Worker, jobs: list[Job]) -> None:
        child = self.children.get(worker)
        if child is None:
            return  # it died in the meantime, and what it held has gone elsewhere
        for job in jobs:
            assert child.has_said_hello
            assert job.sequence > child.last_sent, "sequences grow within a worker"
            child.last_sent = job.sequence
            child.requests.append(job)
            child.sequences.append(job.sequence)
        self._take_next(worker, child)

    def _take_next(self, worker: Worker, child: Child) -> None:
        while child.running is None and child.requests:
            job, sequence = child.requests.popleft(), child.sequences.popleft()
            child.started = sequence
            if sequence <= child.revoked:
                self.scheduler.skipped(worker, sequence, self.now_s)
                self._write(worker, self.scheduler.refill(worker, self.now_s))
                continue
            child.running = job
            child.ran.append(job)
            self.began.append(job)

    def _settle(self, job: Job, how: str) -> None:
        assert job not in self.ended, f"settled as {self.ended[job]}, and now as {how}"
        self.ended[job] = how
        self.scheduler.settled(**{how: 1}, loops=int(job.recipe.is_loop))
        self.scheduler.drain_if_done(self.now_s)

    # -- what there is to see ------------------------------------------------------------------------------

    def running(self) -> list[Job]:
        return [child.running for child in self.children.values() if child.running is not None]

    def worker_of(self, job: Job) -> Worker:
        (worker,) = (worker for worker, child in self.children.items() if child.running is job)
        return worker

    def seen(self, kind: type) -> list[Any]:
        return [command for command in self.log if isinstance(command, kind)]
