"""Observers by name: those of the package, entry points of other packages, and what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from procbackground import Manager
from procbackground.observers import LoggingObserver, Observer, names
from procbackground.observers.log import LoggingObserver as Same
from tests.support.gate import PATIENCE_S
from tests.support.scripts import UNMEASURED
from tests.support.tasks import plain

seen = []


class Counting(Observer):
    """Offered under the name "counting" by a package that the test makes."""

    def on_task_succeeded(self, event):
        seen.append(event.result)


READY = Counting()


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """A function that makes a package with an entry point."""

    def make(name: str, target: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[procbackground.observers]\n{name} = {target}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    return make


@pytest.mark.parametrize("target", ["Counting", "READY"])
def test_another_packages_observer_is_found_by_its_name(make_manager, offer, target):
    offer("counting", f"{__name__}:{target}")
    seen.clear()
    manager = make_manager(observer="counting")
    manager.run(plain.square, 4).result(timeout=PATIENCE_S)
    manager.close()
    assert seen == [16]


def test_own_observers_are_found_by_name():
    assert type(names.observer_by_name("logging")) is LoggingObserver is Same
    assert set(names.OWN) >= {"loguru", "jsonlines", "rich", "tqdm", "prometheus", "opentelemetry"}


def test_an_unknown_name_is_refused_with_those_that_there_are(offer):
    offer("counting", f"{__name__}:Counting")
    with pytest.raises(ValueError, match=r"no observer named 'conting'; there are counting, .*loguru"):
        Manager(observer="conting")


def test_a_class_instead_of_an_observer_is_refused():
    with pytest.raises(TypeError, match=r"write Counting\(\)"):
        Manager(observer=Counting)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("rich", "rich", "rich"),
        ("tqdm", "tqdm", "tqdm"),
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
        ("loguru", "loguru", "loguru"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_installs_it(name, module, extra, monkeypatch):
    for loaded in [each for each in sys.modules if each.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*pip install 'procbackground\[{extra}\]'"):
        Manager(observer=name)


def test_a_manager_without_observers_loads_none_of_them():
    heavy = ("rich", "tqdm", "prometheus_client", "opentelemetry", "json", "loguru", "importlib.metadata")
    code = f"import sys, procbackground.observers; print(*(name for name in {heavy} if name in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=UNMEASURED, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == []
