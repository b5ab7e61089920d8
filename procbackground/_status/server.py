"""Answers questions about a manager, in a thread of its own, until it has closed."""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from procbackground._load import aside
from procbackground._platform.files import OwnedFile
from procbackground._status.places import is_allowed, make_folder, reachable, socket_name
from procbackground._sync import Latch, check_life, this_life
from procbackground.observers.base import Observer

if TYPE_CHECKING:
    from procbackground import events
    from procbackground.report import ProcessInfo, Stats
    from procbackground.task import Task

VERSION = 1
LONGEST = 1 << 16  # bytes of a request
SEND_S = 1.0  # a client that does not read its answer for so long is left
MOST_CLIENTS = 32
CALL_LENGTH = 200  # characters

_numbers = itertools.count(1)
_living: weakref.WeakSet[StatusServer | _Service] = weakref.WeakSet()


class Managed(Protocol):
    """What the server needs of the supervisor."""

    def stats(self) -> Stats: ...

    def processes(self) -> list[ProcessInfo]: ...

    def state(self) -> str: ...

    def queue_age_s(self) -> float | None: ...

    def mark_arrivals(self) -> None: ...

    def cancel_at(self, pid: int, since: float | None) -> bool: ...

    def cancel_queued(self) -> None: ...

    def ask_to_close(self, timeout_s: float | None) -> None: ...


class StatusServer(Observer):
    """The server of one manager. As an observer it learns of the end. Raises: `OSError`, `RuntimeError`.

    Its thread makes all that it serves with, and knows the manager by a weak reference. It ends when the other end of a
    connection is closed, which this object owns. So the thread ends with the manager, however that goes: closed,
    dropped, or never finished because its making was interrupted.
    """

    def __init__(self, name: str, max_workers: int) -> None:
        stopped, self._stop = map(OwnedFile, map(socket.socket.detach, socket.socketpair()), ("r", "w"))
        self._life = this_life()
        self._managed: Managed | None = None  # the thread has a weak reference
        _living.add(self)
        service = _Service(stopped, name, max_workers)
        self._thread = threading.Thread(target=service.run, name="procbackground-status", daemon=True)
        with ExitStack() as undo:
            undo.callback(self._stop.close)  # at once, not only when nobody has the error any more
            try:
                aside(self._thread.start)
            except RuntimeError:
                service.release()  # the system has no thread to give
                raise
            service.is_listening.wait()
            if service.failure is not None:
                check_life(self._life)
                raise service.failure
            undo.pop_all()
        self._service = service

    def start(self, managed: Managed) -> None:
        """Answer from now on. Raises: `ManagerClosedError` in a fork of the process that made it."""
        check_life(self._life)
        self._managed = managed
        managed.mark_arrivals()
        self._service.managed = weakref.ref(managed)
        os.write(self._stop.fileno(), b"\0")

    def stop(self) -> None:
        """Listen no more."""
        self._stop.close()
        self._thread.join()

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        self.stop()

    def leave_fork(self) -> None:
        """In a fork of the process: close the copy, or the thread would not notice the end of the parent's."""
        self._stop.close()


