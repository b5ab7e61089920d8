"""The main module: whether the other side can import it, and which of its functions and classes it has then.

A child imports the parent's script under another name, so that what stands below `if __name__ == "__main__":` does not
run. It cannot import a notebook, `-c`, standard input or a prompt, and must not import the `__main__.py` of a package,
a directory or an archive, which has no such guard. What a child does not have travels by value.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from typing import Any, ClassVar

MAIN_NAMES = ("__main__", "__mp_main__")  # the second is the name under which children import it
_IPYTHON = "ipython"  # a script without a guard; `multiprocessing` leaves it out, too

# A definition below the guard, or one that a function makes global. Most scripts have neither, and need not be parsed.
# Compiled where they are used, which is in the parent only.
_GUARD = r"^if\b.*\b__name__\b.*$"
_BLOCK_END = r"^[^\s#)\]}]"
_DEFINITION = r"^\s+(?:async\s+def|def|class)\s+(\w+)"
_GLOBAL = r"^\s+global\s+(.+)$"


class MainModule:
    """What is known of the module that is `__main__`."""

    def __init__(self) -> None:
        module = sys.modules.get("__main__")
        self.module = module
        self.name, self.path = _origin_of(module)
        self.is_importable = self.name is not None or self.path is not None
        # Where the module object was imported as a child does it, or its source is not there, nothing is missing.
        self._source: str | None = None
        is_copy = getattr(module, "__name__", None) == MAIN_NAMES[1]
        if self.is_importable and not is_copy:
            self._source = _read_source(getattr(module, "__file__", None))
        self.is_whole = self.is_importable and (is_copy or not self._may_lack_some())

    def is_still(self) -> bool:
        """Whether this describes the main module of now: debuggers and launchers run one after the other."""
        module = sys.modules.get("__main__")
        return module is self.module and _origin_of(module) == (self.name, self.path)

    def has(self, qualified_name: str) -> bool:
        """Whether an import of the module, without what its guard lets run, defines this name, on the other side."""
        if not self.is_importable or _mode.is_by_value:
            return False
        names = None if self.is_whole else self._names
        if names is None:
            return True
        always, guarded = names
        name = qualified_name.partition(".")[0]
        return name in always and name not in guarded

    def _may_lack_some(self) -> bool:
        """Whether something may be defined that an import would not define: looked for in the text."""
        if sys.flags.interactive or hasattr(sys, "ps1"):
            return True
        source = self._source
        if source is None:
            return False
        definition, block_end = re.compile(_DEFINITION, re.MULTILINE), re.compile(_BLOCK_END, re.MULTILINE)
        for guard in re.finditer(_GUARD, source, re.MULTILINE):
            end = block_end.search(source, guard.end())
            if definition.search(source, guard.end(), end.start() if end else len(source)):
                return True
        groups = re.finditer(_GLOBAL, source, re.MULTILINE)
        made_global = {name.strip() for match in groups for name in match[1].split(",")}
        return bool(made_global) and any(match[1] in made_global for match in definition.finditer(source))

    @functools.cached_property
    def _names(self) -> tuple[set[str], set[str]] | None:
        """The names that the module binds always, and those that it binds below the guard; None: not known."""
        import ast

        if self._source is None:
            return None
        always: set[str] = set()
        guarded: set[str] = set()
        try:
            _collect_names(ast.parse(self._source), always, guarded)
        except (SyntaxError, ValueError):
            return None  # such as IPython's own syntax
        return always, guarded


@functools.cache
def main_module() -> MainModule:
    """Return what is known of the main module."""
    return MainModule()


def main_is_importable() -> bool:
    """Whether the other side can import this process's `__main__`."""
    return main_module().is_importable and not _mode.is_by_value


@functools.cache
def main_is_whole() -> bool:
    """Whether every other side has all of this process's `__main__`, as nearly always: references need no look.

    A look at the mode of this thread here would cost each task a twentieth of its submission. So where some send it by
    value, all look.
    """
    return main_module().is_whole and not _mode.was_ever_by_value


