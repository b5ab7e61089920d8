"""`procbackground doctor` says of each thing that is missing what takes its place, and what that costs."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from typing import Any

import pytest

from procbackground import _platform
from procbackground._cli import checkup
from procbackground._cli.checkup import FALLBACK, OK, PROBLEM, Finding
from procbackground._platform import cgroup
from procbackground._status import places
from procbackground._submit import checks
from procbackground._supervisor import machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is missing here is Linux's")

Patch = pytest.MonkeyPatch


def refuse(*_: object, **__: object) -> Any:
    raise PermissionError(1, "Operation not permitted")


def spawn_only(patch: Patch) -> None:
    class Context:
        get_start_method = staticmethod(lambda: "spawn")

    patch.setattr(checks, "context_of", lambda _: Context)


def limited(name: str, soft: int, hard: int) -> Callable[[Patch], None]:
    kind = getattr(resource, name)
    return lambda patch: patch.setattr(
        resource, "getrlimit", lambda asked: (soft, hard) if asked == kind else (resource.RLIM_INFINITY,) * 2
    )


def without_proc(patch: Patch) -> None:
    patch.setattr(checkup, "open", refuse, raising=False)
    patch.setattr(os.path, "exists", lambda _: False)


# What is missing or scarce → the check that looks at it, and what it finds.
CASES: dict[str, tuple[Callable[[Patch], None], Callable[[], Any], str, str, str]] = {
    "no fork server": (spawn_only, checkup._start_method, "start method", FALLBACK, "some 50 ms of CPU"),
    "another system": (
        lambda patch: patch.setattr(_platform, "IS_LINUX", False),
        checkup._features, "system calls", FALLBACK, "stacks are not taken",
    ),
    "no pidfd": (
        lambda patch: patch.setattr(_platform, "has_pidfd", lambda: False),
        checkup._features, "pidfd", FALLBACK, "signals go by number",
    ),
    "no memfd": (
        lambda patch: patch.setattr(os, "memfd_create", refuse),
        checkup._features, "memfd", FALLBACK, "go by files in /tmp",
    ),
    "no smaps_rollup": (
        lambda patch: patch.setattr(checkup, "open", refuse, raising=False),
        checkup._features, "/proc", FALLBACK, "memory limits act early",
    ),
    "no /proc": (without_proc, checkup._features, "/proc", PROBLEM, "mount /proc"),
    "a quota": (
        lambda patch: (
            patch.setattr(cgroup, "cpu_limit", lambda: 1.5),
            patch.setattr(machine, "usable_cpus", lambda: 2),
            patch.setattr(os, "cpu_count", lambda: 8),
        )[0],
        checkup._cpus, "CPUs", OK, "2 workers by default (the machine has 8, the container's quota is 1.5)",
    ),
    "a container's limit": (
        lambda patch: patch.setattr(cgroup, "free_memory_bytes", lambda: 300 << 20),
        checkup._memory, "container", OK, "its memory limit leaves 300 MiB",
    ),
    "no count of kills": (
        lambda patch: patch.setattr(cgroup, "oom_kills", lambda _: None),
        checkup._memory, "cgroup", FALLBACK, "which others raise too",
    ),
    "few files, which can be raised": (
        limited("RLIMIT_NOFILE", 60, 4096), checkup._limits, "open files", PROBLEM, "raise it, `ulimit -n ",
    ),
    "few files, which cannot": (
        limited("RLIMIT_NOFILE", 60, 61),
        checkup._limits, "open files", PROBLEM, "only root can raise its hard limit, 61",
    ),
    "few processes": (
        limited("RLIMIT_NPROC", 200, resource.RLIM_INFINITY),
        checkup._limits, "processes", PROBLEM, "raise it, `ulimit -u 256`",
    ),
    "no lock in the interpreter": (
        lambda patch: patch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False),
        checkup._python, "free threading", FALLBACK, "not tested",
    ),
    "no folder for sockets": (
        lambda patch: patch.setattr(places, "make_folder", refuse),
        checkup._status_folder, "status sockets", FALLBACK, "`procbackground top` sees no manager",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_found_with_its_cost(monkeypatch, case):
    spoil, check, name, state, text = CASES[case]
    spoil(monkeypatch)
    [found] = [each for each in check() if each.name == name]
    assert found.state == state
    assert text in f"{found.found} {found.cost}"


def test_limits_that_suffice_are_fine(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20_000, resource.RLIM_INFINITY))
    assert [(each.state, each.found, each.cost) for each in checkup._limits()] == [(OK, "20,000 at most", "")] * 2


def test_a_check_that_fails_is_a_finding(monkeypatch):
    monkeypatch.setattr(checkup, "CHECKS", (checkup._limits,))
    monkeypatch.setattr(resource, "getrlimit", refuse)
    assert checkup.examine() == [
        Finding("limits", PROBLEM, f"cannot be looked at: {PermissionError(1, 'Operation not permitted')!r}")
    ]
