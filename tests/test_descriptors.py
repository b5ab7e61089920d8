"""Connections, sockets and what else `multiprocessing` can pass, as arguments, functions and results of tasks."""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import pytest

from procbackground import Manager, SerializationError, Task, TaskType, WorkerDiedError
from procbackground._wire.descriptors import MOST_DESCRIPTORS
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def say(end: Any, words: bytes = b"hello") -> None:
    end.send(words)


def say_all(first: Any, ends: dict[str, list[Any]], words: bytes) -> None:
    for end in (first, *ends["more"]):
        end.send(words)


def say_at_second_attempt(end: Connection, mark: str) -> str:
    if not os.path.exists(mark):
        with open(mark, "w", encoding="ascii"):
            os._exit(3)
    end.send_bytes(b"again")
    return "said"


class Speaker:
    """Holds a connection, and can be bound to a task."""

    def __init__(self, end: Any) -> None:
        self.end = end

    def say(self, words: bytes) -> None:
        self.end.send(words)


def open_pair(kind: str) -> Any:
    ours, theirs = socket.socketpair() if kind == "socket" else multiprocessing.Pipe(duplex=kind == "pipe")
    say(theirs, b"kept")
    theirs.close()
    return ours


def pass_on(*things: Any) -> Any:
    return things


def count(*things: Any) -> int:
    return len(things)


def heard(end: Any) -> bytes:
    """Return what comes out of a connection or socket, which must be there soon."""
    if isinstance(end, Connection):
        assert end.poll(PATIENCE_S)
        return end.recv()
    end.settimeout(PATIENCE_S)
    return end.recv(100)


def pair_of(kind: str) -> tuple[Any, Any]:
    return socket.socketpair() if kind == "socket" else multiprocessing.Pipe()


@pytest.fixture(params=["forkserver", "spawn", "fork"])
def any_manager(request, make_manager):
    return make_manager(max_workers=1, mp_context=multiprocessing.get_context(request.param))


def test_connections_and_sockets_cross_as_arguments_and_results(any_manager):
    for kind in ("connection", "socket"):
        ours, theirs = pair_of(kind)
        any_manager.run(say, theirs).result(timeout=PATIENCE_S)
        assert heard(ours) == b"hello"
        again = any_manager.run(pass_on, theirs).result(timeout=PATIENCE_S)[0]
        say(again, b"round trip")
        assert heard(ours) == b"round trip"
        for end in (ours, theirs, again):
            end.close()


@pytest.mark.parametrize("kind", ["connection", "socket"])
def test_they_cross_within_containers_objects_partials_and_closures(make_manager, kind):
    manager = make_manager(max_workers=1)
    ours, theirs = pair_of(kind)
    others, their_others = pair_of(kind)
    calls = {
        "containers": lambda: manager.run(say_all, theirs, {"more": [their_others, theirs]}, b"x"),
        "a keyword": lambda: manager.run(say, end=theirs, words=b"x"),
        "a bound method": lambda: manager.run(Speaker(theirs).say, b"x"),
        "a partial": lambda: manager.run(functools.partial(say, theirs), b"x"),
        "a closure": lambda: manager.run(lambda words: theirs.send(words), b"x"),
        "an argument beside one for cloudpickle": lambda: manager.run(count, lambda: 1, theirs, Speaker(theirs)),
    }
    for call in calls.values():
        call().result(timeout=PATIENCE_S)
    for end in (ours, theirs, others, their_others):
        end.close()


def test_a_map_takes_and_returns_them(make_manager):
    manager = make_manager(max_workers=2)
    pairs = [multiprocessing.Pipe() for _ in range(20)]
    list(manager.map(say, [theirs for _, theirs in pairs], [b"%d" % number for number in range(20)], chunksize=5))
    assert [heard(ours) for ours, _ in pairs] == [b"%d" % number for number in range(20)]
    ends = list(manager.map(open_pair, ["pipe", "socket"] * 10, chunksize=10))
    assert [heard(end) for end in ends] == [b"kept"] * 20
    shared_ours, shared = multiprocessing.Pipe()
    list(manager.map(functools.partial(say, shared), [b"a"] * 6, chunksize=3))
    assert [heard(shared_ours) for _ in range(6)] == [b"a"] * 6
    for end in (*ends, shared_ours, shared, *(end for pair in pairs for end in pair)):
        end.close()


def test_a_retry_gets_the_same_connection(make_manager, tmp_path):
    manager = make_manager(max_workers=1)
    ours, theirs = multiprocessing.Pipe()
    handle = manager.run_task(Task(say_at_second_attempt, args=(theirs, str(tmp_path / "mark")), retry=2))
    theirs.close()  # the task has its own
    assert handle.result(timeout=PATIENCE_S) == "said"
    assert ours.recv_bytes() == b"again"
    ours.close()


def test_a_loop_keeps_its_connection(make_manager):
    manager = make_manager(max_workers=1)
    ours, theirs = multiprocessing.Pipe()
    manager.run_task(Task(say, args=(theirs, b"tick"), type=TaskType.LOOP, interval=0.01))
    assert [heard(ours) for _ in range(3)] == [b"tick"] * 3
    manager.cancel(timeout=PATIENCE_S)
    for end in (ours, theirs):
        end.close()


