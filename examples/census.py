#!/usr/bin/env python3
"""Take a census of Python source: one task per file, on all cores, and no file can spoil the run.

    python examples/census.py               the standard library of the running interpreter
    python examples/census.py FOLDER ...    any other folders or files
    python examples/census.py --compare     the same work once more in one process, for a measured speed-up

A file that does not parse is reported and the run goes on. A worker that dies or hangs costs its own file two
more attempts; then that file is reported too. Ctrl-C and SIGTERM stop the workers and end the program with
130 and 143; a second signal ends it at once.

Exit codes: 0; 1 when a file was lost to a death or a timeout, or when `--compare` found other totals; 2 for
wrong arguments; 130 and 143 as above.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import json
import os
import shutil
import signal
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, TextIO

from tenacity import retry_if_exception_type, stop_after_attempt, wait_random_exponential

from procbackground import Manager, ProcbackgroundError, Retry, Task, TaskTimeoutError, WorkerDiedError

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
RANKED = 10  # functions shown; as many come home from every file, so the ranking is exact and results are small

# A syntax error is there the next time too; a death or a timeout may be the machine's fault, not the file's.
RETRY = Retry(
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=0.1, max=1),
    retry=retry_if_exception_type((WorkerDiedError, TaskTimeoutError)),
)


# -- what is counted: runs in the children, and in one process for `--compare` -------------------------------


# No slots in what comes home: a frozen dataclass with slots is pickled in Python, one without is in C.
@dataclass(frozen=True)
class FunctionCensus:
    """One function or method; `complexity` is McCabe's: 1 and 1 more for every branch of its own."""

    path: str
    line: int
    name: str
    lines: int
    complexity: int


@dataclass(frozen=True)
class FileCensus:
    """One file: counts, its `RANKED` most complex functions, its longest, and the CPU seconds it took."""

    path: str
    lines: int
    functions: int
    classes: int
    branches: int
    most_complex: tuple[FunctionCensus, ...]
    longest: FunctionCensus | None
    cpu_seconds: float


def by_complexity(function: FunctionCensus) -> tuple[int, int, str, int]:
    """Rank functions with no two equal: the order in which the files got done must not show in the result."""
    return function.complexity, function.lines, function.path, function.line


def by_length(function: FunctionCensus) -> tuple[int, str, int]:
    return function.lines, function.path, function.line


ONE_BRANCH = frozenset({ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case})


def branches_at(node: ast.AST) -> int:
    """Return how many more ways through the code there are because of `node` itself."""
    if type(node) in ONE_BRANCH:
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def count_tree(path: str, tree: ast.AST) -> tuple[list[FunctionCensus], int, int]:
    """Return the functions, the number of classes and the number of branches in `tree`.

    A nested function counts for itself and not for the one around it; a lambda counts for the one around it.
    """
    functions: list[FunctionCensus] = []
    classes = branches = 0
    # One stack and no recursion: a chain of a thousand `elif` is a thousand levels deep.
    pending: list[tuple[ast.AST, str, list[int]]] = [(tree, "", [0])]
    opened: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str, list[int]]] = []
    while pending:
        node, prefix, own_branches = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own_branches = [0]
            opened.append((node, prefix + node.name, own_branches))
            prefix += f"{node.name}."
        elif isinstance(node, ast.ClassDef):
            classes += 1
            prefix += f"{node.name}."
        elif at_node := branches_at(node):
            branches += at_node
            own_branches[0] += at_node
        pending.extend((child, prefix, own_branches) for child in ast.iter_child_nodes(node))
    for definition, name, [own] in opened:
        last_line = definition.end_lineno or definition.lineno
        length = last_line - definition.lineno + 1
        functions.append(FunctionCensus(path, definition.lineno, name, length, complexity=1 + own))
    return functions, classes, branches


def count_file(path: str) -> FileCensus:
    """Count one file. Raises what `open` and `ast.parse` raise: `OSError`, `SyntaxError`, `ValueError` ..."""
    # CPU time is taken here, around the work alone, so that both ways of running it are measured alike.
    started = time.process_time()
    with open(path, "rb") as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser warns of other people's escape sequences
        tree = ast.parse(source, path)
    functions, classes, branches = count_tree(path, tree)
    return FileCensus(
        path=path,
        lines=source.count(b"\n") + (not source.endswith(b"\n") and source != b""),
        functions=len(functions),
        classes=classes,
        branches=branches,
        most_complex=tuple(heapq.nlargest(RANKED, functions, key=by_complexity)),
        longest=max(functions, key=by_length, default=None),
        cpu_seconds=time.process_time() - started,
    )


# -- how the files are gone through --------------------------------------------------------------------------


