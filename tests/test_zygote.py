"""The zygote, the process that forks fresh workers: it is replaced when lost, and its forks are fresh."""

from __future__ import annotations

import dis
import errno
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from operator import attrgetter

import psutil
import pytest

from benchmarks.chaos import zygotes
from procbackground import Manager, Task, WorkerDiedError, WorkerStartError
from procbackground._state import launches
from procbackground._testing import View
from tests.support import scripts
from tests.support.facts import wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, Address, Gate, stop_at_gate
from tests.support.scripts import ORPHANS_GONE_S, family, parent, running
from tests.support.tasks import plain

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable", reason="there is no zygote"
)


def zygote_of(pid: int) -> psutil.Process:
    """Return the process that forked the worker `pid`."""
    while (parent := psutil.Process(pid).parent()) is None:
        pass  # the one that was its parent ended meanwhile, and it has another now
    return parent


def num_fds_at_rest(process: psutil.Process) -> int:
    """Return how many descriptors the process has while it waits, none of them open for a moment only."""
    count = 0

    def state() -> tuple[str, int]:
        return process.status(), process.num_ctx_switches().voluntary

    def is_at_rest() -> bool:
        nonlocal count
        before = state()
        count = process.num_fds()
        # Who sleeps before and after, and has not gone to sleep in between, was not awake in between.
        return before == state() and before[0] == psutil.STATUS_SLEEPING

    wait_until(is_at_rest, "the process is at rest")
    return count


def own_pid_and_chance() -> tuple[int, float]:
    return os.getpid(), random.random()


def numpys_chance() -> float:
    import numpy

    return float(numpy.random.random())


def has_module(name: str) -> bool:
    return name in sys.modules


def signal_handlers() -> dict[str, bool]:
    return {
        "SIGINT does nothing": getattr(signal.getsignal(signal.SIGINT), "__name__", "") == "do_nothing",
        "SIGCHLD is default": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
        "SIGINT is not blocked": signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }


def unspecialised(functions: list[str]) -> list[str]:
    """Return which of these, of the worker's modules, the interpreter would run for the first time here."""
    found = []
    for function in functions:
        module, _, name = function.partition(":")
        fn = attrgetter(name)(import_module(f"procbackground._worker.{module}"))
        generic = {each.opname for each in dis.get_instructions(fn)}
        if generic >= {each.opname for each in dis.get_instructions(fn, adaptive=True)}:
            found.append(function)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_the_loss_of_the_zygote_costs_no_task(make_manager, gate, how):
    manager = make_manager(max_workers=2)
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    os.kill(zygote_of(pid).pid, how)
    fresh = [manager.run_task(Task(plain.square, args=(number,), isolate=True)) for number in range(4)]
    assert [handle.result(timeout=PATIENCE_S) for handle in fresh] == [0, 1, 4, 9]
    gate.open()
    running.result(timeout=PATIENCE_S)


def test_a_zygote_that_dies_before_a_request_reaches_it_costs_no_task(make_manager):
    manager = make_manager(max_workers=1)
    manager.run_task(Task(plain.square, args=(3,), isolate=True)).result(timeout=PATIENCE_S)
    View(manager).kill_zygote_at_next_request()
    fresh = [manager.run_task(Task(plain.square, args=(number,), isolate=True)) for number in range(4)]
    assert [handle.result(timeout=PATIENCE_S) for handle in fresh] == [0, 1, 4, 9]


