"""Asks a manager by its status socket."""

from __future__ import annotations

import json
import os
import socket
from types import TracebackType
from typing import Any

from procbackground._status.places import Place, all_places, reachable

TIMEOUT_S = 10.0


class StatusError(Exception):
    """The manager could not be asked, or refused; says why."""


def living_places() -> list[Place]:
    """Return the sockets behind which there is a manager; removes those that a killed process has left.

    Raises: `OSError` for a folder that is not safe.
    """
    found = []
    for place in all_places():
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(TIMEOUT_S)
                with reachable(place.path) as address:
                    probe.connect(address)
        except ConnectionRefusedError:
            _remove(place.path)
        except OSError:
            continue
        else:
            found.append(place)
    return found


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


class Client:
    """A connection to a manager: a context manager. Raises: `StatusError`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        try:
            with reachable(place.path) as address:
                self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise StatusError(f"process {place.pid} cannot be asked: {error.strerror or error}") from None
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        """Send a request and return the answer. Raises: `StatusError`."""
        try:
            self._socket.sendall(json.dumps({"do": do, **facts}).encode() + b"\n")
            line = self._answers.readline()
        except ConnectionError:
            line = ""
        except OSError as error:
            raise StatusError(f"process {self.place.pid} does not answer: {error}") from None
        if not line.endswith("\n"):  # the process may end in the middle of its answer
            raise StatusError(f"the manager of process {self.place.pid} has closed")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            raise StatusError(str(answer.get("error", "refused")))
        return answer

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
