"""Imports point one way, and a child loads little: read from the source, and from a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import procbackground

ROOT = Path(procbackground.__file__).parent

# For each part, the parts that it may import; a part may always import from itself. A package that has no entry of
# its own for a module of it stands for all of them.
LEAVES = {
    "_sync", "_load", "_named", "_record", "_headstart", "task", "retry", "events", "report", "errors", "_broken",
    "_figures", "_printable", "_log",
}  # fmt: skip
CHILD = {"_wire", "_platform", "_named", "context"}
MAY_IMPORT: dict[str, set[str]] = {
    "manager": {"_compat", "_submit", "_supervisor", "_state", "_wire", "handle", "observers"} | LEAVES,
    "engines": {"_node", "_wire", "_log", "errors", "_load"},
    "_node": {"_supervisor", "_submit", "_state", "_wire", "handle"} | LEAVES,
    "_compat": {"_supervisor", "_state", "_load"},
    "_supervisor": {"_journal", "_state", "_submit", "_worker", "_report", "handle", "observers"} | CHILD | LEAVES,
    "_state": LEAVES,
    "_journal": {"_wire", "_platform", "_log", "errors", "report", "shared"},
    "shared": {"_wire", "errors"},
    "_submit": {"shared", "_journal", "_status", "_state", "handle", "observers", "_wire"} | LEAVES,
    "handle": LEAVES,
    "observers": {"events"} | LEAVES,
    "_worker": CHILD | {"errors", "_printable"},
    "_wire": {"_platform", "errors", "_load", "_named"},
    "_platform": {"errors", "_named"},
    "context": {"errors"},
    "events": {"report", "task"},
    "logs": set(),
    "report": {"errors", "task", "_record", "_report"},  # the last only when it runs as a program
    "_report": {"_figures", "_load", "_printable"},
    "_status": {"observers", "_platform", "_sync", "_load"},
    "_figures": {"_named"},
    "task": {"retry", "_record"},
    "retry": {"_load"},
    "_sync": {"errors"},
    "_load": set(),
    "_headstart": set(),
    "_record": set(),
    "_named": set(),
    "_printable": set(),
    "_log": set(),
    "errors": {"_broken", "_load"},  # on first use: it takes concurrent.futures.process along
    "_broken": set(),
}

HEAVY = ("psutil", "tenacity", "loguru", "cloudpickle", "asyncio", "concurrent.futures.process")


def module_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part_of(module: str) -> str:
    """Return the part of the package that a module of it belongs to; nothing for the package itself."""
    return [*module.split("."), ""][1]


def is_for_types_only(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def imports_of(file: Path) -> set[str]:
    """Return the modules of this package that `file` imports, at its top or in functions; not those for types only."""
    found: set[str] = set()

    def look_at(node: ast.AST) -> None:
        if isinstance(node, ast.If) and is_for_types_only(node.test):
            for other in node.orelse:
                look_at(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; whole names are easier to follow"
            assert node.module is not None
            if node.module == "procbackground":
                found.update(f"procbackground.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            look_at(child)

    look_at(ast.parse(file.read_text()))
    return {module for module in found if module.split(".")[0] == "procbackground"}


def name_of(file: Path) -> str:
    parts = ("procbackground", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in module_files()}


@pytest.mark.parametrize("name", [name for name in FILES if part_of(name) in MAY_IMPORT])
def test_module_imports_only_what_lies_further_on(name: str):
    part = part_of(name)
    wrong = {module for module in imports_of(FILES[name]) if part_of(module) not in MAY_IMPORT[part] | {part}}
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_rules_name_parts_that_exist():
    parts = {part_of(name) for name in FILES}
    assert set(MAY_IMPORT) <= parts
    assert set().union(*MAY_IMPORT.values()) <= parts


def test_parts_without_a_rule_are_front_doors():
    without_rule = {part_of(name) for name in FILES} - set(MAY_IMPORT)
    assert without_rule <= {"", "cli", "_cli", "__main__", "joblib", "_testing"}


@pytest.mark.parametrize("name", [name for name in FILES if part_of(name) in ("_state", "_worker")])
def test_decisions_and_the_child_know_nothing_of_the_supervisor(name: str):
    assert not {part_of(module) for module in imports_of(FILES[name])} & {"_supervisor", "manager"}


def test_rules_lead_back_to_where_they_started_nowhere():
    def reach(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, " -> ".join((*path, part))
        for other in MAY_IMPORT.get(part, set()):
            reach(other, (*path, part))

    for part in MAY_IMPORT:
        reach(part, ())


def test_modules_of_wire_worker_and_platform_import_each_other_in_no_circle():
    graph = {
        name: imports_of(file) & set(FILES)
        for name, file in FILES.items()
        if part_of(name) in ("_wire", "_worker", "_platform")
    }

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        for other in graph.get(name, ()):
            follow(other, (*path, name))

    for name in graph:
        follow(name, ())


def test_decisions_import_neither_clock_nor_thread_nor_pipe():
    forbidden = {"time", "threading", "os", "socket", "select", "selectors", "signal", "subprocess", "multiprocessing"}
    for name, file in FILES.items():
        if part_of(name) != "_state":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules = {node.module}
            else:
                continue
            assert not modules & (forbidden | {"logging", "random"}), f"{name}: {modules}"


@pytest.mark.parametrize("module", ["procbackground._worker.zygote", "procbackground._worker.main", "procbackground"])
def test_child_loads_nothing_heavy(module: str):
    assert not modules_after(f"import {module}") & set(HEAVY)


def test_a_main_module_that_names_what_it_uses_loads_no_supervisor_in_a_child():
    """A child imports the main module, too, and its first task waits for that."""
    loaded = modules_after("from procbackground import Manager, Retry, Task, TaskType")
    unwanted = {f"procbackground.{part}" for part in ("_supervisor", "_state.scheduler", "_submit.stream", "_journal")}
    assert not loaded & {*HEAVY, *unwanted, "sqlite3"}


def test_the_manager_s_module_loads_next_to_nothing():
    """Before its interpreter has a head start, and in each child whose main module names `Manager`."""
    loaded = modules_after("from procbackground import Manager")
    unwanted = {"typing", "dataclasses", "inspect", "subprocess", "socket", "multiprocessing", "tempfile"}
    assert not loaded & {*HEAVY, *unwanted} - modules_after("import concurrent.futures._base")
    assert sum(name.startswith("procbackground.") for name in loaded) <= 10


def test_a_manager_loads_no_more_than_a_first_result_needs():
    """A first result waits for these imports."""
    loaded = modules_after("from procbackground import Manager; Manager(max_workers=1).close()")
    unwanted = {"dataclasses", "inspect", "multiprocessing.connection", "tempfile", "procbackground._worker.main"}
    unwanted |= {"procbackground._supervisor.views", "procbackground.observers.names"}
    # Futures need `logging`, which from Python 3.14 on imports `dataclasses`, and so `inspect`, by itself.
    assert not loaded & {*HEAVY, *unwanted} - modules_after("import concurrent.futures._base")


def test_a_number_of_attempts_loads_no_strategies():
    """tenacity loads `asyncio`: a third of a first result's imports, and 6 MiB."""
    loaded = modules_after(
        "from procbackground import Manager, Task; Manager(max_workers=1, retry=3).close(); Task(abs, retry=4)"
    )
    assert not loaded & {"tenacity", "asyncio"}


def test_an_interpreter_with_a_head_start_loads_nothing_of_the_parent():
    loaded = modules_after("import procbackground._worker.adopted")
    unwanted = {f"procbackground.{part}" for part in ("_supervisor", "_state", "_submit", "manager", "handle")}
    assert not loaded & {*HEAVY, *unwanted, "typing", "dataclasses", "logging", "tempfile"}


def modules_after(code: str) -> set[str]:
    """Return what a fresh interpreter has loaded once it has run `code`."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent)},
    )
    return set(ran.stdout.split())


def test_the_parent_logs_by_the_logger_that_never_raises():
    # In a worker the handler is the package's own, and `logging` is imported on need.
    others = [path for path in module_files() if path.parent.name != "_worker" and path.name != "_log.py"]
    assert len(others) > 50
    assert not [str(path) for path in others if 'getLogger("procbackground")' in path.read_text()]
