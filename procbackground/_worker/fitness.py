"""Finds what an import left in the zygote that its forks would share, or would lack, unseen.

Every fork is a copy. Two workers with one connection get each other's answers; two copies of a random generator give
the same numbers; a thread is not copied, though the locks that it holds are. Linux only, as the zygote is.

    descriptors     any that is open afterwards: files, sockets, pipes, event queues
    shared memory   any mapping that forks write to together, such as that of a `multiprocessing.Lock`
    processes       any that was started, and is no child of a fork
    threads         any that runs afterwards. Threads of libraries that end them before a fork, as OpenBLAS does, are
                    none: a fork that does nothing makes them go
    generators      any `random.Random`, and numpy's `Generator`, `RandomState` and bit generators, wherever they are
                    kept; and the global generators of `random` and numpy if they were seeded, not if they were used
"""

from __future__ import annotations

import gc
import os
import sys
import time

from procbackground import _platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

THREAD_END_S = 0.1  # for a thread that has done its work; an import that leaves one running is that much slower, once

_STATELESS = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))  # null, zero, full, random, urandom


class Traces:
    """What this process has before an import."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._shared = _shared_mappings()
        self._threads = _threads()
        self._has_children = bool(_platform.children(os.getpid()))
        random: Any = sys.modules.get("random")
        if random is not None:
            # Its words are made anew after 624 draws, the first of which is the next one after seeding.
            random.seed()
            random.random()
        self._words = _words_of_random()
        self._numpy_was_seeded = _numpy_was_seeded()
        gc.freeze()  # what is there already is not looked at

    def find_new(self) -> str | None:
        """Return what the import has left, in words, or None."""
        opened = _descriptors() - self._descriptors
        if opened:
            libraries = _loaded_libraries()
            opened = {(fd, name) for fd, name in opened if name not in libraries}
        if opened:
            return f"it opened {', '.join(sorted(name for _, name in opened)[:3])}"
        if _shared_mappings() - self._shared:
            return "it made shared memory, or a lock between processes"
        if not self._has_children and _platform.children(os.getpid()):
            return "it started a process"
        if self._has_new_threads():
            return "it started threads"
        if self._words is not None and self._words != _words_of_random():
            return "it seeded the generator of `random`"
        if _numpy_was_seeded() and not self._numpy_was_seeded:
            return "it seeded the generator of numpy"
        made = _find_generator()
        return None if made is None else f"it made a random generator ({made})"

    def _has_new_threads(self) -> bool:
        """Whether threads run that did not before, those excepted that end with a fork, or are about to end.

        By number and not by count: one that was about to end before the import is gone now. Python joins a thread
        before the system has ended it, which takes longest where there is more work than cores.
        """
        if not _threads() - self._threads:
            return False
        _fork_nothing()
        until_s = time.monotonic() + THREAD_END_S
        while _threads() - self._threads:
            if time.monotonic() > until_s:
                return True
            time.sleep(0.001)
        return False


def _descriptors() -> set[tuple[int, str]]:
    """Return the descriptors, each with what it is open on; devices without a state are left out."""
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            status = os.fstat(fd)
        except OSError:
            continue  # the listing's own
        if status.st_rdev not in _STATELESS:
            found.add((fd, target))
    return found


def _loaded_libraries() -> set[str]:
    """Return the paths of libraries that are mapped as code. libffi 3.8 keeps its file open, and never reads it."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            parts = [line.rstrip("\n").split(None, 5) for line in file]
    except OSError:
        return set()  # no descriptor is left
    return {part[5] for part in parts if len(part) == 6 and "x" in part[1]}


def _shared_mappings() -> set[bytes]:
    found: set[bytes] = set()
    try:
        with open("/proc/self/maps", "rb") as file:
            for line in file:
                span, mode, *_ = line.split(None, 2)
                if mode.endswith(b"s"):
                    found.add(span)
    except OSError:
        pass  # no descriptor is left
    return found


def _threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def _fork_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _words_of_random() -> Any:
    """Return the part of the global generator's state that changes when it is seeded, but hardly when it is used."""
    random: Any = sys.modules.get("random")
    return None if random is None else random.getstate()[1][:-1]


def _global_of_numpy() -> Any:
    return getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)


def _numpy_was_seeded() -> bool:
    bits = getattr(_global_of_numpy(), "_bit_generator", None)
    return bits is not None and getattr(bits, "_seed_seq", bits) is None  # else it is made of the system's entropy


def _find_generator() -> str | None:
    """Return the type of a random generator that was made since `Traces`, or None."""
    kinds = _generator_types()
    if not kinds:
        return None
    random: Any = sys.modules.get("random")
    names: Any = getattr(sys.modules.get("tempfile"), "_RandomNameSequence", None)
    known = [getattr(random, "_inst", None), _global_of_numpy()]
    known.append(getattr(known[1], "_bit_generator", None))
    objects: list[Any] = gc.get_objects()
    found: list[Any] = [each for each in objects if type(each) in kinds]
    if found and names is not None:
        known += [vars(each).get("_rng") for each in objects if type(each) is names]  # made anew in each process
    made = next((each for each in found if not any(each is other for other in known)), None)
    return None if made is None else f"{type(made).__module__}.{type(made).__qualname__}"


def _generator_types() -> set[type]:
    kinds: set[type] = set()
    random: Any = sys.modules.get("random")
    if random is not None:
        kinds |= _with_subclasses(random.Random) - _with_subclasses(random.SystemRandom)
    numpy_random: Any = sys.modules.get("numpy.random")
    for name in ("Generator", "RandomState", "BitGenerator"):
        kind = getattr(numpy_random, name, None)
        if kind is not None:
            kinds |= _with_subclasses(kind)
    return kinds


def _with_subclasses(kind: type) -> set[type]:
    below: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_with_subclasses, below))
