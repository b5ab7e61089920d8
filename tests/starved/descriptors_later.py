"""python -m tests.starved.descriptors_later: the descriptors run out while a manager is at work, and workers die."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys

from tests.starved.common import Living, Manager, Recorder, finish, wait_until
from tests.support.gate import PATIENCE_S, Gate, stop_at_gate
from tests.support.tasks import plain


def main() -> None:
    with Manager(max_workers=1) as warm:
        warm.run(pow, 2, 10).result(timeout=60)
    before = Living.now()
    recorder = Recorder()
    manager = Manager(max_workers=2, observer=recorder)
    gate = Gate()
    sleepers = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    pids = [gate.wait_for_arrival() for _ in sleepers]
    queued = [manager.run(plain.square, number) for number in range(20)]
    # The modules of errors, which cannot be read without a descriptor, come a moment after the start of a process.
    wait_until(lambda: "procbackground._broken" in sys.modules, "what describes deaths is there")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # what the dead let go is none to be had again either
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for sleeper in sleepers:
        error = sleeper.exception(timeout=PATIENCE_S)
        assert getattr(error, "exit_code", None) == -signal.SIGKILL, error
    (held,) = recorder.wait_for("admission_held")
    assert (held.reason, held.error.errno) == ("processes", errno.EMFILE), held
    assert not any(handle.done() for handle in queued)
    queued[0].cancel()  # what needs no descriptor works
    print(f"held: {held.error}")
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [handle.result(timeout=20) for handle in queued[1:]] == [number**2 for number in range(1, 20)]
    (resumed,) = recorder.wait_for("admission_resumed")
    assert resumed.held_for > 0
    gate.close()
    finish(manager, before)


if __name__ == "__main__":
    main()
