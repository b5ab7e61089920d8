"""`procbackground loop`: one function again and again, until SIGTERM."""

from __future__ import annotations

from typing import Any

import click

from procbackground._cli import values
from procbackground._cli.options import PLACE, WATCHING, option

HELP = """Run FUNCTION again and again in a process of its own, until SIGTERM or Ctrl-C.

An iteration that fails is tried again as --retries says, then reported, and the loop goes on. The first signal lets the
running iteration finish, a second one terminates it, a third one kills it. The exit code is 143 after SIGTERM and 130
after Ctrl-C.

Under systemd (Type=notify) it says when it is ready, that it stops, and, with WatchdogSec=, that it is alive: not while
an iteration is silent for longer than --stalled-after. For systemd add SuccessExitStatus=143.
"""


@click.command("loop", help=HELP, short_help="Run a function again and again, until SIGTERM.")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@option("--interval", type=values.Duration(may_be_least=True), default=0.0, metavar="TIME", help="Between iterations.")
@option("--retries", type=click.IntRange(0), default=0, metavar="N", help="Further attempts of an iteration.")
@option(
    "--retry-delay",
    type=values.Duration(may_be_least=True),
    default=0.0,
    metavar="TIME",
    help="Before a further attempt; doubles each time, with jitter.",
)
@option("--timeout", type=values.Duration(), metavar="TIME", help="Longest an iteration may run.")
@option("--memory", type=values.Size(), metavar="SIZE", help="Most memory that an iteration may hold.")
@option(
    "--stalled-after", type=values.Duration(), metavar="TIME", help="Report an iteration that is silent for so long."
)
@option(
    "--grace", type=values.Duration(), default=5.0, metavar="TIME", help="Between SIGTERM and SIGKILL. [default: 5]"
)
@option("--nice", type=int, metavar="N", help="Added to the niceness of the worker.")
@click.option("--types", is_flag=True, help="Pass arguments that are numbers, true or false as such.")
@PLACE
@WATCHING
def command(function: str, arguments: tuple[str, ...], **asked: Any) -> int:
    from procbackground._cli.errors import Wrong
    from procbackground._cli.functions import checker_of, find_function
    from procbackground._cli.inputs import typed_value
    from procbackground._cli.service import serve

    fn = find_function(function)
    args = tuple(map(typed_value, arguments) if asked["types"] else arguments)
    reason = checker_of(fn)(args, {})
    if reason is not None:
        raise Wrong(reason)
    return serve(fn, args, function, asked)
