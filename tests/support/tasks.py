"""What the children run: functions at module level, so that they can be imported under every start method."""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import procbackground
from tests.support.gate import Address, stop_at_gate, tell_gate

__all__ = ["stop_at_gate", "tell_gate"]

MIB = 1 << 20


class Flaky(Exception):
    """What tasks here raise on purpose."""


# -- calls that go well -------------------------------------------------------------------------------------


def add(a: int, b: int) -> int:
    return a + b


def square(x: int) -> int:
    return x * x


def square_after(seconds: float, x: int) -> int:
    time.sleep(seconds)
    return x * x


def echo(value: Any) -> Any:
    return value


def nothing() -> None:
    pass


def kind_of(value: Any) -> str:
    return type(value).__name__


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def own_pid(_: object = None) -> int:
    return os.getpid()


def own_pid_after_a_moment(_: object) -> int:
    time.sleep(0.005)
    return os.getpid()


def parent_pid() -> int:
    return os.getppid()


def bytes_of_size(size: int) -> bytes:
    return bytes(size)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def stop_if_told(number: int, address: Address | None) -> int:
    if address is not None:
        stop_at_gate(address)
    return number


def pause_and_say_who(number: int, seconds: float) -> tuple[int, int]:
    if seconds:
        time.sleep(seconds)
    return number, os.getpid()


def burn(seconds: float) -> float:
    """Keep a core busy for `seconds` of CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def attempt_and_pid() -> tuple[int, int]:
    return procbackground.current().attempt, os.getpid()


# -- calls that do not --------------------------------------------------------------------------------------


def fail(text: str = "broken on purpose") -> None:
    raise Flaky(text)


def fail_if_negative(x: int) -> int:
    if x < 0:
        raise Flaky(f"{x} is negative")
    return x


def raise_with(_: Any) -> None:
    raise Flaky("whatever the argument")


def raise_this(error: BaseException) -> None:
    raise error


def exit_hard(code: int) -> None:
    os._exit(code)


def exit_softly(code: int) -> None:
    sys.exit(code)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)  # the signal is on its way


def segfault() -> None:
    ctypes.string_at(0)


def return_a_lock() -> Any:
    return {"inner": [1, threading.Lock()]}


def hoard(size: int, step: int = 4 * MIB) -> int:
    """Take `size` bytes, a GB a second at most, and hold them for a while, or until stopped."""
    held = []
    for _ in range(size // step):
        held.append(b"\x01" * step)
        time.sleep(0.004)
    time.sleep(30)
    return len(held)


HOG = (
    "import mmap, sys, time\n"
    "size, step = int(sys.argv[1]), 1 << 22\n"
    "memory, ones = mmap.mmap(-1, size), b'1' * step\n"
    "for at in range(0, size, step):\n"
    "    memory[at : at + step] = ones\n"
    "time.sleep(30)\n"
)


def hog(size: int) -> None:
    """Touch `size` bytes as fast as the kernel gives pages, and hold them for a while."""
    memory, step = mmap.mmap(-1, size), 4 * MIB
    ones = b"1" * step
    for at in range(0, size, step):
        memory[at : at + step] = ones
    time.sleep(30)


def hog_in_a_grandchild(size: int, in_a_thread: bool = False) -> None:
    """Have another program do the same, started by the main thread or by another one."""

    def start() -> None:
        subprocess.run([sys.executable, "-S", "-c", HOG, str(size)], check=False)

    if in_a_thread:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()


def hog_as_an_orphan(size: int) -> None:
    """Have a process do the same whose parent, started by us, ends at once."""
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', *sys.argv[1:]])"
    subprocess.run([sys.executable, "-S", "-c", code, HOG, str(size)], check=True)
    time.sleep(30)


def hold_and_stop_at_gate(address: Address, size: int) -> int:
    held = b"1" * size
    stop_at_gate(address)
    return len(held)


def hoard_in_a_grandchild(size: int) -> int:
    code = f"import time; held = b'1' * {size}; time.sleep(30)"
    return subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode


def sleep_long() -> None:
    time.sleep(3600)


def hold_the_interpreter() -> None:
    """Sit in C with the GIL held, where no Python signal handler ever runs."""
    deque(itertools.repeat(None), maxlen=0)


MISHAPS: dict[str, Callable[[], Any]] = {
    "raises": fail,
    "exits": functools.partial(exit_hard, 3),
    "is killed": functools.partial(die_by, signal.SIGKILL),
    "crashes": segfault,
    "hangs": sleep_long,
    "hoards": functools.partial(hoard, 1024 * MIB),
    "returns a lock": return_a_lock,
}


def mishap(how: str) -> Any:
    return MISHAPS[how]()


def mishap_before(last_attempt: int, how: str) -> Any:
    """Have the mishap in every attempt before `last_attempt`; then return attempt and pid."""
    if procbackground.current().attempt < last_attempt:
        return MISHAPS[how]()
    return attempt_and_pid()


def mishap_with(last_attempt: int, _: Any) -> int:
    """Raise in each attempt before `last_attempt`; then return it."""
    return mishap_before(last_attempt, "raises")[0]  # type: ignore[no-any-return]


def die_if_told(item: Any) -> Any:
    if item == "die":
        os._exit(3)
    return item


def tell_slowly_or_die(address: Address, item: Any) -> Any:
    """Take a while over a number, and tell it at the end; return at once for None."""
    if item == "die":
        os._exit(3)
    if item is not None:
        time.sleep(0.02)
        stop_at_gate(address, item)
    return item


class KillsOnLoad:
    """Ends the process that loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


