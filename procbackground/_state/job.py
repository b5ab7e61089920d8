"""A job: a task from queued to settled, across its attempts.

A million jobs may be queued, so a job stores little. Everything that jobs of the same function and limits share is in
their `Recipe`; everything that a job needs only after a failure or with a deadline is in its `History`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from procbackground._state import attempt as a
from procbackground._state.ledger import Needs
from procbackground.report import Attempt, Outcome
from procbackground.retry import Retry
from procbackground.task import NO_LIMIT

if TYPE_CHECKING:
    from procbackground._state.fleet import Worker
    from procbackground._state.timers import Timer
    from procbackground.handle import TaskHandle

# Shorter tasks are sent to a worker before its present task has ended. For longer ones this saves nothing, and they
# would have to be taken back if another worker became idle first.
SHORT_TASK_S = 0.001

# How many requests one worker's pipe may hold: 1 gives 25,000 no-ops a second, 16 gives 160,000. More are sent only if
# together they take less than PREFETCHED_S, because a task of higher priority may have to wait for them.
PREFETCH_DEPTH = 16
MAX_PREFETCH_DEPTH = 64
PREFETCHED_S = 0.001

# A chunk with quick rows reads the clock rarely. If it has not done so for this long, the parent asks it to.
LOOK_AFTER_S = 0.003

# When an attempt without limits is looked at: it may be loading its function, which has the time of a start.
LOADING_LOOK_S = 5.0


class Recipe:
    """What jobs of the same function and limits share. Limits are resolved; `inf` means no limit."""

    __slots__ = (
        "blob",
        "carried",
        "deadline_s",
        "depth",
        "first_call",
        "first_flags",
        "interval_s",
        "is_apart",
        "is_chunk",
        "is_loop",
        "isolate",
        "make_task",
        "mean_s",
        "memory_limit",
        "name",
        "needs",
        "needs_judge",
        "needs_verdict",
        "node_needs",
        "output",
        "priority",
        "retry",
        "reusable",
        "stalled_s",
        "timeout_s",
        "watch_s",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        blob: bytes,
        *,
        reusable: bool = False,
        is_loop: bool = False,
        retry: Retry | None = None,
        timeout_s: float = NO_LIMIT,
        deadline_s: float = NO_LIMIT,
        stalled_s: float = NO_LIMIT,
        memory_limit: int | None = None,
        priority: int = 0,
        interval_s: float = 0.0,
        isolate: bool = False,
        needs: Needs | None = None,
        is_chunk: bool = False,
        make_task: Callable[..., Any] | None = None,
        output: Any = None,
    ) -> None:
        self.name: str = name
        self.blob: bytes = blob  # the name and the pickled function, encoded for a request
        # The function itself, where it cannot be in `blob` because it holds descriptors, shared values or large
        # buffers: it is sent as an argument.
        self.carried: tuple[Callable[..., Any], ...] = ()
        # Used by the supervisor: the common beginning of the requests of first attempts with these flags.
        self.first_flags: int = -1
        self.first_call: bytes = b""
        self.reusable: bool = reusable
        self.is_loop: bool = is_loop
        self.retry: Retry | None = retry if retry is not None and retry.can_retry else None
        self.output: Any = output  # a `_wire.output.Plan`, or None: it is inherited
        self.needs_judge: bool = self.retry is not None and self.retry.judges_results
        # The record of its attempt, which a verdict makes, has its output.
        self.needs_verdict: bool = self.needs_judge or output is not None
        self.timeout_s: float = timeout_s
        self.deadline_s: float = deadline_s
        self.stalled_s: float = stalled_s
        # How soon after its start an attempt is checked.
        self.watch_s: float = min(timeout_s, stalled_s, LOOK_AFTER_S if is_chunk else LOADING_LOOK_S)
        self.memory_limit: int | None = memory_limit
        self.priority: int = priority
        self.interval_s: float = interval_s
        self.isolate: bool = isolate
        self.needs: Needs | None = needs  # beside one place; None for most
        self.node_needs: Needs | None = None  # with an engine, which sees to them instead
        self.is_apart: bool = isolate or needs is not None  # its jobs never go to the queue of most
        self.is_chunk: bool = is_chunk
        self.make_task: Callable[..., Any] | None = make_task  # makes the `Task` of a call, if it is asked for
        self.mean_s: float = -1.0  # running mean of the duration of an attempt; below 0 while unknown
        self.depth: int = 1  # how many requests one worker's pipe may hold

    def learn(self, duration_s: float, count: int = 1, pace_s: float | None = None) -> None:
        """Update the mean with `count` attempts that took `duration_s` together, and choose `depth`.

        In `duration_s` is also what the worker waited for requests, and the answers for the parent. With a `pace_s`
        the worker has measured what each took.
        """
        mean_s = duration_s / count
        is_exact = False
        if pace_s is not None and pace_s < mean_s:
            mean_s, is_exact = pace_s, True
        if self.mean_s >= 0:
            # Follow longer durations quickly and shorter ones slowly: a wrong guess of "short" makes other tasks wait.
            weight = 0.5 if is_exact or mean_s > self.mean_s else 0.2
            mean_s = self.mean_s + weight * (mean_s - self.mean_s)
        self.mean_s = mean_s
        is_short = mean_s < SHORT_TASK_S and self.timeout_s > 10 * SHORT_TASK_S
        if not is_short or self.is_apart:
            self.depth = 1
        elif mean_s * MAX_PREFETCH_DEPTH <= PREFETCHED_S:
            self.depth = MAX_PREFETCH_DEPTH
        else:
            self.depth = max(PREFETCH_DEPTH, int(PREFETCHED_S / mean_s))


class History:
    """Data of a job that has a deadline, a failure, or anything else but a plain success."""

    __slots__ = (
        "attempts", "checkpoint", "deadline_s", "deadline_timer", "deaths_in_a_row", "first_started_s",
        "idle_for_s", "iterations", "retry_timer", "send_failures", "slow_since_s", "stalled_since_s",
        "unbegun_attempt",
    )  # fmt: skip

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.checkpoint: bytes | None = None  # the state that the task saved last, pickled
        self.first_started_s: float | None = None  # monotonic
        self.idle_for_s: float = 0.0  # spent in pauses between attempts
        self.deadline_s: float = NO_LIMIT  # monotonic
        self.deadline_timer: Timer | None = None
        self.retry_timer: Timer | None = None
        self.send_failures: int = 0  # times that its request could not be sent
        self.stalled_since_s: float | None = None  # start of the attempt (or iteration) that was reported as stalled
        self.slow_since_s: float | None = None  # start of the attempt that was reported to load its function for long
        self.unbegun_attempt: int = 0  # number of an attempt that never began although its `on_task_started` was sent
        self.iterations: int = 0  # iterations of a loop's process up to its last failure
        self.deaths_in_a_row: int = 0  # processes of a loop that ended without a complete iteration


# States before, between and after attempts, besides those of `_state.attempt`.
LOOKED_UP = "looked up"
FOLLOWING = "following"
JUDGED = "judged"
WAITING = "waiting"
SETTLED = "settled"

# The life of a job: the states that may follow a state, and what has happened then.
LIFE: Mapping[str, Mapping[str, str]] = {
    a.QUEUED: {
        LOOKED_UP: "the journal is asked for a result of its key",
        FOLLOWING: "another job of its key is under way, and it will end as that one does",
        a.SENT: "a worker gets its attempt",
        JUDGED: "its deadline has passed",
        SETTLED: "it is cancelled, cannot be pickled, or no worker can be started",
    },
    LOOKED_UP: {
        a.QUEUED: "the journal has no result",
        JUDGED: "its deadline has passed",
        SETTLED: "the journal has a result, or it is cancelled",
    },
    FOLLOWING: {JUDGED: "its deadline has passed", SETTLED: "the other one has ended, or it is cancelled"},
    a.SENT: {
        a.RETURNED: "a value has come",
        a.RAISED: "an error has come",
        a.QUEUED: "the worker has not begun it, and another will get it",
        a.STOPPING: "its attempt is over a limit, or the manager closes",
        a.LOST: "the worker has died in it",
        JUDGED: "its deadline has passed while it waited in the worker's pipe",
        SETTLED: "it is cancelled",
    },
    a.STOPPING: {
        a.RETURNED: "a value has come all the same",
        a.RAISED: "an error has come all the same",
        a.STOPPED: "the worker has ended, or had not begun it",
        SETTLED: "it is cancelled",
    },
    a.RETURNED: {JUDGED: "the retry policy judges values too, or loading the value may run the user's code"},
    a.RAISED: {JUDGED: "the retry policy is asked"},
    a.STOPPED: {JUDGED: "the retry policy is asked", SETTLED: "the manager closes"},
    a.LOST: {JUDGED: "the retry policy is asked"},
    JUDGED: {
        WAITING: "there will be another attempt",
        a.SENT: "of a loop: its next iteration, in the same worker",
        SETTLED: "there will not, or it is cancelled",
    },
    WAITING: {
        a.QUEUED: "the pause before its next attempt is over",
        JUDGED: "its deadline has passed",
        SETTLED: "it is cancelled, or no worker can be started",
    },
    SETTLED: {},
}


class Job:
    """An accepted task. `state` is one of those in `LIFE`."""

    __slots__ = (
        "attempt", "flags", "handle", "history", "number", "payload", "recipe", "sequence", "started_s",
        "state", "worker",
    )  # fmt: skip

    def __init__(self, handle: TaskHandle[Any], recipe: Recipe, payload: Any, flags: int = 0) -> None:
        self.handle: TaskHandle[Any] = handle
        self.recipe: Recipe = recipe
        self.payload: Any = payload  # the pickled arguments, as in the request, or the parcel with them
        self.flags: int = flags  # of the request
        self.number: int = 0  # order of acceptance
        self.state: str = a.QUEUED
        self.attempt: int = 1
        self.sequence: int = 0  # of the latest dispatch, within its worker
        self.worker: Worker | None = None
        self.started_s: float = 0.0  # monotonic, of the running attempt
        self.history: History | None = None

    def __lt__(self, other: Job) -> bool:
        """Whether this job goes first: higher priority, then order of acceptance."""
        if self.recipe.priority != other.recipe.priority:
            return self.recipe.priority > other.recipe.priority
        return self.number < other.number

    @property
    def has_settled(self) -> bool:
        return self.state == SETTLED

    @property
    def needs_fresh_worker(self) -> bool:
        """Whether the next attempt must run in a process that has run nothing else."""
        return self.attempt > 1 or self.recipe.isolate

    def with_history(self) -> History:
        if self.history is None:
            self.history = History()
        return self.history

    def move(self, event: str) -> None:
        """Take the attempt's next state from the table."""
        self.state = a.next_state(self.state, event)

    def record(
        self,
        outcome: Outcome,
        now_s: float,
        wall: Callable[[float], float],
        *,
        pid: int | None,
        exit_code: int | None = None,
        error: BaseException | None = None,
        cost: tuple[float | None, int | None] | None = None,
    ) -> None:
        """Append the running attempt to the history; `wall` converts monotonic times to `time.time()`."""
        cpu_seconds, peak_memory = cost if cost is not None else (None, None)
        history = self.with_history()
        history.attempts.append(
            Attempt(
                number=self.attempt,
                pid=pid,
                started=wall(self.started_s),
                ended=wall(now_s),
                outcome=outcome,
                exit_code=exit_code,
                error=error,
                cpu_seconds=cpu_seconds,
                peak_memory=peak_memory,
                output=self.handle.output,
            )
        )
        if history.first_started_s is None:
            history.first_started_s = self.started_s

    def attempts(self) -> list[Attempt]:
        """Return the ended attempts and the running one; for a loop those of the last iteration that failed."""
        ended = list(self.history.attempts) if self.history is not None else []
        worker = self.worker
        # Without a pid it waits at an engine.
        if worker is not None and worker.pid and self.state in (a.SENT, a.STOPPING) and not self.recipe.is_loop:
            ended.append(Attempt(self.attempt, worker.pid, worker.wall(self.started_s)))
        return ended


recipe_of = attrgetter("recipe")


class KeyedJob(Job):
    """A job of a manager with a journal."""

    __slots__ = ("answered_by", "facts", "followers", "is_entered", "is_recorded")

    def __init__(self, handle: TaskHandle[Any], recipe: Recipe, payload: Any, flags: int, facts: Any) -> None:
        super().__init__(handle, recipe, payload, flags)
        self.facts: Any = facts  # the journal's; its key, the first of them, is what this is about
        self.followers: list[KeyedJob] | tuple[()] = ()  # jobs of the same key that were given later
        self.is_entered: bool = False  # the journal had no result, so this will be run and recorded
        self.answered_by: Worker | None = None  # which keeps the result until it is recorded
        self.is_recorded: bool = False  # the journal has its end, or will have it in a moment
