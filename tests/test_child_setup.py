"""`env`, `cwd`, `nice`, `cpu_affinity` and `threads_per_task` hold in every worker before the user's code runs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from procbackground import InitializerError, Manager, Task, TaskType, current
from tests.support.gate import PATIENCE_S, tell_gate
from tests.support.tasks import plain

METHODS = ["forkserver", pytest.param("spawn", marks=pytest.mark.slow), "fork"]
CAPS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"]

has_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")

facts_at_start = None


def facts() -> tuple:
    """Return what the tests here set: a variable, the directory, the niceness and the CPUs."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return os.environ.get("COLOUR"), os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), cpus


def note_facts() -> None:
    global facts_at_start
    facts_at_start = facts()


def facts_of_initializer() -> tuple | None:
    return facts_at_start


def facts_of_second_attempt() -> tuple:
    if current().attempt == 1:
        os._exit(3)
    return facts()


def paint(colour: str) -> None:
    os.environ["COLOUR"] = colour


def tell_facts(address) -> None:
    tell_gate(address, facts())


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def blas_threads() -> list[int]:
    """Return how many threads each BLAS in this process has, numpy's being one."""
    import numpy
    import threadpoolctl

    numpy.ones((4, 4)) @ numpy.ones((4, 4))
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def has_numpy() -> bool:
    return "numpy" in sys.modules


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def asked(tmp_path):
    """Settings of a manager, and the facts that they make."""
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 2)
    options = {"env": {"COLOUR": "blue"}, "cwd": tmp_path, "nice": 2}
    cpus = None
    if hasattr(os, "sched_getaffinity"):
        cpus = {max(os.sched_getaffinity(0))}
        options["cpu_affinity"] = list(cpus)
    return options, ("blue", str(tmp_path), niceness, cpus)


# -- it is there ---------------------------------------------------------------------------------------------


def test_every_kind_of_worker_has_it(make_manager, method, asked, gate):
    options, expected = asked
    context = multiprocessing.get_context(method)
    manager = make_manager(mp_context=context, initializer=note_facts, retry=2, max_workers=1, **options)
    before = facts()
    assert manager.run(facts).result(timeout=PATIENCE_S) == expected
    assert manager.run(facts).result(timeout=PATIENCE_S) == expected  # the same worker
    assert manager.run(facts_of_initializer).result(timeout=PATIENCE_S) == expected
    assert manager.run_task(Task(facts, isolate=True)).result(timeout=PATIENCE_S) == expected
    assert manager.run(facts_of_second_attempt).result(timeout=PATIENCE_S) == expected  # in a spare
    manager.run_task(Task(tell_facts, args=(gate.address,), type=TaskType.LOOP, interval=0.01))
    assert gate.wait_for_label() == expected
    manager.cancel(timeout=PATIENCE_S)
    assert facts() == before


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_the_main_module_finds_it_when_it_is_imported(method, asked, tmp_path):
    options, expected = asked
    options = {**options, "cwd": str(tmp_path)}
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from tests.test_child_setup import facts\n"
        "FOUND = facts()\n"
        "def found():\n"
        "    return FOUND\n"
        "if __name__ == '__main__':\n"
        "    from procbackground import Manager\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        f"    with Manager(max_workers=1, mp_context=context, **{options!r}) as manager:\n"
        f"        assert manager.run(found).result(timeout={PATIENCE_S}) == {expected!r}\n"
    )
    run_script(script, cwd="/")


def test_modules_are_found_relative_to_the_old_directory(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "there.py").write_text("import os\ndef here():\n    return os.getcwd()\n")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "sys.path.insert(0, 'lib')\n"
        "import there\n"
        "if __name__ == '__main__':\n"
        "    from procbackground import Manager\n"
        "    with Manager(max_workers=1, cwd='elsewhere') as manager:\n"
        f"        assert manager.run(there.here).result(timeout={PATIENCE_S}) == os.path.abspath('elsewhere')\n"
    )
    run_script(script, cwd=tmp_path)


