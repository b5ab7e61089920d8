"""`DaskEngine`: runs attempts on the workers of a dask.distributed cluster. Needs the extra `dask`.

Each attempt, or bundle of short ones, is an ordinary task of dask, which places it, queues it, and runs it elsewhere
when its worker is lost.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    from distributed import Client
except ImportError as _error:
    raise ImportError("DaskEngine needs dask.distributed: install procbackground[dask]") from _error

from procbackground._wire import attempts as w
from procbackground.engines._dask_connection import Connection
from procbackground.engines._dask_security import is_safe, security_of

if TYPE_CHECKING:
    from procbackground.engines.port import Listener

PLACES = 512  # attempts that the cluster gets at once; with fewer, nodes that run short tasks wait for the next
CONNECT_S = 10.0
DRAIN_S = 20.0  # less than the 30 s that Kubernetes and many a service manager wait between SIGTERM and SIGKILL


class DaskEngine:
    """The workers of a dask.distributed cluster, as places for a manager's attempts: `Manager(engine=DaskEngine(...))`.

    The cluster is others' to start and to stop. Its workers and its scheduler need the same Python and procbackground.
    An engine is for one manager.

    Args:
        address: of the scheduler, such as "tls://scheduler:8786" or "tcp://127.0.0.1:8786".
        security: for TLS, the paths of three PEM files: `{"ca": ..., "cert": ..., "key": ...}`, or the folder that has
            them as `ca.pem`, `cert.pem` and `key.pem`. By default what dask's own configuration says. The scheduler
            must require a certificate, too: any client that connects can run code on all nodes.
        connect_timeout: seconds for the connection, which the manager makes at its first task.
        drain_timeout: seconds that a node which is asked to end, or is retired, leaves to the attempts that it runs,
            and to the manager for fetching large results. Attempts that have not ended by then are stopped, and begin
            anew on another node.

    Raises (now): `ValueError`, `FileNotFoundError` for `security`. Warns
    (`RuntimeWarning`) of a connection beyond this machine without TLS.
    """

    def __init__(
        self,
        address: str,
        security: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None = None,
        *,
        connect_timeout: float = CONNECT_S,
        drain_timeout: float = DRAIN_S,
    ) -> None:
        self.address: str = address if "://" in address else f"tcp://{address}"
        self._security = security_of(security)
        self._connect_timeout_s = connect_timeout
        self.drain_timeout: float = drain_timeout
        if not is_safe(self.address):
            warnings.warn(
                f"the connection to {self.address} is neither encrypted nor authenticated: whoever can reach the "
                f"scheduler can run code on all nodes, and on this machine. Use tls:// and security=",
                RuntimeWarning,
                stacklevel=2,
            )
        self._was_used = False

    def __repr__(self) -> str:
        return f"DaskEngine({self.address!r})"

    def places(self) -> int:
        return PLACES

    def start(self, name: str, settings: w.NodeSettings, listener: Listener) -> None:
        """Connect, and register the manager with all workers. Raises: `EngineLostError`."""
        from procbackground.errors import EngineLostError

        if self._was_used:
            raise EngineLostError(f"{self!r} has served a manager already: make another engine")
        try:
            self._connection = Connection(self.address, self._connect(), name, settings, self.drain_timeout, listener)
        except Exception as error:
            reason = f"{self!r} cannot be used: {type(error).__name__}: {error}"
            raise EngineLostError(reason) from error
        self._was_used = True

    def submit(self, requests: Sequence[w.Request]) -> None:
        self._connection.put(self._connection.submit, requests)

    def share(self, number: int, parts: Sequence[memoryview]) -> None:
        self._connection.put(self._connection.shares.add, (number, parts))

    def unshare(self, number: int) -> None:
        self._connection.put(self._connection.shares.remove, number)

    def cancel(self, numbers: Sequence[int]) -> None:
        self._connection.put(self._connection.cancel, numbers)

    def end_loop(self, number: int) -> None:
        self._connection.put(self._connection.end_loop, number)

    def ask(self, question: str, node: str | None, timeout_s: float) -> list[tuple[str, Any]]:
        return self._connection.ask(question, node, timeout_s) if self._was_used else []

    def close(self, timeout_s: float) -> bool:
        return not self._was_used or self._connection.close(timeout_s)

    def _connect(self) -> Client:
        return Client(
            self.address, security=self._security, timeout=self._connect_timeout_s, set_as_default=False,
            name="procbackground",
        )  # fmt: skip
