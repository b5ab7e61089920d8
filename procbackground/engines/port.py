"""The port to other machines: what a manager asks of an engine, and what the engine reports.

Requests and reports are bytes to an engine, but for the number that each begins with. It places attempts, moves them,
and notices what is lost; limits, retries, handles and observers are not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from procbackground._wire.attempts import NodeSettings, Report, Request


class Listener(Protocol):
    """What an engine reports to. All methods may be called from any thread, and return at once."""

    def reports_came(self, reports: Sequence[Report]) -> None:
        """Nodes have sent these, in this order."""
        ...

    def node_lost(self, number: int, reason: str) -> None:
        """The attempt took several nodes down with it, and is not run again."""
        ...

    def not_run(self, number: int, reason: str) -> None:
        """The attempt could not be run at all, and would not be elsewhere."""
        ...

    def engine_lost(self, reason: str) -> None:
        """Nothing can be run any more, and nothing more will be reported."""
        ...


class Engine(Protocol):
    """Runs attempts on the nodes of a cluster. No method but `start`, `ask` and `close` blocks.

    On each node the engine makes a `procbackground._node.agent.NodeAgent` for the manager, in a process of its own, as
    soon as the node is there. It calls `run` of the agent in as many threads as attempts may run at once there, and
    passes what the agent sends to `Listener.reports_came`: of one request in order, and whole. Requests, settings and
    reports cross by `_wire.attempts.pack` and `unpack`. `tests/support/engine.py` is the shortest engine there is.

    Where a node is lost, the engine runs its requests on others: so each is run at least once, and exactly once while
    no node is lost. It forgets a request at its last report, before the listener has that, so that it never runs again;
    the kinds of last reports are `_wire.attempts.ENDS`. What has taken several nodes down goes to
    `Listener.node_lost`. When the manager's process or the connection to it is gone, nodes close their agents, which
    ends all that they run; one that is asked to end calls `drain` first.
    """

    def start(self, name: str, settings: NodeSettings, listener: Listener) -> None:
        """Connect, and have all nodes, now and later, ready for the manager `name`. Called once, before all others.

        Raises: `EngineLostError` when that is not possible.
        """
        ...

    def places(self) -> int:
        """Return how many attempts to give to the engine at once, where the manager does not say so.

        More than can run now: nodes that have ended one begin the next without asking the manager, and a cluster that
        grows on demand goes by what waits.
        """
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Run these, those of higher priority first."""
        ...

    def share(self, number: int, parts: Sequence[memoryview]) -> None:
        """Have this shared value where a request runs that names its number: a pickle and its buffers, read-only.

        They stay as they are until `unshare`.
        """
        ...

    def unshare(self, number: int) -> None:
        """Forget a shared value: no request refers to it any more."""
        ...

    def cancel(self, numbers: Sequence[int]) -> None:
        """Stop these wherever they are. One that has begun reports its end once its processes are gone."""
        ...

    def end_loop(self, number: int) -> None:
        """Let a loop end after its running iteration."""
        ...

    def ask(self, question: str, node: str | None, timeout_s: float) -> list[tuple[str, Any]]:
        """Ask all nodes, or the one of this name, one of the questions of `_wire.attempts`. Blocks.

        Returns name and answer of each node that has answered in time: what its agent's `answer` returned.
        """
        ...

    def close(self, timeout_s: float) -> bool:
        """Forget all requests, and let nodes forget the manager; return whether that was done in time. Idempotent."""
        ...
