"""A rehearsal: workers that start, serve requests and end in the zygote, so that those forked later are quicker.

CPython specialises the bytecode of what has run a few times, and a fork inherits that. A worker that lives for a single
task would run everything for the first time: look up attributes in types and dictionaries, whose pages it must copy to
count the references, at 2.5 µs a page. What such workers change in the zygote is put back.
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
from procbackground._worker.main import Boot, Worker, WorkerFds, lead_own_group, let_go_of_zygote, what_is_left
from procbackground.context import set_finder

ROUNDS = 20  # 8 are what CPython 3.11 waits for; later ones wait for less
_NAMELESS = wire.pack_name("")
_HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


def rehearse() -> None:
    """Have workers that nobody waits for serve a few requests in this process. Takes 2 ms."""
    try:
        with _signals_as_they_are() as may_set_signals, _chances_as_they_are() as reseed:
            for _ in range(ROUNDS):
                # What the interpreter does after a fork, and what harms nothing where there is one thread.
                after_fork = getattr(threading, "_after_fork", None)
                if after_fork is not None:
                    after_fork()
                reseed()
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
            worker.install_signal_handlers(answer)
        lead_own_group()  # as the zygote does already
        if relay.only_waits():
            worker.relay_logs()
            relay.uninstall()
        _give_requests(to_worker)
        os.close(to_worker)
        fds.remove(to_worker)
        worker.run(WorkerFds(tasks, answer, -1), 0)
        what_is_left()
    finally:
        set_finder(None)
        for fd in fds:
            os.close(fd)


@contextmanager
def _signals_as_they_are() -> Iterator[bool]:
    """Put back what a worker sets in the course of its start; yields whether that is possible."""
    handlers = {number: signal.getsignal(number) for number in _HEEDED}
    # What is None was there before the interpreter.
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


@contextmanager
def _chances_as_they_are() -> Iterator[Callable[[], object]]:
    """Yield what seeds the generator of `random`, as a fork does, and put back its state."""
    generator = getattr(sys.modules.get("random"), "_inst", None)
    if generator is None:
        yield lambda: None
        return
    state = generator.getstate()
    try:
        yield generator.seed
    finally:
        generator.setstate(state)


def _give_requests(fd: int) -> None:
    """Write requests of the plainest kind."""
    rest = wire.call_rest(wire.IS_REUSABLE, 1, _NAMELESS + pickle.dumps(abs, PROTOCOL))
    arguments = pickle.dumps((-1,), PROTOCOL)
    for number in (1, 2):
        os.write(fd, wire.call_frame(number, rest, arguments))


def _words_of_its_own() -> memoryview:
    return memoryview(bytearray(8 * WORDS_PER_LINE)).cast("Q")
