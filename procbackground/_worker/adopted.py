"""The child's side of a head start: loads what a zygote needs, and becomes the process that the parent sends."""

from __future__ import annotations

# What is not used here is needed later; now, the parent is still loading its own side.
import os
import resource  # noqa: F401
import socket
import sys
from multiprocessing import resource_tracker, spawn

from procbackground._platform.passing import receive_fds
from procbackground._worker import title, zygote  # noqa: F401
from procbackground._worker.entry import inherited_fds

try:
    import _ctypes  # noqa: F401
except ImportError:
    pass  # a Python without it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MAX_FDS = 253  # what the kernel takes in a message


def main(control: int) -> NoReturn:
    """Wait for the parent, and do what a child of `multiprocessing` does. `control` is a socket."""
    exit_code = 1
    try:
        title.find_setter()
        with socket.socket(fileno=control) as parent:
            message, fds = receive_fds(parent, 1, MAX_FDS)
        if not message:
            os._exit(0)  # the parent has ended, or needs no child
        tracker_fd, data_fd, *inherited_fds[:] = fds
        resource_tracker._resource_tracker._fd = tracker_fd  # type: ignore[attr-defined]
        exit_code = spawn._main(data_fd, os.dup(data_fd))
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
    finally:
        os._exit(exit_code)
