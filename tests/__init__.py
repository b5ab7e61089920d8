"""The tests. Every manager in them, of scripts and nested processes too, asserts its scheduler's invariants."""

import os

os.environ["PROCBACKGROUND_CHECK"] = "1"  # before the package is imported, and inherited by what the tests start
