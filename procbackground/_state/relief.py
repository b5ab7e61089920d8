"""Beginning one attempt although the memory gate is shut: see `gate`."""

from __future__ import annotations

from procbackground._state import launches, needy
from procbackground._state.dispatch import send_alone
from procbackground._state.state import State


def begin_one(state: State, now_s: float) -> bool:
    """Send the first job that waits to a worker, or start one for it; return whether it was sent."""
    job = needy.first_job(state)
    if job is None:
        return False
    if job.recipe.needs is not None:
        return needy.begin_first(state, job, now_s)
    if state.idle and not job.needs_fresh_worker:
        worker = state.idle.pop()
    elif state.spares:
        worker = state.spares.pop()
        state.take_slot(worker)
        worker.is_last = job.recipe.isolate
    else:
        launches.launch_first(state, now_s)
        return False
    state.queue_of(job).pop()
    send_alone(state, worker, job, now_s)
    return True
