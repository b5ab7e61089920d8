"""What crosses between a manager and a node of its engine: attempts to run, and reports of what they come to.

The function, the arguments and the value stay pickled as they are; only the child of a node loads them. A report is a
tuple: the number of the request, one of the kinds below, and what its comment names. Reports of one request come in
order. The last one is of a kind in `ENDS`; a node that is lost sends none, and then another node begins anew.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from procbackground._named import NamedTuple

if TYPE_CHECKING:
    from procbackground._worker.relay import Levels

STARTED: Final = "started"  # pid, name of the node
PROGRESS: Final = "progress"  # done, total, message
OUTPUT: Final = "output"  # stream or None, lines
STALLED: Final = "stalled"  # seconds of silence, stack or None
LOGGED: Final = "logged"  # body of the log record's frame
SAVED: Final = "saved"  # body of the checkpoint's frame
PART: Final = "part"  # the values of the first rows of a chunk
ITERATION: Final = "iteration"  # of a loop failed: body of the failure's frame, iterations before it; its end follows

VALUE: Final = "value"  # pickle, whether it is a stored parcel, `Cost`
FAILURE: Final = "failure"  # body of the failure's frame, `Cost`
DEATH: Final = "death"  # kind of `_state.commands`, `_state.fleet.Death` as a tuple, row of the chunk, `Cost`
LOOP_ENDED: Final = "loop ended"  # after its running iteration, as asked
STOPPED: Final = "stopped"  # it was withdrawn, or its node closes
REFUSED: Final = "refused"  # the node can run nothing: body of a failure's frame

ANSWER: Final = "answer"  # of a node, to a question of the manager; see `engines.port.Engine.ask`

PROCESSES: Final = "processes"  # a question: of each process the number of its request or 0, and facts of `ProcessInfo`
STACKS: Final = "stacks"  # a question: of each request that runs its number, seconds, stacks or None, reason or None

ENDS: Final = frozenset({VALUE, FAILURE, DEATH, LOOP_ENDED, STOPPED, REFUSED})

Report: TypeAlias = "tuple[Any, ...]"

NEVER: Final = float("inf")


class Cost(NamedTuple):
    """What an attempt took."""

    took_s: float
    cpu_s: float | None
    peak_bytes: int | None


class Request(NamedTuple):
    """One attempt of a task, for a node. Limits as in `_state.job.Recipe`."""

    number: int  # of this request, unique within its manager
    name: str
    blob: bytes  # the name and the pickled function, as in a request to a worker
    payload: bytes  # the pickled arguments, or a parcel as `Parcel.stored` returns it
    is_stored: bool  # the payload is such a parcel
    flags: int  # of the request to the worker
    attempt: int
    is_loop: bool
    is_chunk: bool
    isolate: bool
    timeout_s: float
    stalled_s: float
    memory_limit: int | None
    interval_s: float
    checkpoint: bytes | None
    output: tuple[str, str] | None  # mode and path of an `output.Plan`
    priority: int = 0  # for the engine
    needs: tuple[int, int, tuple[tuple[str, int], ...]] | None = None  # as `_state.ledger.Needs`
    shares: tuple[int, ...] = ()  # numbers of the shared values that the payload refers to
    expected_s: float = NEVER  # what it will take by experience; `NEVER` where nothing is known, or it is to be alone


class NodeSettings(NamedTuple):
    """What each node of a manager runs its attempts with."""

    version: str  # of this package
    initializer: bytes | None  # function and arguments, pickled
    options: dict[str, Any]  # of the node's supervisor, as a manager has checked them
    setup: Any  # of its children: a `_submit.setup.Setup`, or None
    levels: Levels  # of the manager's loggers


def own_version() -> str:
    """Return the version of this package. A manager and its nodes must have the same."""
    version: str = sys.modules["procbackground"].__version__  # it is there: we are part of it
    return version


def pack(message: Any) -> bytes:
    """Encode a request, settings or reports."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Any:
    """Decode what `pack` returned. Loads no object of the user's."""
    return pickle.loads(data)
