"""The functions and classes of the main module, wherever it came from, in scripts of their own.

What a child can import it refers to; the rest travels by value; and a class that comes back is the parent's own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest

from tests.support.scripts import ENVIRONMENT

POINT = """
class Point:
    def __init__(self, x):
        self.x = x

def shift(point):
    assert isinstance(point, Point), type(point)
    return Point(point.x + 1)
"""

PROGRAM = (
    POINT
    + """
import enum, functools, multiprocessing, os
from procbackground import Manager

def twice(x):
    return 2 * x

if __name__ == "__main__":
    class Color(enum.Enum):
        RED = 1

    class Late:
        def __init__(self, point):
            self.point = point
        def shifted(self):
            return Late(shift(self.point))

    class Bad(Exception):
        pass

    def twice(x):  # not the one that a child has
        return 200 * x

    def shift_late(late):
        assert isinstance(late, Late) and isinstance(late.point, Point)
        return late.shifted()

    def fail():
        raise Bad("as asked")

    def main():
        global inner
        def inner(x):
            return x + 1000
        with Manager(1, mp_context=multiprocessing.get_context(os.environ["METHOD"])) as manager:
            def ask(fn, *args, **kwargs):
                return manager.run(fn, *args, **kwargs).result(timeout=20)
            assert type(ask(shift, Point(3))) is Point
            assert ask(twice, 2) == 400
            late = ask(shift_late, Late(Point(1)))
            assert type(late) is Late and type(late.point) is Point and late.point.x == 2
            assert ask(lambda point: isinstance(point, Point), Point(1))
            assert type(ask(lambda: shift(Point(1)))) is Point
            assert type(manager.run(fail).exception(timeout=20)) is Bad
            assert ask(max, [Color.RED], key=id) is Color.RED
            assert list(manager.map(twice, range(3))) == [0, 200, 400]
            assert [type(each) for each in manager.map(Late, [Point(1)] * 3)] == [Late] * 3
            assert ask(inner, 1) == 1001
            assert ask(functools.partial(shift_late), Late(Point(5))).point.x == 6
            assert ask(Late(Point(1)).shifted).point.x == 2
            shown = str(manager.run(lambda: 1 / 0).exception(timeout=20).__cause__)
            assert os.environ["SHOWN"] in shown, shown
        print("fine")

    main()
"""
)
LINE = "manager.run(lambda: 1 / 0)"
LAUNCHER = """
import multiprocessing, runpy, sys, types

def run(name):  # what runs the program under another name than that of its launcher
    module = types.ModuleType("__main__")
    module.__file__ = name
    sys.modules["__main__"] = module
    with open(name) as file:
        exec(compile(file.read(), name, "exec"), module.__dict__)

def run_twice(name):
    for _ in range(2):
        runpy.run_path(name, run_name="__main__")

if __name__ == "__main__":
    {act}
"""
WAYS = {
    "script": ["program.py"],
    "module": ["-m", "program"],
    "package": ["-m", "package"],
    "directory": ["folder"],
    "archive": ["archive.pyz"],
    "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit", "program.py"],
    "coverage": ["-m", "coverage", "run", "program.py"],
    "coverage of a package": ["-m", "coverage", "run", "-m", "package"],
    "trace": ["-m", "trace", "--count", "-C", "counts", "program.py"],
    "interactive": ["-i", "program.py"],
}
LAUNCHERS = {
    "run_path": "runpy.run_path('program.py', run_name='__main__')",
    "run_path of a folder": "runpy.run_path('folder', run_name='__main__')",
    "run_module": "runpy.run_module('program', run_name='__main__')",
    "run_module as it would be": "runpy.run_module('program', run_name='__main__', alter_sys=True)",
    "twice": "run_twice('program.py')",
    "exec in a module": "run('program.py')",
    "exec": "exec(compile(open('program.py').read(), 'program.py', 'exec'), {'__name__': '__main__'})",
}
SLOW = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the program in each form."""
    (tmp_path / "program.py").write_text(PROGRAM)
    for name in ("package", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(PROGRAM)
    (tmp_path / "package" / "__init__.py").touch()
    zipapp.create_archive(tmp_path / "folder", tmp_path / "archive.pyz")
    return tmp_path


def run(folder: Path, *command: str, method: str = "forkserver", shown: str = LINE, text: str = "") -> str:
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**ENVIRONMENT, "METHOD": method, "SHOWN": shown},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.stdout + finished.stderr


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[SLOW] if way in ("coverage of a package", "trace", "directory") else []) for way in WAYS],
)
def test_all_of_main_works_however_the_program_is_started(folder, way):
    if "coverage" in way:
        pytest.importorskip("coverage")
    said = run(folder, *WAYS[way])
    assert "fine" in said.splitlines(), said


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("way", ["script", "package", "archive"])
def test_all_of_main_works_under_every_start_method(folder, way, method):
    said = run(folder, *WAYS[way], method=method)
    assert "fine" in said.splitlines(), said


