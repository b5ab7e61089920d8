"""Floors: what the operating system and the interpreter ask for at least, with no library in between."""

import os
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders.protocol import Contender


class OsFork(Contender):
    """A bare `os.fork` per task: the child pickles its result into a pipe, exits and is waited for.

    With `is_paired`, as many children as there are workers are under way at once; otherwise one at a time,
    which is the price of the call itself.
    """

    def __init__(self, workers: int, *, fresh: bool = False, is_paired: bool) -> None:
        self.most_under_way = workers if is_paired else 1

    def run_each(self, fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        results = []
        under_way: deque[tuple[int, int]] = deque()
        for each in arguments:
            if len(under_way) == self.most_under_way:
                results.append(_answer_of(*under_way.popleft()))
            under_way.append(_fork_to_run(fn, each))
        results.extend(_answer_of(*child) for child in under_way)
        return results


class RawLoop(Contender):
    """A plain `while` over the body of the loop, in this process."""

    def __init__(self, workers: int, *, fresh: bool = False) -> None:
        pass

    def run_loop(self, fn: Callable[..., Any], *args: Any) -> None:
        while fn(*args) is None:
            pass


def _fork_to_run(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[int, int]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writable, pickle.dumps(fn(*args)))
        os._exit(0)
    os.close(writable)
    return pid, readable


def _answer_of(pid: int, readable: int) -> Any:
    answer = os.read(readable, 65536)
    os.close(readable)
    os.waitpid(pid, 0)
    return pickle.loads(answer)
