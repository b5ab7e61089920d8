"""Finds the function that a command names as MODULE:FUNCTION, or says why not."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from procbackground._cli.errors import Wrong, near


def find_function(place: str) -> Callable[..., Any]:
    """Return the callable at `MODULE:FUNCTION`. Raises: `Wrong`."""
    module_name, colon, path = place.partition(":")
    if not colon or not module_name or not path:
        raise Wrong(f"{place!r} does not name a function; write MODULE:FUNCTION, such as thumbs:make")
    if module_name.endswith(".py"):
        raise Wrong(f"write the module's name, not its file: {_module_of_file(module_name)}:{path}")
    found: Any = import_named(module_name)
    seen = module_name
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            names = [each for each in dir(found) if not each.startswith("_")]
            callables = [each for each in names if callable(getattr(found, each, None))]
            raise Wrong(f"{seen} has no function {name!r}{near(name, callables)}") from None
        seen = f"{seen}.{name}"
    if not callable(found):
        raise Wrong(f"{place} is no function, but {_kind(found)}")
    return found  # type: ignore[no-any-return]


def import_named(name: str) -> ModuleType:
    """Import a module as `python -m` finds it. Raises: `Wrong`, with the place in the user's file."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Wrong(f"there is no module {error.name!r}{_near_module(error.name)}") from None
        raise broken_import(name, error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a script without a guard
        raise broken_import(name, error) from None


def broken_import(name: str, error: BaseException) -> Wrong:
    """Return the error for a module whose import failed, with the user's own part of the traceback."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and not _is_ours(frame.filename)
        and os.sep + "importlib" + os.sep not in frame.filename
    ]  # fmt: skip
    shown = "".join(traceback.format_list(frames) + traceback.format_exception_only(error)).rstrip()
    return Wrong(f"{name} cannot be imported:\n{shown}")


def checker_of(fn: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], str | None]:
    """Return a function that says why `fn` cannot be called so, or None."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return lambda args, kwargs: None
    parameters = signature.parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters)
    shown = getattr(fn, "__qualname__", type(fn).__qualname__)

    def why_not(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [] if takes_any else [name for name in kwargs if name not in names]
            return f"{shown}{signature} cannot be called so: {error}{near(unknown[0], names) if unknown else ''}"
        return None

    return why_not


def _near_module(name: str) -> str:
    import pkgutil

    parent, _, last = name.rpartition(".")
    if parent:
        try:
            paths = list(importlib.import_module(parent).__path__)
        except Exception:
            return ""
        return near(last, [each.name for each in pkgutil.iter_modules(paths)])
    here = [each.name for each in pkgutil.iter_modules([os.getcwd()])]
    hint = near(name, here) or near(name, {each.name for each in pkgutil.iter_modules()} | set(sys.stdlib_module_names))
    return hint or f"; modules are looked for in {os.getcwd()}, and where Python finds them"


def _module_of_file(path: str) -> str:
    return ".".join(Path(path).with_suffix("").parts)


def _is_ours(path: str) -> bool:
    return path.startswith(str(Path(__file__).parents[1]) + os.sep)


def _kind(value: Any) -> str:
    return "a module" if isinstance(value, ModuleType) else f"a value of type {type(value).__name__}"
