"""All that users may call has a docstring, attributes are explained by name, and `help` shows nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import re
from typing import Any

import pytest

import procbackground
from tests.unit.test_public_api import MODULES as RECORDED

# Of joblib's module nothing is public, and to import it needs an extra.
MODULES = sorted({*RECORDED, "procbackground.cli"})


def public_objects() -> dict[str, Any]:
    """Return the public classes, functions and values by name, each once."""
    found: dict[int, tuple[str, Any]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for each in module.__all__:
            value = getattr(module, each)
            found.setdefault(id(value), (f"{name}.{each}", value))
    return dict(found.values())


OBJECTS = public_objects()
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in OBJECTS.items() if inspect.isfunction(value)}


def own_members(cls: type) -> dict[str, Any]:
    """Return the public members that a class has from this package."""
    members = {}
    for name in dir(cls):
        home = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and home.__module__.startswith("procbackground"):
            members[name] = inspect.getattr_static(cls, name)
    return members


def documentation_of(cls: type) -> str:
    """Return the docstrings of a class and of its bases here, and that of its module."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("procbackground")]
    texts = [cls.__doc__, *(base.__dict__.get("__doc__") for base in bases), inspect.getmodule(cls).__doc__]
    return "\n".join(text for text in texts if text)


def is_explained(name: str, text: str) -> bool:
    """Whether `text` has `name` in backticks, or in the list of attributes of a docstring."""
    return re.search(rf"`{name}`|^ *(?:\w+, )*{name}(?:, \w+)*: ", text, re.MULTILINE) is not None


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_a_public_object_has_a_docstring_of_its_own(name):
    doc = OBJECTS[name].__doc__
    assert doc
    assert not doc.startswith(f"{OBJECTS[name].__name__}("), "a dataclass made it"


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_docstrings_and_attributes_are_explained(name):
    text = documentation_of(CLASSES[name])
    silent = []
    for member, value in own_members(CLASSES[name]).items():
        value = getattr(value, "__func__", value)
        is_told_by_itself = inspect.isfunction(value) or isinstance(value, property)
        # `getdoc` finds what the base says of an overridden method: `Observer` tells what each event is.
        if not (inspect.getdoc(getattr(CLASSES[name], member)) if is_told_by_itself else is_explained(member, text)):
            silent.append(member)
    assert not silent


@pytest.mark.parametrize("module", [*MODULES, "procbackground.joblib"])
def test_help_shows_only_what_is_public(module):
    if module.endswith("joblib"):
        pytest.importorskip("joblib")
    assert isinstance(importlib.import_module(module).__all__, list)


def test_errors_and_events_are_all_public():
    for name in ("errors", "events"):
        module = importlib.import_module(f"procbackground.{name}")
        classes = {each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        assert {each for each in classes if inspect.isclass(getattr(module, each)) and each[0] != "_"} <= set(
            module.__all__
        )
    assert set(importlib.import_module("procbackground.errors").__all__) <= set(procbackground.__all__)


def test_an_editor_shows_for_errors_that_are_made_late_what_help_does():
    source = inspect.getsource(importlib.import_module("procbackground.errors"))
    [declared] = (
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.ClassDef)
    )
    assert len(declared) == 5
    for each in declared:
        assert ast.get_docstring(each) == getattr(procbackground, each.name).__doc__.splitlines()[0]


def test_help_begins_with_what_a_user_does():
    page = pydoc.render_doc(procbackground, renderer=pydoc.plaintext)
    assert page.index("with Manager(") < 700
    for call in ("run(", "run_task(", "map(", "stream(", "options(", "close(", "result(", "cancel("):
        assert call in procbackground.__doc__
    assert "_supervisor" not in procbackground.__doc__


def test_calls_that_the_package_names_exist():
    calls = set(re.findall(r"\bmanager\.(\w+)|\B\.(\w+)\(\)", procbackground.__doc__))
    known = {*dir(procbackground.Manager), *dir(procbackground.TaskHandle)}
    assert {name for pair in calls for name in pair if name} <= known
