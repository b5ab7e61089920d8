"""What a manager's processes have from the parent: environment, umask, directory, `sys.path` and limits.

As they were when the manager was made, and whatever started the process: a fork server that has been running for hours
has those of its own start, and its children would, too. `EarlyName` brings them before the user's code is imported.
"""

from __future__ import annotations

import builtins
import itertools
import os
import sys
import time
from operator import itemgetter

from procbackground._load import load
from procbackground._platform.marks import RLIMIT_LOCKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from procbackground._submit.setup import Setup

    Limits = dict[int, tuple[int, int]]  # of `resource`: soft and hard, by number

_numbers = itertools.count()
_taken: tuple[int, int] | None = None  # the mark of the surroundings that this process has
_problem: SetupError | None = None  # why it does not have all of them


class SetupError(OSError):
    """A worker could not be given what its manager was made with."""


class Surroundings:
    """The surroundings of a manager's processes. Made in the parent; crosses by pickle, or by fork."""

    def __init__(self) -> None:
        self.mark = (os.getpid(), next(_numbers))
        self.env = dict(os.environ)
        self.umask = _present_umask()
        self.cwd = _present_directory()
        self.path = _present_path(self.cwd)
        self.limits = _present_limits()
        self.has_profile = hasattr(builtins, "profile")  # as in a script that kernprof or memory_profiler runs

    def with_later_path(self) -> Surroundings:
        """Return these, with what was added to `sys.path` since: modules that were imported from there are sent by
        name."""
        later = [entry for entry in _present_path(_present_directory()) if entry not in self.path]
        if not later:
            return self
        copy = object.__new__(Surroundings)
        vars(copy).update(vars(self), path=[*self.path, *later])
        return copy

    # -- in the child --------------------------------------------------------------------------------------

    def take_on(self) -> None:
        """Give them to this process, unless it has them. Afterwards, code may have reasons to change them."""
        global _taken, _problem
        if _taken == self.mark:
            return
        _taken, _problem = self.mark, None
        _set_environment(self.env)
        if self.umask is not None:
            os.umask(self.umask)
        sys.path[:] = self.path
        if self.cwd is not None:
            try:
                os.chdir(self.cwd)
            except OSError as error:
                _problem = SetupError(f"a worker could not enter its cwd {self.cwd!r}: {error}")
        if self.has_profile and not hasattr(builtins, "profile"):
            builtins.profile = _leave_unprofiled  # type: ignore[attr-defined]
        self.raise_limits()

    def raise_limits(self) -> None:
        """Set those limits that are wider than this process's, which do no harm to a helper either."""
        for number, limits in self._other_limits():
            present = load("resource").getrlimit(number)
            if _width(limits[0]) > _width(present[0]):
                _set_limits(number, (limits[0], max(limits[1], present[1], key=_width)))

    def set_limits(self) -> None:
        """Set the limits, in a worker. What the system refuses stays as it is."""
        for number, limits in self._other_limits():
            _set_limits(number, limits)

    @property
    def has_limits_to_set(self) -> bool:
        """Whether `set_limits` would change something."""
        return bool(self._other_limits())

    def _other_limits(self) -> list[tuple[int, tuple[int, int]]]:
        if not self.limits:
            return []
        present = load("resource").getrlimit
        return [(number, limits) for number, limits in self.limits.items() if present(number) != limits]


def has_problem() -> bool:
    """Whether this process could not be given its surroundings."""
    return _problem is not None


def raise_problem() -> None:
    """Raise why this process could not be given its surroundings. Raises: `SetupError`."""
    if _problem is not None:
        raise _problem


# -- on the way to a child -----------------------------------------------------------------------------------


class EarlyName(str):
    """The name of a `multiprocessing` process that gives the process its surroundings and setup on the way.

    The name is among the first that a child of `spawn` and of the fork server unpickles, before any code of the user's
    runs. What `multiprocessing` has for such purposes, the process's arguments, comes after it has imported `__main__`.
    """

    _surroundings: Surroundings
    _setup: Setup | None

    def __new__(cls, name: str, surroundings: Surroundings, setup: Setup | None) -> EarlyName:
        self = super().__new__(cls, name)
        self._surroundings = surroundings.with_later_path()
        self._setup = setup
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The parent's `sys.path`, too, is only set afterwards, and this package may be found by nothing else: the
        # first of the pair sets it as it is unpickled, the second is the name.
        first = _FirstPath(self._surroundings)
        return itemgetter(1), ((first, _LateName(str(self), self._surroundings, self._setup)),)


