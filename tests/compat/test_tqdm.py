"""tqdm's progress bars over the results of `map`, `stream` and single tasks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from concurrent.futures import as_completed

import pytest

from procbackground import Task
from tests.support.gate import PATIENCE_S
from tests.support.tasks import plain, surroundings

tqdm = pytest.importorskip("tqdm").tqdm


@pytest.fixture(autouse=True)
def _no_thread_of_tqdm_s_own(monkeypatch):
    """It would watch bars that stand still, and stay for good."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


class Bar:
    """A bar into a string, and how far it got."""

    def __init__(self, total: int) -> None:
        self.text = io.StringIO()
        self.total = total

    def over(self, results):
        return tqdm(results, total=self.total, file=self.text, mininterval=0, miniters=1, ascii=True)

    @property
    def last(self) -> str:
        return self.text.getvalue().rsplit("\r", 1)[-1]


def test_a_bar_follows_handles_as_they_are_done(manager):
    handles = [manager.run(plain.square, number) for number in range(20)]
    bar = Bar(len(handles))
    assert sorted(handle.result() for handle in bar.over(as_completed(handles))) == [x * x for x in range(20)]
    assert "20/20" in bar.last


@pytest.mark.parametrize("chunksize", [None, 5])
def test_a_bar_follows_a_map(manager, chunksize):
    bar = Bar(50)
    assert list(bar.over(manager.map(plain.square, range(50), chunksize=chunksize))) == [x * x for x in range(50)]
    assert "50/50" in bar.last


def test_a_bar_follows_a_stream(manager):
    bar = Bar(30)
    stream = manager.stream(Task(plain.square, args=(number,)) for number in range(30))
    assert sum(handle.result() for handle in bar.over(stream)) == sum(x * x for x in range(30))
    assert "30/30" in bar.last


def test_a_bar_that_is_left_half_way_shows_where(manager):
    bar = Bar(30)
    results = manager.map(plain.square, range(30), chunksize=1, buffersize=4)
    with bar.over(results) as shown:
        for number, _ in enumerate(shown, 1):
            if number == 10:
                break
    results.close()
    assert "/30" in bar.last
    assert manager.wait(timeout=20)


def test_progress_of_a_task_moves_a_bar(make_manager, recorder):
    bar = Bar(5)
    manager = make_manager(observer=recorder)
    with bar.over(None) as shown:
        manager.run(surroundings.report_progress, 5).result(timeout=20)
        recorder.wait_for("task_succeeded")
        for event in recorder.wait_for("task_progress"):  # quick reports become one
            shown.update(event.done - shown.n)
    assert "5/5" in bar.last


NOTEBOOK = """
import json
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

cell = '''
from procbackground import Manager
from procbackground.observers import TqdmObserver
with Manager(2, observer=TqdmObserver()) as manager:
    print(sum(manager.map(abs, range(50))))
'''
notebook = new_notebook(cells=[new_code_cell(cell)])
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
shown = [kind for output in notebook.cells[0].outputs for kind in output.get("data", ())]
models = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
bars = [model["state"] for model in models if model["model_name"] == "FloatProgressModel"]
print(json.dumps([shown, [[bar["value"], bar["max"], bar["bar_style"]] for bar in bars]]))
"""


def test_the_widget_of_a_notebook_shows_how_many_tasks_are_done():
    for library in ("ipykernel", "ipywidgets", "nbclient"):
        pytest.importorskip(library)
    ran = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    shown, bars = json.loads(ran.stdout)
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert bars == [[50, 50, "success"]]
