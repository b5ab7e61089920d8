"""A fork of the manager's process: every call raises there, nothing of the parent's is touched, and a new manager
works."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procbackground import Manager, ManagerClosedError, Task, TaskHandle, TaskType
from tests.support import scripts
from tests.support.engine import OwnNode
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.tasks import plain

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CALLS: dict[str, Callable[[Manager], object]] = {
    "run": lambda manager: manager.run(plain.square, 3),
    "submit": lambda manager: manager.submit(plain.square, 3),
    "run_task": lambda manager: manager.run_task(Task(plain.square, args=(3,))),
    "run of what cannot be pickled": lambda manager: manager.run(plain.square, threading.Lock()),
    "large argument": lambda manager: manager.run(len, bytes(4 << 20)),
    "map": lambda manager: list(manager.map(plain.square, range(9))),
    "stream": lambda manager: list(manager.stream(Task(plain.square, args=(n,)) for n in range(9))),
    "options": lambda manager: manager.options(timeout=5).run(plain.square, 3),
    "wait": lambda manager: manager.wait(),
    "loop": lambda manager: manager.run_task(Task(plain.nothing, type=TaskType.LOOP, interval=1)),
    "share": lambda manager: manager.share(b"abc"),
    "cancel": lambda manager: manager.cancel(),
    "count_of": lambda manager: manager.count_of(TaskType.ONE_OFF),
    "stats": lambda manager: manager.stats(),
    "processes": lambda manager: manager.processes(),
    "report": lambda manager: manager.report(),
    "dump": lambda manager: manager.dump(),
    "closing_on": lambda manager: manager.closing_on(signal.SIGUSR2).__enter__(),
    "shutdown without waiting": lambda manager: manager.shutdown(wait=False),
    "close": lambda manager: manager.close(),
}

WAITS: dict[str, Callable[[TaskHandle[Any]], object]] = {
    "result": lambda handle: handle.result(),
    "exception": lambda handle: handle.exception(),
    "stack": lambda handle: handle.stack(),
    "await": lambda handle: asyncio.run(awaited(handle)),
    "wait": lambda handle: [each.result() for each in concurrent.futures.wait([handle]).done],
    "as_completed": lambda handle: [each.result() for each in concurrent.futures.as_completed([handle])],
    "callback": lambda handle: called_with(handle).result(),
}


async def awaited(handle: TaskHandle[Any]) -> Any:
    return await handle


def called_with(handle: TaskHandle[Any]) -> TaskHandle[Any]:
    """Return what the handle's callback is called with. It must be called at once."""
    calls: list[TaskHandle[Any]] = []
    handle.add_done_callback(calls.append)
    (call,) = calls
    return call


def in_fork(act: Callable[[], object]) -> int:
    """Fork, call `act` in the child, and return the child's exit code: 0 where it raised nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the fork hangs")


def interrupt_in(seconds: float) -> None:
    """Have the main thread get SIGUSR1, which is no matter of pytest's."""
    main = threading.main_thread().ident
    assert main is not None
    thread = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGUSR1))
    thread.start()


def all_calls_raise(manager: Manager) -> None:
    for name, call in CALLS.items():
        try:
            call(manager)
        except ManagerClosedError:
            continue
        raise AssertionError(f"{name} raised nothing in the fork")


def options_of(kind: str, folder: Path) -> dict[str, Any]:
    """Return the options of a manager of a kind that has more open than others, or other ways to refuse."""
    match kind:
        case "journal":
            return {"journal": folder / "batch.sqlite"}
        case "status":
            return {"status": True}
        case "engine":
            return {"engine": OwnNode()}
        case "inline":
            return {"inline": True}
        case "max_pending":
            return {"max_pending": 1, "when_full": "raise"}
        case _:
            return {}


KINDS = ["plain", "journal", "status", "engine", "max_pending", "inline"]


@pytest.mark.parametrize("kind", [*KINDS, "unused"])
def test_every_call_raises_in_a_fork(make_manager, tmp_path, kind):
    manager = make_manager(**options_of(kind, tmp_path))
    if kind != "unused":
        assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    assert in_fork(lambda: all_calls_raise(manager)) == 0
    assert manager.run(plain.square, 4).result(timeout=PATIENCE_S) == 16