_FIRST = """
import os, sys
if getattr(sys.modules.get({module!r}), "_taken", None) != {mark!r}:
    try:
        os.chdir({cwd!r} or ".")
    except OSError:
        pass
    sys.path[:] = {path!r}
"""


class _FirstPath:
    """Unpickles into the parent's directory and `sys.path`, with nothing but builtins; not once more with the process
    object, when the process has them and more."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def __reduce__(self) -> tuple[Any, ...]:
        its = self._surroundings
        return exec, (_FIRST.format(module=__name__, mark=its.mark, cwd=its.cwd, path=its.path), {})


class _LateName:
    """Unpickles into the name, when surroundings and setup are in force."""

    def __init__(self, name: str, surroundings: Surroundings, setup: Setup | None) -> None:
        self._parts = name, surroundings, setup

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_early, self._parts


def _take_early(name: str, surroundings: Surroundings, setup: Setup | None) -> str:
    """Give a child its surroundings and setup; called when it unpickles its name, which it returns."""
    if _taken != surroundings.mark:  # the name comes with the process object once more
        surroundings.take_on()
        if setup is not None:
            setup.apply_early()
        _leave_rest_to_us()
    return name


def _leave_rest_to_us() -> None:
    """Keep `multiprocessing` from setting path and directory again, and from importing `__main__`: we do."""
    from multiprocessing import spawn

    prepare = spawn.prepare

    def prepare_less(data: Mapping[str, Any]) -> None:
        spawn.prepare = prepare
        ours = ("sys_path", "dir", "init_main_from_name", "init_main_from_path")
        prepare({key: value for key, value in data.items() if key not in ours})

    spawn.prepare = prepare_less


# -- what they are -------------------------------------------------------------------------------------------


def _present_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed


def _present_path(cwd: str | None) -> list[str]:
    """Return `sys.path`, with directories in place of "", which is the present one in an interactive interpreter."""
    process: Any = sys.modules.get("multiprocessing.process")
    origin = getattr(process, "ORIGINAL_DIR", None)  # where modules were found before it changed
    path: list[str] = []
    for entry in sys.path:
        path += [entry] if entry else [each for each in (cwd, origin) if each is not None and each not in path]
    return path


def _present_umask() -> int | None:
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError, IndexError):
        pass
    if not hasattr(os, "fork"):
        return None  # Windows
    umask = os.umask(0o077)  # it can only be read by setting it, here to what does no harm for a moment
    os.umask(umask)
    return umask


def _leave_unprofiled(fn: Any = None, *_: Any, **__: Any) -> Any:
    """Stand in for the decorator `profile`, with or without arguments, so that the main module can be imported."""
    return fn if callable(fn) else _leave_unprofiled


def _present_limits() -> Limits:
    try:
        resource = load("resource")
    except ImportError:
        return {}  # Windows
    numbers = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    if sys.platform == "linux":
        numbers.discard(RLIMIT_LOCKS)  # each worker has its own, by which its processes are recognised
    limits: Limits = {}
    for number in sorted(numbers):
        try:
            limits[number] = resource.getrlimit(number)
        except (OSError, ValueError):
            pass  # of a newer kernel
    return limits


def _width(limit: int) -> float:
    return float("inf") if limit == load("resource").RLIM_INFINITY else limit


def _set_limits(number: int, limits: tuple[int, int]) -> None:
    resource = load("resource")
    try:
        resource.setrlimit(number, limits)
    except (OSError, ValueError):
        # A hard limit cannot be raised again without privileges.
        _, hard = resource.getrlimit(number)
        try:
            resource.setrlimit(number, (min(limits[0], hard, key=_width), hard))
        except (OSError, ValueError):
            pass


def _set_environment(env: Mapping[str, str]) -> None:
    zone = os.environ.get("TZ")
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if (zone is not None or "TZ" in env) and hasattr(time, "tzset"):
        time.tzset()
