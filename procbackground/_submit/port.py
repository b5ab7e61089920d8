"""What the caller's side needs of the supervisor: of `Supervisor`, or of its stand-in without processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from procbackground._state.job import Job
from procbackground.handle import Owner, TaskHandle

if TYPE_CHECKING:
    from procbackground._submit.puller import Puller
    from procbackground._wire.shares import SharedFile


class Port(Owner, Protocol):
    """What the caller's side needs of the supervisor.

    Attributes: `is_inline`, tasks run in the thread that gives them; `tells_tasks`, observers want to know of tasks.
    """

    is_inline: bool
    tells_tasks: bool

    def check_usable(self) -> None:
        """Raise `ManagerClosedError` in a fork of the manager's process."""
        ...

    def accept(self, job: Job, is_patient: bool = False) -> None:
        """Take a one-off; wait for room if `is_patient`. Raises: `ManagerClosedError`, `InitializerError`; else
        `QueueFullError`.
        """
        ...

    def accept_loop(self, job: Job) -> None:
        """Take a loop. Raises: as `accept`."""
        ...

    def reject(self, job: Job, error: BaseException) -> None:
        """Take a job that could not be pickled, and fail it. Raises: as `accept`."""
        ...

    def adopt(self, job: Job, failure: bytes | BaseException) -> None:
        """Take a row of a chunk whose first attempt failed. Raises: as `accept`."""
        ...

    def note_rows(self, name: str, count: int, took_s: float) -> None:
        """Add rows of a map that succeeded to the figures of the run."""
        ...

    def announce(self, handles: Sequence[TaskHandle[Any]]) -> None:
        """Tell observers that these were added. Raises: as `accept`."""
        ...

    def tell(self, name: str, handle: TaskHandle[Any], when: float | None = None, **facts: Any) -> None:
        """Tell observers of a row that is in no job of its own; `when` as `time.time()`, now by default."""
        ...

    def preload(self, module: str) -> None:
        """Have workers that start later import `module` first."""
        ...

    def share(self, value: Any) -> SharedFile:
        """Lay a value down in shared memory. Raises: `ManagerClosedError`, `SerializationError`, `OSError`."""
        ...

    def attach(self, puller: Puller) -> None:
        """End `puller` when the manager has closed. Raises: `ManagerClosedError`, `InitializerError`."""
        ...

    def detach(self, puller: Puller) -> None:
        """It has ended."""
        ...

    def run_aside(self, act: Callable[[], None]) -> None:
        """Call `act` in a thread in which no signal handler runs."""
        ...