@pytest.mark.parametrize("left", [0, 3, 5])  # of the five that a worker has; the sixth is the zygote's own handle on it
def test_a_zygote_short_of_descriptors_pauses_starts_and_emits_admission_held(make_manager, recorder, left):
    manager = make_manager(max_workers=2, observer=recorder)
    zygote = zygote_of(manager.run(plain.own_pid).result(timeout=PATIENCE_S))
    limits = zygote.rlimit(psutil.RLIMIT_NOFILE)
    zygote.rlimit(psutil.RLIMIT_NOFILE, (num_fds_at_rest(zygote) + left, limits[1]))
    fresh = [manager.run_task(Task(plain.square, args=(number,), isolate=True)) for number in range(8)]
    (held,) = recorder.wait_for("admission_held")
    assert (held.reason, held.error.errno) == ("processes", errno.EMFILE)
    zygote.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert [handle.result(timeout=PATIENCE_S) for handle in fresh] == [number**2 for number in range(8)]
    recorder.wait_for("admission_resumed")


def test_a_new_worker_that_reuses_the_descriptors_of_a_dead_one_lives(make_manager, gate):
    """The zygote tells of a death and of a new worker, which gets the descriptors of the dead one, in one moment."""
    manager = make_manager(max_workers=3)
    victim = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    zygote = zygote_of(pid)
    zygote.suspend()
    wait_until(lambda: zygote.status() == psutil.STATUS_STOPPED, "the zygote is stopped")
    view = View(manager)
    supervisor = view.hold_supervisor(when=lambda: view.forks_asked_for == 2)
    handles = [manager.run(stop_at_gate, gate.address) for _ in range(2)]
    assert supervisor.is_held.wait(PATIENCE_S)
    # The zygote comes to one fork, the death, and the other fork, in this order.
    os.kill(pid, signal.SIGKILL)
    wait_until_gone([pid])
    zygote.resume()
    num_fds_at_rest(zygote)
    supervisor.release()
    pids = {gate.wait_for_arrival() for _ in handles}
    assert isinstance(victim.exception(timeout=PATIENCE_S), WorkerDiedError)
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE_S)  # or it was taken for the dead one
    assert {handle.attempts[0].pid for handle in handles} == pids


def test_a_zygote_that_is_stopped_before_its_first_answer_is_replaced(make_manager):
    manager = make_manager(max_workers=1)
    before = set(zygotes())
    handle = manager.run(plain.square, 3)
    wait_until(lambda: set(zygotes()) - before != set(), "a zygote was started")
    for pid in set(zygotes()) - before:
        os.kill(pid, signal.SIGSTOP)
    assert handle.result(timeout=PATIENCE_S) == 9  # it would have had a minute, to import what the main module does


