"""Modules, classes and functions stay small enough to be read at once; those that do not say why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import procbackground

PACKAGE = Path(procbackground.__file__).parent
MOST_LINES_OF_A_MODULE = 400
MOST_METHODS = 40
MOST_LINES_OF_A_FUNCTION = 60

# Each says in its docstring why it is larger.
LARGER = {
    "Scheduler": "More than 40 methods, as",
    "State.__init__": "which is why `__init__` is long",
    "call_each": "It is one loop in one function, because",
    "make_parts": "It is long because",
}


def sizes(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    """Yield the name, docstring and whether it is too large, of each class and function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            yield node.name, ast.get_docstring(node) or "", len(methods) > MOST_METHODS
            yield from sizes(node, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            text = ast.get_docstring(node if node.name != "__init__" else tree) or ""  # type: ignore[arg-type]
            yield f"{prefix}{node.name}", text, node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
            yield from sizes(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_is_small_or_says_why_not(file: Path):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_A_MODULE
    for name, docstring, is_large in sizes(ast.parse(text)):
        # The signatures of `Manager` and of what it hands on have an option a line.
        if is_large and name != "Manager.__init__":
            assert " ".join(docstring.split()).count(LARGER[name]) == 1, name