def test_every_call_raises_in_a_child_of_multiprocessing_with_fork(make_manager):
    manager = make_manager()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    child = multiprocessing.get_context("fork").Process(target=all_calls_raise, args=(manager,))
    child.start()
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    child.close()


@pytest.mark.parametrize("is_touched", [False, True], ids=["untouched", "waited for in the parent"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_for_a_handle_of_the_parent_raises_in_a_fork(make_manager, gate, wait, is_touched):
    manager = make_manager()
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    if is_touched:
        concurrent.futures.wait([handle], timeout=0)

    def wait_for_it() -> None:
        assert handle.cancel() is False
        with pytest.raises(ManagerClosedError):
            wait(handle)

    assert in_fork(wait_for_it) == 0
    assert not handle.done()
    gate.open()
    handle.result(timeout=PATIENCE_S)


def test_a_fork_while_another_thread_looks_at_a_handle_ends_the_wait_for_it(make_manager, gate):
    """The lock of the handle's condition stays held in the fork, where its thread does not exist."""
    manager = make_manager()
    handle = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with handle._condition:
            is_held.set()
            is_over.wait(PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(PATIENCE_S)

    def wait_for_it() -> None:
        with pytest.raises(ManagerClosedError):
            WAITS["wait"](handle)

    assert in_fork(wait_for_it) == 0
    is_over.set()
    thread.join()
    gate.open()
    handle.result(timeout=PATIENCE_S)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_writes_into_none_of_its_files(make_manager, tmp_path, kind):
    """Its files get the numbers that the parent's pipes had; what a call writes would be found in them."""
    manager = make_manager(**options_of(kind, tmp_path))
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9

    def open_files_and_call() -> None:
        files = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(200)]
        all_calls_raise(manager)
        manager.__del__()
        assert all(os.fstat(file).st_size == 0 for file in files)

    assert in_fork(open_files_and_call) == 0


def test_leaving_the_block_of_a_manager_in_a_fork_is_quiet():
    with Manager(max_workers=1) as manager:
        assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9

        def leave() -> None:
            assert manager.__exit__(None, None, None) is None

        assert in_fork(leave) == 0
        assert manager.run(plain.square, 4).result(timeout=PATIENCE_S) == 16


def test_a_manager_made_in_a_fork_works_beside_the_inherited_one(make_manager):
    manager = make_manager()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9

    def use_another() -> None:
        with Manager(max_workers=1) as another:
            assert another.run(plain.square, 5).result(timeout=PATIENCE_S) == 25

    assert in_fork(use_another) == 0


def test_a_fork_of_a_fork_closes_none_of_its_files(make_manager, tmp_path):
    manager = make_manager()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9

    def open_files_and_fork() -> None:
        files = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(100)]
        assert in_fork(lambda: [os.fstat(file) for file in files] and all_calls_raise(manager)) == 0

    assert in_fork(open_files_and_fork) == 0


kept: list[Manager] = []


def leave_a_manager_open(sender: Any) -> None:
    kept.append(Manager(max_workers=1))
    sender.send([kept[-1].run(plain.square, number).result(timeout=PATIENCE_S) for number in range(3)])
    kept[-1].run(plain.square, 9).add_done_callback(lambda handle: sender.send(handle.result()))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_ends_though_it_leaves_its_manager_open(manager, method):
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=leave_a_manager_open, args=(sender,))
    child.start()
    sender.close()
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    assert (receiver.recv(), receiver.recv()) == ([0, 1, 4], 81)
    child.close()
    receiver.close()


def test_a_loop_over_results_that_forks_ends_in_the_child(make_manager, gate):
    manager = make_manager(max_workers=2)
    quick, blocker = manager.run(plain.square, 3), manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    results = concurrent.futures.as_completed([quick, blocker])
    assert next(results) is quick

    def take_the_next() -> None:
        with pytest.raises(ManagerClosedError):
            next(results).result()

    assert in_fork(take_the_next) == 0
    gate.open()
    assert next(results) is blocker