@pytest.fixture
def slow_module(gate, tmp_path, monkeypatch) -> str:
    """The name of a module whose import in a zygote stops at the gate, where it says "import"."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "slow_to_import.py").write_text(
        f"import multiprocessing\n"
        f"from tests.support.gate import Address, stop_at_gate\n"
        f"if multiprocessing.current_process().name == 'procbackground-zygote':\n"
        f"    stop_at_gate({gate.address!r}, 'import')\n"
        f"def answer(): return 42\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "slow_to_import", raising=False)
    return "slow_to_import"


def test_zygotes_that_are_all_killed_before_their_first_fork_are_a_clear_error(make_manager, gate, slow_module):
    manager = make_manager(max_workers=1, preload=[slow_module])
    handle = manager.run(plain.square, 3)
    for _ in range(launches.LOSSES_TO_BREAK):
        os.kill(gate.wait_for_arrival(), signal.SIGKILL)
    with pytest.raises(WorkerStartError, match="the process that forks workers, was killed by SIGKILL"):
        handle.result(timeout=PATIENCE_S)


@pytest.mark.slow
def test_helpers_that_are_killed_at_any_moment_of_their_start_leave_nothing(make_manager):
    manager = make_manager(max_workers=1)
    before = set(zygotes())
    handle = manager.run(plain.square, 3)
    until_s = time.monotonic() + PATIENCE_S
    while not handle.done() and time.monotonic() < until_s:
        for pid in set(zygotes()) - before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert isinstance(handle.exception(timeout=0), WorkerStartError)


def begin_slow_import(manager: Manager, gate: Gate, module: str) -> psutil.Process:
    """Have the zygote import `module`; return it once it is at the gate."""
    manager.run(plain.own_pid).result(timeout=PATIENCE_S)  # what is imported before the first fork delays it
    assert manager.run(import_module(module).answer).result(timeout=PATIENCE_S) == 42
    importing = gate.next_arrival()
    assert importing.label == "import"
    return psutil.Process(importing.pid)


def test_workers_are_forked_while_the_zygote_imports(make_manager, gate, slow_module):
    manager = make_manager(max_workers=2)
    isolated = manager.options(isolate=True)
    zygote = zygote_of(manager.run(plain.own_pid).result(timeout=PATIENCE_S))
    assert begin_slow_import(manager, gate, slow_module) == zygote
    facts = [isolated.run(has_module, slow_module).result(timeout=PATIENCE_S) for _ in range(6)]
    assert facts == [False] * 6
    gate.release(zygote.pid)
    wait_until(lambda: isolated.run(has_module, slow_module).result(timeout=PATIENCE_S), "forks have the module")
    assert zygote_of(manager.run(plain.own_pid).result(timeout=PATIENCE_S)) == zygote
    wait_until(lambda: len(zygote.children()) <= 2, "the deputy is gone")


def test_an_import_of_four_seconds_costs_no_zygote(make_manager, tmp_path, monkeypatch):
    (tmp_path / "four_seconds.py").write_text(
        "import multiprocessing, time\n"
        "if multiprocessing.current_process().name == 'procbackground-zygote':\n"
        "    time.sleep(4)\n"
        "def answer(): return 42\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    manager = make_manager(max_workers=2)
    isolated = manager.options(isolate=True)
    before = zygote_of(manager.run(plain.own_pid).result(timeout=PATIENCE_S))
    began_s = time.monotonic()
    assert manager.run(import_module("four_seconds").answer).result(timeout=PATIENCE_S) == 42
    while not isolated.run(has_module, "four_seconds").result(timeout=PATIENCE_S):
        assert time.monotonic() < began_s + PATIENCE_S
    assert time.monotonic() > began_s + 3
    assert zygote_of(manager.run(plain.own_pid).result(timeout=PATIENCE_S)) == before


@pytest.mark.parametrize("amid_import", [True, False])
@pytest.mark.parametrize("dies", ["forked before", "forked meanwhile"])
def test_a_death_amid_or_after_an_import_is_explained(make_manager, gate, slow_module, dies, amid_import):
    manager = make_manager(max_workers=3)
    old = manager.run(stop_at_gate, gate.address)
    old_pid = gate.wait_for_arrival()
    zygote = begin_slow_import(manager, gate, slow_module)
    new = manager.run_task(Task(stop_at_gate, args=(gate.address,), isolate=True))
    new_pid = gate.wait_for_arrival()
    assert zygote_of(new_pid) != zygote
    if not amid_import:
        gate.release(zygote.pid)
        wait_until(lambda: zygote_of(new_pid) == zygote, "the zygote has taken over")
    doomed, pid, other = (old, old_pid, new) if dies == "forked before" else (new, new_pid, old)
    os.kill(pid, signal.SIGABRT)
    error = doomed.exception(timeout=PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert error.exit_code == -signal.SIGABRT
    gate.open()
    other.result(timeout=PATIENCE_S)
    wait_until(lambda: not psutil.pid_exists(pid), "the dead worker was reaped")
    assert zygote.is_running()


def test_a_killed_deputy_costs_no_task(make_manager, gate, slow_module):
    manager = make_manager(max_workers=6)
    old_pid = manager.run(plain.own_pid).result(timeout=PATIENCE_S)
    zygote = begin_slow_import(manager, gate, slow_module)
    # More than the zygote has forked itself: it knows nothing of these lines of the page.
    new = [manager.run_task(Task(stop_at_gate, args=(gate.address,), isolate=True)) for _ in range(4)]
    deputies = {zygote_of(gate.wait_for_arrival()) for _ in new}
    assert zygote_of(old_pid) == zygote
    (deputy,) = deputies - {zygote}
    deputy.kill()
    gate.open()
    for handle in new:
        handle.result(timeout=PATIENCE_S)
    isolated = manager.options(isolate=True)
    assert [isolated.run(plain.square, number).result(timeout=PATIENCE_S) for number in range(4)] == [0, 1, 4, 9]


def test_a_manager_can_close_amid_an_import(make_manager, gate, slow_module):
    manager = make_manager(max_workers=2)
    zygote = begin_slow_import(manager, gate, slow_module)
    everybody = [zygote.pid, *(child.pid for child in zygote.children(recursive=True))]
    assert manager.close(timeout=PATIENCE_S).is_clean
    wait_until_gone(everybody)


def test_everybody_ends_with_a_parent_that_is_killed_amid_an_import(gate, tmp_path, slow_module):
    source = parent(
        gate,
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "modules")!r})
        from {slow_module} import answer
        manager.run(plain.own_pid).result(timeout=20)
        manager.run(answer).result(timeout=20)
        fresh = manager.run_task(Task(stop_at_gate, args=(address, "fresh"), isolate=True))
        stop_at_gate(address, "parent")
        """,
    )
    with running(source, tmp_path) as process:
        assert {gate.next_arrival().label for _ in range(3)} == {"import", "fresh", "parent"}
        everybody = family(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_the_loss_of_the_fork_server_and_the_zygote_at_once_costs_no_task(tmp_path):
    source = f"""
    import os, signal
    from multiprocessing import forkserver
    from benchmarks.chaos import zygotes
    from procbackground import Manager
    from tests.support.facts import wait_until
    from tests.support.tasks import plain

    if __name__ == "__main__":
        forkserver.ensure_running()
        with Manager(max_workers=1) as manager:
            handle = manager.run(plain.square, 3)
            wait_until(lambda: bool(zygotes()), "a zygote was started")
            (zygote,) = zygotes()
            os.kill(zygote, signal.SIGSTOP)
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            os.kill(zygote, signal.SIGKILL)
            assert handle.result(timeout={PATIENCE_S}) == 9
            assert manager.run(plain.square, 4).result(timeout={PATIENCE_S}) == 16
    """
    done = scripts.run(source, "file", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_worker_that_dies_after_its_zygote_is_still_noticed(make_manager, gate):
    manager = make_manager(max_workers=1)
    doomed = manager.run_task(Task(stop_at_gate, args=(gate.address,), retry=2))
    pid = gate.wait_for_arrival()
    os.kill(zygote_of(pid).pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    gate.open()
    doomed.result(timeout=PATIENCE_S)
    assert len(doomed.attempts) == 2


def test_fresh_workers_have_pids_and_chances_of_their_own(manager):
    handles = [manager.run_task(Task(own_pid_and_chance, isolate=True)) for _ in range(8)]
    results = [handle.result(timeout=PATIENCE_S) for handle in handles]
    assert len({pid for pid, _ in results}) == 8
    assert len({chance for _, chance in results}) == 8


def test_numpys_chances_differ_too(manager):
    pytest.importorskip("numpy")
    handles = [manager.run_task(Task(numpys_chance, isolate=True)) for _ in range(4)]
    assert len({handle.result(timeout=PATIENCE_S) for handle in handles}) == 4


def test_preloaded_modules_are_there_before_the_first_task(make_manager):
    manager: Manager = make_manager(preload=["wave", "no_such_module_at_all"])
    assert manager.run(has_module, "wave").result(timeout=PATIENCE_S)
    assert not manager.run(has_module, "no_such_module_at_all").result(timeout=PATIENCE_S)


def test_a_fork_has_code_that_the_interpreter_has_specialised(tmp_path):
    # In a process of its own: what other tests have done to this one's fork server is no part of it.
    done = scripts.run(
        """
        from procbackground import Manager
        from tests.support.facts import wait_until
        from tests.test_zygote import unspecialised

        FUNCTIONS = [
            "main:detach_from_zygote", "main:Worker.install_signal_handlers", "main:Worker.run", "main:Worker.serve",
            "execute:Executor.call", "main:find_exit_work",
        ]

        if __name__ == "__main__":
            with Manager(max_workers=1) as manager:
                run = manager.options(isolate=True).run
                # The first ones may be forked before the rehearsal.
                wait_until(lambda: run(unspecialised, FUNCTIONS).result(timeout=20) == [], "all is specialised")
        """,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def leave_a_thread_that_dies_slowly(path: str) -> None:
    """Return while a thread is ending: its thread-local values are being finalised."""

    class Slow:
        def __del__(self) -> None:
            began.set()
            time.sleep(0.2)
            with open(path, "w") as file:
                file.write("finalised")

    local = threading.local()
    began = threading.Event()

    def work() -> None:
        local.value = Slow()

    threading.Thread(target=work).start()
    began.wait(PATIENCE_S)


def test_a_thread_that_is_ending_is_waited_for(make_manager, tmp_path):
    with make_manager() as manager:
        manager.options(isolate=True).run(leave_a_thread_that_dies_slowly, str(tmp_path / "told")).result(PATIENCE_S)
    assert (tmp_path / "told").read_text() == "finalised"


def test_what_is_printed_on_import_is_not_printed_by_forks(tmp_path):
    script = """
        from procbackground import Manager
        print("imported")

        if __name__ == "__main__":
            with Manager() as manager:
                print(sum(manager.options(isolate=True).map(lambda _: 1, range(5))))
    """
    done = scripts.run(script, folder=tmp_path)
    assert sorted(done.stdout.split()) == ["5", "imported", "imported"]  # by the script, and by its zygote


def test_signals_are_reset_in_a_fork(manager):
    assert all(manager.run(signal_handlers).result(timeout=PATIENCE_S).values())


RUDE = """
import faulthandler, multiprocessing, os, signal
from multiprocessing import util

def be_rude(*_):
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable()
    faulthandler.register(signal.SIGRTMIN + 11)

class Witness:
    pass

def answer():
    return 42

witness = Witness()
is_child = multiprocessing.parent_process() is not None
"""
WAYS_TO_BE_RUDE = {
    "import": "be_rude()",
    "import that fails": "if is_child: be_rude(); util.Finalize(None, print, ('finalised',), exitpriority=1); 1 / 0",
    "hook after forks": "os.register_at_fork(after_in_child=be_rude)",
    "hook after multiprocessing's forks": "util.register_after_fork(witness, be_rude)",
}


@pytest.mark.parametrize("way", WAYS_TO_BE_RUDE)
def test_what_a_module_does_to_signals_does_not_reach_workers(tmp_path, way):
    """The module comes with a task, after the first forks."""
    (tmp_path / "rude.py").write_text(f"{RUDE}\n{WAYS_TO_BE_RUDE[way]}\n")
    script = """
        import signal, time
        from procbackground import Manager, Task, WorkerDiedError, WorkerStartError

        def handlers():
            return signal.getsignal(signal.SIGTERM).__name__, signal.getsignal(signal.SIGINT).__name__ == "do_nothing"

        def hang():
            try:
                time.sleep(60)
            finally:
                print("unwound", flush=True)

        if __name__ == "__main__":
            with Manager(max_workers=2, grace=20, retry=None) as manager:
                isolated = manager.options(isolate=True)
                print(isolated.run(handlers).result(20))
                import rude
                isolated.run(rude.answer).exception(20)
                print({isolated.run(handlers).result(20) for _ in range(6)})
                error = manager.run_task(Task(hang, isolate=True, timeout=0.5)).exception(20)
                print("in hang" in error.stack)
    """
    done = scripts.run(script, folder=tmp_path)
    is_as_it_should_be = "('_on_sigterm', True)"
    expected = [is_as_it_should_be, f"{{{is_as_it_should_be}}}", "unwound", "True"]
    assert sorted(line for line in done.stdout.splitlines() if line != "finalised") == sorted(expected), done.stderr
    assert done.stdout.count("finalised") <= 2  # by the zygote, and by the worker that has imported it itself


def test_numpys_chances_differ_though_the_module_that_brought_it_failed(tmp_path):
    pytest.importorskip("numpy")
    fails = "import multiprocessing, numpy.random\nassert multiprocessing.parent_process() is None\ndef answer(): ...\n"
    (tmp_path / "brings_numpy.py").write_text(fails)
    script = """
        from procbackground import Manager

        def chance():
            import numpy
            return numpy.random.random()

        if __name__ == "__main__":
            with Manager(max_workers=2, retry=None) as manager:
                isolated = manager.options(isolate=True)
                isolated.run(pow, 2, 2).result(20)
                import brings_numpy
                isolated.run(brings_numpy.answer).exception(20)
                print(len({isolated.run(chance).result(20) for _ in range(6)}))
    """
    assert scripts.run(script, folder=tmp_path).stdout.split() == ["6"]


def leave_an_orphan(address: Address) -> None:
    """Fork twice, as daemons do: the second one stops at the gate, and has no parent any more."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            stop_at_gate(address, "orphan")
        os._exit(0)
    os.waitpid(pid, 0)
    stop_at_gate(address, "worker")


def test_an_orphan_of_a_task_is_adopted_and_leaves_no_zombie(manager, gate):
    manager.run(leave_an_orphan, gate.address)
    pids = {(arrival := gate.next_arrival()).label: arrival.pid for _ in range(2)}
    assert psutil.Process(pids["orphan"]).ppid() == zygote_of(pids["worker"]).pid
    gate.release(pids["orphan"])
    wait_until(lambda: not psutil.pid_exists(pids["orphan"]), "the orphan has been reaped")


def test_an_orphan_of_a_task_ends_with_the_manager(make_manager, gate):
    manager = make_manager()
    manager.run(leave_an_orphan, gate.address)
    pids = [gate.next_arrival().pid for _ in range(2)]
    manager.close(timeout=0)
    wait_until_gone(pids)


def test_an_orphan_of_a_task_ends_with_a_parent_that_is_killed(gate, tmp_path):
    source = parent(
        gate,
        """
        from tests.test_zygote import leave_an_orphan
        manager.run(leave_an_orphan, address)
        stop_at_gate(address, "parent")
        """,
    )
    with running(source, tmp_path) as process:
        arrivals = {(arrival := gate.next_arrival()).label: arrival.pid for _ in range(3)}
        everybody = family(process.pid)
        assert arrivals["orphan"] in everybody
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_a_process_that_is_handed_over_amid_the_last_look_is_ended(tmp_path):
    """Its parent was listed alive, and had ended when it was looked at."""
    script = """
        import os, signal
        from subprocess import DEVNULL, Popen
        from procbackground import _platform
        from procbackground._worker.descendants import end_all_below

        def look(pid):
            if pid == worker:
                os.kill(worker, signal.SIGKILL)
                os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
            return start_time(pid)

        assert _platform.adopt_orphans()
        read_fd, write_fd = os.pipe()
        worker = os.fork()
        if worker == 0:
            Popen(["sleep", "60"], start_new_session=True, stdout=DEVNULL, stderr=DEVNULL)
            os.write(write_fd, b".")
            signal.pause()
        os.read(read_fd, 1)
        (grandchild,) = _platform.children(worker)
        start_time, _platform.start_time = _platform.start_time, look
        end_all_below(os.getpid())
        print("gone" if start_time(grandchild) is None else "alive")
        print(_platform.children(os.getpid()))
    """
    done = scripts.run(script, folder=tmp_path)
    assert done.stdout.split() == ["gone", "[]"], done.stderr
