"""Bringing waiting jobs and workers together."""

from __future__ import annotations

from procbackground._state import attempt as a
from procbackground._state import commands as c
from procbackground._state import fleet, launches, needy, relief, stops
from procbackground._state.dispatch import send_alone
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.queue import JobQueue
from procbackground._state.state import State

RESCUE_AFTER_S = 0.002  # a task ahead of others in a pipe that runs this long is not short after all


def staff(state: State, now_s: float) -> None:
    """Give waiting jobs to free workers, and start the workers that are missing."""
    state.needs_staff = False
    if state.gate is not None and state.gate.is_shut and not state.is_draining:
        state.gate.want_watch(state)
        if state.gate.lets_one and relief.begin_one(state, now_s):
            state.gate.lets_one = False
        return
    while state.loops_queue and state.spares:
        worker = state.spares.pop()
        send_alone(state, worker, state.loops_queue.popleft(), now_s)
    if state.needy:
        needy.staff(state, now_s, in_turn=True)
    limit = needy.limit(state)
    while state.spares and state.fresh_queue.peek() is not None and is_freshness_first(state):
        if state.active >= limit:
            if not state.idle:
                break
            stops.retire(state, state.idle[0], now_s)
        _promote(state, state.spares.pop(), state.fresh_queue, now_s)
    if state.kept:
        needy.unpark(state)
    while state.idle and state.queue.peek() is not None:
        worker = state.idle.pop()
        worker.enter(fleet.BUSY, now_s)
        _send(state, worker, refill(state, worker, now_s))
    while state.spares and state.active < limit:
        source = state.fresh_queue if is_freshness_first(state) else state.queue
        if source.peek() is None:
            break
        _promote(state, state.spares.pop(), source, now_s)
    if state.needy:
        needy.staff(state, now_s, in_turn=False)
    _launch_missing(state, now_s)
    if state.active + state.starting < state.max_workers:
        want_rescue(state, now_s)  # a place is free, and all that could fill it may be in a busy worker's pipe


def is_freshness_first(state: State) -> bool:
    """Whether the next job needs a fresh process."""
    fresh, ordinary = state.fresh_queue.peek(), state.queue.peek()
    return fresh is not None and (ordinary is None or fresh < ordinary)


def refill(state: State, worker: Worker, now_s: float) -> list[Job]:
    """Give a worker that answered its next jobs; return those to be written to it, in one go."""
    pipeline = worker.pipeline
    jobs = pipeline.jobs
    if worker.state != fleet.BUSY or worker.loop is not None:
        return []
    is_shut = state.gate is not None and state.gate.is_shut
    if (
        worker.is_last
        or pipeline.sent == state.max_tasks_per_child
        or (state.fresh_queue.length and not is_shut and state.spares and is_freshness_first(state))
        or (state.needy and not is_shut and needy.wants_place(state))
    ):
        if not jobs:
            _give_up_place(state, worker, now_s)
        return []
    queue = state.queue
    first = None if is_shut else queue.peek()
    if first is None:
        if not jobs:
            _rest(state, worker, now_s)
        return []
    held = len(jobs)
    depth = first.recipe.depth
    if held and held > depth >> 1:
        return []
    # A fair share, so that a short queue does not pile up behind one worker.
    room = min(depth, 1 + queue.length // (state.active or 1)) - held
    if state.max_tasks_per_child is not None:
        room = min(room, state.max_tasks_per_child - pipeline.sent)
    if room <= 0:
        return []
    if not held:
        pipeline.head_since_s = now_s
    waited_s = now_s - first.started_s  # since it was accepted
    given = [queue.pop()] if room == 1 else queue.take(room, held > 0)
    sent = pipeline.sent
    for job in given:
        sent += 1
        job.sequence = sent
        job.worker = worker
        job.started_s = now_s
        job.state = a.SENT  # shortcut
    jobs.extend(given)
    pipeline.sent = sent
    if given and first.attempt == 1:  # of the first, for all: they were queued together as a rule
        state.figures.note_waited(first.recipe.name, waited_s, len(given))
    look_s = now_s + jobs[0].recipe.watch_s
    if look_s < state.next_scan_s:
        state.next_scan_s = look_s
    return given


def _give_up_place(state: State, worker: Worker, now_s: float) -> None:
    """Have the worker, which runs nothing, leave its place to another."""
    state.needs_staff = True
    if worker.needs is not None:
        needy.end_turn(state, worker, now_s)
    elif state.needy and not (worker.is_last or worker.pipeline.sent == state.max_tasks_per_child):
        needy.park(state, worker, now_s)
    else:
        stops.retire(state, worker, now_s)


def _promote(state: State, worker: Worker, source: JobQueue, now_s: float) -> None:
    """Make a spare one of the pool, with a first job from `source`."""
    state.take_slot(worker)
    if source is state.queue:
        worker.enter(fleet.BUSY, now_s)
        worker.pipeline.head_since_s = now_s
        _send(state, worker, refill(state, worker, now_s))
        return
    source.peek()
    job = source.pop()
    worker.is_last = job.recipe.isolate
    send_alone(state, worker, job, now_s)


def _send(state: State, worker: Worker, jobs: list[Job]) -> None:
    if jobs:
        state.commands.append(c.Send(worker, jobs))


def _rest(state: State, worker: Worker, now_s: float) -> None:
    """The worker has nothing to do and nothing is queued."""
    if state.is_draining:
        stops.retire(state, worker, now_s)
        return
    worker.enter(fleet.IDLE, now_s)
    state.idle.append(worker)
    want_rescue(state, now_s)


def _launch_missing(state: State, now_s: float) -> None:
    if state.is_draining:
        return
    if state.broken_by is not None:
        launches.fail_waiting(state, now_s)  # it came in before the callers were refused
        return
    fresh = state.fresh_queue.length
    queued = fresh + state.queue.length
    kept = 0
    if state.needy or state.kept:
        queued += sum(queue.length for needs, queue in state.needy.items() if not needs.takes_own_kind)
        kept = sum(worker.kind is None and worker.state == fleet.IDLE for worker in state.kept)
    wanted = len(state.loops_queue)
    wanted += min(max(0, needy.limit(state) - state.active), max(fresh, queued - kept))
    if state.keeps_spare or state.loops:
        # Fresh processes are what a stream of isolated tasks lives on: keep as many ready as can run.
        wanted += max(1, min(fresh, state.max_workers))
    missing = wanted - state.starting - len(state.spares)
    if missing > 0:
        state.launches.launch(state, missing, now_s)


# -- tasks that wait behind a long one -----------------------------------------------------------------------


def want_rescue(state: State, now_s: float) -> None:
    """A worker has nothing to do: see in a moment whether tasks wait behind a long one."""
    if not state.may_rescue or state.rescue_timer is not None:
        return
    for other in state.workers:
        if len(other.pipeline.jobs) > 1 and other.state == fleet.BUSY:
            state.rescue_timer = state.timers.at(now_s + RESCUE_AFTER_S, _rescue)
            return


def _rescue(state: State, subject: None, now_s: float) -> None:
    """An idle worker could do what waits in a busy one's pipe: recall it, and look again."""
    state.rescue_timer = None
    if not state.idle and state.active >= state.max_workers:
        return
    for worker in state.workers:
        if worker.state != fleet.BUSY or len(worker.pipeline.jobs) < 2:
            continue
        if now_s - worker.pipeline.head_since_s >= RESCUE_AFTER_S:
            stops.recall(state, worker, now_s)
        elif state.rescue_timer is None:
            state.rescue_timer = state.timers.at(now_s + RESCUE_AFTER_S, _rescue)
