"""One place: what a worker of a manager with an engine has instead of a process, and the request of its attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbackground._state.job import Job
from procbackground._supervisor.output import FileOutput
from procbackground._supervisor.process import NO_LOOK_S, WorkerProcess
from procbackground._wire import attempts as w
from procbackground._wire import frames as wire
from procbackground._wire.parcel import Parcel

if TYPE_CHECKING:
    from procbackground._state.fleet import Worker
    from procbackground._supervisor.engine_loop import EngineLoop
    from procbackground._wire.shares import SharedFile


class Place:
    """Takes the part of a worker's process, for a manager with an engine: the request that runs elsewhere."""

    __slots__ = (
        "begins", "is_closed", "is_ending", "is_waiting", "losses", "node", "number", "refusals", "relayed",
        "wants_next",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number: int = 0  # of the request that the engine has; 0 for none
        self.begins: int = 0  # how often the attempt has begun, each time on another node
        self.losses: int = 0  # how often the engine has given it up
        self.refusals: int = 0  # how often a node could not start it
        self.node: str = ""  # where it began last
        self.is_waiting: bool = False  # a loop whose iteration failed
        self.wants_next: bool = False  # ... and which may go on
        self.is_ending: bool = False  # ... or is to end
        self.is_closed: bool = False
        self.relayed: set[int] = set()  # requests that logged or printed; their handles wait for that

    @property
    def has_begun(self) -> bool:
        return self.begins > 0

    def ask_for_stack(self) -> bool:
        return False

    def kill_tree(self) -> None:
        """The engine does that."""

    def close(self) -> None:
        self.is_closed = True

    def fds(self) -> list[int]:
        return []

    def note_record(self, sequence: int, body: bytes) -> None:
        """The node keeps the last records, for the message of a death."""


class PlaceLauncher:
    """Makes places; `procbackground._supervisor.process.Launcher` says what each method is for."""

    is_starting = False
    look_s = NO_LOOK_S

    def __init__(self, loop: EngineLoop) -> None:
        self._loop = loop

    def launch(self, worker: Worker) -> None:
        self._loop.workers.launch(worker)

    def close(self) -> None:
        self._loop.close_engine()

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        return None

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        return False

    def may_wait_longer(self, waited_s: float) -> bool:
        return False

    def look_for_exits(self) -> None:
        pass

    def release(self, process: WorkerProcess) -> None:
        pass

    def preload(self, module: str) -> None:
        pass

    def abandon_in_fork(self) -> None:
        pass

    def look_after(self, now_s: float) -> None:
        pass


def shares_of(job: Job) -> tuple[SharedFile, ...]:
    """Return the shared values that the arguments refer to."""
    return job.payload.shares if isinstance(job.payload, Parcel) else ()


def request_of(job: Job, number: int, payload: bytes, is_suspect: bool) -> w.Request:
    """Return the request number `number`, for the attempt that the job is at.

    Args:
        is_suspect: whether nodes were lost that had it.
    """
    recipe = job.recipe
    output = None
    if recipe.output is not None:
        path = ""
        if recipe.output.path:
            path = recipe.output.file_of(recipe.name, job.number, job.attempt)
            job.handle._output = FileOutput(path)
        output = (recipe.output.mode, path)
    needs = recipe.node_needs
    is_plain = not (recipe.is_loop or recipe.isolate or job.attempt > 1 or is_suspect)
    return w.Request(
        number=number,
        name=recipe.name,
        blob=recipe.blob,
        payload=payload,
        is_stored=isinstance(job.payload, Parcel),
        flags=job.flags & ~wire.HAS_OUTPUT,
        attempt=job.attempt,
        is_loop=recipe.is_loop,
        is_chunk=recipe.is_chunk,
        isolate=recipe.isolate,
        timeout_s=recipe.timeout_s,
        stalled_s=recipe.stalled_s,
        memory_limit=recipe.memory_limit,
        interval_s=recipe.interval_s,
        checkpoint=None if job.history is None else job.history.checkpoint,
        output=output,
        priority=recipe.priority,
        needs=None if needs is None else (needs.cores, needs.memory, needs.slots),
        shares=tuple(share.number for share in shares_of(job)),
        expected_s=recipe.mean_s if is_plain and recipe.mean_s >= 0 else w.NEVER,
    )
