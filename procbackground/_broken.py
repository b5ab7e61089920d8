"""Those of `errors` that are also a `BrokenProcessPool`, apart from the others: its module takes 13 ms to import.

No child needs them, and so none waits for that.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from procbackground.errors import ProcbackgroundError, signal_name

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:
        # The interpreter exits, and a worker has died meanwhile: the module cannot register its exit handler any
        # more. It is for executors of its own, of which there are none.
        register, threading._register_atexit = threading._register_atexit, lambda *_: None
        try:
            from concurrent.futures.process import BrokenProcessPool
        finally:
            threading._register_atexit = register


class WorkerDiedError(ProcbackgroundError, BrokenProcessPool):
    """The worker ended before it answered; the task may have run in part.

    Attributes: `exit_code` as in `Process.exitcode` (-9 is SIGKILL), None where the system could not tell;
    `log_lines`, the last lines that the attempt logged by `logging` or loguru; `peak_memory`, the highest resident
    size of the process over its life in bytes (`ru_maxrss`), None where the system could not tell.
    """

    def __init__(
        self,
        message: str = "",
        *,
        exit_code: int | None = None,
        log_lines: tuple[str, ...] = (),
        peak_memory: int | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.exit_code = exit_code
        self.log_lines = log_lines
        self.peak_memory = peak_memory

    @property
    def signal(self) -> str | None:
        """Name of the signal that killed the worker, such as "SIGKILL", or None."""
        return signal_name(self.exit_code)


class InitializerError(ProcbackgroundError, BrokenProcessPool):
    """The initializer failed or hung in a starting worker, or workers die before they take their first task.

    The child's traceback, or its stack where it hung, is the `__cause__`, as far as there is one.

    The manager starts no further workers: what was queued fails with this, and so does what is submitted later.
    """


for _error in (WorkerDiedError, InitializerError):
    _error.__module__ = "procbackground.errors"  # where users find them, and pickles
