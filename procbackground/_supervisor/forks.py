"""What a fork of a process with managers has to forget of `multiprocessing`, so that it can have its own managers."""

from __future__ import annotations

import sys
from multiprocessing import process as mp_process
from typing import Any

_LOCKS = {
    "multiprocessing.forkserver": ("_forkserver", "_lock"),
    "multiprocessing.resource_tracker": ("_resource_tracker", "_lock"),
}


def forget_parents_helpers() -> None:
    """In a fork: forget the processes that its parent has, and the locks that its parent's threads hold."""
    _release_inherited_locks()
    forget_processes()


def forget_processes() -> None:
    """Have the exit of this process not wait for our processes: its parent's in a fork, or those that it leaves."""
    children: set[Any] = mp_process._children  # type: ignore[attr-defined]
    for child in list(children):
        if str(child.name).startswith("procbackground-"):
            children.discard(child)


def _release_inherited_locks() -> None:
    """In a fork: release what a thread held that started a helper process at that moment, and does not exist here."""
    for module, (owner, name) in _LOCKS.items():
        lock = getattr(getattr(sys.modules.get(module), owner, None), name, None)
        reinitialise = getattr(lock, "_at_fork_reinit", None)
        if reinitialise is not None:
            reinitialise()
