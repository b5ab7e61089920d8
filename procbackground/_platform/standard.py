"""Keeps descriptors 0 to 2 from becoming something else where a program was started without them, as under cron.

Whatever writes to its standard error, such as a library in C, would write into a pipe or file that got the number. In
`multiprocessing`'s helpers it is worse: they close what has the number of standard input.
"""

from __future__ import annotations

import os


def occupy_standard_descriptors() -> None:
    """Open the null device in place of those of 0, 1 and 2 that are closed, for this process and its children.

    They stay open: it is not known when the last user of such a number has gone.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            try:
                opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            except OSError:
                return  # there is no null device
            if opened == fd:
                os.set_inheritable(fd, True)
            else:
                os.close(opened)  # another thread has got the number meanwhile
