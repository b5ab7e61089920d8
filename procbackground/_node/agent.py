"""Runs the requests of one manager on this node, each in a supervised child process, and sends reports.

An engine makes one agent for each manager in a process of its own on each node, and calls `run` in as many threads as
attempts may run there at once.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from procbackground._node.loop import NodeHandle, NodeSupervisor
from procbackground._state.job import Job, Recipe
from procbackground._state.ledger import Needs
from procbackground._submit.checks import context_of
from procbackground._submit.closing import register_for_exit
from procbackground._supervisor.machine import total_memory_bytes
from procbackground._supervisor.supervisor import close_all_at_exit
from procbackground._wire import attempts as w
from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.output import Plan
from procbackground._wire.parcel import unstore
from procbackground._wire.shares import SharedFile
from procbackground._wire.surroundings import Surroundings
from procbackground.errors import ManagerClosedError, ProcbackgroundError

# Between two looks whether requests have to be given back. A task that was expected to be short, and is not, holds more
# than the thread of the engine that brought it: others came with it.
GIVE_BACK_S = 1.0


class _Run:
    """A request that is here, and what is asked of it before its supervisor has it."""

    def __init__(self, handle: NodeHandle, supervisor: NodeSupervisor, has_needs: bool) -> None:
        self.handle = handle
        self.supervisor = supervisor
        self.has_needs = has_needs
        self._lock = threading.Lock()
        self._asked: list[Callable[[], object]] | None = []  # None once the supervisor has it

    def ask(self, act: Callable[[], object]) -> None:
        """Have `act` called, at once or when the supervisor has the request: a cancel must not overtake it."""
        with self._lock:
            if self._asked is not None:
                self._asked.append(act)
                return
        act()

    def note_accepted(self) -> None:
        with self._lock:
            asked, self._asked = self._asked or [], None
        for act in asked:
            act()


class NodeAgent:
    """The requests of one manager on this node.

    Args:
        places: how many attempts run at once.
        node: name of this node, for people.
        send: takes a report, in any thread; must return at once.
        slots: that this node declares. Those of the manager count where it declares none of their names.
    """

    def __init__(
        self, settings: w.NodeSettings, places: int, node: str, send: Callable[[w.Report], None],
        slots: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        _allow_children()
        self._send = send
        self._node = node
        self._options = {**settings.options}
        self.slots: dict[str, int] = {**(settings.options.get("slots") or {}), **(slots or {})}
        self._options.update(
            context=context_of(self._options["context"]),
            initializer=None if settings.initializer is None else (_initialize, (settings.initializer,)),
            observers=(),
            keeps_spare=False,
            max_pending=None,
            refuses_when_full=False,
            setup=settings.setup,
            exit_timeout_s=0.0,
            surroundings=Surroundings(),
            levels=settings.levels,
            slots=self.slots,
        )
        self._places = places
        self._supervisor = self._make_supervisor(places)
        self._changed = threading.Condition(threading.Lock())  # guards the rest
        self._running: dict[int, _Run] = {}
        self._is_closed = False
        register_for_exit(close_all_at_exit)

    def _make_supervisor(self, places: int) -> NodeSupervisor:
        return NodeSupervisor(self._node, max_workers=places, **self._options)

    def run(
        self,
        requests: Sequence[w.Request],
        find_over: Callable[[], Collection[int]] | None = None,
        shares: Mapping[int, SharedFile] | None = None,
    ) -> None:
        """Run requests to their ends. Return once those are reported, and the processes of withdrawn ones are gone.

        Those that wait for others which take longer than was expected are given back; see `_are_held_up`.

        Args:
            find_over: returns the numbers of those that are not to be run. Called once a cancel finds them here.
            shares: the shared values that they refer to, by their numbers in the manager.

        Raises: nothing that a task does.
        """
        runs = [self._register(request) for request in requests]
        try:
            over = find_over() if find_over is not None else ()
            for run, request in zip(runs, requests, strict=True):
                if request.number in over:
                    run.handle.end(w.STOPPED)  # the manager ignores it where that is over for it, too
                else:
                    self._begin(run, request, shares or {})
            self._await_ends(runs)
        finally:
            with self._changed:
                for request in requests:
                    self._running.pop(request.number, None)
                self._changed.notify_all()
            for run in runs:
                if run.supervisor is not self._supervisor:
                    run.supervisor.close(0.0)

    def _register(self, request: w.Request) -> _Run:
        # A loop can be asked to end by itself, so it has a supervisor of its own.
        supervisor = self._make_supervisor(1) if request.is_loop else self._supervisor
        handle = NodeHandle(supervisor, request.number, request.name, self._send)
        run = _Run(handle, supervisor, request.needs is not None)
        with self._changed:
            self._running[request.number] = run
        return run

    def _begin(self, run: _Run, request: w.Request, shares: Mapping[int, SharedFile]) -> None:
        handle, supervisor = run.handle, run.supervisor
        if self._is_closed:  # a drain that begins now finds the request, and gives it back
            handle.end(w.STOPPED)
            return
        try:
            job = make_job(handle, request, self.slots, shares)
            handle._job = job
            (supervisor.accept_loop if request.is_loop else supervisor.accept)(job)
            run.note_accepted()
        except ManagerClosedError:
            handle.end(w.STOPPED)
        except (ProcbackgroundError, OSError, RuntimeError) as error:
            handle.end(w.REFUSED, dump_failure(error, frames_to_skip=0))

    def _await_ends(self, runs: Sequence[_Run]) -> None:
        look_s: float | None = time.monotonic() + GIVE_BACK_S
        for run in runs:
            while not self._await_end(run, look_s):
                look_s = time.monotonic() + GIVE_BACK_S
                if self._are_held_up(runs):
                    look_s = None
                    self._give_back(runs, all_of_them=False)
                elif len(runs) == 1 and run.handle.has_begun:
                    look_s = None  # nothing waits behind it

    def _are_held_up(self, runs: Sequence[_Run]) -> bool:
        """Return whether those that have not begun wait for others that run here, and not for a process to start.

        One that is alone has the place of its thread, unless requests that came together have all places, or a task of
        several cores has that. It must not be given back for a slow start: a task that takes nodes down is known by how
        many it has begun on.
        """
        with self._changed:
            here = tuple(self._running.values())
        begun = sum(run.handle.has_begun and not run.handle.has_ended for run in here)
        if len(runs) == 1:
            return begun >= self._places or any(run.has_needs for run in here)
        return begun > 0

    def _await_end(self, run: _Run, until_s: float | None) -> bool:
        """Wait until a request has ended, or it is `until_s`; return whether it has."""
        handle = run.handle
        while not handle.has_ended:
            if not handle.wants_end.acquire(timeout=-1 if until_s is None else max(0.0, until_s - time.monotonic())):
                return False
            if not handle.has_ended:
                run.supervisor.withdraw(handle)  # the manager, which has the policy, starts it again
        return True

    def _give_back(self, runs: Iterable[_Run], *, all_of_them: bool) -> None:
        """End those that have not begun: the manager has them begin elsewhere, or later.

        Unless `all_of_them`, those that wait for what they need keep their turn.
        """
        for run in runs:
            if all_of_them or not run.has_needs:
                run.ask(partial(run.supervisor.withdraw, run.handle, is_running_too=False))

    def cancel(self, number: int) -> None:
        """Stop a request, if it is here. From any thread; does not wait."""
        with self._changed:
            run = self._running.get(number)
        if run is not None:
            run.ask(lambda: run.supervisor.withdraw(run.handle))

    def end_loop(self, number: int) -> None:
        """Let a loop end after its running iteration. Waits for the supervisor, not for the loop."""
        with self._changed:
            run = self._running.get(number)
        if run is not None:
            run.ask(lambda: run.supervisor.end_loops(0.0))

    def answer(self, question: str) -> list[tuple[Any, ...]]:
        """Answer a question of the manager; see `_wire.attempts`. Blocks for a moment."""
        with self._changed:
            supervisors = {self._supervisor, *(run.supervisor for run in self._running.values())}
        ask = NodeSupervisor.process_facts if question == w.PROCESSES else NodeSupervisor.stack_facts
        try:
            return [facts for supervisor in supervisors for facts in ask(supervisor)]
        except (ManagerClosedError, OSError):
            return []  # the node is closing

    def drain(self, timeout_s: float) -> bool:
        """Take nothing more, and wait until what runs has ended; return whether it has."""
        with self._changed:
            self._is_closed = True
            runs = tuple(self._running.values())
        self._give_back(runs, all_of_them=True)
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout_s)

    def close(self) -> None:
        """Stop everything. Bounded by the manager's `grace` and a moment."""
        with self._changed:
            self._is_closed = True
            supervisors = {self._supervisor, *(run.supervisor for run in self._running.values())}
        for supervisor in supervisors:
            supervisor.ask_to_close(0.0)
        for supervisor in supervisors:
            supervisor.close(0.0)


