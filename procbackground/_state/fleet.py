"""One worker as the decisions see it, and the table of its states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from procbackground._named import NamedTuple
from procbackground._state.attempt import IllegalTransition
from procbackground._state.job import Job
from procbackground._state.ledger import Kind, Needs
from procbackground._state.pipeline import Pipeline

if TYPE_CHECKING:
    from procbackground._state.timers import Timer

STARTING: Final = "starting"  # a process was asked for; it has not said hello
SPARE: Final = "spare"  # ready, has run nothing, and belongs to no job
IDLE: Final = "idle"  # with nothing to do: one of the pool, or one that is kept and has no place
BUSY: Final = "busy"
RECALLING: Final = "recalling"  # to be stopped, once what it has not begun is out of its pipe; not signalled yet
STOPPING: Final = "stopping"  # its process tree is being stopped
LEAVING: Final = "leaving"  # was asked to end by itself
DYING: Final = "dying"  # its process has ended; what it sent last may be unread
GONE: Final = "gone"

TRANSITIONS: Mapping[str, frozenset[str]] = {
    STARTING: frozenset({SPARE, STOPPING, LEAVING, DYING, GONE}),  # GONE: no process came of it; so below
    SPARE: frozenset({BUSY, STOPPING, LEAVING, DYING}),
    IDLE: frozenset({BUSY, STOPPING, LEAVING, DYING}),
    BUSY: frozenset({IDLE, RECALLING, STOPPING, LEAVING, DYING}),
    RECALLING: frozenset({BUSY, STOPPING, DYING}),  # BUSY: what was to be stopped has answered
    STOPPING: frozenset({DYING, GONE}),
    LEAVING: frozenset({DYING, GONE}),
    DYING: frozenset({GONE}),
    GONE: frozenset(),
}

TAKES_SLOT: Final = frozenset({IDLE, BUSY, RECALLING, STOPPING})  # of `max_workers`, unless it runs a loop


class Death(NamedTuple):
    """How a worker's process ended, as far as it is known. Made once, when it has ended."""

    exit_code: int | None = None  # as `Process.exitcode`
    oom: str = ""  # "machine" or "container" if the kernel has probably killed it because that was out of memory
    cpu_s: float | None = None  # that the request it died at used
    peak_bytes: int | None = None  # most that its tree held during that request
    stack: str | None = None  # Python stacks: of a fatal error, or of the moment before a stop
    no_stack_reason: str | None = None
    log_records: tuple[bytes, ...] = ()  # the last that the request logged, as they came
    protocol_error: str | None = None  # what was wrong with what it sent
    how_cut_off: str = ""  # why it could send no more, though it lived; then it was killed
    stderr: bytes = b""  # the end of what the request wrote to `sys.stderr`

    @property
    def cost(self) -> tuple[float | None, int | None]:
        return self.cpu_s, self.peak_bytes


ALIVE: Final = Death()


class Worker:
    """One worker process. `process` and `last_started_event_sequence` are the supervisor's."""

    __slots__ = (
        "death", "is_kept", "is_last", "kill_timer", "kind", "last_started_event_sequence", "line", "look_asked_s",
        "look_due_s", "loop", "needs", "number", "pid", "pipeline", "places", "process", "since_s", "state",
        "state_at_end", "stop_reason", "uses_slot", "wall", "was_killed",
    )  # fmt: skip

    def __init__(
        self, number: int, line: int, wall: Callable[[float], float], now_s: float, kind: Kind | None = None
    ) -> None:
        self.number: int = number
        self.line: int = line  # of the shared page
        self.wall: Callable[[float], float] = wall  # turns monotonic times into those of time.time()
        self.state: str = STARTING
        self.state_at_end: str = STARTING  # before DYING
        self.since_s: float = now_s  # when it came into its state; for DYING and GONE, into the one before
        self.pid: int = 0
        self.pipeline: Pipeline = Pipeline(now_s)
        self.loop: Job | None = None
        self.kind: Kind | None = kind  # None for an ordinary one
        self.places: int = 1  # of `max_workers`, that it takes while it uses any
        self.uses_slot: bool = False
        self.needs: Needs | None = None  # of the job with needs that it runs
        self.is_last: bool = False  # it leaves after what it runs
        self.is_kept: bool = False  # or rests: what it runs has needs
        self.stop_reason: str | None = None
        self.was_killed: bool = False  # by us, with SIGKILL
        self.kill_timer: Timer | None = None
        self.death: Death = ALIVE
        # A chunk was last asked to look at the clock between these: a look before may have missed it, and what begins
        # after has one.
        self.look_asked_s: float = 0.0
        self.look_due_s: float = 0.0
        self.last_started_event_sequence: int = 0  # number of the last request whose `on_task_started` was sent
        self.process: Any = None

    @property
    def current(self) -> Job | None:
        """The job that it runs, or will run next; for all that is known here, a cancelled one counts."""
        if self.loop is not None:
            return self.loop
        jobs = self.pipeline.jobs
        return jobs[0] if jobs else None

    @property
    def is_running(self) -> bool:
        """Whether user code runs in it, as far as the parent knows."""
        return self.loop is not None or bool(self.pipeline.jobs)

    def enter(self, state: str, now_s: float) -> None:
        """Take a state that the table allows after the present one. Raises: `IllegalTransition`."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"{self!r} cannot become {state}")
        if state == DYING:
            self.state_at_end = self.state
        elif state != GONE:
            self.since_s = now_s
        self.state = state

    def __repr__(self) -> str:
        return f"<worker {self.number} pid={self.pid} {self.state} in flight={len(self.pipeline.jobs)}>"
