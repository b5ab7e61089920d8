"""The lists of modules in docstrings and ARCHITECTURE.md name every module, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import procbackground

PACKAGE = Path(procbackground.__file__).parent
ARCHITECTURE = (PACKAGE / "ARCHITECTURE.md").read_text(encoding="utf-8")

STOPS = "①②③④⑤⑥⑦⑧"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
PACKAGES = [file.parent for file in sorted(PACKAGE.rglob("__init__.py")) if file.parent != PACKAGE]


def docstring_of(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False) or ""


def modules_in(folder: Path) -> set[str]:
    """Return the names of the modules and packages that lie directly in `folder`."""
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    return modules | {file.parent.name for file in folder.glob("*/__init__.py")}


def listed_in(docstring: str) -> list[str]:
    """Return the names in the left column of a docstring's list of modules."""
    rows = re.findall(r"^ {4}([a-z_]\w*(?:, [a-z_]\w*)*) {2,}\S", docstring, re.MULTILINE)
    return [name for row in rows for name in row.split(", ")]


def imported_by(file: Path) -> set[str]:
    """Return the modules of its own package that `file` imports at its top, other than for types."""
    package = ".".join(("procbackground", *file.parent.relative_to(PACKAGE).parts))
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == package:
                found.update(alias.name for alias in node.names)
            elif node.module.startswith(f"{package}."):
                found.add(node.module.removeprefix(f"{package}.").split(".")[0])
    return found


def block_after(line: str) -> str:
    """Return the block of text that ARCHITECTURE.md has below `line`."""
    match = re.search(rf"^{re.escape(line)}\n\n```text\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no block after {line!r}"
    return match[1]


WAY = block_after("A task's way out and back, by module:")
PARTS = block_after("The root and the packages. Each package lists its modules in its own docstring:")


def stops() -> dict[str, str]:
    """Return the modules that a task passes, in order, each with the number of its stop."""
    found, number = {}, ""
    for line in WAY.splitlines():
        match = re.fullmatch(rf"(?P<number>[{STOPS}])? +(?P<module>[a-z_.]+) {{2,}}\S.*", line)
        assert match is not None, f"not a line of the map: {line}"
        number = match["number"] or number
        found[match["module"]] = number
    return found


def test_a_task_passes_its_stops_in_order():
    assert list(dict.fromkeys(stops().values())) == list(STOPS)


@pytest.mark.parametrize("module", stops())
def test_module_on_the_way_exists(module):
    assert (PACKAGE / (module.replace(".", "/") + ".py")).is_file()


def test_docstring_that_names_its_stop_agrees_with_the_map():
    found = {}
    for file in PACKAGE.rglob("*.py"):
        match = re.search(rf"\b({'|'.join(ORDINALS)})(?: and last)? stop of a task", docstring_of(file), re.IGNORECASE)
        if match is not None:
            name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
            found[name] = STOPS[ORDINALS.index(match[1].lower())]
    on_the_way = stops()
    assert len(found) >= len(STOPS)
    assert found == {name: on_the_way.get(name) for name in found}


def test_map_names_every_module_of_the_root_and_no_other():
    root = re.search(r"^root {2,}(.*?)(?=^\S)", PARTS, re.MULTILINE | re.DOTALL)
    assert root is not None
    groups = " ".join(root[1].split()).split("; ")  # "name, name: what they are"
    named = {name for group in groups for name in group.partition(":")[0].split(", ")}
    on_the_way = {name for name in stops() if "." not in name}
    packages = {folder.name for folder in PACKAGES}
    assert sorted(named | on_the_way) == sorted(modules_in(PACKAGE) - packages)


def test_map_lists_every_package_and_no_other():
    names = set(re.findall(r"^([a-z_]+) {2,}", PARTS, re.MULTILINE)) - {"root"}
    assert names == {folder.name for folder in PACKAGES if folder.parent == PACKAGE}


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_package_lists_all_its_modules(folder):
    listed = listed_in(docstring_of(folder / "__init__.py"))
    assert sorted(listed) == sorted(modules_in(folder)), f"see the docstring of {folder.name}/__init__.py"


def test_modules_of_state_import_only_those_listed_above_them():
    folder = PACKAGE / "_state"
    rows = re.findall(r"^ {4}([a-z_]+(?:, [a-z_]+)*) {2,}\S", docstring_of(folder / "__init__.py"), re.MULTILINE)
    row_of = {name: number for number, row in enumerate(rows) for name in row.split(", ")}
    wrong = {
        (name, other)
        for name, number in row_of.items()
        for other in imported_by(folder / f"{name}.py")
        if row_of[other] > number
    }
    assert not wrong
