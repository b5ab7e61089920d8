"""Checked, never run.

A line that ends in `error` must be flagged, and no other; one that ends in `is: ...` must reveal that type.
"""

from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future
from typing import reveal_type

from tenacity import retry_if_exception_type, stop_after_attempt, wait_fixed

from procbackground import Attempt, CloseReport, Manager, Retry, Shared, Task, TaskHandle, TaskType, current
from procbackground.events import TaskFailed, TaskSucceeded
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

reveal_type(next(iter(manager.map(spell, [1, 2], timeout=3.0, chunksize=2, buffersize=4))))  # is: str
reveal_type(next(iter(manager.map(spell, [1], return_exceptions=True))))  # is: str | BaseException
reveal_type(next(iter(manager.stream([Task(add, args=(1,))]))).result())  # is: int
reveal_type(manager.options(timeout=5, retry=3, priority=1).run(spell, 1).result())  # is: str
reveal_type(next(iter(manager.options(isolate=True).map(add, [1]))))  # is: int
reveal_type(manager.cancel(timeout=1))  # is: bool
reveal_type(manager.stats().added)  # is: int
reveal_type([info.rss for info in manager.processes()])  # is: list[int]
reveal_type(manager.shutdown(wait=True, cancel_futures=True))  # is: None
reveal_type(manager.run(add, 1).exception(timeout=2))  # is: BaseException | None
reveal_type(manager.run(add, 1).task)  # is: Task[int]
reveal_type(manager.run(add, 1).cancel())  # is: bool
reveal_type(manager.run(print, 1).result())  # is: None
reveal_type(current().attempt)  # is: int
reveal_type(current().wait(1))  # is: bool

Retry(stop=stop_after_attempt(3), wait=wait_fixed(1) + wait_fixed(2), retry=retry_if_exception_type(OSError))
Retry(stop=3)  # error
manager.options(timeout="soon")  # error
manager.options(tiemout=3)  # error
manager.options(fn=add)  # error
manager.stream([add])  # error
manager.map(3, [1])  # error
manager.map(add, [1], chunksize="many")  # error
manager.close("now")  # error
Manager(observer=3)  # error
Manager(when_full="drop")  # error

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
    def on_task_succeeded(self, event: TaskSucceeded) -> None:
        reveal_type(event.attempt)  # is: int

    def on_task_failed(self, event: TaskFailed) -> None:
        reveal_type(event.error)  # is: BaseException


async def follow() -> None:
    async with Manager() as managing:
        reveal_type(managing)  # is: Manager
        async for each in managing.stream([Task(spell, args=(1,))], ordered=True):
            reveal_type(await each)  # is: str


async def give() -> AsyncIterator[Task[str]]:
    yield Task(spell, args=(1,))


async def follow_what_comes() -> None:
    async for each in manager.stream(give()):
        reveal_type(each.result())  # is: str


async def wait_for_it() -> int:
    reveal_type(await manager.run(spell, 1))  # is: str
    return await manager.run(add, 1)


with Manager(observer=[Mine(), CallbackObserver()]) as inner:
    reveal_type(inner)  # is: Manager


def share(words: list[str]) -> Shared[list[str]]:
    shared = manager.share(words)
    reveal_type(shared.value)  # is: list[str]
    return shared
