"""A gate: by which a task in a child says where it is, and at which it stops until the test lets it go.

A `multiprocessing.connection.Listener` on localhost: it works under fork, spawn and forkserver, from
grandchildren and from scripts too.
"""

from __future__ import annotations

import hmac  # noqa: F401  # Client imports it on first use; a fork amid that import leaves its lock held in the child
import os
import queue
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, NamedTuple

PATIENCE_S = 20.0  # bounds a hang; no test is paced by it


class Address(NamedTuple):
    """Where a gate listens; picklable, and by `repr` it fits into the text of a script."""

    host: str
    port: int
    key: bytes


class Arrival(NamedTuple):
    """A task that said where it is."""

    pid: int
    label: Any


def stop_at_gate(address: Address, label: Any = None) -> Any:
    """Tell the gate this process's pid and `label`, stop until let go, and return what the gate says then."""
    with Client((address.host, address.port), authkey=address.key) as connection:
        connection.send((os.getpid(), label, True))
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):  # the gate is gone: nobody holds us any more
            return None


def tell_gate(address: Address, label: Any) -> None:
    """Tell the gate this process's pid and `label`, and go on."""
    with Client((address.host, address.port), authkey=address.key) as connection:
        connection.send((os.getpid(), label, False))


class Gate:
    """The parent's end: learns who has arrived, and lets them go."""

    def __init__(self) -> None:
        key = os.urandom(16)
        self._listener = Listener(("127.0.0.1", 0), backlog=128, authkey=key)
        host, port = self._listener.address
        self.address = Address(host, port, key)
        self._arrivals: queue.Queue[Arrival] = queue.Queue()
        self._held: dict[int, list[Connection]] = {}
        self._lock = threading.Lock()
        self._is_open = False
        self._is_closed = False
        self._porter = threading.Thread(target=self._receive, name="gate", daemon=True)
        self._porter.start()

    def _receive(self) -> None:
        while not self._is_closed:
            try:
                connection = self._listener.accept()
                pid, label, stops = connection.recv()
            except (EOFError, OSError, AuthenticationError):  # killed on the doorstep, or `close` rang
                continue
            with self._lock:
                if stops and not self._is_open:
                    self._held.setdefault(pid, []).append(connection)
                else:
                    self._let_go(connection, None)
            self._arrivals.put(Arrival(pid, label))

    @staticmethod
    def _let_go(connection: Connection, answer: Any) -> None:
        try:
            connection.send(answer)
        except OSError:
            pass  # it only told, or it was killed meanwhile
        connection.close()

    def next_arrival(self, timeout: float = PATIENCE_S) -> Arrival:
        """Return the next one to arrive (pid and label)."""
        try:
            return self._arrivals.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nobody came to the gate within {timeout} s") from None

    def wait_for_arrival(self, timeout: float = PATIENCE_S) -> int:
        """Return the pid of the next task to arrive."""
        return self.next_arrival(timeout).pid

    def wait_for_label(self, timeout: float = PATIENCE_S) -> Any:
        """Return the label of the next one to arrive."""
        return self.next_arrival(timeout).label

    def has_arrivals(self) -> bool:
        """Whether somebody came whom nobody asked about yet."""
        return not self._arrivals.empty()

    def release(self, pid: int, answer: Any = None) -> None:
        """Let the process `pid` go, with `answer` as the value of its `stop_at_gate`."""
        with self._lock:
            for connection in self._held.pop(pid, ()):
                self._let_go(connection, answer)

    def open(self) -> None:
        """Let everybody go, now and from now on."""
        with self._lock:
            self._is_open = True
            for connections in self._held.values():
                for connection in connections:
                    self._let_go(connection, None)
            self._held.clear()

    def close(self) -> None:
        """Let everybody go and take the gate down."""
        if self._is_closed:
            return
        self.open()
        self._is_closed = True
        # Wakes the porter: a bare connection without a password, which never blocks us.
        socket.create_connection((self.address.host, self.address.port)).close()
        self._porter.join(PATIENCE_S)
        self._listener.close()
