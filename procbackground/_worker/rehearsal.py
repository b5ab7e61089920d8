"""A rehearsal: workers that start and serve requests in the zygote, so that those forked later are quicker.

CPython specialises the bytecode of what has run a few times, and a fork inherits that. A worker that lives for a single
task would run everything for the first time: look up attributes in types and dictionaries, whose pages it must copy to
count the references, at 2.5 to 3.7 µs a page.
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

from procbackground import _platform, _wire
from procbackground._page import WORDS_PER_LINE
from procbackground._pickling import PROTOCOL
from procbackground._worker import relay
from procbackground._worker.main import Boot, Worker, WorkerFds, let_go_of_zygote, what_is_left
from procbackground.context import set_finder

ROUNDS = 20  # 8 are what CPython 3.11 waits for; later ones wait for less
_NAMELESS = b"\0\0"
_HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


def rehearse() -> None:
    """Have workers that nobody waits for start, serve a few requests and end in this process. Takes 2 ms, in which no
    signal is heard that a worker does not heed."""
    with _signals_as_they_are() as may_set_signals:
        try:
            after_fork = _what_python_does_after_a_fork()
            for _ in range(ROUNDS):
                for step in after_fork:
                    step()
                _play(may_set_signals)
        except Exception:
            pass  # no descriptors are to be had, say: workers are slower without it, and no worse


def _play(may_set_signals: bool) -> None:
    """Be a worker for two requests."""
    fds: list[int] = []
    try:
        fds += os.pipe()
        fds += os.pipe()
        tasks, to_worker, _, answer = fds
        worker = Worker(_words_of_its_own(), Boot(None, 0))
        if may_set_signals:
            let_go_of_zygote(())
            worker.heed_signals(answer)
        if relay.only_waits():
            worker.relay_logs()
            relay.uninstall()
        _give_requests(to_worker)
        os.close(to_worker)
        fds.remove(to_worker)
        worker.run(WorkerFds(tasks, answer, -1, -1), 0)
        what_is_left()
    finally:
        set_finder(None)
        for fd in fds:
            os.close(fd)


def _what_python_does_after_a_fork() -> list[Callable[[], object]]:
    """Return steps of the interpreter's own that harm nothing where there is one thread and no fork."""
    steps: list[Callable[[], object]] = []
    after_fork = getattr(threading, "_after_fork", None)
    if after_fork is not None:
        steps.append(after_fork)
    generator = getattr(sys.modules.get("random"), "_inst", None)  # what `random.seed` seeds
    if generator is not None:
        steps.append(generator.seed)  # as a fork does again
    return steps


@contextmanager
def _signals_as_they_are() -> Iterator[bool]:
    """Put back what a worker sets in the course of its start; yields whether that is possible."""
    handlers = {number: signal.getsignal(number) for number in _HEEDED}
    # What C code has set cannot be seen from here.
    can_be_put_back = None not in handlers.values() and not faulthandler.is_enabled()
    wakeup_fd = signal.set_wakeup_fd(-1)
    try:
        yield can_be_put_back
    finally:
        if can_be_put_back:
            faulthandler.disable()
            if _platform.STACK_SIGNAL:
                faulthandler.unregister(_platform.STACK_SIGNAL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        with suppress(OSError, ValueError):  # closed long ago by whoever set it
            signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)


def _give_requests(fd: int) -> None:
    """Write requests of the plainest kind."""
    rest = _wire.call_rest(_wire.CALL, _wire.IS_REUSABLE, 1, _NAMELESS + pickle.dumps(abs, PROTOCOL))
    arguments = pickle.dumps((-1,), PROTOCOL)
    for number in (1, 2):
        os.write(fd, _wire.call_frame(number, rest, arguments))


def _words_of_its_own() -> memoryview:
    return memoryview(bytearray(8 * WORDS_PER_LINE)).cast("Q")
