"""`main` of the command: imports click, or says how to get it."""

from __future__ import annotations

import sys

NEEDS_EXTRA = (
    "procbackground: the command needs click and rich: pip install 'procbackground[cli]', or in a clone '.[cli]'"
)


def main() -> int:
    """Run the command with the arguments of the process; return its exit code."""
    try:
        return _main()
    except KeyboardInterrupt:  # while modules are imported
        return 130


def _main() -> int:
    try:
        import click  # noqa: F401  # only to know that it is there
    except ImportError:
        print(NEEDS_EXTRA, file=sys.stderr)
        return 2
    from procbackground._cli.app import run

    return run(sys.argv[1:])
