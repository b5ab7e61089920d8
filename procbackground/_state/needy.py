"""Bringing jobs with needs and workers together: their part of `staffing`.

Jobs with equal needs wait in a queue of their own, of which only the first is looked at. It is sent when its needs are
met and a worker is ready. Tasks that take several places or slots run in workers of a `Kind`, which are kept for
further ones, without a place; others run in ordinary workers.

Jobs with and without needs take turns by priority and order of acceptance. One whose needs are not met lets later ones
pass, until it has waited at the head for `HOLD_BACK_AFTER_S`, or where they have a lower priority. From then on places,
slots and memory that come free are kept for it; but not while it lacks memory that other programs hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from procbackground._state import fleet, launches, stops
from procbackground._state.dispatch import send_alone
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._state.ledger import Needs
from procbackground._state.state import HeldBack, State

HOLD_BACK_AFTER_S = 1.0  # others pass meanwhile, which keeps workers busy; a process is started in a tenth of it

_ENDING = (fleet.STOPPING, fleet.LEAVING, fleet.DYING)


def limit(state: State) -> int:
    """Return how many places the others may use."""
    return state.max_workers - state.held_back.places if state.needy else state.max_workers


def staff(state: State, now_s: float, *, in_turn: bool) -> None:
    """Send the jobs whose needs are met, and launch workers for those that have none.

    `in_turn`: those that come before all jobs without needs. Else they get what the others leave.
    """
    plain = _first_plain(state)
    free = _free_places(state)
    if not in_turn:
        free -= state.queue.length + state.fresh_queue.length
    while (started := _start_one(state, plain if in_turn else None, free, now_s)) is not None:
        free -= started.cores
    if in_turn:
        _hold_back(state, plain, now_s)
        return
    _launch_missing(state, free, now_s)


def wants_place(state: State) -> bool:
    """Whether the place of an ordinary worker that has answered is better used by a job with needs."""
    if state.active > limit(state):
        return True
    plain = _first_plain(state)
    free = _free_places(state) + 1
    heads = _heads(state)
    if heads[0] is not state.held_back.job and (plain is None or heads[0] < plain):
        state.needs_staff = True  # it is at the head now, which `_hold_back` must know
    for job in heads:
        if plain is not None and plain < job:
            return False
        needs = _needs_of(job)
        if needs.cores <= _left_for(state, job, free) and _may_take(state, job) and state.ledger.has_memory(needs):
            if not needs.takes_own_kind and not job.needs_fresh_worker:
                return True  # that worker will do
            if _ready_worker(state, job) is not None:
                return True
    return False


def park(state: State, worker: Worker, now_s: float) -> None:
    """Keep an ordinary worker that runs nothing, and give its place to others."""
    state.take_out(worker)
    state.leave_slot(worker)
    if worker.state != fleet.IDLE:
        worker.enter(fleet.IDLE, now_s)
    state.kept.append(worker)
    state.needs_staff = True


def unpark(state: State) -> None:
    """Return ordinary workers that are kept to the pool, as far as there are places for them and no better use."""
    for worker in [worker for worker in state.kept if worker.kind is None]:
        if state.active >= limit(state) or (state.needy and state.queue.length <= len(state.idle)):
            return
        state.kept.remove(worker)
        state.take_slot(worker)
        state.idle.append(worker)


def end_turn(state: State, worker: Worker, now_s: float) -> None:
    """The worker's job with needs has answered: return what it took, and keep the worker or let it leave."""
    is_kept = worker.is_kept and worker.pipeline.sent != state.max_tasks_per_child and not state.is_draining
    state.leave_slot(worker)
    state.needs_staff = True
    if not is_kept:
        stops.retire(state, worker, now_s)
        return
    worker.is_last = False
    worker.places = 1
    worker.enter(fleet.IDLE, now_s)
    state.kept.append(worker)
    of_kinds = [each for each in state.kept if each.kind is not None]
    if len(of_kinds) > state.max_workers:
        stops.retire(state, of_kinds[0], now_s)