@dataclass(slots=True)
class Census:
    """The sum over files. Equal for equal files, in whatever order they were added."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    branches: int = 0
    most_complex: list[FunctionCensus] = field(default_factory=list)
    longest: FunctionCensus | None = None
    unparsed: dict[str, str] = field(default_factory=dict)  # path → error
    failed: dict[str, str] = field(default_factory=dict)  # the same, for a death or a timeout
    cpu_seconds: float = field(default=0.0, compare=False)
    retried: int = field(default=0, compare=False)

    @property
    def seen(self) -> int:
        """Files dealt with, one way or the other."""
        return self.files + len(self.unparsed) + len(self.failed)

    def add(self, file: FileCensus) -> None:
        self.files += 1
        self.lines += file.lines
        self.functions += file.functions
        self.classes += file.classes
        self.branches += file.branches
        self.cpu_seconds += file.cpu_seconds
        candidates = [*self.most_complex, *file.most_complex]
        self.most_complex = heapq.nlargest(RANKED, candidates, key=by_complexity)
        if file.longest is not None:
            self.longest = max(filter(None, (self.longest, file.longest)), key=by_length)

    def add_error(self, path: str, error: BaseException) -> None:
        lost = isinstance(error, ProcbackgroundError)  # the package's own: the file never had its say
        first_line = (str(error).splitlines() or [""])[0]
        (self.failed if lost else self.unparsed)[path] = f"{type(error).__name__}: {first_line}"


def python_files(folders: Iterable[str]) -> list[str]:
    """Return the Python files in `folders`, each once, the largest first.

    Largest first keeps the tail short: the last to run are the quick ones, and no core is left alone with a
    long one.
    """
    absolute = map(os.path.abspath, folders)  # or the same file under two spellings would count twice
    sizes = {path: os.path.getsize(path) for folder in absolute for path in walk(folder)}
    return sorted(sizes, key=lambda path: (-sizes[path], path))


def walk(folder: str) -> Iterator[str]:
    if os.path.isfile(folder):
        yield folder
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        for name in names:
            path = os.path.join(parent, name)
            if name.endswith(".py") and os.path.exists(path):  # a dangling link does not exist
                yield path


def count_in_processes(
    paths: Sequence[str], census: Census, progress: ProgressLine, *, jobs: int, timeout: float
) -> None:
    """Add all `paths` to `census`, a task for each, in `jobs` processes."""
    # Leaving this block by an exception, a signal's too, drops what is queued and stops what runs.
    with Manager(max_workers=jobs, retry=RETRY, timeout=timeout) as manager:
        path_of: dict[Future[FileCensus], str] = {
            manager.run_task(Task(count_file, args=(path,), name=path)): path for path in paths
        }
        for handle in as_completed(path_of):
            error = handle.exception()
            if error is None:
                census.add(handle.result())
            else:
                census.add_error(path_of[handle], error)
            progress.show(census.seen)
        census.retried = manager.stats().retried


def count_in_this_process(paths: Sequence[str], census: Census, progress: ProgressLine) -> None:
    """Add all `paths` to `census` one after the other: the same work, to compare with."""
    for path in paths:
        try:
            census.add(count_file(path))
        except Exception as error:
            census.add_error(path, error)
        progress.show(census.seen)


# -- what is shown -------------------------------------------------------------------------------------------


class ProgressLine:
    """One line that is rewritten where a person watches, ten plain lines where the text goes to a file."""

    def __init__(self, title: str, total: int, stream: TextIO = sys.stderr) -> None:
        self.title, self.total, self.stream = title, total, stream
        self.is_watched = stream.isatty()
        self.step = 1 if self.is_watched else max(1, -(-total // 10))
        self.next_update_s = 0.0

    def show(self, done: int) -> None:
        if done % self.step and done != self.total:
            return
        text = f"{self.title}: {done:,} of {self.total:,} files"
        if not self.is_watched:
            print(text, file=self.stream, flush=True)
        elif time.monotonic() >= self.next_update_s:
            self.next_update_s = time.monotonic() + 0.1  # the eye follows no faster
            columns = shutil.get_terminal_size().columns
            print(f"\r{text[: columns - 1]}\x1b[K", end="", file=self.stream, flush=True)

    def clear(self) -> None:
        if self.is_watched:
            print("\r\x1b[K", end="", file=self.stream, flush=True)


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """How many times quicker than one process: where `measured`, than one that did the same, in `serial_seconds`."""

    factor: float
    measured: bool
    serial_seconds: float | None


def estimated(cpu_seconds: float, wall_seconds: float) -> SpeedUp:
    """Return the speed-up over a process that would need the CPU time of the workers."""
    return SpeedUp(cpu_seconds / wall_seconds, measured=False, serial_seconds=None)


def compared(serial_seconds: float, cpu_seconds: float, wall_seconds: float) -> SpeedUp:
    """Return the speed-up over a process that needed `serial_seconds` of CPU time for the same work.

    Of two measurements of this work, in one process and in the workers, the lower one counts. A machine that was busy
    with something else during the serial run then cannot make the speed-up larger than it is, and it is never more
    than the number of workers: none has more CPU time than wall time.
    """
    return SpeedUp(min(serial_seconds, cpu_seconds) / wall_seconds, measured=True, serial_seconds=serial_seconds)


def as_json(
    census: Census, folders: Sequence[str], jobs: int, wall_seconds: float, speed_up: SpeedUp
) -> dict[str, Any]:
    return {
        "folders": list(folders),
        "totals": {name: getattr(census, name) for name in ("files", "lines", "functions", "classes", "branches")},
        "most_complex": [asdict(function) for function in census.most_complex],
        "longest": None if census.longest is None else asdict(census.longest),
        "unparsed": dict(sorted(census.unparsed.items())),
        "failed": dict(sorted(census.failed.items())),
        "retried": census.retried,
        "jobs": jobs,
        "wall_seconds": wall_seconds,
        "cpu_seconds": census.cpu_seconds,
        "speed_up": asdict(speed_up),
    }


def as_text(census: Census, folders: Sequence[str], jobs: int, wall_seconds: float, speed_up: SpeedUp) -> str:
    def short(path: str) -> str:
        return os.path.relpath(path, folders[0]) if len(folders) == 1 and os.path.isdir(folders[0]) else path

    def place(function: FunctionCensus) -> str:
        return f"{function.name}  ({short(function.path)}:{function.line})"

    text = [
        f"{census.files:,} files, {census.lines:,} lines, {census.functions:,} functions, "
        f"{census.classes:,} classes, {census.branches:,} branches",
        "",
        "complexity  lines  most complex functions",
    ]
    text += [f"{each.complexity:10,} {each.lines:6,}  {place(each)}" for each in census.most_complex]
    if census.longest is not None:
        text += ["", f"longest function: {census.longest.lines:,} lines, {place(census.longest)}"]
    for title, errors in (("could not be parsed", census.unparsed), ("timed out or died", census.failed)):
        if errors:
            text += ["", f"{title} ({len(errors)}):"]
            text += [f"  {short(path)}: {error}" for path, error in sorted(errors.items())]
    text += ["", f"wall time {wall_seconds:.2f} s with {jobs} workers, CPU time {census.cpu_seconds:.2f} s"]
    if census.retried:
        text += [f"attempts repeated: {census.retried}"]
    if speed_up.measured:
        serial = f"{speed_up.serial_seconds:.2f} s of CPU time in one process"
        text += [f"speed-up {speed_up.factor:.2f}, measured: {serial}"]
    else:
        text += [f"speed-up {speed_up.factor:.2f}, estimated: CPU time / wall time (--compare measures it)"]
    return "\n".join(text)


# -- the command ---------------------------------------------------------------------------------------------


class Stopped(KeyboardInterrupt):
    """A signal asked for the end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def stop_on(*signal_numbers: int) -> None:
    """Make the first of these signals raise `Stopped`; a second one ends the process and its workers."""

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        for each in signal_numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(signal_number)

    for each in signal_numbers:
        signal.signal(each, stop)


