"""`procbackground map`: one function, many inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from procbackground._cli.errors import Wrong
from procbackground._cli.options import LIMITS, OUTPUT, PLACE, RUNNING, WATCHING, option

HELP = """Run FUNCTION once for each input, in parallel processes; write a JSON object for each result.

\b
  procbackground map thumbs:make *.jpg                  one call for each argument
  find . -name '*.jpg' | procbackground map thumbs:make one for each line of standard input
  procbackground map sim:run --jsonl params.jsonl       one for each object: keyword arguments
  procbackground map sim:run --csv params.csv --types   one for each row
  procbackground map sim:run ::: 1 2 3 ::: a b          the product of lists; :::+ links a list instead

Results go to standard output, everything else to standard error. The exit code is the number of failed tasks, 101 at
the most; 2 for wrong use, 130 after SIGINT, 143 after SIGTERM, 255 if results could not be written.

Ctrl-C once finishes what runs, twice terminates it, three times kills it.
"""


def split_lists(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return what is before the first `:::`, and the lists with their marks."""
    at = next((at for at, each in enumerate(arguments) if each in (":::", ":::+")), None)
    if at is None:
        return list(arguments), []
    lists: list[tuple[str, list[str]]] = []
    for each in arguments[at:]:
        if each in (":::", ":::+"):
            lists.append((each, []))
        else:
            lists[-1][1].append(each)
    if lists[0][0] == ":::+":
        raise Wrong("`:::+` links a list to the one before it, so the first list begins with `:::`")
    return list(arguments[:at]), lists


class MapCommand(click.Command):
    """Takes the lists after `:::` off the arguments before click looks at them: they may begin with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args, ctx.meta["procbackground.lists"] = split_lists(args)
        return super().parse_args(ctx, args)


@click.command("map", cls=MapCommand, help=HELP, short_help="Run a function for each of many inputs.")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("inputs", nargs=-1, metavar="[INPUT]... [::: INPUT...]...")
@click.option("--from", "from_", metavar="FILE", help="An input for each line of FILE; `-` is standard input.")
@click.option("-0", "--null", is_flag=True, help="Inputs of --from end with a null byte, as of find -print0.")
@click.option("--jsonl", metavar="FILE", help="An input for each line, a JSON object of keyword arguments.")
@click.option("--csv", metavar="FILE", help="An input for each row; the first line names the keyword arguments.")
@click.option("--glob", multiple=True, metavar="PATTERN", help="An input for each file that matches.")
@click.option("--types", is_flag=True, help="Pass text that is a number, true or false as such.")
@LIMITS
@RUNNING
@option("--shuffle", is_flag=True, help="Run the inputs in random order.")
@OUTPUT
@PLACE
@WATCHING
@click.pass_context
def command(ctx: click.Context, /, function: str, inputs: tuple[str, ...], **asked: Any) -> int:
    from procbackground._cli.functions import checker_of, find_function
    from procbackground._cli.plan import needs_asked
    from procbackground._cli.work import carry_out, check_files

    check_files(asked)
    fn = find_function(function)
    lists = ctx.meta["procbackground.lists"]
    calls = _inputs(inputs, lists, asked, checker_of(fn))
    fields = needs_asked(asked)
    if asked["deadline"] is not None:
        fields["deadline"] = asked["deadline"]
    return carry_out(calls, lambda call: (fn, fields), function, asked)


def _inputs(arguments: tuple[str, ...], lists: list[tuple[str, list[str]]], asked: dict[str, Any], why_not: Any) -> Any:
    from procbackground._cli import inputs

    given = {
        "arguments": bool(arguments), ":::": bool(lists), "--from": asked["from_"], "--jsonl": asked["jsonl"],
        "--csv": asked["csv"], "--glob": asked["glob"],
    }  # fmt: skip
    chosen = [name for name, value in given.items() if value]
    if len(chosen) > 1:
        raise Wrong(f"inputs come from one place: choose one of {', '.join(chosen)}")
    if asked["null"] and not (asked["from_"] or not chosen):
        raise Wrong("--null goes with --from or standard input")
    typed = asked["types"]
    if arguments:
        return inputs.of_arguments([(each,) for each in arguments], typed, why_not)
    if lists:
        return inputs.of_arguments(inputs.product_of(lists), typed, why_not)
    if asked["jsonl"]:
        return inputs.of_json_lines(asked["jsonl"], why_not)
    if asked["csv"]:
        return inputs.of_csv(asked["csv"], typed, why_not)
    if asked["glob"]:
        return inputs.of_matches(asked["glob"], why_not)
    return inputs.of_lines(asked["from_"] or inputs.STDIN, typed, asked["null"], why_not)