def test_no_descriptor_is_left(make_manager):
    manager = make_manager(max_workers=1)
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    pair = multiprocessing.Pipe()
    before = open_descriptors()
    for _ in range(5):
        manager.run(say, pair[1]).result(timeout=PATIENCE_S)
        refused = manager.run(count, pair[1], sys._getframe()).exception(timeout=PATIENCE_S)
        assert isinstance(refused, SerializationError)
        del refused
        handle = manager.run_task(Task(os._exit, args=(3,)))
        assert isinstance(handle.exception(timeout=PATIENCE_S), WorkerDiedError)
    manager.run(pow, 2, 2).result(timeout=PATIENCE_S)
    wait_until(lambda: open_descriptors() <= before, "all duplicates are closed")
    for end in pair:
        end.close()


def test_too_many_are_an_error_that_says_how_many_can_cross(make_manager):
    manager = make_manager(max_workers=1)
    ours, theirs = multiprocessing.Pipe()
    copies = [Connection(os.dup(theirs.fileno())) for _ in range(MOST_DESCRIPTORS + 1)]
    error = manager.run(pass_on, *copies).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert str(MOST_DESCRIPTORS) in str(error)
    for end in (ours, theirs, *copies):
        end.close()


@pytest.mark.parametrize("what", ["Lock", "Semaphore", "SimpleQueue", "Event", "Condition"])
def test_what_multiprocessing_passes_only_at_the_start_is_refused_by_name(make_manager, what):
    manager = make_manager(max_workers=1)
    made = getattr(multiprocessing.get_context("spawn"), what)()
    error = manager.run(count, 1, [made]).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "argument 1" in str(error)
    assert "initargs" in str(error)
    if hasattr(made, "close"):
        made.close()


def test_a_connection_elsewhere_than_in_an_argument_or_result_is_refused(make_manager):
    class Odd(Exception):
        def __init__(self, end: Any) -> None:
            super().__init__("odd")
            self.end = end

    def fail(end: Any) -> None:
        raise Odd(end)

    manager = make_manager(max_workers=1)
    pair = multiprocessing.Pipe()
    error = manager.run(fail, pair[1]).exception(timeout=PATIENCE_S)
    assert isinstance(error, SerializationError)
    assert "Odd: odd" in str(error)
    for end in pair:
        end.close()


def read_first(memory: SharedMemory) -> int:
    return memory.buf[0]


def test_shared_memory_crosses(make_manager):
    memory = SharedMemory(create=True, size=10)
    try:
        memory.buf[0] = 7
        assert make_manager(max_workers=1).run(read_first, memory).result(timeout=PATIENCE_S) == 7
    finally:
        memory.close()
        memory.unlink()


class Registered:
    """Can be pickled by `multiprocessing` only."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        raise TypeError("not by pickle")


def reduce_registered(registered: Registered) -> Any:
    return Registered, (registered.number + 1,)


def number_of(registered: Registered) -> int:
    return registered.number


def test_reducers_that_others_register_with_multiprocessing_are_used(make_manager):
    ForkingPickler.register(Registered, reduce_registered)
    try:
        assert make_manager(max_workers=1).run(number_of, Registered(1)).result(timeout=PATIENCE_S) == 2
    finally:
        del ForkingPickler._extra_reducers[Registered]


_initial: list[Any] = []


def remember(*things: Any) -> None:
    _initial[:] = things


def use_remembered(words: bytes) -> None:
    for end in _initial:
        if hasattr(end, "send"):
            end.send(words)
        else:
            with end[0]:
                end[1].put(words)


def test_initargs_carry_connections_sockets_and_locks_into_every_worker():
    context = multiprocessing.get_context("forkserver")
    ours, theirs = multiprocessing.Pipe()
    our_socket, their_socket = socket.socketpair()
    queue = context.SimpleQueue()
    initargs = (theirs, their_socket, (context.Lock(), queue))
    with Manager(1, context, remember, initargs, max_tasks_per_child=1) as manager:
        for words in (b"1", b"2"):
            manager.run(use_remembered, words).result(timeout=PATIENCE_S)
            assert heard(ours) == words
            assert heard(our_socket) == words
            assert queue.get() == words
    queue.close()
    for end in (ours, theirs, our_socket, their_socket):
        end.close()


def count_characters(file: Any) -> int:
    return len(file.read())


def test_an_open_file_is_refused_by_name_and_not_copied(make_manager, tmp_path):
    manager = make_manager(max_workers=1)
    path = tmp_path / "text"
    path.write_text("content")
    with open(path, encoding="ascii") as file, open(path, "rb") as binary:
        for each in (file, binary, {"within": file}):
            error = manager.run(count_characters, each).exception(timeout=PATIENCE_S)
            assert isinstance(error, SerializationError)
            assert "argument 0" in str(error)
        error = manager.run(lambda: file.read()).exception(timeout=PATIENCE_S)
        assert isinstance(error, SerializationError)
        assert "path" in str(error)
