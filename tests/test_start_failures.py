"""What keeps workers from starting: waited for where it can pass, else an error that says why, within seconds."""

from __future__ import annotations

import errno
import multiprocessing.util
import os
import platform
import signal
import sys
import textwrap

import psutil
import pytest

from procbackground import InitializerError, WorkerStartError
from tests.support import scripts
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain

WITHIN_S = 10.0  # for the error: "seconds", on a busy machine

# The task is tried twice: the second time the manager refuses it at once.
PROGRAM = """
    import multiprocessing, os, sys, tempfile, time
    from procbackground import Manager, WorkerStartError
    from tests.support.tasks import plain

    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
    {before}
        began_s = time.monotonic()
        manager = Manager(1, context, grace=0.2)
        errors = [manager.run(plain.square, 3).exception(timeout=20)]
        try:
            manager.run(plain.square, 3)
        except WorkerStartError as error:
            errors.append(error)
        assert len(errors) == 2 and all(type(error) is WorkerStartError for error in errors), errors
        print(time.monotonic() - began_s, *errors, sep=chr(10))
"""


def errors_of(before: str, method: str, folder) -> str:
    """Return the text of the errors that a program gets after it did what `before` says."""
    source = textwrap.dedent(PROGRAM).format(
        method=method, before=textwrap.indent(textwrap.dedent(before).strip(), "    ")
    )
    done = scripts.run(source, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    took_s, _, text = done.stdout.partition("\n")
    assert float(took_s) < WITHIN_S
    return text


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    ("executable", "word"),
    [("/no/such/python", "does not exist"), ("/", "is no program"), (sys.prefix, "is no program"), ("/bin/false", "1")],
)
def test_a_wrong_interpreter_is_an_error(tmp_path, method, executable, word):
    text = errors_of(f"multiprocessing.set_executable({executable!r})", method, tmp_path)
    assert word in text
    assert executable in text or word == "1"


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_directory_that_is_gone_is_an_error(tmp_path, method):
    text = errors_of("folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)", method, tmp_path)
    assert text.count("the current directory is gone") == 2


@pytest.mark.skipif(hasattr(multiprocessing.util, "_get_base_temp_dir"), reason="takes a shorter one by itself")
def test_a_folder_for_temporary_files_with_a_long_path_is_told_what_to_do(tmp_path):
    before = "tempfile.tempdir = tempfile.mkdtemp(dir=os.getcwd(), suffix='x' * 110)"
    assert errors_of(before, "forkserver", tmp_path).count("set TMPDIR to a shorter one") == 2


def test_a_daemonic_process_is_told_what_to_do(tmp_path):
    before = "multiprocessing.current_process()._config['daemon'] = True"
    assert errors_of(before, "forkserver", tmp_path).count("daemon=False") == 2


# A filter of system calls, as containers have it: those numbers end with that errno.
REFUSE = """
    import ctypes, struct
    def statement(code, value, yes=0, no=0):
        return struct.pack("HBBI", code, yes, no, value)
    program = [statement(0x20, 0)]
    for number in {numbers!r}:
        program += [statement(0x15, number, 0, 1), statement(0x06, 0x50000 | {errno})]
    code = ctypes.create_string_buffer(b"".join([*program, statement(0x06, 0x7FFF0000)]))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    libc = ctypes.CDLL(None)
    filters = Program(len(program) + 1, ctypes.cast(code, ctypes.c_void_p))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filters), 0, 0) == 0
"""
NUMBERS = {
    "memfd_create": 319, "pidfd_open": 434, "pidfd_send_signal": 424, "eventfd2": 290, "socketpair": 53, "execve": 59,
}  # fmt: skip
needs_numbers = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="numbers of system calls of Linux on x86-64"
)


def refusing(code: int, *calls: str) -> str:
    return textwrap.dedent(REFUSE).format(numbers=[NUMBERS[call] for call in calls], errno=code)


@needs_numbers
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_call_that_is_refused_is_an_error(tmp_path, method):
    text = errors_of(refusing(errno.EPERM, "socketpair"), method, tmp_path)
    assert text.count("seccomp") == 2