class KillsOnceWhenPickled:
    """Ends the process that pickles it, unless the file is there already; else it is pickled as a number."""

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        self.path = path

    def __reduce__(self) -> Any:
        if not os.path.exists(self.path):
            with open(self.path, "x"):
                os._exit(3)
        return int, (self.number,)


def kill_once_when_pickled(number: int, path: str) -> Any:
    if number > 3:
        time.sleep(0.0001)  # so that the first are told in a partial answer
    return KillsOnceWhenPickled(number, path) if number == 2 else number


def fail_at_19_000(number: int) -> int:
    if number == 19_000:
        raise Flaky("number 19,000")
    return number


def lock_if_none(item: Any) -> Any:
    return threading.Lock() if item is None else item


# -- calls that say where they are --------------------------------------------------------------------------


def stop_then_do(address: Address) -> Any:
    """Stop at the gate and do as it says: raise the exception or return the value that it answers."""
    answer = stop_at_gate(address)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def tell_and_return(address: Address, value: Any) -> Any:
    tell_gate(address, value)
    return value


def tell_and_fail(address: Address) -> None:
    """Tell the attempt's number, and raise."""
    tell_gate(address, procbackground.current().attempt)
    raise Flaky("as always")


def tell_and_fail_first(address: Address, value: Any, fail: bool) -> Any:
    """Tell `value` and return it; where `fail`, raise in the first attempt."""
    tell_gate(address, value)
    if fail and procbackground.current().attempt == 1:
        raise Flaky(f"first attempt with {value}")
    return value


def tell_time(address: Address) -> None:
    tell_gate(address, time.monotonic())


def tell_then_return_bytes(address: Address, size: int) -> bytes:
    value = bytes(size)
    tell_gate(address, size)
    return value


def die_soon(seconds: float) -> None:
    """Return, and have this process killed `seconds` later."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def clean_up_when_stopped(address: Address) -> None:
    """Stop at the gate; say in a `finally` block what came through."""
    try:
        stop_at_gate(address, "at work")
    finally:
        error = sys.exc_info()[1]
        tell_gate(address, "SystemExit" if isinstance(error, SystemExit) else repr(error))


def ignore_sigterm(address: Address) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop_at_gate(address, "deaf")
    time.sleep(3600)


def tell_and_hold_the_interpreter(address: Address) -> None:
    tell_gate(address, "in C")
    hold_the_interpreter()


def tell_and_sleep(address: Address) -> None:
    tell_gate(address, "asleep")
    time.sleep(3600)


def tell_and_spin(address: Address) -> None:
    tell_gate(address, "spinning")
    while True:
        pass


def survive_one_stop(address: Address) -> str:
    """Catch the stop and return as if nothing had been."""
    try:
        stop_at_gate(address, "at work")
    except SystemExit:
        tell_gate(address, "caught")
    return "survived"


def start_grandchild(address: Address, new_session: bool = False) -> None:
    """Start a process of our own and tell its pid."""
    with subprocess.Popen(["sleep", "3600"], start_new_session=new_session) as grandchild:
        stop_at_gate(address, grandchild.pid)


# -- loops --------------------------------------------------------------------------------------------------

_iterations = 0


def iterate(address: Address) -> None:
    """Say how many iterations this process has run, and stop until let go."""
    global _iterations
    _iterations += 1
    stop_at_gate(address, _iterations)


def iterate_and_fail(address: Address) -> None:
    iterate(address)
    raise Flaky(f"iteration {_iterations}")


def iterate_with_attempt(address: Address) -> None:
    """Say the attempt, stop, and fail if the gate answers so."""
    answer = stop_at_gate(address, procbackground.current().attempt)
    if answer == "fail":
        raise Flaky("as the gate says")


def iterate_then_tell_stopping(address: Address) -> None:
    context = procbackground.current()
    before = context.stopping
    stop_at_gate(address, "running")
    tell_gate(address, (before, context.stopping))


def wait_for_the_stop(address: Address) -> None:
    tell_gate(address, "waiting")
    tell_gate(address, procbackground.current().wait(3600))


# -- what a forked child would inherit ----------------------------------------------------------------------

shared_lock = threading.Lock()
marks: list[str] = []


def take_shared_lock() -> str:
    with shared_lock:
        return "taken"


def read_marks() -> list[str]:
    return marks


# -- what the context says ----------------------------------------------------------------------------------


def context_facts() -> tuple[int, str, bool]:
    context = procbackground.current()
    return context.attempt, context.name, context.stopping


def report_progress(total: int) -> int:
    for done in range(1, total + 1):
        procbackground.current().progress(done, total, f"item {done}")
    return total


def progress_then_stop(address: Address) -> None:
    procbackground.current().progress(1, 4, "one of four")
    stop_at_gate(address)


def beat_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        procbackground.current().heartbeat()
        time.sleep(0.01)


def survive_sigint() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)  # a KeyboardInterrupt would come here
    return os.getpid()


def group_and_pid() -> tuple[int, int]:
    return os.getpgid(0), os.getpid()


def log_by_logging(text: str) -> int:
    import logging

    logging.getLogger("tests.child").warning(text)
    return os.getpid()


def log_by_loguru(text: str) -> int:
    from loguru import logger

    logger.warning(text)
    return os.getpid()


def nested(x: int) -> int:
    with procbackground.Manager(max_workers=1) as manager:
        return manager.run(square, x).result(timeout=60)


def nested_death() -> None:
    with procbackground.Manager(max_workers=1) as manager:
        manager.run(exit_hard, 3).result(timeout=60)


# -- initializers -------------------------------------------------------------------------------------------

_initialized: list[Any] = []


def initialize(*args: Any) -> None:
    _initialized.append(args)


def initialized() -> list[Any]:
    return _initialized


# -- what pickles badly -------------------------------------------------------------------------------------


class Payload:
    """Something that a weak reference can point to."""


class Refuses:
    """Cannot be pickled at all."""

    def __reduce__(self) -> Any:
        raise TypeError("this object refuses to be pickled")


class Counted:
    """Counts how often it is pickled, and by which threads."""

    pickled_by: list[int]

    def __init__(self) -> None:
        self.pickled_by = []

    def __reduce__(self) -> Any:
        self.pickled_by.append(threading.get_ident())
        return Counted, ()


def _load_anywhere_but_in(pid: int) -> Any:
    if os.getpid() == pid:
        raise ValueError("this object does not load here")
    return LoadsOnlyElsewhere(pid)


class LoadsOnlyElsewhere:
    """Loads in every process but `pid`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return _load_anywhere_but_in, (self.pid,)


