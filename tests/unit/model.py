"""A model of the scheduler's world: workers without processes, pipes without descriptors, a clock set by the test.

It obeys commands as the supervisor and its workers do, step by step and in the order that a test wants. It keeps the
books as well: whose user code began where, and how each job ended, and refuses at once what may never happen.

Tests speak in the words of `World`; how the scheduler keeps what they ask about is known here only.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, NamedTuple

from procbackground._state import commands as c
from procbackground._state import fleet, outcomes
from procbackground._state.fleet import Death, Worker
from procbackground._state.job import Job, Recipe
from procbackground._state.scheduler import Scheduler
from procbackground.report import Outcome

SUCCEEDED, FAILED, CANCELLED, BROKE = "succeeded", "failed", "cancelled", "broke"

UNLOADABLE = b"unloadable"  # body of the failure of a function that could not be loaded
ANSWERS = ("value", "failure", "skipped")
UNREAD_S = 0.01  # what a child says may wait unread, while times come


class Boom(Exception):
    """What failing tasks raise here."""


class Receipt:
    """Stands where a job's handle is: how the job ended, and when."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ending: str | None = None
        self.why: str | None = None  # kind of the last attempt's end
        self.output: str | None = None


class Begun(NamedTuple):
    """An attempt whose user code began."""

    job: Job
    attempt: int
    worker: Worker


