"""`python -m procbackground.report FILE`: the report of the runs whose events a file holds."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence

from procbackground._report.run import RunReport


def main(argv: Sequence[str] | None = None) -> int:
    """Print a report, or write it as a page; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m procbackground.report",
        description="Report on the runs whose events procbackground.observers.JsonLinesObserver has written to FILE.",
    )
    parser.add_argument("file", metavar="FILE", help="events as JSON lines")
    parser.add_argument("--html", metavar="PAGE", help="write the report as one HTML page, instead of printing it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args(argv)
    try:
        report = RunReport.of_events(asked.file)
        if asked.html is not None:
            report.html(asked.html)
        elif asked.json:
            print(json.dumps(report.as_dict()))
        else:
            is_terminal = sys.stdout.isatty()
            print(report.text(shutil.get_terminal_size().columns if is_terminal else None, color=is_terminal))
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0
