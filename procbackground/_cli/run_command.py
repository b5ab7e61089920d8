"""`procbackground run`: the tasks that a file registers with `@task`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields as fields_of_class
from typing import Any

import click

from procbackground._cli.options import LIMITS, OUTPUT, PLACE, RUNNING, WATCHING

HELP = """Run the tasks that FILE registers, in parallel processes; write a JSON object for each result.

\b
  from procbackground.cli import task
  @task(timeout=600, retry=3)
  def report(): ...

Options hold for tasks that have no such field of their own. A task of type "loop" runs on its own: see
`procbackground loop`. Results and exit code are those of `procbackground map`.
"""


@click.command("run", help=HELP, short_help="Run the tasks that a file registers with @task.")
@click.argument("file", metavar="FILE.py")
@click.option("--only", multiple=True, metavar="NAME", help="Run this task only; may be given more than once.")
@LIMITS
@RUNNING
@OUTPUT
@PLACE
@WATCHING
def command(file: str, only: tuple[str, ...], **asked: Any) -> int:
    from procbackground._cli.inputs import Call, Inputs
    from procbackground._cli.plan import needs_asked
    from procbackground._cli.work import carry_out, check_files

    check_files(asked)
    tasks = _chosen(_tasks_of(file), only, file)
    calls = [Call(number, each.args, dict(each.kwargs), file, each.name) for number, each in enumerate(tasks)]
    fields = [_fields_of(each) for each in tasks]
    needs = needs_asked(asked)
    for own in fields:
        if own["deadline"] is None:
            own["deadline"] = asked["deadline"]
        if own["cores"] == 1:
            own["cores"] = needs.get("cores", 1)
        if own["slots"] is None:
            own["slots"] = needs.get("slots")

    return carry_out(
        Inputs(iter(calls), len(calls)), lambda call: (tasks[call.index].fn, fields[call.index]), file, asked
    )


def _tasks_of(file: str) -> Sequence[Any]:
    """Import a file and return the tasks that it registers. Raises: `Wrong`."""
    from procbackground._cli.errors import Wrong, unreadable
    from procbackground._cli.functions import broken_import, import_named
    from procbackground.cli import registered_tasks

    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise unreadable(file, error) from None
    folder, base = os.path.split(os.path.abspath(file))
    name, extension = os.path.splitext(base)
    if extension != ".py" or not name.isidentifier():
        raise Wrong(f"{file}: a Python file is needed whose name can be imported, such as nightly.py")
    # As a module of its own name, so that the children find its functions.
    sys.path.insert(0, folder)
    module = import_named(name)
    found = getattr(module, "__file__", None)
    if found is None or not os.path.samefile(found, file):
        other = found or "a builtin module"
        raise Wrong(f"{file} cannot be imported: {name!r} is the name of {other}; rename the file")
    try:
        tasks = registered_tasks(name)
    except (TypeError, ValueError) as error:
        raise broken_import(name, error) from None
    if not tasks:
        raise Wrong(f"{file} registers no tasks; decorate functions with @task, from procbackground.cli import task")
    loops = [each.name for each in tasks if each.type == "loop"]
    if loops:
        raise Wrong(f"{file}: {loops[0]} is a loop; run it by: procbackground loop {name}:{loops[0]}")
    return tasks


def _chosen(tasks: Sequence[Any], only: Sequence[str], file: str) -> Sequence[Any]:
    from procbackground._cli.errors import Wrong, near

    names = [each.name for each in tasks]
    for name in only:
        if name not in names:
            raise Wrong(f"{file} registers no task {name!r}{near(name, names) or '; it has ' + ', '.join(names)}")
    return [each for each in tasks if each.name in only] if only else tasks


def _fields_of(task: Any) -> dict[str, Any]:
    without = {"fn", "args", "kwargs"}
    return {each.name: getattr(task, each.name) for each in fields_of_class(task) if each.name not in without}