class Child:
    """What a worker process does, a step at a time; what it says waits in `said` until the world reads it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.is_alive = True
        self.exit_code = -9
        self.is_ready = False
        self.requests: deque[tuple[int, int, Job]] = deque()  # sequence, attempt, job
        self.running: tuple[int, Job] | None = None
        self.loop: Job | None = None
        self.iterations = 0
        self.waits_for_verdict = False
        self.started = 0  # words of the shared page
        self.revoked = 0
        self.is_asked_to_stop = False
        self.is_dismissed = False
        self.is_frozen = False  # begins nothing that it is given
        self.is_leaving = False  # ... and ends by itself
        self.said: deque[tuple[str, int, bytes]] = deque()
        self.said_since_s = 0.0  # when it said the first of them
        self.highest = 0

    @property
    def job(self) -> Job | None:
        return self.running[1] if self.running is not None else self.loop


class World:
    """Carries out what the scheduler decides, as far as it is not told to leave that to the test.

    Args:
        is_obedient: children say hello, obey signals and leave, and verdicts are passed, at once.
        reads_at_once: what a child says is read at once; by default where it is obedient.
        begins_at_once: a child that has nothing to do begins its next request.
        min_free_bytes: attempts begin only while so much memory is free, which `see_memory` tells.
        options: of the scheduler.
    """

    def __init__(
        self,
        max_workers: int = 2,
        *,
        is_obedient: bool = True,
        reads_at_once: bool | None = None,
        begins_at_once: bool = False,
        min_free_bytes: int | None = None,
        **options: Any,
    ) -> None:
        self.now_s = 1000.0
        self.scheduler = Scheduler(
            max_workers=max_workers, wall=lambda monotonic_s: monotonic_s, min_free_bytes=min_free_bytes, **options
        )
        self.is_obedient = is_obedient
        self._reads_at_once = reads_at_once
        self.begins_at_once = begins_at_once
        self.launches_fail = False
        self.is_stubborn = False  # children ignore SIGTERM
        self.children: dict[Worker, Child] = {}  # of processes that have not been buried
        self.jobs: list[Job] = []
        self.verdicts: deque[c.Judge] = deque()
        self.log: list[c.Command] = []
        self.begun: list[Begun] = []
        self.most_active = 0  # workers at a time that counted against `max_workers`
        self.failed_iterations: Counter[str] = Counter()
        self.begun_s: dict[Worker, float] = {}  # iterations of loops, and rows that looked at the clock
        self.past_look: set[Worker] = set()  # whose chunks are at a later row than they were then
        self.accidents: set[Worker] = set()  # that died without being told to

    @property
    def _reads_now(self) -> bool:
        return self.is_obedient if self._reads_at_once is None else self._reads_at_once

    # -- the caller ----------------------------------------------------------------------------------------

    def submit(
        self,
        name: str = "",
        recipe: Recipe | None = None,
        *,
        payload: bytes = b"payload",
        **limits: Any,
    ) -> Job:
        """Give the scheduler a job that is alone in the inbox."""
        recipe = recipe if recipe is not None else Recipe("task", b"", **limits)
        job = Job(Receipt(name or f"job {len(self.jobs) + 1}"), recipe, payload)  # type: ignore[arg-type]
        self.jobs.append(job)
        if recipe.is_loop:
            self.scheduler.accept_loop(job, self.now_s)
        else:
            worker = self.scheduler.accept(job, self.now_s)
            if worker is not None:
                self._write(worker, [job])
        if self._reads_now:
            self.staff()
        return job

    def submit_many(self, count: int, recipe: Recipe | None = None, **limits: Any) -> list[Job]:
        recipe = recipe if recipe is not None else Recipe("task", b"", **limits)
        return [self.submit(recipe=recipe) for _ in range(count)]

    def submit_burst(self, *recipes: Recipe) -> list[Job]:
        """Give the scheduler jobs that were in the inbox together, and then have it staff, as the supervisor does."""
        first = len(self.jobs) + 1
        jobs = [Job(Receipt(f"job {first + i}"), each, b"payload") for i, each in enumerate(recipes)]  # type: ignore[arg-type]
        self.jobs += jobs
        self.scheduler.accept_all(jobs, self.now_s)
        self.staff()
        return jobs

    def staff(self) -> None:
        """Do what a caller's wake-up does."""
        self.scheduler.staff(self.now_s)
        self.settle_down()

    def cancel(self, job: Job) -> bool:
        """Cancel as a handle does."""
        if not self.scheduler.cancel(job, self.now_s):
            return False
        self._end(job, CANCELLED)
        if self.scheduler.needs_staff:
            self.scheduler.staff(self.now_s)
        self.settle_down()
        return True

    def close(self, timeout_s: float | None = None) -> None:
        self.scheduler.close(timeout_s, self.now_s)
        self.scheduler.staff(self.now_s)
        self.settle_down()

    def cancel_queued(self) -> None:
        """Cancel what has not begun, as `shutdown(cancel_futures=True)` does."""
        self.scheduler.cancel_queued(self.now_s)
        self.settle_down()

    # -- the clock -----------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, and have everything done when it is due."""
        end_s = self.now_s + seconds
        while self.next_due_s <= end_s:
            self.now_s = max(self.now_s, self.next_due_s)
            self._read_first()
            self.tick()
        self.now_s = end_s
        self._read_first()
        self.tick()

    def _read_first(self) -> None:
        """Read what was said a while ago.

        The supervisor reads at each step what is there. So between two times that come one after the other, as a stop
        and the end of its grace, it has read what was said before the first, however long it was suspended.
        """
        for worker in list(self.children):
            child = self.children.get(worker)
            if child is not None and child.said and self.now_s - child.said_since_s > UNREAD_S:
                self.hear(worker)

    def tick(self) -> None:
        self.scheduler.clock_advanced(self.now_s, self._clocks_s)
        self.settle_down()

    def _clocks_s(self, worker: Worker) -> c.Clocks:
        began_s = self.begun_s.get(worker, worker.pipeline.head_since_s)
        return c.Clocks(began_s, began_s, worker not in self.past_look)

    @property
    def next_due_s(self) -> float:
        """When time next brings something about, infinity for never."""
        return self.scheduler.next_due_s

    def timers(self) -> int:
        """Return how many entries the scheduler keeps for later times."""
        return len(self.scheduler.timers)

    @property
    def no_launch_before_s(self) -> float:
        """Until when no process is started, as the last starts failed."""
        return self.scheduler.launches._not_before_s

    def launches_kept(self) -> int:
        """Return how many launches the scheduler watches, those that have started included."""
        return len(self.scheduler.launches._launched)

    # -- the supervisor ------------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Carry out commands until there are none; obedient children do what they are told meanwhile."""
        while True:
            while self.scheduler.commands:
                commands, self.scheduler.commands = self.scheduler.commands, []
                for command in commands:
                    self.log.append(command)
                    self._carry_out(command)
            self.most_active = max(self.most_active, self.scheduler.active)
            if not self.is_obedient or not self._obey():
                return

    def _carry_out(self, command: c.Command) -> None:
        match command:
            case c.Launch(worker):
                self.children[worker] = Child(worker)
                worker.pid = 100 + worker.number
            case c.Send(worker, jobs):
                self._write(worker, jobs)
            case c.Judge(job, kind, _, worker, _, _):
                if kind == c.DIED:
                    name = job.handle.name  # type: ignore[attr-defined]
                    assert worker in self.accidents, f"{name} is charged with the death of a worker that was stopped"
                self.verdicts.append(command)
            case c.Cancelled(jobs, _):
                for job in jobs:
                    self._end(job, CANCELLED)
            case c.Broke(job):
                self._end(job, BROKE)
            case c.Starved(job, _):
                self._end(job, FAILED, "starved")
            case c.ContinueLoop(worker):
                child = self.children.get(worker)
                if child is not None and child.is_alive:
                    child.waits_for_verdict = False
                    self._note_iteration(child)
            case c.Terminate(worker, _):
                if worker in self.children:
                    self.children[worker].is_asked_to_stop = True
            case c.Kill(worker):
                child = self.children.get(worker)
                if child is not None:
                    child.is_alive = False
            case c.Dismiss(worker) | c.EndLoop(worker):
                if worker in self.children:
                    self.children[worker].is_dismissed = True
            case c.Revoke(worker, up_to):
                if worker in self.children:
                    self.children[worker].revoked = up_to
            case c.ReadMark(worker, up_to):
                started = self.children[worker].started if worker in self.children else worker.pipeline.sent
                self.scheduler.mark_seen(worker, started, up_to, self.now_s)
            case c.AskForLook(worker):
                self.scheduler.look_was_asked(worker, self.now_s, self.now_s)
            case _:
                pass  # news for observers, and requests for a look at the memory

    def _write(self, worker: Worker, jobs: list[Job]) -> None:
        child = self.children[worker]
        assert child.is_ready or not jobs
        for job in jobs:
            assert job.sequence > child.highest, f"sequence {job.sequence} after {child.highest} in {worker}"
            child.highest = job.sequence
            child.requests.append((job.sequence, job.attempt, job))
        if self.begins_at_once and jobs:
            self.begin(worker)

    def read(self, worker: Worker) -> None:
        """Take what the child said, as the supervisor does: values in one go, then the worker's next jobs."""
        child = self.children[worker]
        said, child.said = list(child.said), deque()
        returned: list[Job] = []
        values: list[int] = []
        for kind, sequence, body in said:
            if kind == "value":
                values.append(sequence)
                continue
            self._match(worker, values, returned)
            if kind == "failure":
                self.scheduler.failure_came(worker, body, self.now_s)
            elif kind == "skipped":
                self.scheduler.skipped(worker, sequence, self.now_s)
            elif kind == "hello":
                self.scheduler.said_hello(worker, self.now_s)
            elif kind == "leaving":
                self.scheduler.leaves(worker, self.now_s)
            elif kind == "broken":
                self.scheduler.initializer_failed(worker, body, self.now_s)
            elif kind == "iteration failed":
                self.scheduler.iteration_failed(worker, body, sequence, self.now_s)
            elif kind == "loop ended":
                self.scheduler.loop_ended(worker, self.now_s)
        self._match(worker, values, returned)
        if any(kind in ANSWERS for kind, _, _ in said):
            jobs = self.scheduler.refill(worker, self.now_s)
            if jobs:
                self._write(worker, jobs)
        for job in returned:
            if job.recipe.needs_judge:
                self.scheduler.value_wants_judging(job, b"value", worker, None)
            else:
                self._end(job, SUCCEEDED)

    def _match(self, worker: Worker, values: list[int], returned: list[Job]) -> None:
        if values:
            jobs = self.scheduler.answers_came(worker, len(values), values[-1], self.now_s)
            returned += [job for job in jobs if job.worker is worker and not job.has_settled]
            values.clear()

    def bury(self, worker: Worker) -> None:
        """Read the pipe dry, then believe the death."""
        child = self.children[worker]
        assert not child.is_alive
        self.scheduler.process_ended(worker, self.now_s)
        while child.said:
            self.read(worker)
        self.scheduler.worker_gone(worker, child.started, Death(exit_code=child.exit_code), self.now_s)
        assert worker.state == fleet.GONE
        del self.children[worker]

    def fail_launch(self, worker: Worker, **how: Any) -> None:
        """The process of the worker could not be started."""
        del self.children[worker]
        self.scheduler.launch_failed(worker, self.now_s, **how)
        self.settle_down()

    def fail_initializer(self, worker: Worker) -> None:
        self.scheduler.initializer_failed(worker, b"", self.now_s)
        self.settle_down()

    def exceed_memory(self, worker: Worker) -> None:
        """The monitor saw the worker's tree over its limit."""
        self.scheduler.over_memory(worker, self.now_s)
        self.settle_down()

    def see_memory(self, free_bytes: int, held_bytes: dict[Worker, int] | None = None) -> bool:
        """Tell how much memory is free, and held by running tasks that reserve some; return whether to look again."""
        looks_again = self.scheduler.memory_seen(free_bytes, self.now_s, held_bytes)
        self.settle_down()
        return looks_again

    @property
    def wants_memory(self) -> bool:
        """Whether the memory is looked at now and then."""
        return self.scheduler.is_memory_watched

    def fail_to_see_memory(self) -> None:
        """Nobody could be found to look."""
        self.scheduler.memory_not_seen(self.now_s)
        self.settle_down()

    def see_mark(self, worker: Worker, started: int, up_to: int) -> None:
        """Tell where the worker's mark stands a moment after a revocation."""
        self.scheduler.mark_seen(worker, started, up_to, self.now_s)
        self.settle_down()

    def ask_for_look(self, worker: Worker, *, takes_s: float) -> None:
        """Ask the child's chunk to look at the clock: that is written within `takes_s` from now."""
        self.scheduler.look_was_asked(worker, self.now_s, self.now_s + takes_s)

    def revoke(self, worker: Worker) -> int:
        """Have all that the worker was sent revoked, as if that had just been written; return up to where."""
        return worker.pipeline.recall()

    def judge(self, command: c.Judge) -> str:
        """Ask the job's own policy, and pass the verdict on."""
        job, kind = command.job, command.kind
        can_retry = kind != c.FOR_DEADLINE and command.body != UNLOADABLE
        if command.worker is not None:
            assert job.has_settled or kind != c.DIED or command.worker.death.exit_code is not None
            outcome = {c.VALUE: Outcome.SUCCEEDED, c.FAILURE: Outcome.RAISED}.get(kind) or outcomes.outcome_of(kind)
            job.record(outcome, self.now_s, lambda time_s: time_s, pid=command.worker.pid)
        delay_s = None
        if job.recipe.retry is not None and can_retry:
            history = job.with_history()
            delay_s = job.recipe.retry.next_delay_s(
                (pow, (2, 2), {}),
                job.attempt,
                (kind != c.VALUE, "value" if kind == c.VALUE else Boom(kind)),
                self.now_s if history.first_started_s is None else history.first_started_s,
                history.idle_for_s,
                self.now_s,
            )
        if job.recipe.is_loop and can_retry:
            waiting = command.worker if command.waits else None
            ruling = self.scheduler.loop_judged(job, waiting, delay_s, self.now_s)
            if ruling == outcomes.FINAL:
                self.failed_iterations[job.handle.name] += 1  # type: ignore[attr-defined]
        else:
            ruling = self.scheduler.judged(job, delay_s, self.now_s)
            if ruling == outcomes.FINAL:
                self._end(job, SUCCEEDED if kind == c.VALUE else FAILED, kind)
        return ruling

    def _end(self, job: Job, ending: str, why: str | None = None) -> None:
        receipt: Any = job.handle
        assert receipt.ending is None, f"{receipt.name} {receipt.ending} already, and {ending} now"
        receipt.ending, receipt.why = ending, why
        counted = {FAILED: "failed", BROKE: "failed"}.get(ending, ending)
        self.scheduler.settled(**{counted: 1}, loops=int(job.recipe.is_loop))
        self.scheduler.drain_if_done(self.now_s)

    # -- the children --------------------------------------------------------------------------------------

    def say(self, child: Child, kind: str, number: int = 0, body: bytes = b"") -> None:
        if not child.said:
            child.said_since_s = self.now_s
        child.said.append((kind, number, body))
        if self._reads_now:
            self.hear(child.worker)

    def hear(self, worker: Worker) -> None:
        """Read what the worker said, and carry out what follows."""
        self.read(worker)
        self.settle_down()

    def hello(self, worker: Worker) -> None:
        child = self.children[worker]
        child.is_ready = True
        self.say(child, "hello")

    def begin(self, worker: Worker) -> Job | None:
        """Have an unoccupied child take its next request; return the job whose user code runs now."""
        child = self.children[worker]
        while child.is_alive and not child.is_frozen and not child.is_leaving and child.job is None and child.requests:
            sequence, attempt, job = child.requests.popleft()
            child.started = sequence
            if sequence <= child.revoked:
                self.say(child, "skipped", sequence)
                if worker not in self.children:
                    return None
                continue
            if job.recipe.is_loop:
                child.loop = job
                self._note_iteration(child)
            else:
                known = [each.worker for each in self.begun if (each.job, each.attempt) == (job, attempt)]
                name = job.handle.name  # type: ignore[attr-defined]
                assert not known, f"attempt {attempt} of {name} runs twice, in {known[0]} and {worker}"
                child.running = (sequence, job)
            self.begun.append(Begun(job, attempt, worker))
        return child.job

    def freeze(self, worker: Worker) -> None:
        """Have the child begin nothing that it is given, as one that was stopped."""
        self.children[worker].is_frozen = True

    def _note_iteration(self, child: Child) -> None:
        self.begun_s[child.worker] = self.now_s

    def finish(self, worker: Worker, *, fails: bool = False, leaves: bool = False) -> None:
        """End the call that runs in the child, which with `leaves` begins nothing more and ends by itself."""
        child = self.children[worker]
        assert child.running is not None
        sequence, _ = child.running
        child.running = None
        if leaves:
            child.is_leaving = True
            child.requests.clear()
        self.say(child, "failure" if fails else "value", sequence)
        if leaves and worker in self.children:
            self.say(child, "leaving")
        if self.begins_at_once and worker in self.children:
            self.begin(worker)

    def answer(self, job: Job, *, fails: bool = False, after_s: float = 0.0) -> None:
        """End the call of this job, which runs."""
        worker = self.worker_of(job)
        self.advance(after_s)
        self.finish(worker, fails=fails)

    def look_at_clock(self, worker: Worker, *, later_s: float = 0.0) -> None:
        """The child's chunk looks at the clock before its next row."""
        self.begun_s[worker] = self.now_s + later_s

    def pass_look(self, worker: Worker) -> None:
        """The child's chunk is at a later row than when it looked at the clock, now and from now on."""
        self.past_look.add(worker)

    def fail_iteration(self, worker: Worker) -> None:
        child = self.children[worker]
        assert child.loop is not None
        child.waits_for_verdict = True
        self.say(child, "iteration failed", child.iterations)

    def pass_iteration(self, worker: Worker) -> None:
        child = self.children[worker]
        child.iterations += 1
        self._note_iteration(child)

    def end_loop(self, worker: Worker) -> None:
        """The child's loop sees the stop."""
        child = self.children[worker]
        child.loop = None
        child.waits_for_verdict = False
        self.say(child, "loop ended")

    def die(self, worker: Worker, exit_code: int = -9) -> None:
        """The process ends, whatever it does."""
        child = self.children[worker]
        child.exit_code = exit_code
        child.is_alive = False
        self.accidents.add(worker)
        if self._reads_now:
            self.bury(worker)
            self.settle_down()

    def can_leave(self, child: Child) -> bool:
        """Whether a dismissed child has nothing left to do."""
        return child.is_leaving or (child.is_dismissed and not child.requests and child.job is None)

    def _obey(self) -> bool:
        """Have each child do what it was told; return whether one did."""
        for worker, child in list(self.children.items()):
            if self.launches_fail and not child.is_ready:
                del self.children[worker]
                self.scheduler.launch_failed(worker, self.now_s)
                return True
            if child.is_asked_to_stop and not self.is_stubborn:
                child.is_alive = False
            if child.is_alive and child.is_dismissed and child.loop is not None:
                self.end_loop(worker)
                return True
            if child.is_alive and self.can_leave(child):
                child.is_alive = False
            if not child.is_alive:
                self.bury(worker)
                return True
            if not child.is_ready:
                self.hello(worker)
                return True
        if self.verdicts:
            self.judge(self.verdicts.popleft())
            return True
        return False

    # -- looking -------------------------------------------------------------------------------------------

    def worker_of(self, job: Job) -> Worker:
        """Return the worker that runs the job or, when it runs in none, has it in its pipe."""
        for worker, child in self.children.items():
            if child.job is job:
                return worker
        assert job.worker is not None
        return job.worker

    def workers(self) -> list[Worker]:
        """Return the workers whose process was started and has not been buried, in that order."""
        return sorted(self.children, key=lambda worker: worker.number)

    def state_of(self, worker: Worker) -> str:
        return worker.state

    def idle(self) -> list[Worker]:
        return list(self.scheduler.idle)

    def spares(self) -> list[Worker]:
        return list(self.scheduler.spares)

    @property
    def active(self) -> int:
        """How many workers count against `max_workers`."""
        return self.scheduler.active

    def count(self, figure: str) -> int:
        """Return one of the scheduler's figures: "retried", "stopped", ..."""
        counted: int = getattr(self.scheduler, figure)
        return counted

    def count_queued(self) -> int:
        return self.scheduler.count_queued()

    def in_flight(self, worker: Worker) -> list[Job]:
        """Return the jobs that were sent to the worker and are not answered, as the scheduler sees it."""
        return list(worker.pipeline.jobs)

    def waiting_in(self, worker: Worker) -> list[Job]:
        """Return the jobs that the worker was sent and has not begun."""
        return [job for _, _, job in self.children[worker].requests]

    def running(self) -> list[Job]:
        """Return the jobs whose user code runs, in order of the workers' numbers."""
        jobs = (self.children[worker].job for worker in self.workers())
        return [job for job in jobs if job is not None]

    def running_in(self, worker: Worker) -> Job | None:
        return self.children[worker].job

    def begun_jobs(self) -> list[Job]:
        """Return the jobs whose user code began, in that order, once for each attempt."""
        return [each.job for each in self.begun]

    def begun_in(self, worker: Worker) -> list[Job]:
        return [each.job for each in self.begun if each.worker is worker]

    def endings(self) -> dict[Job, str]:
        """Return how each job ended that has."""
        return {job: ending for job in self.jobs if (ending := ending_of(job)) is not None}

    @property
    def has_finished(self) -> bool:
        """Whether the close has come to its end."""
        return self.scheduler.has_finished

    @property
    def has_workers(self) -> bool:
        """Whether the scheduler knows of any worker that is not gone."""
        return bool(self.scheduler.workers)

    @property
    def is_broken(self) -> bool:
        """Whether the manager has given up because no worker can be started."""
        return self.scheduler.broken_by is not None

    def begin_all(self) -> list[Job]:
        """Have every unoccupied child take its next request; return what runs."""
        for worker in self.workers():
            if worker in self.children:
                self.begin(worker)
        return self.running()

    def commands(self, kind: type) -> list[Any]:
        """Return the commands of this kind so far."""
        return [command for command in self.log if isinstance(command, kind)]

    def run_until_done(self, *, limit: int = 10_000) -> None:
        """Run every one-off that is left to its end, in turns, and let time pass for waits."""
        for _ in range(limit):
            if not self.scheduler.unsettled:
                return
            self.begin_all()
            busy = [worker for worker, child in self.children.items() if child.running is not None]
            if busy:
                self.finish(busy[0])
            else:
                due_s = self.next_due_s
                assert due_s != float("inf"), "nothing runs, and nothing is due: jobs are stuck"
                self.advance(max(0.0, due_s - self.now_s))
        raise AssertionError("the jobs do not come to an end")

    def check(self) -> None:
        """Refuse a state that may never be: see each claim."""
        self.scheduler.check()
        scheduler = self.scheduler
        one_offs = [job for job in self.jobs if not job.recipe.is_loop]
        places = Counter(id(job) for job in scheduler.all_jobs())
        for job in self.jobs:
            expected = 0 if ending_of(job) is not None else 1
            assert places[id(job)] == expected, f"{job.handle.name} is in {places[id(job)]} places, {job.state}"  # type: ignore[attr-defined]
        endings = Counter(map(ending_of, self.jobs))
        assert scheduler.added == len(self.jobs)
        assert scheduler.succeeded == endings[SUCCEEDED]
        assert scheduler.failed == endings[FAILED] + endings[BROKE]
        assert scheduler.cancelled == endings[CANCELLED]
        assert scheduler.unsettled == sum(ending_of(job) is None for job in one_offs)


def prompt_world(max_workers: int = 2, **options: Any) -> World:
    """Return a world in which all happens at once but the end of a call, which the test tells."""
    return World(max_workers, begins_at_once=True, **options)


def slow_world(max_workers: int = 2, **options: Any) -> World:
    """Return a world in which processes start and stop as the test tells, too."""
    return World(max_workers, is_obedient=False, reads_at_once=True, begins_at_once=True, **options)


def ending_of(job: Job) -> str | None:
    """Return how the job ended, or None."""
    return job.handle.ending  # type: ignore[attr-defined, no-any-return]


def why(job: Job) -> str | None:
    """Return how the last attempt of a failed job ended."""
    return job.handle.why  # type: ignore[attr-defined, no-any-return]


def short(name: str = "short", **limits: Any) -> Recipe:
    """Return a recipe that is known to be short, so that its jobs are sent ahead of their turn."""
    recipe = Recipe(name, b"", **limits)
    recipe.learn(0.0001)
    return recipe