def test_a_package_that_only_the_parent_s_path_leads_to_is_enough(tmp_path):
    root = Path(__file__).parents[1]
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(root)!r}, *{[entry for entry in sys.path if entry]!r}]\n"
        "if __name__ == '__main__':\n"
        "    import os\n"
        "    from procbackground import Manager\n"
        "    with Manager(max_workers=1, env={'COLOUR': 'red'}) as manager:\n"
        f"        assert manager.run(os.getenv, 'COLOUR').result(timeout={PATIENCE_S}) == 'red'\n"
    )
    # -I -S: no PYTHONPATH, no directory of the script, no site-packages.
    run_script(script, "-I", "-S", cwd=tmp_path)


def test_a_variable_can_be_removed(make_manager, method, monkeypatch):
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.setenv("SHAPE", "round")
    manager = make_manager(mp_context=multiprocessing.get_context(method), env={"COLOUR": None, "SHAPE": "square"})
    assert manager.run(variables, "COLOUR", "SHAPE").result(timeout=PATIENCE_S) == [None, "square"]
    assert variables("COLOUR", "SHAPE") == ["green", "round"]


def test_what_an_initializer_changes_stays_changed(make_manager):
    manager = make_manager(env={"COLOUR": "blue"}, initializer=paint, initargs=("red",))
    assert manager.run(variables, "COLOUR").result(timeout=PATIENCE_S) == ["red"]


def test_managers_of_other_settings_do_not_meet(make_manager):
    managers = [make_manager(max_workers=1, env={"COLOUR": colour}) for colour in ("blue", "red")] + [make_manager()]
    colours = [manager.run(variables, "COLOUR").result(timeout=PATIENCE_S) for manager in managers]
    assert colours == [["blue"], ["red"], [None]]


def nested_colours(method: str) -> list[str | None]:
    with Manager(max_workers=1, mp_context=multiprocessing.get_context(method), env={"COLOUR": "inner"}) as manager:
        return [*variables("COLOUR"), *manager.run(variables, "COLOUR").result(timeout=PATIENCE_S)]


def test_a_nested_manager_has_settings_of_its_own(make_manager, method):
    manager = make_manager(env={"COLOUR": "outer"})
    assert manager.run(nested_colours, method).result(timeout=PATIENCE_S) == ["outer", "inner"]


@has_affinity
def test_there_is_a_worker_for_each_cpu_by_default():
    cpu = min(os.sched_getaffinity(0))
    with Manager(cpu_affinity=[cpu]) as manager:
        assert manager._max_workers == 1


# -- thread caps ---------------------------------------------------------------------------------------------


def test_caps_are_in_the_environment(make_manager, method):
    manager = make_manager(mp_context=multiprocessing.get_context(method), threads_per_task=3)
    assert manager.run(variables, *CAPS).result(timeout=PATIENCE_S) == ["3"] * len(CAPS)


def test_env_goes_before_caps(make_manager):
    manager = make_manager(threads_per_task=3, env={"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": None})
    assert manager.run(variables, *CAPS[:3]).result(timeout=PATIENCE_S) == ["2", "3", None]


@pytest.mark.parametrize("preload", [(), ("numpy",)])
@pytest.mark.parametrize("threads", [1, 2])
def test_numpy_has_the_threads_that_it_was_given(make_manager, preload, threads):
    pytest.importorskip("threadpoolctl")
    manager = make_manager(max_workers=1, threads_per_task=threads, preload=preload)
    if preload and sys.platform == "linux" and "PROCBACKGROUND_PLATFORM" not in os.environ:
        assert manager.run(has_numpy).result(timeout=PATIENCE_S)
    counts = manager.run(blas_threads).result(timeout=PATIENCE_S)
    assert set(counts) == {min(threads, len(os.sched_getaffinity(0)))}


@pytest.mark.slow  # numpy is imported by up to four processes, one after the other
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("forkserver_has_it", [False, True])
def test_a_numpy_that_is_imported_already_is_capped_too(method, forkserver_has_it, tmp_path):
    pytest.importorskip("threadpoolctl")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one thread is all that there is")
    if forkserver_has_it and method != "forkserver":
        pytest.skip("there is no fork server")
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "import numpy\n"
        "from tests.test_child_setup import blas_threads\n"
        "def count():\n"
        "    return blas_threads()\n"
        "if __name__ == '__main__':\n"
        "    from procbackground import Manager\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        f"    context.set_forkserver_preload({['numpy'] if forkserver_has_it else ['__main__']!r})\n"
        "    with Manager(max_workers=1, mp_context=context, threads_per_task=1) as manager:\n"
        f"        assert set(manager.run(count).result(timeout={PATIENCE_S})) == {{1}}\n"
        "    assert max(blas_threads()) > 1\n"
    )
    # Python 3.12 and later warn of the fork of a process with threads, which is asked for here.
    run_script(script, "-W", "ignore::DeprecationWarning", cwd=Path(__file__).parents[1], OPENBLAS_NUM_THREADS="2")


