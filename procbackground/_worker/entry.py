"""The functions that run in a new `multiprocessing` process: a worker, or the zygote that forks workers.

They are not beside the code that starts them, because a child imports the module of its target: importing the
parent's side would add 15 ms to every start. Modules that a child imports avoid `typing` and its named tuples, which
take 3 ms; type checkers understand `TYPE_CHECKING = False`.
"""

from __future__ import annotations

import os
import signal

from procbackground import _platform
from procbackground._platform import marks
from procbackground._wire.page import MARK, WORDS_PER_LINE, map_page
from procbackground._worker.boot import Boot, prepare_main
from procbackground._worker.main import (
    NEEDED_SIGNALS,
    Worker,
    WorkerFds,
    forget_inherited_output,
    forget_parents_handlers,
    ignore_interrupts,
    keep_lines_whole,
    lead_own_group,
    leave,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Fd:
    """A descriptor that travels to a child of any start method."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.reduction import DupFd

        return _receive_fd, (DupFd(self.fd),)

    def take(self) -> int:
        """Return the descriptor, in the child."""
        os.set_inheritable(self.fd, False)
        return self.fd


def _receive_fd(duplicate: Any) -> Fd:
    return Fd(duplicate.detach())


def run_worker(
    fds: list[Fd], not_ours: tuple[int, ...], number: int, line: int, boot: Boot, signal_mask: set[int] | None = None
) -> None:
    """Run a worker in a `multiprocessing` process of its own.

    `not_ours` are descriptors of the parent that a fork inherited; they are closed first. `signal_mask` is the
    parent's: a fork begins with all signals blocked. Only forks have any.
    """
    if signal_mask is not None:
        forget_parents_handlers()
    for fd in not_ours:
        os.close(fd)
    if not_ours:
        forget_inherited_output()
    if boot.surroundings is not None:
        boot.surroundings.take_on()  # in a fork; another child has them already
        boot.surroundings.set_limits()
    tasks, results, life, notes, side, page = (each.take() for each in fds)
    words = map_page(page)
    os.close(page)
    marks.set_mark(words[line * WORDS_PER_LINE + MARK])  # before any code of the user's
    prepare_main(boot)
    keep_lines_whole()
    ignore_interrupts()
    worker = Worker(words, boot)
    worker.install_signal_handlers(notes)
    lead_own_group()
    if signal_mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask - NEEDED_SIGNALS)
    own_life = _platform.open_life_pipe(life)
    _platform.own_life_pipe(own_life)
    _platform.end_if_over(own_life)
    worker.relay_logs()
    leave(worker.run(WorkerFds(tasks, results, side), line))


def run_zygote(fds: list[Fd], boot: Boot, preload: tuple[str, ...]) -> None:
    """Run the zygote, from which workers are forked."""
    from procbackground._worker import zygote
    from procbackground._worker.forker import ZygoteFds

    zygote.serve(ZygoteFds(*(fd.take() for fd in fds)), boot, preload)