def memory_seen(state: State, free_bytes: int, held_bytes: Mapping[Worker, int], now_s: float) -> bool:
    """So much memory is free, and `held_bytes` by the trees of these workers; return whether to look again."""
    if not any(needs.memory for needs in state.needy):
        state.ledger.unreserved = None
        return False
    running = [
        (worker.needs.memory, held_bytes.get(worker, 0))
        for worker in state.workers
        if worker.needs is not None and worker.needs.memory
    ]
    if not running and not state.runs_one_offs:
        # What the manager itself holds must not keep the first task waiting for ever.
        free_bytes += state.count_payload_bytes()
        if next(needs.memory for job in _heads(state) if (needs := _needs_of(job)).memory) > free_bytes:
            stops.release_idle(state, now_s)
    state.ledger.note_memory(free_bytes, running)
    state.needs_staff = True
    return True


def begin_first(state: State, job: Job, now_s: float) -> bool:
    """Send this job, the first of all that wait while nothing runs, or launch a worker of its kind; return whether it
    was sent."""
    needs = _needs_of(job)
    worker = _ready_worker(state, job)
    if worker is not None:
        _start(state, job, worker, now_s)
        return True
    if not needs.takes_own_kind:
        launches.launch_first(state, now_s)
    elif not _launch_for(state, job, 0, now_s):
        _free_slots(state, [needs], now_s)
    return False


def first_job(state: State) -> Job | None:
    """Return the first of all one-offs that wait in a queue."""
    heads = _heads(state)
    plain = _first_plain(state)
    return heads[0] if heads and (plain is None or heads[0] < plain) else plain


# -- who is first --------------------------------------------------------------------------------------------


def _heads(state: State) -> list[Job]:
    """Return the first job of each queue, in order."""
    heads = [job for queue in state.needy.values() if (job := queue.peek()) is not None]
    if len(heads) > 1:
        heads.sort()
    return heads


def _first_plain(state: State) -> Job | None:
    """Return the first job without needs."""
    fresh, ordinary = state.fresh_queue.peek(), state.queue.peek()
    if fresh is None or (ordinary is not None and ordinary < fresh):
        return ordinary
    return fresh


def _needs_of(job: Job) -> Needs:
    needs = job.recipe.needs
    assert needs is not None
    return needs


def _free_places(state: State) -> int:
    """Return how many places are free, or can be at once."""
    return state.max_workers - state.active + len(state.idle)


def _left_for(state: State, job: Job, free: int) -> int:
    """Return how many of so many free places this job may take: some may be kept for another."""
    held = state.held_back
    return free if held.job is job else free - held.places


def _may_take(state: State, job: Job) -> bool:
    """Whether no slots or memory are kept from this job for another."""
    held = state.held_back
    return not held.is_due or held.job is None or held.job is job or not _needs_of(job).rivals(_needs_of(held.job))


def _hold_back(state: State, plain: Job | None, now_s: float) -> None:
    """See whether the first job has waited for so long that others are held back."""
    held = state.held_back
    heads = _heads(state)
    first = heads[0] if heads and (plain is None or heads[0] < plain) else None
    if first is not held.job:
        held.job, held.since_s, held.is_due, held.places = first, now_s, False, 0
    if first is None:
        return
    others = [job for job in (plain, *heads[1:]) if job is not None]
    outranks = bool(others) and all(first.recipe.priority > job.recipe.priority for job in others)
    due_s = held.since_s + HOLD_BACK_AFTER_S
    held.is_due = outranks or now_s >= due_s
    if state.ledger.is_held_by_others and not state.ledger.has_memory(_needs_of(first)):
        held.is_due = False  # others need not wait for what they cannot bring
        held.places = 0
        return
    if not held.is_due and held.timer_s <= now_s:
        held.timer_s = due_s
        state.timers.at(due_s, _look_again)
    cores = _needs_of(first).cores
    held.places = cores if held.is_due and cores > _free_places(state) else 0
    while state.idle and state.active > limit(state):
        park(state, state.idle[0], now_s)


def _look_again(state: State, subject: None, now_s: float) -> None:
    state.needs_staff = True


# -- its worker ----------------------------------------------------------------------------------------------


