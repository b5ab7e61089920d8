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

from procbackground._status.places import is_allowed, make_folder, reachable, socket_name
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
_living: weakref.WeakSet[StatusServer] = weakref.WeakSet()


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
    """The server of one manager. As an observer it learns of the end. Raises: `OSError`."""

    def __init__(self, name: str, max_workers: int) -> None:
        self._name = name
        self._max_workers = max_workers
        self._managed: Managed | None = None
        self._pid = os.getpid()
        self._began = time.time()
        self._thread: threading.Thread | None = None
        self.path: str = os.path.join(make_folder(), socket_name(self._pid, next(_numbers), name))
        with ExitStack() as undo:
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # Sockets, which can be closed twice, as an observer of the end may be called after `start` has failed.
            self._stopped, self._stop = map(undo.enter_context, socket.socketpair())
            self._listen()
            undo.pop_all()
        _living.add(self)

    def _listen(self) -> None:
        try:
            os.unlink(self.path)  # of an earlier process with this pid
        except FileNotFoundError:
            pass
        # The folder is private, so no other user can connect before the mode is set.
        with reachable(self.path) as address:
            self._listener.bind(address)
        os.chmod(self.path, 0o600)
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._stopped, selectors.EVENT_READ, None)

    def start(self, managed: Managed) -> None:
        """Answer from now on. Raises: `RuntimeError` when the system has no thread to give."""
        self._managed = managed
        managed.mark_arrivals()
        self._thread = threading.Thread(target=self._serve, name="procbackground-status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stop.close()
        if self._thread is None or self._thread.ident is None:
            self._release()
        else:
            self._thread.join()

    def on_manager_closed(self, event: events.ManagerClosed) -> None:
        self.stop()

    # -- the thread ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._stopped:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._read(key.data)
        finally:
            self._release()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the client is gone again, or there is no descriptor left
        try:
            if not is_allowed(connection) or len(self._selector.get_map()) > MOST_CLIENTS:
                connection.close()
                return
            connection.settimeout(SEND_S)
            self._selector.register(connection, selectors.EVENT_READ, _Client(connection))
        except OSError:
            connection.close()

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
        client.connection.close()

    def _release(self) -> None:
        for key in list((self._selector.get_map() or {}).values()):
            if key.data is not None:
                key.data.connection.close()
        self._selector.close()
        self._listener.close()
        self._stopped.close()
        if os.getpid() == self._pid:
            try:
                os.unlink(self.path)
            except OSError:
                pass
        _living.discard(self)  # only now: a fork closes what is open still

    # -- requests ------------------------------------------------------------------------------------------

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            act = self._ACTS.get(request["do"]) if isinstance(request, dict) else None
            if act is None:
                return {"ok": False, "error": f"a request is an object with do, one of {', '.join(self._ACTS)}"}
            return {"ok": True, **act(self, request)}
        except Exception as error:  # of the request's values, or of a manager that is closed or broken
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        managed = self._managed
        assert managed is not None
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

    def _cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._managed is not None
        return {"cancelled": self._managed.cancel_at(int(request["pid"]), request.get("since"))}

    def _drain(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._managed is not None
        self._managed.ask_to_close(None)
        self._managed.cancel_queued()
        return {}

    def _close(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._managed is not None
        timeout = request.get("timeout")
        self._managed.ask_to_close(None if timeout is None else max(0.0, float(timeout)))
        return {}

    _ACTS: dict[str, Callable[[StatusServer, dict[str, Any]], dict[str, Any]]] = {  # noqa: RUF012  # never changed
        "status": _status,
        "cancel": _cancel,
        "drain": _drain,
        "close": _close,
    }


def _leave_to_parent() -> None:
    """In a fork of the process: close the copies, or clients would wait here after the end of the parent."""
    for server in list(_living):
        server._stop.close()
        server._release()


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
