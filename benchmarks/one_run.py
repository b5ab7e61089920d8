"""One run: the interpreter that imports one library, faces it with one measure and writes what it read.

Started by `isolation` as `python -m benchmarks.one_run REQUEST`, REQUEST being JSON. This is the `__main__`
that spawned and forkserver children of every contender import again, as they import the main module of a real
program; so nothing is imported at the top but `sys`.
"""

import sys


def main(request_text: str) -> None:
    """Carry out the request, then end the process at once: what a pool does at exit is not measured."""
    import importlib
    import json
    import os
    import time

    request = json.loads(request_text)
    started_s = time.perf_counter()
    importlib.import_module(request["library"])
    import_s = time.perf_counter() - started_s

    answer: dict[str, object]
    try:
        answer = _face(request, import_s)
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    with open(request["answer_path"], "w") as file:
        json.dump(answer, file)
    sys.stderr.flush()
    os._exit(0)


def _face(request: dict[str, object], import_s: float) -> dict[str, object]:
    import gc
    from functools import partial

    from benchmarks.contest import Contest
    from benchmarks.naming import named

    make = partial(named(str(request["adaptor"])), **request["options"])  # type: ignore[arg-type]
    measure = named(str(request["measure"]))
    contest = Contest(make, request["workers"], request["sizes"], import_s)  # type: ignore[arg-type]
    gc.collect()
    readings = measure(contest)
    return {"values": dict(readings.values), "note": readings.note}


if __name__ == "__main__":
    main(sys.argv[1])
