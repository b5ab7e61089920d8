"""`procbackground doctor`: what this system offers, and what falls back."""

from __future__ import annotations

import click

HELP = """Check what this system offers: start method, limits, container, /proc, pidfd and memfd; start one worker.

It says what falls back, and what that costs. The exit code is 1 if something does not work.
"""


@click.command("doctor", help=HELP, short_help="Check what this system offers, and what falls back.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> int:
    from procbackground._cli.checkup import FALLBACK, PROBLEM, examine

    findings = examine()
    has_problem = any(each.state == PROBLEM for each in findings)
    if as_json:
        import json

        print(json.dumps({"ok": not has_problem, "checks": [each._asdict() for each in findings]}))
    else:
        marks = {PROBLEM: "!!", FALLBACK: " ~"}
        width = max(len(each.name) for each in findings)
        for each in findings:
            print(f"{marks.get(each.state, '  ')} {each.name:{width}}  {each.found}")
            if each.cost:
                print(f"   {'':{width}}  {each.cost}")
    return int(has_problem)
