"""The group of commands. Each is in a module of its own, which is imported when that command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from procbackground._cli.errors import CANNOT_GO_ON, WRONG_USE, abandon_stdout, near, say

# Name → line of help. The command is `command` of the module `<name>_command`.
COMMANDS = {
    "map": "Run a function for each of many inputs.",
    "run": "Run the tasks that a file registers with @task.",
    "loop": "Run a function again and again, until SIGTERM.",
    "journal": "Show, list, export and report on a journal.",
    "top": "Watch a running manager, and steer it.",
    "doctor": "Check what this system offers, and what falls back.",
}
COMPLETION = """\b
Completion for bash (zsh and fish likewise):
  eval "$(_PROCBACKGROUND_COMPLETE=bash_source procbackground)"
"""


class Commands(click.Group):
    """Imports a command when it is asked for; shows their list without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"procbackground._cli.{cmd_name}_command").command  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}{near(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=COMPLETION,
)
@click.version_option(package_name="procbackground", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Run Python functions in supervised processes: many at once, with limits, retries and a journal.

    Options may also be set by the environment (PROCBACKGROUND_JOBS=4 is --jobs 4) and in pyproject.toml, in
    [tool.procbackground] or, for one command, in [tool.procbackground.map].
    """
    if ctx.invoked_subcommand is not None:
        from procbackground._cli.settings import settings_for

        found = app.get_command(ctx, ctx.invoked_subcommand)
        if found is not None:
            ctx.default_map = {ctx.invoked_subcommand: settings_for(ctx.invoked_subcommand, found)}


def run(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    try:
        # As `python -m` does; a console script has its own folder there.
        if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.insert(0, os.getcwd())
    except FileNotFoundError:
        say("the current folder has been deleted")
        return WRONG_USE
    try:
        code = app.main(list(arguments), prog_name="procbackground", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.BadParameter):
            _say_source_of(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        say(f"{error.filename or 'the output cannot be written'}: {error.strerror or error}")
        abandon_stdout()
        return CANNOT_GO_ON
    except Exception as error:
        from procbackground.errors import ProcbackgroundError

        if not isinstance(error, ProcbackgroundError):
            raise
        say(str(error))
        return CANNOT_GO_ON
    return code if isinstance(code, int) else 0


def _say_source_of(error: click.BadParameter) -> None:
    """Say where a bad value is from, if not from the command line."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return
    source = error.ctx.get_parameter_source(error.param.name)
    if source is ParameterSource.ENVIRONMENT:
        say(f"this value is from {error.param.envvar} in the environment")
    elif source is ParameterSource.DEFAULT_MAP:
        say("this value is from pyproject.toml")
