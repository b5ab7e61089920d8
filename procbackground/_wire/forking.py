"""What a manager and its zygote say to each other, through a socket that keeps packets whole."""

from __future__ import annotations

import struct

# Requests of the manager, one a packet.
FORK = b"F"  # + FORK_ARGS: start a worker
REAP = b"R"  # + PID: the manager no longer uses the pid, which may now be reused
PRELOAD = b"P"  # + module name: workers started from now on should have it
CLOSE = b"C"  # all workers are gone: end the processes that they left behind

# Answers, one a packet.
FORKED = b"W"  # + FORK_RESULT, with the five descriptors of the manager's side
REFUSED = b"E"  # + FORK_RESULT with an errno in place of the pid
EXITED = b"X"  # + EXIT
UNFIT = b"T"  # + name of a module, NUL, what its import left that forks must not share: forking is not safe any more

FORK_ARGS = struct.Struct("<II")  # worker number, line of the page
FORK_RESULT = struct.Struct("<II")  # worker number, pid
FORKED_FDS = struct.Struct("@5i")
PID = struct.Struct("<I")
EXIT = struct.Struct("<IiQd")  # pid, exit code, peak bytes or 0, CPU seconds or UNKNOWN_S
UNKNOWN_S = -1.0