class _Service:
    """The thread of a server, and what it serves with."""

    def __init__(self, stopped: OwnedFile, name: str, max_workers: int) -> None:
        self._stopped = stopped
        self._name = name
        self._max_workers = max_workers
        self._pid = os.getpid()
        self._began = time.time()
        self._path = ""
        self._open: list[Any] = [stopped]  # all that is to be closed, clients among it
        _living.add(self)
        self.managed: Callable[[], Managed | None] = lambda: None
        self.failure: BaseException | None = None
        self.is_listening = Latch()  # or has failed to

    def run(self) -> None:
        """Listen and answer until the other end of `stopped` is closed."""
        with ExitStack() as undo:
            undo.callback(self.is_listening.set)
            undo.callback(self.release)
            try:
                self._listen()
            except BaseException as error:
                self.failure = error
                return
            self.is_listening.set()
            self._serve()

    def _listen(self) -> None:
        self._path = os.path.join(make_folder(), socket_name(self._pid, next(_numbers), self._name))
        self._selector = selectors.DefaultSelector()
        self._open.append(self._selector)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open.append(self._listener)
        try:
            os.unlink(self._path)  # of an earlier process with this pid
        except FileNotFoundError:
            pass
        # The folder is private, so no other user can connect before the mode is set.
        with reachable(self._path) as address:
            self._listener.bind(address)
        os.chmod(self._path, 0o600)
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._selector.register(self._stopped, selectors.EVENT_READ, None)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    if not self._stopped.read(1):
                        return
                    self._selector.register(self._listener, selectors.EVENT_READ, None)  # there is a manager now
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client is gone again, or there is no descriptor left
        self._open.append(connection)
        try:
            if is_allowed(connection) and len(self._open) <= MOST_CLIENTS:
                connection.settimeout(SEND_S)
                self._selector.register(connection, selectors.EVENT_READ, _Client(connection))
                return
        except OSError:
            pass
        self._leave(connection)

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(LONGEST)
            client.unread += data
            while data and b"\n" in client.unread:
                line, _, client.unread = client.unread.partition(b"\n")
                client.connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
            if data and len(client.unread) < LONGEST:
                return
        except OSError:
            pass
        self._selector.unregister(client.connection)
        self._leave(client.connection)

    def _leave(self, connection: socket.socket) -> None:
        connection.close()
        self._open.remove(connection)

    def release(self) -> None:
        """Close all, and remove the socket, whose name a fork of the process leaves alone."""
        for each in self._open:
            each.close()
        if self._path and os.getpid() == self._pid:
            try:
                os.unlink(self._path)
            except OSError:
                pass
        _living.discard(self)  # only now: a fork closes what is open still

    leave_fork = release

    # -- requests ------------------------------------------------------------------------------------------

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            act = self._ACTS.get(request["do"]) if isinstance(request, dict) else None
            if act is None:
                return {"ok": False, "error": f"a request is an object with do, one of {', '.join(self._ACTS)}"}
            managed = self.managed()
            if managed is None:
                return {"ok": False, "error": "the manager was dropped"}
            return {"ok": True, **act(self, managed, request)}
        except Exception as error:  # of the request's values, or of a manager that is closed or broken
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _status(self, managed: Managed, request: dict[str, Any]) -> dict[str, Any]:
        stats = managed.stats()
        processes = managed.processes()
        now = time.time()
        ended = stats.succeeded + stats.failed + stats.cancelled
        tasks = ("added", "succeeded", "failed", "cancelled", "retried", "queued", "running")
        return {
            "version": VERSION,
            "pid": self._pid,
            "name": self._name,
            "began": self._began,
            "time": now,
            "state": managed.state(),
            "max_workers": self._max_workers,
            "tasks": {name: getattr(stats, name) for name in tasks},
            "respawned": stats.respawned,
            "queue_age": managed.queue_age_s() if stats.queued else None,
            "rate": ended / max(1e-3, now - self._began),
            "memory": sum(each.rss for each in processes),
            "workers": [_worker(each) for each in processes],
        }

    def _cancel(self, managed: Managed, request: dict[str, Any]) -> dict[str, Any]:
        return {"cancelled": managed.cancel_at(int(request["pid"]), request.get("since"))}

    def _drain(self, managed: Managed, request: dict[str, Any]) -> dict[str, Any]:
        managed.ask_to_close(None)
        managed.cancel_queued()
        return {}

    def _close(self, managed: Managed, request: dict[str, Any]) -> dict[str, Any]:
        timeout = request.get("timeout")
        managed.ask_to_close(None if timeout is None else max(0.0, float(timeout)))
        return {}

    _ACTS: dict[str, Callable[[_Service, Managed, dict[str, Any]], dict[str, Any]]] = {  # noqa: RUF012  # never changed
        "status": _status,
        "cancel": _cancel,
        "drain": _drain,
        "close": _close,
    }


def _leave_to_parent() -> None:
    """In a fork of the process: close the copies, or clients would wait here after the end of the parent."""
    for server in list(_living):
        server.leave_fork()


os.register_at_fork(after_in_child=_leave_to_parent)


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""


def _worker(info: ProcessInfo) -> dict[str, Any]:
    return {
        "pid": info.pid,
        "task": None if info.task is None else info.task.name,
        "call": None if info.task is None else _call(info.task),
        "attempt": info.attempt,
        "since": info.since,
        "memory": info.rss,
        "cpu_percent": info.cpu_percent,
    }


def _call(task: Task[Any]) -> str:
    """Return a task's name and arguments, shortened."""
    import reprlib

    try:
        shown = [reprlib.repr(each) for each in task.args]
        shown += [f"{name}={reprlib.repr(value)}" for name, value in task.kwargs.items()]
    except Exception:  # the user's own `__repr__`
        shown = ["..."]
    return f"{task.name}({', '.join(shown)})"[:CALL_LENGTH]
