"""python -m tests.starved.disk FOLDER: the disk of TMPDIR has become full before the first task."""

from __future__ import annotations

import errno
import os
import sys
import tempfile

from tests.starved.common import Living, Manager, Recorder, finish
from tests.support.tasks import hoarding, plain


def main(folder: str) -> None:
    os.environ["TMPDIR"] = folder
    assert tempfile.gettempdir() == folder  # chosen while there was room
    fillers = []
    try:
        while True:  # the disk is out of places for files
            fillers.append(os.path.join(folder, f"filler-{len(fillers)}"))
            open(fillers[-1], "x").close()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        fillers.pop()
    recorder = Recorder()
    # The first manager of a program starts its workers without the fork server, which has a socket there.
    manager = Manager(max_workers=1, mp_context="forkserver", observer=recorder)
    handles = [manager.run(plain.square, number) for number in range(20)]
    held = recorder.wait_for("admission_held")[0]
    assert (held.reason, held.error.errno) == ("processes", errno.ENOSPC), held
    assert not any(handle.done() for handle in handles)
    print(f"held: {held.error}")
    for filler in fillers:
        os.unlink(filler)
    assert [handle.result(timeout=20) for handle in handles] == [number**2 for number in range(20)]
    failed = manager.run(hoarding.fill_disk, folder)
    error = failed.exception(timeout=20)
    assert isinstance(error, OSError), error
    assert error.errno == errno.ENOSPC, error
    assert manager.run(plain.square, 3).result(timeout=20) == 9
    manager.close()
    with Manager(max_workers=1) as again:
        again.run(pow, 2, 10).result(timeout=20)
    before = Living.now()
    finish(again, before)


if __name__ == "__main__":
    main(sys.argv[1])