def _load_only_in(pid: int) -> Any:
    if os.getpid() != pid:
        raise ValueError("this object does not load here")
    return LoadsOnlyIn(pid)


class LoadsOnlyIn:
    """Loads in the process `pid` only."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return _load_only_in, (self.pid,)


def return_unloadable(pid: int) -> Any:
    return LoadsOnlyElsewhere(pid)


def return_unloadable_if_told(number: int, pid: int | None) -> Any:
    time.sleep(0.0003)
    return number if pid is None else LoadsOnlyElsewhere(pid)


def refuse_or_raise(number: int) -> Any:
    if number == 4:
        raise Flaky("number 4")
    return threading.Lock() if number == 2 else number


class Label:
    """An argument that a test can look after, and change when it was sent."""

    def __init__(self, number: int) -> None:
        self.number = number


def read_label(label: Label) -> int:
    if label.number < 4:
        time.sleep(0.02)
    if label.number == 60:
        raise Flaky("number 60")
    return label.number


may_load = threading.Event()
is_loading = threading.Event()


def _load_when_allowed(parent: int) -> str:
    if os.getpid() == parent:
        is_loading.set()
        may_load.wait(20)
    return "loaded"


class LoadsSlowly:
    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __reduce__(self) -> Any:
        return _load_when_allowed, (self.parent,)


def return_slow_loader(parent: int) -> Any:
    return LoadsSlowly(parent)


# -- exceptions ---------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    """An everyday class that plain pickle dumps and cannot load."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code, self.reason = code, reason


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class HoldsALock(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Unreducible(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no reduction today")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


def _exception_from(pid: int) -> BaseException:
    if os.getpid() == pid:
        raise ValueError("this exception does not load here")
    return LoadsElsewhereError(pid)


class LoadsElsewhereError(Exception):
    """Pickles and loads, but not in process `pid`."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"not for {pid}")
        self.pid = pid

    def __reduce__(self) -> Any:
        return _exception_from, (self.pid,)


def raise_two_arguments() -> None:
    raise TwoArguments(7, "out of paper")


def raise_keyword_only() -> None:
    raise KeywordOnly(code=9)


def raise_holding_a_lock() -> None:
    raise HoldsALock("locked away")


def raise_unreducible() -> None:
    raise Unreducible("irreducible")


def raise_mute() -> None:
    raise Mute("mute")


def raise_loads_elsewhere(pid: int) -> None:
    raise LoadsElsewhereError(pid)


def raise_chained() -> None:
    try:
        fail("the first fault")
    except Flaky as error:
        raise KeyError("the second fault") from error


def raise_group() -> None:
    raise ExceptionGroup("both", [Flaky("one"), ValueError("two")])


def raise_with_note() -> None:
    error = Flaky("noted")
    error.add_note("seen at midnight")
    raise error


def raise_local_class() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("from inside")


# -- callables of every kind --------------------------------------------------------------------------------


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, x: int) -> int:
        return self.factor * x

    def __call__(self, x: int) -> int:
        return self.factor * x

    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    def name_and(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x


def fill_disk(folder: str) -> None:
    """Write to a file in `folder` until its disk is full."""
    path = os.path.join(folder, "full")
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(MIB))
    finally:
        os.unlink(path)
