"""A worker in a `multiprocessing` process of its own, which no zygote has forked."""

from __future__ import annotations

import os
import signal

from procbackground import _platform
from procbackground._platform import marks
from procbackground._wire.page import MARK, WORDS_PER_LINE, map_page
from procbackground._worker.boot import Boot, prepare_main
from procbackground._worker.entry import Fd
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
