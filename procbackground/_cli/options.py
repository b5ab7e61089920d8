"""Options that several commands have. Each may be set by the environment, too: PROCBACKGROUND_JOBS for --jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from procbackground._cli import values

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Return `click.option` with a variable of the environment."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = "PROCBACKGROUND_" + long.removeprefix("--").upper().replace("-", "_")
    return click.option(*names, envvar=variable, **attributes)


def all_of(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return a decorator that adds options, in this order."""

    def add(fn: F) -> F:
        for each in reversed(options):
            fn = each(fn)
        return fn

    return add


LIMITS = all_of(
    option("-j", "--jobs", type=values.Jobs(), metavar="N", help="Workers: a number, 50%, or -1 for all CPUs but one. "
           "[default: all usable CPUs]"),
    option("--timeout", type=values.Duration(), metavar="TIME", help="Longest an attempt may run: 30, 5m, 1h30m."),
    option("--deadline", type=values.Duration(), metavar="TIME", help="Longest a task may take, with waits and "
           "further attempts."),
    option("--memory", type=values.Size(), metavar="SIZE", help="Most memory that a task may hold: 2GiB."),
    option("--min-free-memory", type=values.Size(), metavar="SIZE", help="While less memory is free, no task begins."),
    option("--cores", type=click.IntRange(1), metavar="N", help="Workers' places, and threads, that a task takes."),
    option("--slots", type=values.Slots(), metavar="NAME=N", help="What there is N times; a task has one to "
           "itself. With gpu=4, CUDA_VISIBLE_DEVICES says which."),
    option("--retries", type=click.IntRange(0), default=0, metavar="N", help="Further attempts after the first."),
    option("--retry-delay", type=values.Duration(may_be_least=True), default=0.0, metavar="TIME", help="Before a "
           "further attempt; doubles each time, with jitter."),
    option("--grace", type=values.Duration(), default=5.0, metavar="TIME", help="Between SIGTERM and SIGKILL where a "
           "task is stopped. [default: 5]"),
    option("--nice", type=int, metavar="N", help="Added to the niceness of workers."),
)  # fmt: skip

WATCHING = all_of(
    option("--log-level", type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
           default="warning", help="Least level of log lines, of tasks too. [default: warning]"),
    option("--events", type=click.Path(dir_okay=False), metavar="FILE", help="Write all events there, as JSON lines."),
    option("--prometheus", type=click.IntRange(0, 65535), metavar="PORT", help="Offer metrics at this port of "
           "localhost."),
)  # fmt: skip

PLACE = all_of(
    option("--engine", type=click.Choice(["dask"]), help="Run the tasks on the nodes of a cluster."),
    option("--scheduler", metavar="ADDRESS", help="Of the cluster, such as tls://host:8786."),
    option("--security", type=click.Path(exists=True, file_okay=False), metavar="DIR", help="With ca.pem, cert.pem and "
           "key.pem, for tls://."),
)  # fmt: skip

RUNNING = all_of(
    option("--halt", type=values.HaltType(), metavar="WHEN", help="End early: now,fail=1 or soon,fail=10% (also "
           "success=, done=). `now` stops what runs, `soon` lets it finish."),
    option("--delay", type=values.Duration(may_be_least=True), default=0.0, metavar="TIME", help="Between two starts."),
    option("--load", type=values.Load(), metavar="LOAD", help="While the load is above this (4, or 80% of the CPUs), "
           "no task begins."),
    option("--journal", type=click.Path(dir_okay=False), metavar="FILE", help="Record the tasks in this file; the same "
           "command again continues where it was."),
    option("--resume", is_flag=True, help="Changes nothing: with a journal, that is what happens."),
    option("--resume-failed", is_flag=True, help="Run those again, too, that failed in an earlier run."),
    option("--retry-failed", is_flag=True, help="Run only those that failed in an earlier run."),
    option("--joblog", type=click.Path(dir_okay=False), metavar="FILE", help="Write a line for each task, in GNU "
           "parallel's columns."),
)  # fmt: skip

OUTPUT = all_of(
    option("-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE", help="Write results "
           "there, anew, and not to standard output."),
    option("--raw", is_flag=True, help="Values alone, a line each; failures are left out."),
    option("--keep-order", "-k", is_flag=True, help="Results in the order of the input."),
    option("--tag", is_flag=True, help="Begin lines that tasks print, and raw values, with their task."),
    option("--results", type=click.Path(file_okay=False), metavar="DIR", help="A folder for each task: value, stdout, "
           "stderr, result.json."),
    option("--progress/--no-progress", default=None, help="Show a bar. [default: if standard error is a terminal]"),
    option("--quiet", "-q", is_flag=True, help="No summary at the end."),
    option("--dry-run", is_flag=True, help="Print the calls, and run nothing."),
)  # fmt: skip
