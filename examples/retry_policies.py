#!/usr/bin/env python3
"""When to try again: tenacity's own strategies decide, and an observer prints how every attempt went."""

from __future__ import annotations

from tenacity import (
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_fixed,
    wait_incrementing,
)

from procbackground import Manager, Retry, Task, current
from procbackground.observers import CallbackObserver

UNTIL_UP = Retry(stop_after_attempt(4), wait_incrementing(0.1, 0.1), retry_if_exception_type(ConnectionError))
UNTIL_READY = Retry(stop_after_attempt(4), wait_fixed(0.1), retry_if_result(lambda text: text is None))
PRINTER = CallbackObserver(
    on_task_retrying=lambda e: print(f"{e.task.name} {e.attempt}: {e.error!r}, again in {e.delay:.1f} s"),
    on_task_succeeded=lambda e: print(f"{e.task.name} {e.attempt}: {e.result!r}"),
    on_task_failed=lambda e: print(f"{e.task.name} {e.attempt}: {e.error!r}, not tried again"),
)


def fetch(page: str) -> str | None:
    """Behave like a server that is not up yet, one that is not ready, and one without such a page."""
    attempt = current().attempt
    if page == "early" and attempt < 3:
        raise ConnectionError("refused")
    if page == "wrong":
        raise ValueError("no such page")
    return None if page == "unready" and attempt < 2 else f"text of {page}"


if __name__ == "__main__":
    with Manager(max_workers=2, observer=PRINTER) as manager:
        for page, policy in {"early": UNTIL_UP, "wrong": UNTIL_UP, "unready": UNTIL_READY}.items():
            manager.run_task(Task(fetch, args=(page,), name=page, retry=policy))
