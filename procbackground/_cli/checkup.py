"""What this system offers to a manager; what falls back, and what that costs. For `procbackground doctor`."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

OK, FALLBACK, PROBLEM = "ok", "fallback", "problem"


class Finding(NamedTuple):
    """One thing that was looked at: `state` is ok, fallback or problem; `cost` says what is lost, and what to do."""

    name: str
    state: str
    found: str
    cost: str = ""


def examine() -> list[Finding]:
    """Look at everything. A check that fails is a finding, too."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding(check.__name__.strip("_"), PROBLEM, f"cannot be looked at: {error!r}"))
    return findings


def _python() -> Iterator[Finding]:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("python", OK, f"{version} on {platform.system()} {platform.release()}")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        yield Finding("free threading", FALLBACK, "the interpreter has no lock", "the library is not tested with it")


def _start_method() -> Iterator[Finding]:
    from procbackground._submit.checks import context_of

    method = context_of(None).get_start_method()
    if method == "forkserver":
        yield Finding("start method", OK, "forkserver")
    else:
        cost = "each worker starts an interpreter: some 50 ms of CPU, and the time of your imports, for each"
        yield Finding("start method", FALLBACK, method, cost)


def _a_worker() -> Iterator[Finding]:
    """Start one."""
    import time

    from procbackground import Manager

    began_s = time.monotonic()
    with Manager(max_workers=1, start_timeout=30) as manager:
        manager.run(os.getpid).result(timeout=40)
        first_s = time.monotonic() - began_s
        began_s = time.monotonic()
        for _ in range(100):
            manager.run(os.getpid).result(timeout=40)
        each_s = (time.monotonic() - began_s) / 100
    yield Finding("a worker", OK, f"ready after {first_s:.2f} s; a call and back takes {each_s * 1e6:.0f} µs")


def _features() -> Iterator[Finding]:
    from procbackground import _platform

    if not _platform.IS_LINUX:
        cost = "process trees are read by psutil, ends of processes are noticed later, stacks are not taken"
        yield Finding("system calls", FALLBACK, f"the portable ones ({sys.platform})", cost)
        return
    if _platform.has_pidfd():
        yield Finding("pidfd", OK, "available")
    else:
        yield Finding("pidfd", FALLBACK, "missing", "signals go by number: a pid that is reused at once may get one")
    try:
        os.close(os.memfd_create("procbackground-doctor"))
        yield Finding("memfd", OK, "available")
    except OSError as error:
        yield Finding("memfd", FALLBACK, f"{error.strerror}", "large arguments and results go by files in /tmp")
    try:
        with open(f"/proc/{os.getpid()}/smaps_rollup", "rb") as file:
            file.read()
        yield Finding("/proc", OK, "with smaps_rollup")
    except OSError:
        has_proc = os.path.exists("/proc/self/stat")
        cost = (
            "pages that processes share count once for each of them, so memory limits act early"
            if has_proc else "memory limits and the clean-up of what tasks leave behind do not work: mount /proc"
        )  # fmt: skip
        found = "without smaps_rollup" if has_proc else "missing"
        yield Finding("/proc", FALLBACK if has_proc else PROBLEM, found, cost)


def _cpus() -> Iterator[Finding]:
    from procbackground._platform import cgroup
    from procbackground._supervisor.machine import usable_cpus

    count, usable = os.cpu_count() or 1, usable_cpus()
    limit = cgroup.cpu_limit() if sys.platform == "linux" else None
    why = [] if usable == count else [f"the machine has {count}"]
    if limit is not None:
        why.append(f"the container's quota is {limit:g}")
    yield Finding("CPUs", OK, f"{usable} workers by default" + (f" ({', '.join(why)})" if why else ""))


def _memory() -> Iterator[Finding]:
    from procbackground._platform import cgroup
    from procbackground._report.text import size
    from procbackground._supervisor.machine import free_memory_bytes

    free = free_memory_bytes()
    yield Finding("memory", OK, f"{size(free)} free")
    if sys.platform == "linux":
        limit = cgroup.free_memory_bytes()
        files = cgroup.oom_files()
        if limit is not None:
            yield Finding("container", OK, f"its memory limit leaves {size(limit)}")
        elif os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
            yield Finding("container", OK, "without a memory limit")
        else:
            yield Finding("container", OK, "none is seen, or it has no memory limit")
        if cgroup.oom_kills(files) is None:
            cost = "that a worker was killed for want of memory is seen by the machine's count, which others raise too"
            yield Finding("cgroup", FALLBACK, "its count of such kills cannot be read", cost)
        else:
            yield Finding("cgroup", OK, "its count of kills for want of memory can be read")


def _limits() -> Iterator[Finding]:
    import resource

    from procbackground._supervisor.machine import usable_cpus

    needed = 64 + 8 * usable_cpus()
    yield _limit("open files", resource.getrlimit(resource.RLIMIT_NOFILE), needed, f"about {needed} are needed", "-n")
    if hasattr(resource, "RLIMIT_NPROC"):
        limits, what = resource.getrlimit(resource.RLIMIT_NPROC), "it counts all processes and threads of the user"
        yield _limit("processes", limits, 256, what, "-u")


def _limit(name: str, limits: tuple[int, int], needed: int, what: str, option: str) -> Finding:
    soft, hard = (math.inf if limit < 0 or limit > 1 << 60 else limit for limit in limits)
    if soft >= needed:
        return Finding(name, OK, "no limit" if soft == math.inf else f"{soft:,} at most")
    way = f"raise it, `ulimit {option} {needed}`" if hard >= needed else f"only root can raise its hard limit, {hard:,}"
    return Finding(name, PROBLEM, f"{soft:,} at most", f"{what}: {way}")


def _threads_of_libraries() -> Iterator[Finding]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    if given:
        yield Finding("threads of libraries", OK, " ".join(given))
    else:
        cost = "numpy and its like may use all CPUs in each worker: Manager(threads_per_task=1)"
        yield Finding("threads of libraries", OK, "not limited by the environment", cost)


def _status_folder() -> Iterator[Finding]:
    from procbackground._status.places import folder, make_folder

    try:
        make_folder()
    except OSError as error:
        cost = "`procbackground top` sees no manager"
        yield Finding("status sockets", FALLBACK, f"{folder()}: {error.strerror}", cost)
    else:
        yield Finding("status sockets", OK, folder())


def _extras() -> Iterator[Finding]:
    from importlib.util import find_spec

    for module, use in (("rich", "bars and tables"), ("tqdm", "bars"), ("prometheus_client", "--prometheus")):
        if find_spec(module) is None:
            yield Finding(module, OK, "not installed", f"it is for {use}")
        else:
            yield Finding(module, OK, "installed")


CHECKS: tuple[Callable[[], Iterator[Any]], ...] = (
    _python, _start_method, _a_worker, _features, _cpus, _memory, _limits, _threads_of_libraries, _status_folder,
    _extras,
)  # fmt: skip