@pytest.mark.parametrize(
    "act", [pytest.param(act, id=way, marks=[] if way == "twice" else [SLOW]) for way, act in LAUNCHERS.items()]
)
def test_all_of_main_works_behind_a_launcher(folder, act):
    (folder / "launcher.py").write_text(LAUNCHER.format(act=act))
    said = run(folder, "launcher.py")
    assert "fine" in said.splitlines(), said


def test_all_of_main_works_from_standard_input(folder):
    said = run(folder, text=PROGRAM, shown="ZeroDivisionError")
    assert "fine" in said.splitlines(), said


CONNECTIONS = """
import multiprocessing
from procbackground import Manager

class Above:
    def __init__(self, connection):
        self.connection = connection

def use(end):
    end.connection.send(type(end).__qualname__)
    return end

if __name__ == "__main__":
    class Below(Above): ...
    def use_below(end):
        return use(end)

    with Manager(1) as manager:
        for kind in (Above, Below):
            for fn in (use, use_below, lambda end: use(end)):
                reader, writer = multiprocessing.Pipe()
                back = manager.run(fn, kind(writer)).result(20)
                assert type(back) is kind and reader.recv() == kind.__qualname__
                back.connection.send("fine")
                print(reader.recv())
"""


def test_connections_pass_within_classes_of_main(folder):
    (folder / "connections.py").write_text(CONNECTIONS)
    said = run(folder, "connections.py")
    assert said.split() == ["fine"] * 6, said


THROUGH_JOBLIB = (
    POINT
    + """
import procbackground.joblib
from joblib import Parallel, delayed

if __name__ == "__main__":
    class Late(Point): ...

    def shift_late(late):
        return Late(shift(late).x)

    with Parallel(n_jobs=2, backend="procbackground") as parallel:
        points = parallel(delayed(shift)(Point(number)) for number in range(6))
        points += parallel(delayed(shift_late)(Late(number)) for number in range(6))
    assert [type(point) for point in points] == [Point] * 6 + [Late] * 6
    assert [point.x for point in points] == [1, 2, 3, 4, 5, 6] * 2
    print("fine")
"""
)


@pytest.mark.parametrize("way", ["script", "package", "archive"])
def test_all_of_main_works_through_joblib(tmp_path, way):
    pytest.importorskip("joblib")
    (tmp_path / "program.py").write_text(THROUGH_JOBLIB)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(THROUGH_JOBLIB)
    zipapp.create_archive(tmp_path / "package", tmp_path / "archive.pyz")
    said = run(tmp_path, *WAYS[way])
    assert said == "fine\n"


def test_a_decorator_that_only_a_profiler_defines_does_no_harm(folder):
    """kernprof and memory_profiler put `profile` among the builtins of the process that they run."""
    (folder / "launcher.py").write_text(
        textwrap.dedent("""
        import builtins, functools, runpy
        def profile(fn):
            @functools.wraps(fn)
            def call(*args):
                return fn(*args), file
            return call
        file = open("launcher.py")  # cannot be pickled
        if __name__ == "__main__":
            builtins.profile = profile
            runpy.run_path("profiled.py", run_name="__main__")
        """)
    )
    (folder / "profiled.py").write_text(
        textwrap.dedent("""
        from procbackground import Manager
        @profile
        def double(x): return 2 * x
        if __name__ == "__main__":
            with Manager(1) as manager:
                print("got", manager.run(double, 21).result(timeout=20))
        """)
    )
    assert run(folder, "launcher.py") == "got 42\n"


NOTEBOOK = '''
import linecache, sys, types

module = types.ModuleType("__main__")
sys.modules["__main__"] = module

def run_cell(number, source):
    """Run a cell as IPython does."""
    name = f"/no/such/kernel/{number}.py"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), module.__dict__)

run_cell(1, "from procbackground import Manager; manager = Manager(1)")
run_cell(2, """
class Point:
    def fail(self):
        return self.missing

def outer():
    def inner():
        raise ValueError("deep")  # in a closure
    return inner
""")
run_cell(3, """
def show(fn):
    print(manager.run(fn).exception(timeout=20).__cause__)
show(Point().fail)
show(outer())
show(lambda: outer()())
print(type(manager.run(lambda: Point()).result(timeout=20)) is Point)
class Point:
    x = 2
print(type(manager.run(lambda: Point()).result(timeout=20)) is Point)
manager.close()
""")
'''


def test_tracebacks_of_cells_show_their_lines(folder):
    (folder / "notebook.py").write_text(NOTEBOOK)
    said = run(folder, "notebook.py")
    for line in (
        'File "/no/such/kernel/2.py", line 4, in fail',
        "return self.missing",
        'File "/no/such/kernel/2.py", line 8, in inner',
        'raise ValueError("deep")  # in a closure',
        'File "/no/such/kernel/3.py", line 6, in <lambda>',
        "show(lambda: outer()())",
    ):
        assert line in said
    assert said.splitlines()[-2:] == ["True", "True"]
    assert "dynamic-code" not in said