def usable_cores() -> int:
    """Return the cores this process may use: under `taskset`, or in a container, fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    if not (number := float(text)) > 0:
        raise ValueError
    return number


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments and the files they mean; ends the process with 2 where they mean none."""
    parser = argparse.ArgumentParser(
        description="Count lines, functions, classes and branches of Python files, a task for each file."
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="default: the standard library")
    parser.add_argument("--jobs", type=at_least_one, default=usable_cores(), help="processes (%(default)s)")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds for one attempt at a file (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--compare", action="store_true", help="do it all in one process too, and print the measured speed-up"
    )
    arguments = parser.parse_args(argv)
    arguments.folders = arguments.folders or [sysconfig.get_path("stdlib")]
    for folder in arguments.folders:
        if not os.path.exists(folder):
            parser.error(f"no such file or folder: {folder}")
    paths = python_files(arguments.folders)
    if not paths:
        parser.error("no Python files there")
    return arguments, paths


def run(arguments: argparse.Namespace, paths: Sequence[str], census: Census) -> int:
    """Count, compare where asked to, print, and return the exit code."""
    progress = ProgressLine("counting", len(paths))
    try:
        # The wall time has the pool's start and its close in it: what a user waits for.
        started = time.perf_counter()
        count_in_processes(paths, census, progress, jobs=arguments.jobs, timeout=arguments.timeout)
        wall_seconds = time.perf_counter() - started
        speed_up = estimated(census.cpu_seconds, wall_seconds)
        serial = None
        if arguments.compare:
            # The second run finds the files in the page cache: if that favours one, then the serial one.
            progress.title, serial = "once more, in one process", Census()
            started = time.process_time()
            count_in_this_process(paths, serial, progress)
            speed_up = compared(time.process_time() - started, census.cpu_seconds, wall_seconds)
    finally:
        progress.clear()
    shown = census, arguments.folders, arguments.jobs, wall_seconds, speed_up
    print(json.dumps(as_json(*shown), indent=2) if arguments.json else as_text(*shown))
    if serial is not None and serial != census:
        print("census: one process found other totals than many", file=sys.stderr)
        return 1
    return 1 if census.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    stop_on(signal.SIGINT, signal.SIGTERM)
    census = Census()
    try:
        arguments, paths = parse_arguments(argv)
        return run(arguments, paths, census)
    except Stopped as stopped:
        print(f"census: stopped after {census.seen:,} files", file=sys.stderr)
        return 128 + stopped.signal_number  # as a shell reports it


if __name__ == "__main__":
    sys.exit(main())
