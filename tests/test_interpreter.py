"""Scripts in an interpreter of their own: every kind of `__main__`, and how a program with a manager ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support.facts import wait_until_gone
from tests.support.gate import PATIENCE_S
from tests.support.scripts import ENVIRONMENT, ORPHANS_GONE_S, family, parent, run, running


def assert_printed(finished: subprocess.CompletedProcess[str], *lines: str) -> None:
    assert finished.stderr == ""
    assert finished.stdout.splitlines() == list(lines)
    assert finished.returncode == 0


# -- where __main__ comes from ----------------------------------------------------------------------------

MAIN_THINGS = """
    import functools, os
    from procbackground import Manager, Task, TaskType, current

    class Broken(Exception):
        def __init__(self, code, reason):
            super().__init__(reason)
            self.code = code

    class Point:
        def __init__(self, x):
            self.x = x
        def doubled(self):
            return Point(2 * self.x)

    def square(x):
        return x * x

    def fail():
        raise Broken(7, "as asked")

    if __name__ == "__main__":
        with Manager(max_workers=1) as manager:
            print(manager.run(square, 4).result(timeout=20))
            print(manager.run(lambda x: x + 1, 4).result(timeout=20))
            print(manager.run(Point(4).doubled).result(timeout=20).x)
            print(isinstance(manager.run(Point(4).doubled).result(timeout=20), Point))
            print(manager.run(functools.partial(square, 5)).result(timeout=20))
            print(list(manager.map(square, range(4), chunksize=2)))
            error = manager.run(fail).exception(timeout=20)
            print(isinstance(error, Broken), error.code, "in fail" in str(error.__cause__))
            print(manager.run_task(Task(lambda: current().name, name="named")).result(timeout=20))
"""


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_functions_classes_and_lambdas_of_main_work(how, tmp_path):
    finished = run(MAIN_THINGS, how, tmp_path)
    assert_printed(finished, "16", "5", "8", "True", "25", "[0, 1, 4, 9]", "True 7 True", "named")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_functions_of_main_work_under_every_start_method(method, tmp_path):
    source = f"""
        import multiprocessing
        from procbackground import Manager

        def square(x):
            return x * x

        if __name__ == "__main__":
            with Manager(max_workers=1, mp_context=multiprocessing.get_context({method!r})) as manager:
                print(manager.run(square, 4).result(timeout=20))
                print(manager.run(lambda x: x + 1, 4).result(timeout=20))
    """
    assert_printed(run(source, "file", tmp_path), "16", "5")


@pytest.mark.skipif(sys.version_info < (3, 15), reason="has no lazy imports")
def test_lazy_imports_of_main_work_in_workers(tmp_path):
    source = """
        import sys
        lazy import json
        lazy import os.path
        lazy from math import sqrt
        from procbackground import Manager

        def named(number):
            return json.dumps(number)

        if __name__ == "__main__":
            with Manager(1) as manager:
                print(manager.run(named, 4).result())
                print(manager.run(lambda number: os.path.join("a", str(sqrt(number))), 9).result())
                print(*manager.map(sqrt, [16]))
        """
    finished = run(source, "file", tmp_path)
    assert_printed(finished, "4", "a/3.0", "4.0")


def test_a_module_run_as_main_works(tmp_path):
    (tmp_path / "runme.py").write_text(textwrap.dedent(MAIN_THINGS))
    finished = subprocess.run(
        [sys.executable, "-m", "runme"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_printed(finished, "16", "5", "8", "True", "25", "[0, 1, 4, 9]", "True 7 True", "named")


@pytest.mark.parametrize("context", ["None", "multiprocessing.get_context('spawn')"], ids=["default", "spawn"])
def test_a_forgotten_guard_is_a_clear_error_and_no_hang(context, tmp_path):
    source = f"""
        import multiprocessing
        from procbackground import Manager

        def square(x):
            return x * x

        manager = Manager(max_workers=2, mp_context={context})
        handles = [manager.run(square, number) for number in range(200)]
        print(handles[4].result(timeout=20))
        manager.close()
    """
    finished = run(source, "file", tmp_path)
    if finished.returncode == 0:  # children that need no `__main__` do not meet the mistake
        assert finished.stdout == "16\n"
    else:
        assert "put the lines that start one below `if __name__ == '__main__':`" in finished.stderr
        assert len(finished.stderr.splitlines()) < 250  # a traceback of each of the workers that were tried


def test_what_workers_print_is_not_lost(tmp_path):
    source = """
        from procbackground import Manager

        def say(number):
            print("line", number)

        if __name__ == "__main__":
            with Manager(max_workers=2) as manager:
                for number in range(300):
                    manager.run(say, number)
    """
    finished = run(source, "file", tmp_path)
    assert finished.stderr == ""
    assert sorted(finished.stdout.splitlines()) == sorted(f"line {number}" for number in range(300))


# -- how a parent ends ------------------------------------------------------------------------------------

CLOSING = """
    with manager, manager.closing_on(signal.SIGTERM, signal.SIGINT, timeout=60):
        handle = manager.run({task}, address)
        try:
            print(handle.result())
        except BaseException as error:
            print(type(error).__name__)
    print("closed")
"""


def test_closing_on_sigterm_lets_the_running_task_finish(gate, tmp_path):
    with running(parent(gate, CLOSING.format(task="gated.stop_then_do")), tmp_path) as process:
        pid = gate.wait_for_arrival()
        everybody = family(process.pid)
        os.kill(process.pid, signal.SIGTERM)
        gate.release(pid, "finished")
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert (stdout.splitlines(), stderr, process.returncode) == (["finished", "closed"], "", 0)
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_closing_on_a_second_signal_ends_at_once(gate, tmp_path):
    with running(parent(gate, CLOSING.format(task="gated.ignore_sigterm")), tmp_path) as process:
        gate.wait_for_arrival()
        everybody = family(process.pid)
        os.kill(process.pid, signal.SIGTERM)
        while process.poll() is None:  # two signals that come at once would count as one
            os.kill(process.pid, signal.SIGINT)
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
        wait_until_gone(everybody, ORPHANS_GONE_S)


def test_an_interrupted_wait_can_go_on(gate, tmp_path):
    source = parent(
        gate,
        """
        handle = manager.run(gated.stop_then_do, address)
        try:
            handle.result()
        except KeyboardInterrupt:
            tell_gate(address, "interrupted")
        print(handle.result())
        manager.close()
        """,
    )
    with running(source, tmp_path) as process:
        pid = gate.wait_for_arrival()
        os.killpg(process.pid, signal.SIGINT)
        assert gate.wait_for_label() == "interrupted"
        gate.release(pid, "unharmed")
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert (stdout, stderr, process.returncode) == ("unharmed\n", "", 0)


def test_a_main_that_starts_threads_when_imported_is_served_without_forking_it(tmp_path):
    source = """
        import threading, time
        from procbackground import Manager

        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()  # in every process that imports this

        def square(number):
            return number * number

        if __name__ == "__main__":
            with Manager(max_workers=1) as manager:
                print(manager.run(square, 5).result(timeout=20))
    """
    finished = run(source, "file", tmp_path)
    assert finished.stdout.split() == ["25"]