def _start_one(state: State, plain: Job | None, free: int, now_s: float) -> Needs | None:
    """Send the first job whose needs are met and that comes before `plain`; return its needs, or None."""
    for job in _heads(state):
        if plain is not None and plain < job:
            return None
        needs = _needs_of(job)
        if needs.cores > _left_for(state, job, free) or not _may_take(state, job) or not state.ledger.has_memory(needs):
            continue
        worker = _ready_worker(state, job)
        if worker is not None:
            _start(state, job, worker, now_s)
            return needs
    return None


def _ready_worker(state: State, job: Job) -> Worker | None:
    """Return a worker in which the job can run now: the one that was busy last, as it is warmest."""
    needs, is_fresh = _needs_of(job), job.needs_fresh_worker
    if not needs.takes_own_kind and not is_fresh and state.idle:
        return state.idle[-1]
    for worker in reversed(state.kept):
        if is_fresh and worker.state != fleet.SPARE:
            continue
        if worker.kind is None if not needs.takes_own_kind else worker.kind is not None and worker.kind.suits(needs):
            return worker
    return state.spares[-1] if state.spares and not needs.takes_own_kind else None


def _start(state: State, job: Job, worker: Worker, now_s: float) -> None:
    needs = _needs_of(job)
    queue = state.needy[needs]
    queue.pop()
    if not queue.length:
        del state.needy[needs]
    if state.held_back.job is job:
        state.held_back = HeldBack()
    state.take_out(worker)
    while not worker.uses_slot and state.max_workers - state.active < needs.cores:
        park(state, state.idle[0], now_s)
    if not worker.uses_slot:
        worker.places = needs.cores
        state.take_slot(worker)
    worker.needs = needs
    state.ledger.reserve(needs)
    # So that `refill` calls `end_turn`, which asks `is_kept`: others pay for no further question there.
    worker.is_last = True
    worker.is_kept = not job.recipe.isolate
    send_alone(state, worker, job, now_s)


def _launch_missing(state: State, free: int, now_s: float) -> None:
    """Launch workers for those jobs that lack only one. With so many places `free`."""
    earlier: list[Needs] = []  # of jobs that come first
    claimed: list[Needs] = []  # of those for whose slots processes are ending
    for job in _heads(state):
        needs = _needs_of(job)
        earlier.append(needs)
        if needs.memory and state.ledger.unreserved is None:
            state.watch_memory()
        if not needs.takes_own_kind or not _may_take(state, job) or not state.ledger.has_memory(needs):
            continue
        if any(needs.shares_slots(others) for others in claimed):
            continue
        if not _launch_for(state, job, _left_for(state, job, free), now_s) and _free_slots(state, earlier, now_s):
            claimed.append(needs)


def _launch_for(state: State, job: Job, free: int, now_s: float) -> bool:
    """Launch workers for the first job of its queue, and those behind it that can run beside it.

    Returns False where slots are missing for the first.
    """
    needs = _needs_of(job)
    wanted = max(1, min(state.needy[needs].length, free // needs.cores))
    usable = (fleet.STARTING, fleet.SPARE) if job.needs_fresh_worker else (fleet.STARTING, fleet.SPARE, fleet.IDLE)
    ready = 0
    for worker in state.workers:
        if worker.kind is not None and worker.state in usable and worker.kind.suits(needs):
            ready += 1
    while ready < wanted:
        kind = state.ledger.kind_for(needs)
        if kind is None:
            return ready > 0
        if not state.launches.launch_kind(state, kind, now_s):
            return True
        ready += 1
    return True


def _free_slots(state: State, earlier: list[Needs], now_s: float) -> bool:
    """Let workers leave that are kept and have slots which are needed, if that will be enough; return whether.

    Those stay that suit an `earlier` job: two that wait would take the slots from each other's workers in turns. The
    last of these is the job that needs the slots.
    """
    needs = earlier[-1]
    ending = [worker.kind for worker in state.workers if worker.kind is not None and worker.state in _ENDING]
    leaving: list[Worker] = []
    for worker in state.kept:
        if state.ledger.free_after(needs, ending):
            break
        is_wanted = worker.kind is None or any(worker.kind.suits(each) for each in earlier[:-1])
        if worker.kind is not None and not is_wanted and needs.shares_slots(worker.kind):
            ending.append(worker.kind)
            leaving.append(worker)
    if not state.ledger.free_after(needs, ending):
        return False
    for worker in leaving:
        stops.retire(state, worker, now_s)
    return True
