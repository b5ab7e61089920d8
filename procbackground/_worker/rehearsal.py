"""A rehearsal: requests that workers serve in the zygote, so that workers forked later are quicker.

CPython specialises the bytecode of what has run a few times, and a fork inherits that. A worker that lives for a single
task would run everything for the first time: look up attributes in types and dictionaries, whose pages it must copy to
count the references. After the rehearsal it has 380 page faults where it would have 430, at 2.5 to 3.7 µs each; what
`threading` does after each fork is rehearsed, too.
"""

from __future__ import annotations

import os
import pickle
import threading

from procbackground import _wire
from procbackground._page import WORDS_PER_LINE
from procbackground._pickling import PROTOCOL
from procbackground._worker.main import Boot, Worker, WorkerFds

ROUNDS = 20  # 8 are what CPython 3.11 waits for; later ones wait for less
_NAMELESS = b"\0\0"


def rehearse(boot: Boot) -> None:
    """Have workers that nobody waits for serve a few requests in this process. Takes 2 ms."""
    after_fork = getattr(threading, "_after_fork", lambda: None)  # harmless where there is one thread
    for _ in range(ROUNDS):
        after_fork()
        fds: list[int] = []
        try:
            fds += os.pipe()
            fds += os.pipe()
            tasks, to_worker, _, answers = fds
            _give_requests(to_worker)
            os.close(to_worker)
            fds.remove(to_worker)
            worker = Worker(_words_of_its_own(), boot)
            worker.open(WorkerFds(tasks, answers, -1, -1), 0)
            worker.serve(tasks)
        except OSError:
            return  # no descriptors to be had
        finally:
            for fd in fds:
                os.close(fd)


def _give_requests(fd: int) -> None:
    """Write requests of the plainest kind."""
    rest = _wire.call_rest(_wire.CALL, _wire.IS_REUSABLE, 1, _NAMELESS + pickle.dumps(abs, PROTOCOL))
    arguments = pickle.dumps((-1,), PROTOCOL)
    for number in (1, 2):
        os.write(fd, _wire.call_frame(number, rest, arguments))


def _words_of_its_own() -> memoryview:
    return memoryview(bytearray(8 * WORDS_PER_LINE)).cast("Q")
