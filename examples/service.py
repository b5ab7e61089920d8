#!/usr/bin/env python3
"""A small service: a looping task beside one-off tasks, logged through loguru, closed by SIGTERM or Ctrl-C.

    python examples/service.py [FILE ...]     the files are checksummed, by default the Python interpreter

The loop logs the load of the machine every `--interval` seconds until the service is told to end. SIGTERM (as
`systemctl stop` and `docker stop` send) and Ctrl-C begin the close: no further iteration; checksums that
run may finish within `--close-timeout` seconds, then they are stopped. A second signal ends it all at once.

Exit codes: 0 when it closed as told; 1 when it did, but a checksum had failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from loguru import logger
from tenacity import retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

from procbackground import Manager, ManagerClosedError, Retry, Task, TaskHandle, TaskType, current
from procbackground.observers import LoguruObserver

BLOCK_BYTES = 1 << 20  # large enough to keep the disk busy, small enough to report progress often

# A missing file is missing the next time too; a read error on a network disk may pass.
RETRY = Retry(
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    retry=retry_if_not_exception_type((FileNotFoundError, IsADirectoryError, PermissionError)),
)


def report_load(folder: str) -> None:
    """Log the load of the machine and the space left in `folder`: one iteration of the loop."""
    load = os.getloadavg()[0]
    disk = shutil.disk_usage(folder)
    logger.info("load {:.2f}, disk {:.0%} full", load, disk.used / disk.total)


def checksum(path: str) -> str:
    """Return the SHA-256 of a file, and tell how far it is on the way: silence would count as a stall."""
    digest = hashlib.sha256()
    size, done = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            current().progress(done, size)
    return digest.hexdigest()


def log_checksum(path: str, checksum: Future[str]) -> None:
    """Log a result where there is one; what failed or was cancelled is in the log already."""
    if not checksum.cancelled() and checksum.exception() is None:
        logger.info("{}  {}", checksum.result(), path)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Report the load, checksum files, and close when told to.")
    parser.add_argument("files", nargs="*", metavar="FILE", default=[sys.executable])
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between reports (%(default)g)")
    parser.add_argument(
        "--close-timeout", type=float, default=10.0, help="seconds for running work to finish (%(default)g)"
    )
    parser.add_argument("--verbose", action="store_true", help="log every step of every task and process")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    logger.remove()
    logger.add(sys.stderr, level="DEBUG" if arguments.verbose else "INFO")
    checksums: list[TaskHandle[str]] = []
    with (
        Manager(observer=LoguruObserver(), retry=RETRY, stalled_threshold=30) as manager,
        manager.closing_on(signal.SIGTERM, signal.SIGINT, timeout=arguments.close_timeout),
        suppress(ManagerClosedError),  # the signal may come before everything is started
    ):
        loop = manager.run_task(Task(report_load, args=(os.getcwd(),), type=TaskType.LOOP, interval=arguments.interval))
        for path in arguments.files:
            handle = manager.run_task(Task(checksum, args=(path,), name=f"checksum of {path}"))
            handle.add_done_callback(partial(log_checksum, path))
            checksums.append(handle)
        logger.info("service started in process {}", os.getpid())
        wait([loop])  # a loop is done only when the manager closes
        logger.info("service is closing")
    logger.info("service ended")
    return int(any(not handle.cancelled() and handle.exception() is not None for handle in checksums))


if __name__ == "__main__":
    sys.exit(main())
