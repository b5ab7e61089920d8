"""What a program's first result need not wait for is done after it."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from procbackground._supervisor import starter
from procbackground._supervisor.inbox import Inbox
from procbackground._wire.forking import FORK, FORK_ARGS
from tests.support.gate import PATIENCE_S

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="there is a zygote on Linux only")


@linux_only
def test_the_zygote_warms_up_a_while_after_its_first_fork(monkeypatch):
    from procbackground._worker import zygote

    class Asked:
        def recv(self, size: int) -> bytes:
            return FORK + FORK_ARGS.pack(1, 0)

    done: list[str] = []
    monkeypatch.setattr(zygote, "rehearse", lambda: done.append("rehearsed"))
    one: Any = object.__new__(zygote._Zygote)
    one._control, one._is_frozen, one._is_rehearsed, one._warm_up_due_s = Asked(), False, False, zygote.NEVER_S
    one._wants_look = one._adopts_orphans = False
    one._adopt_orphans = lambda: None
    one._fork = lambda number, line: done.append("forked")
    one._freeze = lambda: done.append("froze")

    assert one._obey()
    assert one._obey()
    assert done == ["forked", "forked"]
    assert one._warm_up_due_s != zygote.NEVER_S
    one._warm_up_due_s = 0.0
    assert one._do_chores() is None
    assert done == ["forked", "forked", "rehearsed", "froze"]


def test_what_describes_deaths_is_imported_after_the_start_of_a_process(monkeypatch):
    done: list[str] = []
    is_loaded = threading.Event()

    def load() -> None:
        done.append("loaded")
        is_loaded.set()

    monkeypatch.setattr(starter, "_load_what_failures_need", load)
    monkeypatch.setattr(starter, "LOAD_AFTER_S", 0.001)
    monkeypatch.delitem(sys.modules, "concurrent.futures.process", raising=False)
    inbox = Inbox()
    one = starter.Starter("test", inbox)
    one.do(lambda: done.append("started"), lambda result, error: None)
    assert is_loaded.wait(PATIENCE_S)
    assert done == ["started", "loaded"]
    assert one.stop(PATIENCE_S)
    assert done == ["started", "loaded"]
