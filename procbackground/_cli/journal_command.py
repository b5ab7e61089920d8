"""`procbackground journal`: what a journal holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from procbackground._printable import printable

if TYPE_CHECKING:
    from procbackground._journal.reader import Journal

FILE = click.argument("file", metavar="FILE")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("journal", short_help="Show, list, export and report on a journal.")
def command() -> None:
    """Read a journal, also while a manager writes to it."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as `print` does without one


@command.command()
@FILE
@JSON
def show(file: str, as_json: bool) -> int:
    """Show how many tasks are in which state, and the runs."""
    with _opened(file) as journal:
        counts, runs = journal.counts(), journal.runs()
        if as_json:
            import json

            past = [run._asdict() for run in runs]
            print(json.dumps({"file": file, "in_use": journal.is_in_use, "counts": counts, "runs": past}))
            return 0
        total = sum(counts.values())
        parts = ", ".join(f"{count:,} {state}" for state, count in counts.items())
        print(f"{total:,} tasks: {parts}" if total else "no tasks")
        for run in runs:
            print(f"run {run.id}: {_time_text(run.started)} to {_end_of(run, journal.is_in_use and run is runs[-1])}, "
                  f"process {run.pid} on {run.host}: {printable(run.command)}")  # fmt: skip
    return 0


@command.command()
@FILE
@JSON
def failed(file: str, as_json: bool) -> int:
    """List the tasks that failed, or were interrupted, and why. The exit code is 1 if there are any."""
    from procbackground._journal.export import json_lines

    states = ("failed", "interrupted")
    with _opened(file) as journal:
        if as_json:
            any_ = False
            for line in json_lines(journal, states):
                any_ = True
                print(line)
            return int(any_)
        count = 0
        for entry in journal.entries(states):
            count += 1
            error = f"{entry.error_type}: {entry.error}" if entry.error_type else entry.outcome or entry.state
            print(f"{printable(entry.command)}\n    {printable(' '.join(str(error).split()))[:300]}")
        print(f"{count:,} failed or interrupted", file=sys.stderr)
    return int(count > 0)


@command.command()
@FILE
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "joblog"]),
    default="jsonl",
    show_default=True,
    help="JSON lines, CSV, or the columns of GNU parallel's joblog.",
)
@click.option("-o", "--output", metavar="FILE", help="Write there, and not to standard output.")
def export(file: str, form: str, output: str | None) -> int:
    """Write all tasks in another form."""
    from procbackground._journal import export as exports

    write = {"jsonl": exports.write_json_lines, "csv": exports.write_csv, "joblog": exports.write_joblog}[form]
    with _opened(file) as journal, _output(output) as out:
        write(journal, out)
    return 0


@command.command()
@FILE
@click.option("--html", metavar="PAGE", help="Write one HTML page with plots.")
@JSON
def report(file: str, html: str | None, as_json: bool) -> int:
    """Report how long the tasks took, what they cost, and what failed, for each function."""
    import shutil

    with _opened(file) as journal:
        figures = _report_of(journal)
        if html is not None:
            _write_page(figures, html)
        elif as_json:
            import json

            print(json.dumps(figures.as_dict()))
        else:
            is_terminal = sys.stdout.isatty()
            print(figures.text(shutil.get_terminal_size().columns if is_terminal else None, color=is_terminal))
    return 0


def _write_page(figures: Any, path: str) -> None:
    from procbackground._cli.errors import Wrong

    try:
        figures.html(path)
    except OSError as error:
        raise Wrong(f"cannot write {path}: {error.strerror or error}") from None


def _report_of(journal: Journal) -> Any:
    from procbackground._figures import Figures
    from procbackground._report.run import RunReport

    figures = Figures()
    for past in journal.past_attempts():
        if past.ended is not None:
            name = "(earlier attempts)"
            figures.attempt(past.pid, name, past.outcome or "unknown", past.started, past.ended, past.cpu_seconds,
                            past.peak_memory)  # fmt: skip
    for entry in journal.entries(("succeeded", "failed", "cancelled", "interrupted")):
        how = {"succeeded": "succeeded", "failed": "failed"}.get(entry.state, "cancelled")
        error = f"{entry.error_type}: {entry.error}" if entry.error_type else None
        if entry.started is not None and entry.ended is not None:
            figures.attempt(entry.pid, entry.name, entry.outcome or entry.state, entry.started, entry.ended,
                            entry.cpu_seconds, entry.peak_memory)  # fmt: skip
        figures.end(entry.name, how, error)
    return RunReport(figures)


@contextmanager
def _opened(file: str) -> Iterator[Journal]:
    from procbackground._cli.errors import Wrong, abandon_stdout, near
    from procbackground._journal.reader import Journal
    from procbackground.errors import JournalError

    try:
        with Journal(file) as journal:
            yield journal
        sys.stdout.flush()  # here, where a reader that has gone is no error
    except JournalError as error:
        folder, name = os.path.split(os.path.abspath(file))
        hint = near(name, os.listdir(folder)) if not os.path.exists(file) and os.path.isdir(folder) else ""
        raise Wrong(f"{error}{hint}") from None
    except BrokenPipeError:
        abandon_stdout()


@contextmanager
def _output(path: str | None) -> Iterator[Any]:
    from procbackground._cli.errors import Wrong

    if path is None or path == "-":
        yield sys.stdout
        return
    try:
        file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
    except OSError as error:
        raise Wrong(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        yield file


def _time_text(when: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def _end_of(run: Any, is_running: bool) -> str:
    if run.ended is not None:
        return _time_text(run.ended)
    return "now" if is_running else "its death"
