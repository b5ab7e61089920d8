"""Checked, never run.

A line that ends in `error` must be flagged, and no other; one that ends in `is: ...` must reveal that type.
"""

from concurrent.futures import Executor, Future
from typing import reveal_type

from procbackground import Attempt, CloseReport, Manager, Retry, Task, TaskHandle, TaskType
from procbackground.observers import CallbackObserver, Observer


def add(a: int, b: int = 0) -> int:
    return a + b


def spell(number: int, *, loud: bool = False) -> str:
    return str(number).upper() if loud else str(number)


manager = Manager(max_workers=2, retry=Retry(), timeout=3.5, memory_limit="2GiB", observer=CallbackObserver())

reveal_type(manager.run(add, 1, b=2).result())  # is: int
reveal_type(manager.submit(spell, 1, loud=True).result())  # is: str
reveal_type(manager.run(len, "text").result(timeout=1))  # is: int
reveal_type(manager.run_task(Task(add, args=(1, 2))).result())  # is: int
reveal_type(Task(spell, args=(1,)))  # is: Task[str]
reveal_type(next(iter(manager.map(spell, [1, 2]))))  # is: str
reveal_type(manager.close(timeout=1))  # is: CloseReport
reveal_type(manager.wait(1.5))  # is: bool
reveal_type(manager.count_of(TaskType.LOOP))  # is: int
reveal_type(manager.run(add, 1).attempts)  # is: list[Attempt]

manager.run(add, "one")  # error
manager.run(add)  # error
manager.run(add, 1, c=3)  # error
manager.run(spell, 1, True)  # error
manager.submit(spell, loud=True)  # error
manager.submit(add, 1, b="two")  # error
manager.run_task(add)  # error
manager.wait("soon")  # error
Manager(max_workers="many")  # error
Task(fn=3)  # error

executor: Executor = manager
future: Future[int] = manager.run(add, 1)
handle: TaskHandle[str] = manager.run(spell, 1)
report: CloseReport = manager.close()
attempts: list[Attempt] = handle.attempts
wrong: Future[str] = manager.run(add, 1)  # error


class Mine(Observer):
    pass


async def wait_for_it() -> int:
    reveal_type(await manager.run(spell, 1))  # is: str
    return await manager.run(add, 1)


with Manager(observer=[Mine(), CallbackObserver()]) as inner:
    reveal_type(inner)  # is: Manager
