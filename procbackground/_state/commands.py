"""Commands of the scheduler. The supervisor carries them out in order, and reports facts by the scheduler's methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from procbackground._named import NamedTuple

if TYPE_CHECKING:
    from procbackground._state.fleet import Worker
    from procbackground._state.job import Job

# How an attempt ended, besides the reasons below.
VALUE: Final = "value"
FAILURE: Final = "failure"
FAILED_IN_MAP: Final = "failed in map"  # as a row of a chunk, with an exception that is at hand
DIED: Final = "died"
LOST: Final = "lost"  # by an engine, with an exception that is at hand

# Why a worker is stopped.
FOR_CANCEL: Final = "cancelled"
FOR_TIMEOUT: Final = "timeout"
FOR_LOADING: Final = "loading"  # it has not loaded the function in time
FOR_DEADLINE: Final = "deadline"
FOR_MEMORY: Final = "memory"
FOR_CLOSE: Final = "closing"
FOR_UPKEEP: Final = "upkeep"  # it runs nothing
FOR_START: Final = "start"  # it was not ready in time
FOR_PROTOCOL: Final = "protocol"  # what it sent cannot be read


class Launch(NamedTuple):
    """Start the process of this worker."""

    worker: Worker


class Send(NamedTuple):
    """Write the requests of these jobs."""

    worker: Worker
    jobs: list[Job]


class ContinueLoop(NamedTuple):
    """Let a loop whose iteration failed begin its next one."""

    worker: Worker


class Terminate(NamedTuple):
    """Ask the worker's tree to stop: SIGTERM. With `wants_stack`, take its Python stack first."""

    worker: Worker
    wants_stack: bool


class Kill(NamedTuple):
    """End the worker's tree: SIGKILL."""

    worker: Worker


class Dismiss(NamedTuple):
    """Close the worker's task pipe, so that it ends by itself."""

    worker: Worker


class EndLoop(NamedTuple):
    """Let the loop end after its running iteration."""

    worker: Worker


class Revoke(NamedTuple):
    """Have the worker skip what it has not begun, up to request number `up_to`."""

    worker: Worker
    up_to: int


class ReadMark(NamedTuple):
    """Report to `mark_seen` which request the worker began last, a moment after `up_to` were revoked."""

    worker: Worker
    up_to: int


class AskForLook(NamedTuple):
    """Have the worker's chunk look at the clock before its next row, and report `look_was_asked`."""

    worker: Worker


class Judge(NamedTuple):
    """An attempt ended otherwise than by a plain value: find out what that means, and report `judged`."""

    job: Job
    kind: str  # VALUE or FAILURE, which came as `body`; FAILED_IN_MAP or LOST; DIED; or one of FOR_...
    body: Any  # bytes or a parcel; for FAILED_IN_MAP and LOST an exception; for FOR_LOADING the limit
    worker: Worker | None  # that ran it; None when it ran nowhere
    cost: tuple[float | None, int | None] | None  # CPU seconds and peak bytes, as far as they are known
    waits: bool = False  # the worker runs a loop, and waits for the verdict


class Cancelled(NamedTuple):
    """Settle the handles of these jobs as cancelled. `worker` is the one that ran the only one, if one did."""

    jobs: list[Job]
    worker: Worker | None = None


class Broke(NamedTuple):
    """Settle the handle of this job as failed: the manager can start no workers."""

    job: Job


class Refuse(NamedTuple):
    """Take no more jobs: the manager can start no workers."""


class Stalled(NamedTuple):
    """Report that the attempt has been silent."""

    job: Job
    worker: Worker
    silent_for_s: float


class SlowStart(NamedTuple):
    """Report that the worker has been starting, or loading the function of this job, for long."""

    worker: Worker
    job: Job | None
    lasts_s: float
    limit_s: float


class ProcessReady(NamedTuple):
    """Report that the worker is ready for work."""

    worker: Worker


class ProcessGone(NamedTuple):
    """Report that the worker's process has ended."""

    worker: Worker


class WatchMemory(NamedTuple):
    """Report the free memory to `memory_seen`, now and as long as that asks for more."""


class Starved(NamedTuple):
    """Settle the handle of this job as failed: memory has been short for too long while none of ours ran."""

    job: Job
    free_bytes: int


class AdmissionHeld(NamedTuple):
    """Report that memory is short and no attempt begins."""

    free_bytes: int


class AdmissionResumed(NamedTuple):
    """Report that attempts begin again."""

    free_bytes: int
    held_for_s: float


Command: TypeAlias = (
    Launch | Send | ContinueLoop | Terminate | Kill | Dismiss | EndLoop | Revoke | ReadMark | AskForLook | Judge
    | Cancelled | Broke | Refuse | Stalled | SlowStart | ProcessReady | ProcessGone | WatchMemory | Starved
    | AdmissionHeld | AdmissionResumed
)  # fmt: skip


class Clocks(NamedTuple):
    """The known times of a worker's attempt, iteration or row."""

    began_s: float
    sign_s: float  # of its last sign of life, not before it began
    is_exact: bool = True  # else `began_s` is of an earlier row of the chunk
    is_loading: bool = False  # the function: the time of the attempt has not begun
