"""Stopping workers, and letting them leave."""

from __future__ import annotations

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, outcomes
from procbackground._state.fleet import Worker
from procbackground._state.job import JUDGED, LOOKED_UP, Job
from procbackground._state.pipeline import READ_MARK_S
from procbackground._state.state import State

LEAVE_S = 1.0  # for a worker that was asked to end by itself: flush, exit handlers of user code
STACK_WAIT_S = 0.2  # for a worker to dump its stacks before it is killed, whatever `grace` is
CANCELLED_HEAD_S = 0.002  # that a job may run which was cancelled while it waited in a worker's pipe

_ENDING = frozenset({fleet.RECALLING, fleet.STOPPING, fleet.LEAVING, fleet.DYING, fleet.GONE})


def stop(state: State, worker: Worker, reason: str, now_s: float) -> None:
    """Stop the worker's tree: the first reason is the one that counts."""
    if worker.state in _ENDING:
        return
    begin_stop(state, worker, reason)
    if len(worker.pipeline.jobs) > 1:
        # By the time that a signal arrives the worker might run the next request, which is not meant.
        worker.enter(fleet.RECALLING, now_s)
        recall(state, worker, now_s)
        # One that is frozen before it begins its first request neither moves its mark nor answers.
        kill_later(state, worker, now_s + max(state.grace_s, STACK_WAIT_S))
    else:
        terminate(state, worker, now_s)


def begin_stop(state: State, worker: Worker, reason: str) -> None:
    """Give the worker no more work, and note why what it runs is stopped."""
    state.take_out(worker)
    worker.stop_reason = reason
    head = worker.current
    if head is not None and head.state == a.SENT:
        head.move(a.STOP_ASKED)


def terminate(state: State, worker: Worker, now_s: float) -> None:
    """Signal the worker: SIGTERM, and SIGKILL after the grace period."""
    worker.enter(fleet.STOPPING, now_s)
    if worker.stop_reason == c.FOR_MEMORY:
        kill(state, worker, now_s)  # a polite request would leave it time to take the rest of the memory
        return
    wants_stack = worker.stop_reason in (c.FOR_TIMEOUT, c.FOR_LOADING, c.FOR_DEADLINE, c.FOR_START)
    state.commands.append(c.Terminate(worker, wants_stack))
    if worker.stop_reason == c.FOR_START:
        kill_later(state, worker, now_s + STACK_WAIT_S)  # it runs no task
    else:
        kill_later(state, worker, now_s + (max(state.grace_s, STACK_WAIT_S) if wants_stack else state.grace_s))


def kill_later(state: State, worker: Worker, due_s: float) -> None:
    state.timers.cancel(worker.kill_timer)
    worker.kill_timer = state.timers.at(due_s, kill, worker)


def kill(state: State, worker: Worker, now_s: float) -> None:
    """End the worker's tree: SIGKILL."""
    if worker.state in (fleet.DYING, fleet.GONE):
        return
    if worker.state == fleet.RECALLING:
        worker.enter(fleet.STOPPING, now_s)
    worker.was_killed = True
    state.commands.append(c.Kill(worker))


def retire(state: State, worker: Worker, now_s: float) -> None:
    """Let a worker that runs nothing end by itself."""
    state.take_out(worker)
    state.leave_slot(worker)
    worker.enter(fleet.LEAVING, now_s)
    state.commands.append(c.Dismiss(worker))
    kill_later(state, worker, now_s + LEAVE_S)


def leaves(state: State, worker: Worker, now_s: float) -> None:
    """The worker ends by itself, and begins nothing more: it has skipped what it was sent, so to speak."""
    for job in list(worker.pipeline.jobs):
        skipped(state, worker, job.sequence, now_s)
    if worker.state in (fleet.IDLE, fleet.BUSY):
        retire(state, worker, now_s)
        state.needs_staff = True


def skipped(state: State, worker: Worker, sequence: int, now_s: float) -> None:
    """The worker skipped a request."""
    job = worker.pipeline.skipped(sequence, now_s)
    if job is None:
        return
    reason = worker.stop_reason
    head_changed(state, worker, now_s)
    if job.worker is not worker:
        return
    if job.state != a.STOPPING:
        job.move(a.TAKEN_BACK)
        outcomes.requeue(state, job)
        return
    job.move(a.TAKEN_BACK)
    if reason == c.FOR_CLOSE:
        job.worker = None
        outcomes.cancel(state, job)
    else:
        outcomes.judge(state, job, reason or c.DIED, b"", worker)


def release_idle(state: State, now_s: float) -> None:
    """Let the workers leave that have run tasks and run none now: they may hold memory."""
    for worker in [*state.idle, *state.kept]:
        if worker.state == fleet.IDLE:
            retire(state, worker, now_s)


def count_stop(state: State, worker: Worker) -> None:
    """A task that ran was stopped: of interest to the report of a close."""
    if state.is_closing:
        if worker.was_killed:
            state.killed += 1
        else:
            state.stopped += 1


# -- recalling -----------------------------------------------------------------------------------------------


