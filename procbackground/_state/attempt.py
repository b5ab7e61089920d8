"""One execution of a job in one worker: the transition table. `job.LIFE` has the states around it.

The states are plain strings. A job that simply succeeds passes three of them in a few microseconds, so `scheduler` and
others set them directly at the places marked "shortcut"; a test compares the shortcuts with this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# States.
QUEUED: Final = "queued"
SENT: Final = "sent"  # written to a worker; whether it has begun is in the shared page
STOPPING: Final = "stopping"
RETURNED: Final = "returned"
RAISED: Final = "raised"
STOPPED: Final = "stopped"
LOST: Final = "lost"

# Events.
DISPATCHED: Final = "dispatched"
TAKEN_BACK: Final = "taken back"  # before it began: it does not count as an attempt
STOP_ASKED: Final = "stop asked"
VALUE_CAME: Final = "value came"
ERROR_CAME: Final = "error came"
WORKER_DIED: Final = "worker died"

TRANSITIONS: Mapping[str, Mapping[str, str]] = {
    QUEUED: {DISPATCHED: SENT},
    SENT: {
        VALUE_CAME: RETURNED,
        ERROR_CAME: RAISED,
        TAKEN_BACK: QUEUED,
        STOP_ASKED: STOPPING,
        WORKER_DIED: LOST,
    },
    # The answer may be in the pipe already when the stop is requested; an answer counts. A second stop changes
    # nothing: the first reason is reported.
    STOPPING: {
        VALUE_CAME: RETURNED,
        ERROR_CAME: RAISED,
        TAKEN_BACK: STOPPED,
        STOP_ASKED: STOPPING,
        WORKER_DIED: STOPPED,
    },
    RETURNED: {},
    RAISED: {},
    STOPPED: {},
    LOST: {},
}


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a bug, never a user's mistake."""


def next_state(state: str, event: str) -> str:
    """Return the state after `event`; raise `IllegalTransition` for a pair the table lacks."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event!r} in state {state!r}") from None
