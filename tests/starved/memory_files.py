"""python -m tests.starved.memory_files: no file may grow past a limit, files in memory neither; then a task fills
a disk."""

from __future__ import annotations

import errno
import resource

from procbackground._wire.page import PAGE_SIZE
from tests.starved.common import Living, Manager, finish
from tests.support.tasks import plain


def main() -> None:
    with Manager(max_workers=1) as warm:
        warm.run(pow, 2, 10).result(timeout=60)
    before = Living.now()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    manager = Manager(max_workers=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # not enough for the shared page
    try:
        manager.run(plain.square, 3)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        print(f"refused: {error}")
    else:
        raise AssertionError("the page was made in spite of the limit")
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_SIZE, hard))  # enough for the page, not for a large payload
    assert manager.run(plain.square, 3).result(timeout=20) == 9
    large = bytes(PAGE_SIZE + 1)
    assert manager.run(plain.echo, large).result(timeout=20) == large  # by the pipe, then
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert manager.run(plain.echo, large).result(timeout=20) == large
    finish(manager, before)


if __name__ == "__main__":
    main()
