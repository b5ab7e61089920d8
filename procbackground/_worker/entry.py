"""The functions that run in a new `multiprocessing` process: a worker, or the zygote that forks workers.

They are not beside the code that starts them, because a child imports the module of its target: importing the
parent's side would add 15 ms to every start. What they run is imported in the child only. Modules that a child imports
avoid `typing` and its named tuples, which take 3 ms; type checkers understand `TYPE_CHECKING = False`.
"""

from __future__ import annotations

import os

from procbackground._worker.boot import Boot

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


inherited_fds: list[int] = []  # in a process that had a head start: descriptors that came with its process object


class InheritedFd:
    """A descriptor in a process object: pickled as its index in `inherited_fds`, in place of a `DupFd`."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """Return the descriptor, in the child."""
        return inherited_fds[self.index]


def run_worker(
    fds: list[Fd], not_ours: tuple[int, ...], number: int, line: int, boot: Boot, signal_mask: set[int] | None = None
) -> None:
    """Run a worker in a `multiprocessing` process of its own; see `alone`."""
    from procbackground._worker import alone

    alone.run_worker(fds, not_ours, number, line, boot, signal_mask)


def run_zygote(fds: list[Fd], boot: Boot, preload: tuple[str, ...]) -> None:
    """Run the zygote, from which workers are forked."""
    from procbackground._worker import zygote
    from procbackground._worker.forker import ZygoteFds

    zygote.serve(ZygoteFds(*(fd.take() for fd in fds)), boot, preload)