def recall(state: State, worker: Worker, now_s: float) -> None:
    """Have the worker skip what it has not begun; see `pipeline`."""
    up_to = worker.pipeline.recall()
    state.commands.append(c.Revoke(worker, up_to))
    state.timers.at(now_s + READ_MARK_S, _read_mark, (worker, up_to))


def recall_all(state: State, now_s: float) -> None:
    """Have every busy worker skip what it has not begun."""
    for worker in state.workers:
        if worker.state == fleet.BUSY and len(worker.pipeline.jobs) > 1:
            recall(state, worker, now_s)


def _read_mark(state: State, subject: tuple[Worker, int], now_s: float) -> None:
    state.commands.append(c.ReadMark(*subject))


def mark_seen(state: State, worker: Worker, started: int, up_to: int, now_s: float) -> None:
    """A moment after a recall up to `up_to` the worker's mark stands at `started`."""
    if worker.state not in (fleet.BUSY, fleet.RECALLING) or not worker.pipeline.may_take_back(started, up_to):
        return
    for job in worker.pipeline.take_back(up_to):
        if job.worker is worker:
            job.move(a.TAKEN_BACK)
            outcomes.requeue(state, job)
    if worker.state == fleet.RECALLING:
        terminate(state, worker, now_s)
    state.needs_staff = True


def head_changed(state: State, worker: Worker, now_s: float) -> None:
    """The first of the worker's jobs is done: look after the next one."""
    if worker.state == fleet.RECALLING:
        # The stop was meant for the one that is done; its answer counts.
        worker.enter(fleet.BUSY, now_s)
        worker.stop_reason = None
        state.timers.cancel(worker.kill_timer)
    jobs = worker.pipeline.jobs
    if not jobs:
        return
    head = jobs[0]
    if head.worker is not worker:
        # It was cancelled while it waited in the pipe, and runs now. It is likely short: its answer is ignored,
        # unless it proves to be long.
        state.timers.at(now_s + CANCELLED_HEAD_S, _stop_cancelled_head, (worker, head))
    elif now_s + head.recipe.watch_s < state.next_scan_s:
        state.next_scan_s = now_s + head.recipe.watch_s


def _stop_cancelled_head(state: State, subject: tuple[Worker, Job], now_s: float) -> None:
    worker, head = subject
    if worker.pipeline.jobs and worker.pipeline.jobs[0] is head:
        stop(state, worker, c.FOR_CANCEL, now_s)


# -- closing -------------------------------------------------------------------------------------------------


def cancel_queued(state: State, now_s: float) -> None:
    """Cancel all one-offs that have not begun, now and from now on. One that has just come out of a worker is being
    judged, and counts; past the closing's timeout the verdict is not awaited."""
    state.cancels_queue = True
    if not state.is_cut_short:
        recall_all(state, now_s)  # what they have not begun comes back to `requeue`
    for queue in state.queues():
        outcomes.cancel_queue(state, queue)
    if state.needy:
        state.needy.clear()
        state.needs_staff = True
    for job in (*state.waiting, *state.being_judged):
        if not job.recipe.is_loop and (job.state != JUDGED or state.is_cut_short):
            outcomes.cancel(state, job)
    for job in [job for job in state.aside if job.state == LOOKED_UP]:
        outcomes.cancel(state, job)


def cut_short(state: State, subject: None, now_s: float) -> None:
    """The closing's timeout has passed: cancel and stop the remaining tasks."""
    state.is_cut_short = state.cancels_queue = True
    # First what runs: it takes a while to settle a long queue, and the grace of these begins with their signal.
    for worker in list(state.workers):
        if not worker.is_running:
            continue
        # What waits behind the first in a worker's pipe has not begun: it is cancelled, not stopped.
        for job in list(worker.pipeline.jobs)[1:]:
            if job.worker is worker:
                outcomes.cancel(state, job)
                job.worker = None
        stop(state, worker, c.FOR_CLOSE, now_s)
    cancel_queued(state, now_s)
    for loop in list(state.loops):
        if loop.worker is None:
            outcomes.cancel(state, loop)
    drain_if_done(state, now_s)


def kill_all(state: State, now_s: float) -> None:
    """The grace is over for all that is being stopped; what is not yet is."""
    if not state.is_cut_short:
        cut_short(state, None, now_s)
    for worker in list(state.workers):
        if worker.state in (fleet.RECALLING, fleet.STOPPING):
            kill(state, worker, now_s)


def drain_if_done(state: State, now_s: float) -> None:
    """With the last job settled, the workers leave."""
    if not state.is_closing or state.is_draining or state.unsettled or state.unsettled_loops:
        return
    if state.holds and not state.cancels_queue:
        return  # else what is held for would be refused, and may be in a call that a signal handler interrupted
    state.is_draining = True
    for worker in list(state.workers):
        if worker.state in (fleet.IDLE, fleet.SPARE) or (worker.state == fleet.BUSY and not worker.is_running):
            retire(state, worker, now_s)
        elif worker.state == fleet.STARTING:
            state.take_out(worker)
            worker.enter(fleet.LEAVING, now_s)
            kill(state, worker, now_s)
