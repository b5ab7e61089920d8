#!/usr/bin/env python3
"""A worker is killed in the middle of its task: the others go on, and a retry brings the lost one back."""

from __future__ import annotations

import os
import signal

from procbackground import Manager, Task, WorkerDiedError, current


def square(number: int) -> int:
    if number == 3 and current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process when memory runs out
    return number * number


def main() -> None:
    with Manager(max_workers=2) as manager:
        handles = [manager.run(square, number) for number in range(6)]
        retried = manager.run_task(Task(square, args=(3,), retry=2))
        for number, handle in enumerate(handles):
            try:
                print(f"{number} squared is {handle.result()}")
            except WorkerDiedError as error:
                print(f"{number} squared is unknown: {error}")
        print(f"3 squared, with a retry, is {retried.result()}:")
        for attempt in retried.attempts:
            print(f"  attempt {attempt.number} in process {attempt.pid}: {attempt.signal or attempt.outcome}")


if __name__ == "__main__":  # the workers import this file too
    main()
