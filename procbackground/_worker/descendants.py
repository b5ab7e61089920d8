"""Ends the processes below the zygote: workers, and whatever these have started."""

from __future__ import annotations

import os
import signal
import time

from procbackground import _platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

END_S = 0.4  # for killed processes to be gone; the parent waits for half a second


def end_with_parent() -> NoReturn:
    """End the processes below this one, and this process at once: exit handlers of modules may never return."""
    end_all_below(os.getpid())
    os._exit(0)


def end_all_below(zygote: int) -> None:
    """End all processes below the zygote except this one.

    One pass that finds no live process is not enough: a process that dies during the pass hands its children, which the
    pass listed before, to the zygote. Only processes that an earlier pass found dead have no children left.
    """
    until_s = time.monotonic() + END_S
    seen_dead: set[int] = set()
    while True:
        alive, dead = _look_below(zygote)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if (not alive and dead <= seen_dead) or time.monotonic() > until_s:
            break
        seen_dead |= dead
        time.sleep(0.001)  # killed processes need it to end, and to hand their children to the zygote
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _look_below(zygote: int) -> tuple[list[int], set[int]]:
    """Return the processes that are alive below the zygote except this one, and those that were found dead."""
    alive, dead = [], set()
    todo = [zygote]
    while todo:
        for pid in _platform.children(todo.pop()):
            if pid == os.getpid():
                todo.append(pid)
            elif _platform.start_time(pid) is None:
                dead.add(pid)
            else:
                alive.append(pid)
                todo.append(pid)
    return alive, dead
