"""python -m tests.starved.descriptors LEFT: a manager's first task with so many descriptors left."""

from __future__ import annotations

import errno
import sys

from tests.starved.common import Hoard, Living, Manager, Recorder, finish
from tests.support.tasks import plain


def main(left: int) -> None:
    with Manager(max_workers=1) as warm:  # starts `multiprocessing`'s helpers
        warm.run(pow, 2, 10).result(timeout=60)
    before = Living.now()
    recorder = Recorder()
    manager = Manager(max_workers=2, observer=recorder, retry=2)
    hoard = Hoard(left)
    try:
        handles = [manager.run(plain.square, number) for number in range(20)]
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        print(f"refused: {error}")
        hoard.release()
        handles = [manager.run(plain.square, number) for number in range(20)]
    else:
        (held,) = recorder.wait_for("admission_held")
        assert held.reason == "processes"
        assert held.error.errno == errno.EMFILE, held.error
        assert not any(handle.done() for handle in handles)
        print(f"held: {held.error}")
        hoard.release()
        recorder.wait_for("admission_resumed")
    assert [handle.result(timeout=20) for handle in handles] == [number**2 for number in range(20)]
    finish(manager, before)


if __name__ == "__main__":
    main(int(sys.argv[1]))
