"""Signal handlers that the user's code sets in a worker: they run where what they raise can end only the user's code.

A handler runs between any two instructions of the main thread. So a handler that raises, such as one for an alarm that
a task has left behind, could split a frame, or end the worker between two tasks, which would cost a task that has
nothing to do with it. Python has no hook for that. So `signal.signal` wraps handlers here, and `signal.getsignal` and
what `signal.signal` returns unwrap them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # of the standard library, and unknown to type checkers
import signal
import sys
from functools import wraps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground._worker.execute import Executor

_executor: Executor | None = None  # of this process; None where it is no worker, such as in a fork that a task made


class _Guarded:
    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        executor = _executor
        if executor is None:
            self.handler(number, frame)
        elif not executor.channel.after_writing(lambda: self._run(executor, number, frame)):
            self._run(executor, number, frame)

    def _run(self, executor: Executor, number: int, frame: Any) -> None:
        if executor.is_calling:
            self.handler(number, frame)
            return
        try:
            self.handler(number, frame)
        except SystemExit:
            raise  # it ends the worker, as the program of the handler
        except BaseException as error:
            error.add_note("Raised by the signal handler of a task while no task was running, and ignored.")
            sys.excepthook(type(error), error, error.__traceback__)


def _unwrapped(handler: Any) -> Any:
    return handler.handler if type(handler) is _Guarded else handler


_set_handler, _get_handler = signal.signal, signal.getsignal


@wraps(_set_handler)
def _set_guarded(signalnum: Any, handler: Any) -> Any:
    return _unwrapped(_set_handler(signalnum, _Guarded(handler) if callable(handler) else handler))


@wraps(_get_handler)
def _get_unwrapped(signalnum: Any) -> Any:
    return _unwrapped(_get_handler(signalnum))


def wrap() -> None:
    """Wrap the handlers that this process has, and those that it sets later. They run as before until `guard`."""
    for number in range(1, _signal.NSIG):
        handler = _signal.getsignal(number)
        if callable(handler) and type(handler) is not _Guarded:
            _signal.signal(number, _Guarded(handler))
    signal.signal, signal.getsignal = _set_guarded, _get_unwrapped


def guard(executor: Executor | None) -> None:
    """Guard the handlers from now on, for this executor; None: they run unguarded again."""
    global _executor
    _executor = executor
    if executor is not None and signal.signal is not _set_guarded:
        wrap()
