"""The public interface is as recorded in `public_api.txt`: nothing in it goes or changes unseen.

`python -m tests.unit.test_public_api` records it anew. Look at the difference: what goes, or asks for more than before,
is for a new major version.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("public_api.txt")
MODULES = (
    "procbackground", "procbackground.errors", "procbackground.events", "procbackground.logs",
    "procbackground.observers", "procbackground.report", "procbackground.retry", "procbackground.task",
)  # fmt: skip


def signature_of(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):
        return "(?)"
    parts = []
    for each in signature.parameters.values():
        name = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "") + each.name
        parts.append((name if each.default is each.empty else f"{name}={_default(each.default)}", each.kind))
    return "(" + ", ".join(f"{text}{' [keyword]' if kind == 3 else ''}" for text, kind in parts) + ")"


def _default(value: Any) -> str:
    text = repr(value)
    return "..." if " at 0x" in text or text.startswith("<") else text


def _construction_of(cls: type) -> str:
    """Return the parameters of a class, unless they are those of a class of Python, which differ by version."""
    home = next(base for base in cls.__mro__ if "__init__" in vars(base))
    is_ours = home.__module__.startswith("procbackground") and not issubclass(cls, Enum)
    return signature_of(cls) if is_ours else ""


def members_of(cls: type) -> list[str]:
    lines = []
    if dataclasses.is_dataclass(cls):
        lines += [field.name for field in dataclasses.fields(cls)]
    for name in sorted(dir(cls)):
        home: Any = next((base for base in cls.__mro__ if name in vars(base)), object)
        if name.startswith("_") or not home.__module__.startswith("procbackground"):
            continue
        value = inspect.getattr_static(cls, name)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if inspect.isfunction(value):
            lines.append(f"{name}{signature_of(value)}")
        elif isinstance(value, property):
            lines.append(f"{name} (property)")
        else:
            lines.append(name)
    return list(dict.fromkeys(lines))


def public_api() -> str:
    """Return a line for each public name: of modules, classes, fields, methods and parameters."""
    lines: list[str] = []
    seen: set[type] = set()
    for name in MODULES:
        module = importlib.import_module(name)
        for public in sorted(getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")])):
            value = getattr(module, public)
            home = getattr(value, "__module__", name)
            if inspect.ismodule(value) or home.partition(".")[0] != "procbackground":
                continue
            if home != name and not hasattr(module, "__all__"):
                continue  # it has imported this
            if inspect.isclass(value):
                bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
                lines.append(f"{name}.{public}: class({bases}){_construction_of(value)}")
                if value not in seen:
                    lines += [f"{name}.{public}.{member}" for member in members_of(value)]
                seen.add(value)
            elif callable(value):
                lines.append(f"{name}.{public}{signature_of(value)}")
            else:
                lines.append(f"{name}.{public}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((RECORD.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert importlib.import_module("procbackground").__version__ == project["version"]


def test_the_public_interface_is_as_recorded():
    assert public_api().splitlines() == RECORD.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    RECORD.write_text(public_api(), encoding="utf-8")