def look_again() -> MainModule:
    """Return what is known of the main module, which may be another one by now: a manager is made for it."""
    if not main_module().is_still():
        for cached in (main_module, main_is_whole):
            cached.cache_clear()
    known = main_module()
    # Children call it so. `multiprocessing` does this once, when it is imported; a launcher may have run before that.
    if known.module is not None:
        sys.modules[MAIN_NAMES[1]] = known.module
    return known


class _Mode(threading.local):
    """How this thread pickles what belongs to the main module."""

    was_ever_by_value: ClassVar[bool] = False  # by some thread
    is_by_value = False


_mode = _Mode()


@contextlib.contextmanager
def main_by_value() -> Iterator[None]:
    """Within it, this thread pickles what belongs to the main module by value: the other side is another machine."""
    if not _Mode.was_ever_by_value:
        _Mode.was_ever_by_value = True
        main_is_whole.cache_clear()
    outer = _mode.is_by_value
    _mode.is_by_value = True
    try:
        yield
    finally:
        _mode.is_by_value = outer


def belongs_to_main(value: Any) -> bool:
    """Whether a value is a function or class of the main module."""
    kind = type(value)
    return (kind is FunctionType or issubclass(kind, type)) and getattr(value, "__module__", None) in MAIN_NAMES


def renamed(name: str, old: str, new: str) -> str:
    """Return the name of a module or logger, with `new` where it is `old` or below it."""
    head, dot, rest = name.partition(".")
    return f"{new}{dot}{rest}" if head == old else name


def can_refer_to(value: Any) -> bool:
    """Whether a function or class of `__main__` can be sent by its name."""
    name = getattr(value, "__qualname__", None)
    if not isinstance(name, str) or not main_module().has(name):
        return False
    found: Any = sys.modules.get("__main__")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _origin_of(module: Any) -> tuple[str | None, str | None]:
    """Return the name or the path by which a child can import `module`."""
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:
        return (None if name.rpartition(".")[2] == "__main__" else name), None
    path = getattr(module, "__file__", None)
    if not isinstance(path, str):
        return None, None
    # Relative to the directory of the time when the path was right.
    process = sys.modules.get("multiprocessing.process")
    path = os.path.normpath(os.path.join(getattr(process, "ORIGINAL_DIR", None) or "", path))
    if os.path.splitext(os.path.basename(path))[0] == _IPYTHON or not os.path.isfile(path):
        return None, None
    return None, path


def _read_source(path: str | None) -> str | None:
    if path is None or not path.endswith((".py", ".pyw")):
        return None
    import tokenize

    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _collect_names(node: ast.AST, always: set[str], guarded: set[str]) -> None:
    """Add the names that a module binds, outside functions and classes, to one of the sets."""
    import ast

    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            always.add(child.name)
        elif isinstance(child, ast.If) and (is_for_main := _runs_in_main_only(child.test)) is not None:
            for statements, is_guarded in ((child.body, is_for_main), (child.orelse, not is_for_main)):
                branch = ast.Module(statements, [])
                _collect_names(branch, guarded if is_guarded else always, guarded)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            always.add(child.id)
        elif isinstance(child, ast.alias):
            always.add((child.asname or child.name).partition(".")[0])
        elif not isinstance(child, ast.Lambda):
            _collect_names(child, always, guarded)


def _runs_in_main_only(test: ast.expr) -> bool | None:
    """Return True for a condition that holds in `__main__` only, False for one that holds elsewhere only, else None."""
    import ast

    nodes = list(ast.walk(test))
    if not any(isinstance(node, ast.Name) and node.id == "__name__" for node in nodes):
        return None
    if not any(isinstance(node, ast.Constant) and node.value == "__main__" for node in nodes):
        return None
    return not any(isinstance(node, (ast.NotEq, ast.Not)) for node in nodes)