def make_job(handle: NodeHandle, request: w.Request, slots: Collection[str], shares: Mapping[int, SharedFile]) -> Job:
    """Return the job of a request, on a node with these slots and shared values.

    Raises: `OSError` where a large payload finds no memory.
    """
    recipe = Recipe(
        request.name,
        request.blob,
        reusable=bool(request.flags & wire.IS_REUSABLE),
        is_loop=request.is_loop,
        timeout_s=request.timeout_s,
        stalled_s=request.stalled_s,
        memory_limit=request.memory_limit,
        interval_s=request.interval_s,
        isolate=request.isolate or request.attempt > 1,  # each retry has a fresh process
        needs=None if request.needs is None else _needs_here(Needs(*request.needs), slots),
        is_chunk=request.is_chunk,
        output=None if request.output is None else Plan(*request.output),
    )
    recipe.needs_verdict = True  # so that no value is loaded here
    flags = request.flags & ~wire.PARCEL
    payload: Any = request.payload
    if request.is_stored:
        payload = unstore(payload, [shares[number] for number in request.shares])
        flags |= wire.PARCEL
    job = Job(handle, recipe, payload, flags)
    job.attempt = request.attempt
    if request.checkpoint is not None:
        job.with_history().checkpoint = request.checkpoint
    return job


def _needs_here(needs: Needs, slots: Collection[str]) -> Needs | None:
    """Return what of the needs this node looks after: slots that it cannot number, the engine has counted."""
    here = needs._replace(slots=tuple(each for each in needs.slots if each[0] in slots))
    return None if here == Needs() else here


def _allow_children() -> None:
    """Let this process have children, also where `multiprocessing` has made it a daemon, as the nanny of dask does.

    A daemon is refused children because they would outlive it when it is killed. Ours do not: the zygote ends them.
    """
    config: Any = vars(multiprocessing.current_process()).get("_config", {})
    config.pop("daemon", None)


def _initialize(pickled: bytes) -> None:
    """Call the manager's initializer; in a worker."""
    initializer, arguments = pickle.loads(pickled)
    initializer(*arguments)


def node_name(address: str) -> str:
    """Return a name for a node at this address: its host, and what tells it from others there."""
    return f"{os.uname().nodename} ({address})"


def node_memory_bytes() -> int:
    """Return how much memory this node has, within the limits of its container."""
    return total_memory_bytes()
