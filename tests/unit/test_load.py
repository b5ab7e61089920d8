"""`load`: an import that no signal handler can leave half made, or find half made."""

from __future__ import annotations

import gc
import signal
import sys

import pytest

from procbackground._load import load
from tests.support.scripts import run

SLOW = """
import os, signal, time
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.05)  # the handler runs meanwhile
answer = 42
"""


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """The name of a module that sends a signal in the middle of its import."""
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_to_load"
    sys.modules.pop("slow_to_load", None)


@pytest.fixture
def on_signal():
    """A function that sets the handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda act: signal.signal(signal.SIGUSR1, lambda number, frame: act())
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_loads_the_same_module_gets_it_whole(slow_module, on_signal):
    answers = []
    on_signal(lambda: answers.append(load(slow_module).answer))
    assert load(slow_module).answer == 42
    assert answers == [42]


def test_a_handler_that_raises_leaves_the_module_whole(slow_module, on_signal):
    def interrupt():
        raise KeyboardInterrupt

    on_signal(interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(slow_module)
    assert load(slow_module).answer == 42
    assert load(slow_module) is sys.modules[slow_module]


def test_a_module_that_is_absent_raises_as_its_import_does():
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        load("nowhere_at_all")


COLLECTING = """
import gc, os
is_on = gc.isenabled()
pid = os.fork()
if pid == 0:
    os._exit(gc.isenabled())
forks_is_on = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize("is_on", [True, False])
def test_the_collector_is_paused_and_then_as_before_in_a_fork_too(tmp_path, monkeypatch, is_on):
    (tmp_path / "collecting.py").write_text(COLLECTING)
    monkeypatch.syspath_prepend(tmp_path)
    (gc.enable if is_on else gc.disable)()
    try:
        module = load("collecting")
        assert (module.is_on, module.forks_is_on, gc.isenabled()) == (False, is_on, is_on)
    finally:
        gc.enable()
        sys.modules.pop("collecting", None)


def test_the_collector_goes_on_after_an_import_that_fails(tmp_path, monkeypatch):
    (tmp_path / "failing_to_load.py").write_text("raise LookupError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError):
        load("failing_to_load")
    assert gc.isenabled()


FORKED = """
    import os, signal, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks in threaded processes
    from procbackground._load import aside

    may_end = threading.Event()
    forks = []

    def fork(*_):
        forks.append(os.fork())
        may_end.set()

    def act():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert may_end.wait(20)
        return 42

    signal.signal(signal.SIGUSR1, fork)
    try:
        answer = aside(act)
    except RuntimeError as error:
        assert forks == [0], error
        os._exit(7)
    print(answer, os.waitstatus_to_exitcode(os.waitpid(forks[0], 0)[1]))
"""


def test_a_fork_in_a_signal_handler_does_not_wait_for_the_parents_thread(tmp_path):
    assert run(FORKED, folder=tmp_path).stdout == "42 7\n"


CALLS = """
    import contextvars, sys, threading
    import procbackground
    from procbackground import CallbackObserver, LoguruObserver, Manager, Retry, Task, TaskType

    variable = contextvars.ContextVar("variable")
    late = []

    class Watcher:
        @staticmethod
        def find_spec(name, path, target=None):
            if threading.current_thread() is threading.main_thread():
                late.append(name)

    def nothing():
        pass

    if __name__ == "__main__":
        sys.meta_path.insert(0, Watcher)
        observer = [LoguruObserver(), CallbackObserver()]
        with Manager(1, observer=observer, retry=2, env={"A": "b"}, context=[variable], max_pending=9) as manager:
            manager.run(pow, 2, 3).result()
            manager.run(lambda: 3).result()
            manager.run(bytes, 3_000_000).result()
            manager.run(len, bytes(3_000_000)).result()
            manager.run_task(Task(pow, args=(2, 3), retry=Retry(), memory_limit="1GiB", isolate=True)).result()
            manager.run_task(Task(int, args=("x",))).exception()
            manager.run(id, threading.Lock()).exception()
            loop = manager.run_task(Task(nothing, type=TaskType.LOOP, interval=0.01))
            list(manager.map(pow, [1, 2], [3, 4]))
            list(manager.stream([Task(pow, args=(2, 3))]))
            list(manager.options(timeout=5).map(abs, [1], chunksize=1, buffersize=1))
            manager.stats(), manager.processes(), manager._processes, manager.count_of("loop"), manager.wait()
            manager.cancel(), repr(manager), manager.dump()
        Manager(1, inline=True).run(pow, 2, 3).result()
        print(sorted(set(late)))
"""


def test_no_call_imports_anything_in_the_main_thread(tmp_path):
    ended = run(CALLS, folder=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["[]"], ended.stdout + ended.stderr