EXITS_IN_A_FORK = """
    import os, sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks in threaded processes
    from procbackground import Manager
    from tests.support.tasks import plain

    if __name__ == "__main__":
        with Manager(1) as manager:
            assert manager.run(plain.square, 3).result(20) == 9
            if os.fork() == 0:
                own = Manager(1)
                assert own.run(plain.square, 4).result(20) == 16
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.wait()[1]), manager.run(plain.square, 5).result(20))
"""


def test_a_fork_that_leaves_both_managers_open_exits_quietly(tmp_path):
    done = scripts.run(EXITS_IN_A_FORK, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("7 25\n", "")


@pytest.mark.parametrize("name", ["run", "wait", "stats"])
def test_a_fork_amid_a_call_neither_hangs_there_nor_harms_the_parent(make_manager, gate, name):
    """A signal's handler forks while the main thread is in the call, again and again."""
    manager = make_manager()
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    codes: list[int] = []

    def fork(number: int, frame: object) -> None:
        codes.append(in_fork(lambda: None if call_is_refused(manager) else 1 / 0))

    before = signal.signal(signal.SIGUSR1, fork)
    end_s = time.monotonic() + PATIENCE_S
    try:
        while len(codes) < 10 and time.monotonic() < end_s:
            count = len(codes)
            interrupt_in(0.005)  # once: the handler forks, and is not to be interrupted itself
            while len(codes) == count and time.monotonic() < end_s:
                if name == "run":
                    manager.run(plain.square, 2)
                elif name == "stats":
                    manager.stats()
                else:
                    manager.wait(timeout=0.02)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(codes) == {0}
    gate.open()
    blocker.result(timeout=PATIENCE_S)
    assert manager.wait(timeout=PATIENCE_S)


def call_is_refused(manager: Manager) -> bool:
    try:
        manager.run(plain.square, 3)
    except ManagerClosedError:
        return True
    return False


@pytest.mark.parametrize(
    "call", ["wait", "result", "exception", "wait of futures", "as_completed", "stats", "cancel", "full queue"]
)
def test_a_call_that_a_fork_interrupts_ends_in_the_child(make_manager, gate, call):
    """The handler of a signal forks, and the child returns from it into the wait that was interrupted."""
    manager = make_manager(max_workers=1, max_pending=1)
    blocker = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    manager.run(plain.square, 2)
    children: list[int] = []
    waiting: dict[str, Callable[[], object]] = {
        "wait": manager.wait,
        "result": blocker.result,
        "exception": blocker.exception,
        "wait of futures": lambda: WAITS["wait"](blocker),
        "as_completed": lambda: WAITS["as_completed"](blocker),
        "stats": lambda: [manager.stats() for _ in range(10_000_000)],
        "cancel": lambda: manager.cancel(timeout=None) and manager.wait(),
        "full queue": lambda: manager.run(plain.square, 3),
    }
    reader, writer = os.pipe()

    def fork(number: int, frame: object) -> None:
        pid = os.fork()
        if pid == 0:
            return
        children.append(pid)
        os.read(reader, 1)  # until the child has come out of the call
        gate.open()

    before = signal.signal(signal.SIGUSR1, fork)
    interrupt_in(0.2)
    parent = os.getpid()
    outcome = b"-"
    try:
        if call == "stats":
            deadline_s = time.monotonic() + PATIENCE_S
            while not children and os.getpid() == parent and time.monotonic() < deadline_s:
                manager.stats()
            if os.getpid() != parent:
                manager.stats()
        else:
            waiting[call]()
    except ManagerClosedError:
        outcome = b"+"
    finally:
        if os.getpid() != parent:
            os.write(writer, outcome)
            os._exit(0 if outcome == b"+" else 1)
        signal.signal(signal.SIGUSR1, before)
        os.close(reader)
        os.close(writer)
    (child,) = children
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert blocker.result(timeout=PATIENCE_S) is not None or True
    assert manager.wait(timeout=PATIENCE_S)
