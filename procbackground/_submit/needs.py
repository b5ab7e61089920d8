"""What tasks need, beside one place: from the fields of a `Task` to what the scheduler asks for.

Refused here, in the caller's thread, is what no wait would bring. Imported where a task has needs, or a manager slots.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from procbackground._state.ledger import Needs
from procbackground._submit.setup import GPU, visible_gpus
from procbackground.task import Task, check_slots


def needs_of(task: Task[Any], max_workers: int, slots: Mapping[str, int], total_memory_bytes: int) -> Needs:
    """Return the needs of a task that has some. Raises: `ValueError` for what the manager will never have."""
    if task.cores > max_workers:
        raise ValueError(f"cores={task.cores} can never be met: the manager has {max_workers} places (max_workers)")
    memory = task.memory or 0
    assert isinstance(memory, int)
    if memory > total_memory_bytes:
        raise ValueError(
            f"memory={memory} can never be met: the machine, or the limit of the container, has {total_memory_bytes} "
            "bytes"
        )
    for name, count in (task.slots or {}).items():
        if name not in slots:
            known = f" (but {', '.join(f'{each!r}: {number}' for each, number in slots.items())})" if slots else ""
            raise ValueError(
                f"slots={{{name!r}: {count}}} can never be met: the manager declares no slot {name!r}{known}, "
                f"as Manager(slots={{{name!r}: {count}}}) does"
            )
        if count > slots[name]:
            raise ValueError(f"slots={{{name!r}: {count}}} can never be met: the manager has {slots[name]} of them")
    return stated_needs(task)


def stated_needs(task: Task[Any]) -> Needs:
    """Return the needs of a task, whether or not they can be met."""
    memory = task.memory or 0
    assert isinstance(memory, int)
    return Needs(task.cores, memory, tuple(sorted((task.slots or {}).items())))


def checked_slots(slots: Any, env: Mapping[str, str | None] | None) -> dict[str, int]:
    """Return the slots of a manager. Raises: `TypeError`, `ValueError`."""
    checked = check_slots("slots", slots)
    names = visible_gpus({**os.environ, **(env or {})})
    if names and checked.get(GPU, 0) > len(names):
        raise ValueError(
            f"slots: {checked[GPU]} of {GPU!r} are declared, and CUDA_VISIBLE_DEVICES names {len(names)}: "
            f"{','.join(names)}"
        )
    return checked