@needs_numbers
def test_an_interpreter_that_may_not_be_executed_is_an_error(tmp_path):
    assert "could not be executed" in errors_of(refusing(errno.EACCES, "execve"), "forkserver", tmp_path)


WORKS = """
    import multiprocessing, os, sys, time
    from procbackground import Manager, Task, TaskTimeoutError, WorkerDiedError
    from tests.support.tasks import plain

    if __name__ == "__main__":
    {before}
        with Manager(2, multiprocessing.get_context({method!r}), grace=0.3) as manager:
            assert list(manager.map(plain.square, range(5))) == [0, 1, 4, 9, 16]
            assert len(manager.run(bytes, 3_000_000).result(20)) == 3_000_000
            assert isinstance(manager.run(os._exit, 3).exception(20), WorkerDiedError)
            late = manager.run_task(Task(time.sleep, args=(60,), timeout=0.1))
            assert isinstance(late.exception(20), TaskTimeoutError)
        print("fine")
"""


@needs_numbers
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("code", [errno.EPERM, pytest.param(errno.ENOSYS, marks=pytest.mark.slow)])
def test_calls_that_are_refused_have_a_substitute(tmp_path, method, code):
    before = textwrap.indent(refusing(code, "memfd_create", "pidfd_open", "pidfd_send_signal", "eventfd2"), "    ")
    done = scripts.run(textwrap.dedent(WORKS).format(before=before, method=method), folder=tmp_path)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("names", [["memfd_create", "MFD_CLOEXEC"], ["pidfd_open"], ["eventfd", "eventfd_write"]])
def test_calls_that_this_python_lacks_have_a_substitute(tmp_path, monkeypatch, method, names):
    (tmp_path / "sitecustomize.py").write_text(f"import os\nfor name in {names!r}: vars(os).pop(name, None)\n")
    path = os.pathsep.join([str(tmp_path), scripts.ENVIRONMENT["PYTHONPATH"]])
    monkeypatch.setitem(scripts.ENVIRONMENT, "PYTHONPATH", path)
    before = f"    assert not hasattr(os, {names[0]!r})"
    done = scripts.run(textwrap.dedent(WORKS).format(before=before, method=method), folder=tmp_path)
    assert done.stdout == "fine\n", done.stderr


# -- deaths ---------------------------------------------------------------------------------------------------


def test_starting_workers_that_are_killed_break_no_manager_that_has_worked(make_manager):
    manager = make_manager(max_workers=1, mp_context=multiprocessing.get_context("spawn"))
    assert manager.run(plain.square, 2).result(timeout=PATIENCE_S) == 4
    me = psutil.Process()
    known = {child.pid for child in me.children()}
    manager.run(os._exit, 1).exception(timeout=PATIENCE_S)
    handle = manager.run(plain.square, 3)
    for _ in range(4):  # one more than break a manager that has not

        def new_worker() -> list[psutil.Process]:
            return [child for child in me.children() if child.pid not in known and is_starting(child)]

        wait_until(lambda: handle.done() or bool(new_worker()), "a worker is started")
        for child in new_worker():
            known.add(child.pid)
            child.kill()
    assert handle.result(timeout=PATIENCE_S) == 9


def is_starting(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def end_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_starting_workers_that_are_killed_break_a_manager_that_has_never_worked(make_manager):
    manager = make_manager(max_workers=1, initializer=end_by_signal)
    error = manager.run(plain.square, 3).exception(timeout=PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert isinstance(error, WorkerStartError)
    assert "SIGKILL" in str(error)


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("start_timeout", [1e-9, 0.05, 0.3])
def test_a_start_timeout_of_any_length_ends_the_wait(make_manager, method, start_timeout):
    context = multiprocessing.get_context(method)
    manager = make_manager(mp_context=context, initializer=plain.pause, initargs=(60,), start_timeout=start_timeout)
    error = manager.run(plain.square, 3).exception(timeout=WITHIN_S)
    assert isinstance(error, WorkerStartError)
    assert "start_timeout of" in str(error)
