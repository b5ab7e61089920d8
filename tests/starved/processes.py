"""python -m tests.starved.processes LEFT: so many processes and threads are left to a user without privileges."""

from __future__ import annotations

import os
import resource
import sys
import threading

import psutil

from tests.starved.common import Living, Manager, Recorder, child_pids, finish, wait_until
from tests.support.tasks import plain


def main(left: int) -> None:
    assert os.getuid() != 0, "the limit does not hold for root"
    for _ in range(2):  # the first has a head start, and it is the second that starts the fork server
        with Manager(max_workers=1) as warm:
            warm.run(pow, 2, 10).result(timeout=60)
    # Their processes count until they are collected: what ends later would leave room for a worker.
    wait_until(lambda: not child_pids(), "only the helpers of multiprocessing are left")
    # Python joins a thread before the system has ended it.
    wait_until(lambda: psutil.Process().num_threads() == threading.active_count(), "no thread is about to end")
    before = Living.now()
    recorder = Recorder()
    manager = Manager(max_workers=2, observer=recorder, retry=2)
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    seen = [process.info for process in psutil.process_iter(["uids", "num_threads"])]  # skips those that end meanwhile
    mine = [info["num_threads"] for info in seen if info["uids"].real == os.getuid()]
    resource.setrlimit(resource.RLIMIT_NPROC, (sum(mine) + left, hard))
    # The helpers that were started before go by the limit, too: it holds for what they fork.
    for process in psutil.Process().children(recursive=True):
        process.rlimit(psutil.RLIMIT_NPROC, (sum(mine) + left, hard))
    try:
        handles = [manager.run(plain.square, number) for number in range(20)]
    except (OSError, RuntimeError) as error:
        print(f"refused: {error!r}")
        handles = []
    else:
        recorder.wait_for("admission_held")
        assert not any(handle.done() for handle in handles)
        print(f"held: {recorder.events('admission_held')[0].error!r}")
    # This process last: once it may start others, it asks its helpers to.
    for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
        process.rlimit(psutil.RLIMIT_NPROC, (hard, hard))
    handles = handles or [manager.run(plain.square, number) for number in range(20)]
    assert [handle.result(timeout=30) for handle in handles] == [number**2 for number in range(20)]
    finish(manager, before)


if __name__ == "__main__":
    main(int(sys.argv[1]))