# -- what cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threads_per_task": 0}, ValueError, "threads_per_task must be 1 or more, not 0"),
        ({"threads_per_task": 1.5}, TypeError, "threads_per_task must be an int, not 1.5"),
        ({"threads_per_task": True}, TypeError, "threads_per_task must be an int"),
        ({"env": {"": "x"}}, ValueError, "'' cannot be the name"),
        ({"env": {"A=B": "x"}}, ValueError, "'A=B' cannot be the name"),
        ({"env": {"A\0": "x"}}, ValueError, "cannot be the name"),
        ({"env": {"A": "x\0y"}}, ValueError, "the value of 'A' has a NUL"),
        ({"env": {"A": "\ud800"}}, ValueError, "'A' cannot be encoded"),
        ({"env": {"A": 1}}, TypeError, "env must map str to str"),
        ({"env": {1: "A"}}, TypeError, "env must map str to str"),
        ({"env": ["A=1"]}, TypeError, "env must be a mapping"),
        ({"cwd": "/no/such/directory"}, FileNotFoundError, "'/no/such/directory' is none"),
        ({"cwd": __file__}, NotADirectoryError, "cwd must be a directory"),
        ({"cwd": 17}, TypeError, "17|int"),
        ({"nice": "low"}, TypeError, "nice must be an int, not 'low'"),
        pytest.param({"cpu_affinity": [99999]}, ValueError, "may not run on CPU .99999.", marks=has_affinity),
        pytest.param({"cpu_affinity": [0, -1]}, ValueError, "may not run on CPU", marks=has_affinity),
        pytest.param({"cpu_affinity": []}, ValueError, "must name a CPU", marks=has_affinity),
        pytest.param({"cpu_affinity": ["0"]}, TypeError, "must be an int, not '0'", marks=has_affinity),
    ],
)
def test_a_bad_value_is_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        Manager(**options)


@has_affinity
def test_checking_cpus_leaves_the_caller_where_it_was(make_manager):
    before = os.sched_getaffinity(0)
    make_manager(cpu_affinity=[min(before)])
    assert os.sched_getaffinity(0) == before


def test_no_affinity_where_the_system_has_none(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(NotImplementedError, match="cannot keep processes to some CPUs"):
        Manager(cpu_affinity=[0])


def test_a_directory_that_is_gone_fails_the_task_and_starts_no_further_workers(make_manager, method, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    manager = make_manager(mp_context=multiprocessing.get_context(method), cwd=home)
    home.rmdir()
    error = manager.run(plain.square, 3).exception(timeout=PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert f"a worker could not enter its cwd {str(home)!r}: " in str(error)
    with pytest.raises(InitializerError, match="could not enter"):
        manager.run(plain.square, 3)
    assert manager.processes() == []


def test_a_directory_that_goes_later_fails_only_what_needs_a_new_worker(make_manager, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    manager = make_manager(max_workers=1, cwd=home)
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    home.rmdir()
    assert manager.run(plain.square, 4).result(timeout=PATIENCE_S) == 16
    error = manager.run_task(Task(plain.square, args=(5,), isolate=True)).exception(timeout=PATIENCE_S)
    assert isinstance(error, InitializerError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may be as impolite as it likes")
def test_a_niceness_that_is_not_allowed_is_told(make_manager):
    manager = make_manager(nice=-5)
    error = manager.run(plain.square, 3).exception(timeout=PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert "could not be given the niceness" in str(error)


def run_script(script: Path, *flags: str, cwd: Path | str, **env: str) -> None:
    root = str(Path(__file__).parents[1])
    run = subprocess.run(
        [sys.executable, *flags, str(script)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **env},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
