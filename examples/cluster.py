#!/usr/bin/env python3
"""Count the functions in Python source on the nodes of a dask cluster, a task for each file.

    python examples/cluster.py                                  on a cluster in this machine, made for the run
    python examples/cluster.py --scheduler tls://host:8786 --security certificates FOLDER ...

The nodes read the files themselves, so they need the same folders. When a node is lost, what it ran begins anew on
another one, and the totals are the same. Needs the extra: pip install 'procbackground[dask]'
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from procbackground import Manager, Task
from procbackground.engines import DaskEngine
from procbackground.observers import CallbackObserver


def count_file(path: str) -> Counter[str]:
    """Return how many lines, functions and classes a file has. This is code of `__main__`: it travels by value."""
    source = Path(path).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser warns of other people's escape sequences
        nodes = ast.walk(ast.parse(source))
    kinds = Counter(type(node).__name__ for node in nodes)
    functions = kinds["FunctionDef"] + kinds["AsyncFunctionDef"]
    return Counter(files=1, lines=source.count(b"\n"), functions=functions, classes=kinds["ClassDef"])


@contextmanager
def cluster_at(scheduler: str | None) -> Iterator[str]:
    """Yield the address of a scheduler: the given one, or that of a cluster that lives as long as the block."""
    if scheduler is not None:
        yield scheduler
        return
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def main() -> int:
    parser = argparse.ArgumentParser(description="Count functions in Python files on a dask cluster.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(sysconfig.get_path("stdlib"), "json")])
    parser.add_argument("--scheduler", help="of a cluster that runs; by default one is made")
    parser.add_argument("--security", help="folder with ca.pem, cert.pem and key.pem")
    arguments = parser.parse_args()
    paths = [str(path.resolve()) for folder in arguments.folders for path in sorted(folder.rglob("*.py"))]
    observer = CallbackObserver(
        on_task_reassigned=lambda event: print(f"lost {event.lost_node}; {event.node} has its work", file=sys.stderr)
    )
    totals: Counter[str] = Counter()
    began = time.monotonic()
    with cluster_at(arguments.scheduler) as address:
        engine = DaskEngine(address, arguments.security)
        with Manager(engine=engine, observer=observer, timeout=60, memory_limit="1GiB", retry=2) as manager:
            for handle in manager.stream(Task(count_file, args=(path,), name=path) for path in paths):
                if (error := handle.exception()) is None:
                    totals += handle.result()
                else:
                    totals["broken"] += 1
                    print(f"{handle.task.name}: {type(error).__name__}: {error}", file=sys.stderr)
                if totals["files"] % 100 == 1:
                    print(f"{totals['files']} of {len(paths)} files", file=sys.stderr, flush=True)
    print(", ".join(f"{count} {what}" for what, count in totals.items()))
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
