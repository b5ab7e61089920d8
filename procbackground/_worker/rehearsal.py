"""A rehearsal: the zygote runs a worker's code on a few requests, so that workers forked later are quicker.

CPython specialises bytecode that has run a few times, and a fork inherits that. Otherwise a worker that lives for a
single task runs all its code for the first time: it looks up attributes in types and dictionaries, and copies their
pages to count references, at 2.5 µs a page. Bursts of 200 isolated tasks on two workers took 4.4 ms a task with the
rehearsal and 5.5 ms without, and 5.4 against 6.4 ms of CPU time (medians of 24 interleaved runs).

The rehearsal restores everything that it changes in the zygote.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from procbackground import _platform
from procbackground._wire import frames as wire
from procbackground._wire.page import WORDS_PER_LINE
from procbackground._wire.pickling import PROTOCOL
from procbackground._worker import relay
from procbackground._worker.boot import Boot
from procbackground._worker.main import (
    Worker,
    WorkerFds,
    detach_from_zygote,
    find_exit_work,
    forget_worker,
    lead_own_group,
)
from procbackground.context import set_finder

ROUNDS = 20  # CPython 3.11 specialises after 8; later versions after fewer
_NAMELESS = wire.pack_name("")
_HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


def rehearse() -> None:
    """Run the worker's code on a few requests in this process. Takes 2 ms."""
    try:
        with _signals_restored() as may_set_signals, _random_state_restored() as reseed:
            for _ in range(ROUNDS):
                # The interpreter calls this after a fork. With a single thread it does no harm.
                after_fork = getattr(threading, "_after_fork", None)
                if after_fork is not None:
                    after_fork()
                reseed()
                _run_worker(may_set_signals)
    except Exception:
        pass  # such as no free descriptors: workers are slower without the rehearsal, but correct


def _run_worker(may_set_signals: bool) -> None:
    """Run a worker for two requests."""
    fds: list[int] = []
    try:
        fds += os.pipe()
        fds += os.pipe()
        tasks, to_worker, _, answer = fds
        worker = Worker(_make_words(), Boot(None, relay.Levels()))
        worker.is_rehearsal = True
        if may_set_signals:
            detach_from_zygote(())
            worker.install_signal_handlers(answer)
        lead_own_group()  # changes nothing: the zygote leads its group already
        if relay.is_prepared():
            worker.relay_logs()
            relay.uninstall()
        _write_requests(to_worker)
        os.close(to_worker)
        fds.remove(to_worker)
        worker.run(WorkerFds(tasks, answer, -1), 0)
        find_exit_work()
    finally:
        forget_worker()
        set_finder(None)
        for fd in fds:
            os.close(fd)


@contextmanager
def _signals_restored() -> Iterator[bool]:
    """Restore the signal handlers that a worker sets at its start; yield whether that is possible."""
    handlers = {number: signal.getsignal(number) for number in _HANDLED_SIGNALS}
    # None is a handler that was not set from Python, and cannot be restored.
    can_restore = None not in handlers.values() and not faulthandler.is_enabled()
    wakeup_fd = signal.set_wakeup_fd(-1)
    try:
        yield can_restore
    finally:
        if can_restore:
            faulthandler.disable()
            if _platform.STACK_SIGNAL:
                faulthandler.unregister(_platform.STACK_SIGNAL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        with suppress(OSError, ValueError):  # it was closed, but not unset
            signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)


@contextmanager
def _random_state_restored() -> Iterator[Callable[[], object]]:
    """Yield the function that seeds the generator of `random`, as a fork does; restore the generator's state."""
    generator = getattr(sys.modules.get("random"), "_inst", None)
    if generator is None:
        yield lambda: None
        return
    state = generator.getstate()
    try:
        yield generator.seed
    finally:
        generator.setstate(state)


def _write_requests(fd: int) -> None:
    """Write two requests that call a built-in function."""
    rest = wire.call_rest(wire.IS_REUSABLE, 1, _NAMELESS + pickle.dumps(abs, PROTOCOL))
    arguments = pickle.dumps((-1,), PROTOCOL)
    for number in (1, 2):
        os.write(fd, wire.call_frame(number, rest, arguments))


def _make_words() -> memoryview:
    return memoryview(bytearray(8 * WORDS_PER_LINE)).cast("Q")
