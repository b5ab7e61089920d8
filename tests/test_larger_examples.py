"""The examples of larger programs do what they say: a web service, images, a simulation, a sweep, a notebook, tests."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from procbackground import JournalError
from procbackground._journal.reader import Journal
from tests.support.example import PATIENCE_S, ROOT, Program, run
from tests.support.facts import wait_until
from tests.support.scripts import ENVIRONMENT

EXAMPLES = ROOT / "examples"


@contextlib.contextmanager
def module_of(name: str) -> Iterator[ModuleType]:
    """Import an example as a module, for its functions."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


# -- web.py -------------------------------------------------------------------------------------------------

ENDLESS = 10**9  # takes hours; nobody waits for it


class Service:
    """The web service, as a client sees it."""

    def __init__(self, program: Program) -> None:
        program.wait_for_lines("serving on")
        self.port = int(program.lines["stdout"][0].rpartition(":")[2])

    def ask(self, target: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, json.load(response)

    def hang_up_on(self, target: str) -> None:
        """Ask, and go once the work runs."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", target)
            self.wait_until(running=1)

    def wait_until(self, **stats: int) -> None:
        """Wait until the service has these figures."""
        end = time.monotonic() + PATIENCE_S
        while not stats.items() <= (found := self.ask("/stats")[1]).items():
            assert time.monotonic() < end, f"{found}, not {stats}"


def test_web_answers_and_says_what_is_wrong_with_a_request():
    with Program("web.py", "--port", "0") as program:
        service = Service(program)
        assert service.ask("/primes?below=100000") == (200, {"below": 100_000, "primes": 9_592})
        assert service.ask("/primes?below=many")[0] == 400
        assert service.ask("/favicon.ico")[0] == 404


def test_web_stops_the_work_of_a_request_that_takes_too_long():
    with Program("web.py", "--port", "0", "--timeout", "0.3") as program:
        service = Service(program)
        assert service.ask(f"/primes?below={ENDLESS}") == (504, {"error": "that takes too long"})
        assert service.ask("/primes?below=100") == (200, {"below": 100, "primes": 25})


def test_web_stops_the_work_of_a_client_that_hangs_up():
    with Program("web.py", "--port", "0", "--workers", "1") as program:
        service = Service(program)
        service.hang_up_on(f"/primes?below={ENDLESS}")
        service.wait_until(running=0, cancelled=1)
        assert service.ask("/primes?below=100")[0] == 200


def test_web_refuses_requests_while_too_many_wait():
    with Program("web.py", "--port", "0", "--workers", "1", "--queue", "1") as program:
        service = Service(program)
        targets = [f"/primes?below={ENDLESS}"] * 2
        with contextlib.ExitStack() as stack:
            for number, target in enumerate(targets):
                connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_S)
                stack.enter_context(contextlib.closing(connection))
                connection.request("GET", target)
                service.wait_until(running=1, queued=number)
            assert service.ask("/primes?below=100")[0] == 503


def test_web_answers_what_runs_when_it_is_told_to_end():
    with Program("web.py", "--port", "0") as program:
        service = Service(program)
        answers: list[tuple[int, Any]] = []
        client = threading.Thread(target=lambda: answers.append(service.ask("/primes?below=200000")))
        client.start()
        service.wait_until(running=1)
        program.process.send_signal(signal.SIGTERM)
        client.join(PATIENCE_S)
        assert program.wait() == 0, program.stderr
        assert answers == [(200, {"below": 200_000, "primes": 17_984})]
        assert program.lines["stdout"][-1] == "closed"
        assert "Traceback" not in program.stderr
        program.assert_nothing_left()


# -- images.py ----------------------------------------------------------------------------------------------


def test_images_finds_in_strips_what_it_finds_in_the_whole(tmp_path: Path):
    numpy = pytest.importorskip("numpy")
    program = run("images.py", tmp_path / "edges.pgm", "--size", "300", "--strips", "7")
    assert "300 x 300 pixels" in program.stdout
    assert "7/7 items" in program.stderr
    with module_of("images") as images:
        images.write_pgm(tmp_path / "expected.pgm", images.edges(images.make_image(300)))
        found, expected = (images.read_pgm(tmp_path / f"{name}.pgm") for name in ("edges", "expected"))
        assert expected.std() > 10
        assert numpy.abs(found - expected).max() <= 1  # the last bit of a sum may differ
        with pytest.raises(ValueError, match="no 8-bit binary PGM"):
            images.read_pgm(EXAMPLES / "images.py")
    program = run("images.py", tmp_path / "again.pgm", "--image", tmp_path / "edges.pgm", "--strips", "1000")
    assert "300 x 300 pixels" in program.stdout


# -- montecarlo.py ------------------------------------------------------------------------------------------


def test_montecarlo_stops_early_and_finds_the_same_with_any_number_of_workers():
    one, three = (run("montecarlo.py", "--error", "0.1", "--workers", str(workers)) for workers in (1, 3))
    assert one.stdout == three.stdout
    match = re.fullmatch(r"price (\d\.\d{4}) ± (0\.\d{4}) after ([\d,]+) paths", one.stdout)
    assert match is not None
    assert abs(float(match[1]) - 6.5) < 0.5  # some standard errors around what millions of paths give
    assert 0.09 < float(match[2]) <= 0.1
    lines = [line for line in three.lines["stderr"] if "paths: " in line]
    assert lines[-1].split() == [match[3], "paths:", match[1], "±", match[2]]
    assert int(match[3].replace(",", "")) % 2_000 == 0


# -- sweep.py -----------------------------------------------------------------------------------------------


def succeeded_in(path: Path) -> int:
    with Journal(path) as journal:
        return journal.counts().get("succeeded", 0)


def has_begun(path: Path) -> bool:
    """Whether the journal, which may be in the making, has a result."""
    try:
        return succeeded_in(path) > 0
    except JournalError:
        return False


def test_sweep_continues_after_a_kill(tmp_path: Path):
    journal = tmp_path / "sweep.sqlite"
    with Program("sweep.py", journal) as program:
        wait_until(lambda: has_begun(journal), "the journal has a result")
        program.process.kill()
        program.process.wait(PATIENCE_S)
        program.assert_nothing_left()
    recorded = succeeded_in(journal)
    resumed = run("sweep.py", journal)
    match = re.fullmatch(r"(\d+) of 100 were computed in this run, (\d+) before", resumed.lines["stdout"][-1])
    assert match is not None
    computed, before = map(int, match.groups())
    # More than were recorded, where a worker had finished a task that the killed program did not get to know of.
    assert recorded <= before < 100
    assert computed + before == 100
    # In one go it finds the same, and afterwards there is nothing left to do.
    whole = run("sweep.py", tmp_path / "other.sqlite")
    assert whole.lines["stdout"][:-1] == resumed.lines["stdout"][:-1]
    assert len(set(" ".join(whole.lines["stdout"][1:-1]).split())) > 10
    again = run("sweep.py", journal)
    assert again.lines["stdout"][-1] == "0 of 100 were computed in this run, 100 before"


# -- notebook.ipynb -----------------------------------------------------------------------------------------


EXECUTE = """
import sys
from nbclient import NotebookClient
from nbformat import read, write
notebook = read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
write(notebook, sys.argv[2])
"""


def outputs_of(notebook: Path) -> list[list[Any]]:
    """Return what the cells show, but for the bar: on standard error, or a widget where ipywidgets is installed."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        [each.get("text") or each["data"]["text/plain"] for each in cell["outputs"] if not shows_bar(each)]
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def shows_bar(output: dict[str, Any]) -> bool:
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def test_notebook_shows_what_it_has_stored(tmp_path: Path):
    for library in ("nbclient", "nbformat", "ipykernel"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    stored, executed = EXAMPLES / "notebook.ipynb", tmp_path / "executed.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, stored, executed],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert outputs_of(executed) == outputs_of(stored)
    assert any(outputs_of(stored))


# -- testing/ -----------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe, outside this repository and its settings of pytest."""
    return shutil.copytree(EXAMPLES / "testing", tmp_path / "testing", ignore=shutil.ignore_patterns("__pycache__"))


def call(folder: Path, *command: str) -> str:
    of_this_run = ("COV_", "COVERAGE_", "PYTEST_")
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(of_this_run)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("processes", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_recipe_for_tests_passes_and_covers_lines_in_workers(recipe: Path, processes: str):
    coverage = pytest.importorskip("coverage")
    if coverage.version_info < (7, 10):
        pytest.skip("it does not measure in all processes")
    shown = call(recipe, "coverage", "run", "--rcfile", "coveragerc", "-m", "pytest", "-n", processes)
    assert "5 passed" in shown
    call(recipe, "coverage", "combine", "-q", "--rcfile", "coveragerc")
    call(recipe, "coverage", "json", "-q", "--rcfile", "coveragerc", "-o", "report.json")
    [file] = json.loads((recipe / "report.json").read_text())["files"].values()
    assert not file["missing_lines"]
    assert not file["missing_branches"]


# -- shots/ -------------------------------------------------------------------------------------------------


def test_shots_are_made_from_real_runs(tmp_path: Path):
    pytest.importorskip("pyte")
    pytest.importorskip("rich")
    with module_of("shots/make") as shots:
        picture = shots.make("first", tmp_path).read_text(encoding="utf-8")
        assert "squared" in picture
        assert "SIGKILL" in picture
        assert {f"{name}.svg" for name in shots.SHOTS} == {each.name for each in (EXAMPLES / "shots").glob("*.svg")}


# -- the list -----------------------------------------------------------------------------------------------


def test_readme_of_examples_lists_all_of_them():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(([\w./]+)\)", page)
    here = {each.name for each in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert {target.partition("/")[0] for target in listed} == here
    assert all(os.path.exists(EXAMPLES / target) for target in listed)
