"""Processes of a kind: with thread caps or slots of their own, set before they import anything.

They are started by `Direct`, each through the context's own `Process`, because the zygote has the manager's settings
and has imported what reads them. It takes them as long as any process of `multiprocessing`, and they are kept.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

from procbackground._load import load
from procbackground._state.fleet import Worker
from procbackground._state.ledger import Kind
from procbackground._supervisor.process import Launcher, WorkerProcess
from procbackground._worker.boot import Boot


def boot_of_kind(boot: Boot, kind: Kind) -> Boot:
    """Return what a process of that kind starts with, in place of the manager's `boot`."""
    setup: Any = load("procbackground._submit.setup")
    env = os.environ if boot.surroundings is None else boot.surroundings.env
    own = copy.copy(boot)
    own.slots = dict(kind.slots)
    own.setup = setup.for_kind(boot.setup, kind.threads, own.slots.get(setup.GPU, ()), env)
    return own


class BothLaunchers:
    """A launcher that has those of a kind started by another one than the rest."""

    def __init__(self, plain: Launcher, of_kinds: Launcher) -> None:
        self._plain = plain
        self._of_kinds = of_kinds

    def launch(self, worker: Worker) -> None:
        (self._plain if worker.kind is None else self._of_kinds).launch(worker)

    # Processes know the launcher that started them: these are asked of it.

    def exit_code_of(self, process: WorkerProcess) -> int | None:
        return process.launcher.exit_code_of(process)

    def expects_exit_code(self, process: WorkerProcess) -> bool:
        return process.launcher.expects_exit_code(process)

    def may_wait_longer(self, waited_s: float) -> bool:
        return self._plain.may_wait_longer(waited_s)

    def look_for_exits(self) -> None:
        self._plain.look_for_exits()

    def release(self, process: WorkerProcess) -> None:
        process.launcher.release(process)

    def preload(self, module: str) -> None:
        self._plain.preload(module)

    def close(self) -> None:
        self._of_kinds.close()
        self._plain.close()

    def abandon_in_fork(self) -> None:
        self._of_kinds.abandon_in_fork()
        self._plain.abandon_in_fork()

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way."""
        return self._plain.is_starting or self._of_kinds.is_starting

    @property
    def look_s(self) -> float:
        """When `look_after` is due."""
        return min(self._plain.look_s, self._of_kinds.look_s)

    def look_after(self, now_s: float) -> None:
        """Give up starts that take too long."""
        self._plain.look_after(now_s)
        self._of_kinds.look_after(now_s)


def able_to_start_kinds(launcher: Launcher, make_direct: Callable[[], Launcher]) -> Launcher:
    """Return a launcher that also starts processes of a kind: `launcher` itself, if it does."""
    if isinstance(launcher, (BothLaunchers, load("procbackground._supervisor.direct").Direct)):
        return launcher
    return BothLaunchers(launcher, make_direct())
