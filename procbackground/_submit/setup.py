"""Settings of a manager's children: environment, thread caps, directory, niceness and CPUs.

Checked in the parent, by `make_setup`, when the manager is made. In the child it comes twice. `EarlyName` brings it,
after the parent's `Surroundings` and before the user's `__main__` is imported, because a numpy that is imported there
or preloaded into the zygote reads its thread caps then and never again. `Setup.apply`, in each worker before its
initializer, does what is still missing and says what cannot be done. A manager without any of these settings never
imports this module.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from procbackground._wire.surroundings import SetupError

# Read by the native libraries when they are loaded: OpenMP, the BLAS flavours and what brings a pool of its own.
THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)

# Where one of these is imported already, a cap in the environment comes too late for it.
_READ_CAPS = ("numpy", "scipy", "sklearn", "torch", "numexpr", "numba")

GPU = "gpu"  # the slot by whose numbers CUDA_VISIBLE_DEVICES is set
_DEVICES = "CUDA_VISIBLE_DEVICES"

LOWEST_NICENESS, HIGHEST_NICENESS = -20, 19


class Setup(NamedTuple):
    """The settings of every worker of a manager; checked. Crosses by pickle, or by fork."""

    env: tuple[tuple[str, str | None], ...]  # None removes the variable
    cwd: str | None  # absolute
    niceness: int | None  # not an increment: to be set twice must not be to be nicer twice
    cpus: tuple[int, ...] | None
    threads: int | None

    def apply_early(self) -> None:
        """Set what user code could notice at its import, in a child that has imported nothing of it.

        Errors are ignored here, where they would not be seen: the worker reports them (`apply`).
        """
        try:
            self.apply()
        except SetupError:
            pass

    def apply(self) -> None:
        """Give this process what it has not got yet. Raises: `SetupError`."""
        _set_env(self.env)
        if self.niceness is not None:
            try:
                if os.getpriority(os.PRIO_PROCESS, 0) != self.niceness:
                    os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
            except OSError as error:
                raise SetupError(f"a worker could not be given the niceness {self.niceness}: {error}") from error
        if self.cpus is not None:
            try:
                os.sched_setaffinity(0, self.cpus)
            except OSError as error:
                raise SetupError(f"a worker could not be kept to the CPUs {self.cpus}: {error}") from error
        if self.cwd is not None:
            try:
                _enter(self.cwd)
            except OSError as error:
                raise SetupError(f"a worker could not enter its cwd {self.cwd!r}: {error}") from error
        if _caps_came_late and self.threads is not None:
            _cap_loaded_libraries(self.threads)


# -- in the parent -------------------------------------------------------------------------------------------


def make_setup(
    *,
    threads_per_task: int | None,
    env: Mapping[str, str | None] | None,
    cwd: str | os.PathLike[str] | None,
    nice: int,
    cpu_affinity: Iterable[int] | None,
) -> Setup:
    """Check what the user asked for and return it as a setup.

    Raises: `TypeError`, `ValueError`; `FileNotFoundError`, `NotADirectoryError` or `PermissionError` for `cwd`;
    `NotImplementedError` for CPUs on a system that cannot keep processes to some.
    """
    variables: dict[str, str | None] = {}
    if threads_per_task is not None:
        _check_int("threads_per_task", threads_per_task)
        if threads_per_task < 1:
            raise ValueError(f"threads_per_task must be 1 or more, not {threads_per_task}")
        variables.update(dict.fromkeys(THREAD_CAPS, str(threads_per_task)))
    variables.update(_checked_env({} if env is None else env))
    _check_int("nice", nice)
    niceness = None
    if nice:
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + nice
        niceness = max(LOWEST_NICENESS, min(HIGHEST_NICENESS, niceness))
    return Setup(
        tuple(variables.items()),
        None if cwd is None else _checked_directory(cwd),
        niceness,
        None if cpu_affinity is None else _checked_cpus(cpu_affinity),
        threads_per_task,
    )


def _check_int(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")


def _checked_env(env: Mapping[str, str | None]) -> dict[str, str | None]:
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping of names to values, not {type(env).__name__}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, (str, type(None))):
            raise TypeError(f"env must map str to str, or to None, which removes: not {name!r} to {value!r}")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"env: {name!r} cannot be the name of a variable")
        if value is not None and "\0" in value:
            raise ValueError(f"env: the value of {name!r} has a NUL in it: {value!r}")
        for text in (name, value or ""):
            try:
                os.fsencode(text)
            except UnicodeEncodeError as error:
                raise ValueError(f"env: {name!r} cannot be encoded: {error}") from error
    return dict(env)


def _checked_directory(cwd: str | os.PathLike[str]) -> str:
    if not isinstance(cwd, (str, bytes, os.PathLike)):
        raise TypeError(f"cwd takes the path of a directory, not {cwd!r}")
    path = os.path.abspath(os.fsdecode(cwd))
    if not os.path.isdir(path):
        kind = NotADirectoryError if os.path.exists(path) else FileNotFoundError
        raise kind(f"cwd must be a directory, and {path!r} is none")
    if not os.access(path, os.X_OK):
        raise PermissionError(f"cwd must be a directory that can be entered, and {path!r} cannot")
    return path


def _checked_cpus(cpu_affinity: Iterable[int]) -> tuple[int, ...]:
    if not hasattr(os, "sched_setaffinity"):
        raise NotImplementedError(f"cpu_affinity: {sys.platform} cannot keep processes to some CPUs")
    if isinstance(cpu_affinity, (str, bytes)) or not isinstance(cpu_affinity, Iterable):
        raise TypeError(f"cpu_affinity takes the numbers of CPUs, such as cpu_affinity=[0, 1], not {cpu_affinity!r}")
    cpus = tuple(cpu_affinity)
    for cpu in cpus:
        _check_int("each CPU of cpu_affinity", cpu)
    cpus = tuple(sorted(set(cpus)))
    if not cpus:
        raise ValueError("cpu_affinity must name a CPU at least")
    unknown: list[int] = []

    def probe() -> None:
        # The kernel is the one who knows, and takes a set of which it knows a single CPU: so one by one. It
        # changes the calling thread only, which is why this one is thrown away.
        for cpu in cpus:
            try:
                os.sched_setaffinity(0, (cpu,))
            except (OSError, OverflowError, ValueError):
                unknown.append(cpu)

    prober = threading.Thread(target=probe, name="procbackground-cpus")
    prober.start()
    prober.join()
    if unknown:
        usable = sorted(os.sched_getaffinity(0))
        raise ValueError(f"cpu_affinity: this process may not run on CPU {unknown}; it is on {usable} now")
    return cpus


def visible_gpus(env: Mapping[str, str | None]) -> list[str] | None:
    """Return the devices that CUDA_VISIBLE_DEVICES names; None where it is not set, nothing where it hides all."""
    value = env.get(_DEVICES)
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    return [] if names[0] in ("", "-1", "NoDevFiles") else names


def for_kind(setup: Setup | None, threads: int, gpus: tuple[int, ...], env: Mapping[str, str]) -> Setup:
    """Return the setup of processes with caps for so many `threads` (0: as `setup` has it) and these numbers of `GPU`.

    What the user has set by `env` stays. Where CUDA_VISIBLE_DEVICES names devices, in it or else in `env`, a number
    is the index of one of these; where it hides all, it stays so.
    """
    base = Setup((), None, None, None, None) if setup is None else setup
    variables = dict(base.env)
    if threads:
        for name in THREAD_CAPS:
            if name not in variables or variables[name] == str(base.threads):
                variables[name] = str(threads)
    names = visible_gpus({**env, **variables})
    if gpus and names != []:
        variables[_DEVICES] = ",".join(str(number) if names is None else names[number] for number in gpus)
    return base._replace(env=tuple(variables.items()), threads=threads or base.threads)


# -- in the child --------------------------------------------------------------------------------------------

_applied_env: tuple[tuple[str, str | None], ...] | None = None  # that this process has, from the zygote maybe
_caps_came_late = False


def _enter(cwd: str) -> None:
    # Entries relative to the old directory must still be found.
    sys.path[:] = [os.path.abspath(entry) if isinstance(entry, str) else entry for entry in sys.path]
    os.chdir(cwd)


def _set_env(env: tuple[tuple[str, str | None], ...]) -> None:
    """Set the variables, once: code that has run since may have had reasons to change them."""
    global _applied_env, _caps_came_late
    if _applied_env == env:
        return
    _applied_env = env
    _caps_came_late = any(module in sys.modules for module in _READ_CAPS)
    for name, value in env:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _cap_loaded_libraries(threads: int) -> None:
    """Tell libraries that are loaded already, which threadpoolctl knows how to do, if it is installed."""
    try:
        threadpoolctl = import_module("threadpoolctl")
    except ImportError:
        return
    threadpoolctl.threadpool_limits(limits=threads)
