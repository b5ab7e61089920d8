"""Isolation: one run in an interpreter of its own, with a hard time limit, and nothing of it left behind.

Third stop: `schedule` yields the runs, `one_run` is the interpreter started here, `summary` reads the
results.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.schedule import Plan, Run

ROOT = Path(__file__).resolve().parent.parent
QUICK_TIME_LIMIT_S = 30.0
MARK = "BENCHMARK_RUN"  # environment variable that every process of a run inherits
ERROR_LINES = 3


@dataclass(frozen=True)
class Result:
    """What became of a run: readings, or the reason why there are none."""

    run: Run
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Home:
    """Where the interpreter of a run starts.

    Attributes: `python` is its executable; `folder` holds this package; `keeps_path` hands on `PYTHONPATH`.
    """

    python: str = sys.executable
    folder: Path = ROOT
    keeps_path: bool = True

    def environment(self) -> dict[str, str]:
        """Return the environment of a run: the package in reach, and bytecode caches allowed.

        Without cached bytecode every fresh process would compile the modules anew, and the compiler is not what
        is to be measured.
        """
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        inherited = environment.get("PYTHONPATH") if self.keeps_path else None
        return environment | {"PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, [inherited])])}


HERE = Home()


def carry_out(run: Run, plan: Plan, home: Home = HERE) -> Result:
    """Carry out the run; return its readings, or its error if it fails or exceeds its time limit."""
    time_limit_s = QUICK_TIME_LIMIT_S if plan.is_quick else run.measure.time_limit_s
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        answer_path = Path(folder) / "answer.json"
        errors_path = Path(folder) / "errors.txt"
        with errors_path.open("wb") as errors:
            interpreter = subprocess.Popen(
                [home.python, "-m", "benchmarks.one_run", json.dumps(_request(run, plan, answer_path))],
                cwd=home.folder,
                env=home.environment() | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
            try:
                interpreter.wait(time_limit_s)
                failure = f"ended with exit code {interpreter.returncode} and no answer"
            except subprocess.TimeoutExpired:
                failure = f"no answer within {time_limit_s:g} s"
            finally:
                _end_everything(interpreter, mark)
        if not answer_path.exists():
            last_words = errors_path.read_text(errors="replace").strip().splitlines()[-ERROR_LINES:]
            return Result(run, error=" | ".join([failure, *last_words]))
        answer: dict[str, Any] = json.loads(answer_path.read_text())
    return Result(run, answer.get("values", {}), answer.get("note", ""), answer.get("error"))


def _request(run: Run, plan: Plan, answer_path: Path) -> dict[str, object]:
    return {
        "library": run.contender.library,
        "adaptor": run.contender.adaptor,
        "options": dict(run.contender.options),
        "measure": run.measure.run,
        "sizes": run.measure.sizes_for(run.contender.role, run.point, plan.is_quick),
        "workers": plan.workers,
        "answer_path": os.fspath(answer_path),
    }


def _end_everything(interpreter: subprocess.Popen[bytes], mark: str) -> None:
    """End the run's process group, and whatever of it lives in other groups (found by its mark)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(interpreter.pid, signal.SIGKILL)
    interpreter.wait()
    needle = f"{MARK}={mark}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):  # no /proc, nothing found: the group is all we know
        try:
            if needle in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)
        except OSError:  # gone meanwhile, or somebody else's
            continue
