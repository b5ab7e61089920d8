"""Random histories: no job is lost, none is in two places, and every close ends."""

from __future__ import annotations

from collections.abc import Callable
from unittest import TestCase

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tenacity import retry_if_result, stop_after_attempt, wait_fixed

from procbackground import Retry
from procbackground._state.fleet import Worker
from procbackground._state.job import Recipe
from procbackground._state.ledger import Needs
from tests.unit.model import Child, World, ending_of, short

RECIPES: dict[str, Callable[[], Recipe]] = {
    "short": lambda: short(),
    "long": lambda: Recipe("long", b""),
    "urgent": lambda: short("urgent", priority=1),
    "retried": lambda: short("retried", retry=Retry.of_attempts(3)),
    "retried later": lambda: short("retried later", retry=Retry(stop=stop_after_attempt(3), wait=wait_fixed(0.05))),
    "result judged": lambda: short(
        "result judged", retry=Retry(stop=stop_after_attempt(2), retry=retry_if_result(bool))
    ),
    "isolated": lambda: Recipe("isolated", b"", isolate=True),
    "limited": lambda: short("limited", timeout_s=0.1, retry=Retry.of_attempts(2)),
    "due soon": lambda: short("due soon", deadline_s=0.03),
    "broad": lambda: Recipe("broad", b"", needs=Needs(cores=2), retry=Retry.of_attempts(2)),
    "of a slot": lambda: Recipe("of a slot", b"", needs=Needs(slots=(("gpu", 1),)), retry=Retry.of_attempts(2)),
    "of two slots": lambda: Recipe("of two slots", b"", needs=Needs(slots=(("gpu", 2),)), isolate=True, timeout_s=0.1),
    "large": lambda: Recipe("large", b"", needs=Needs(memory=600), deadline_s=0.5),
    "of all": lambda: Recipe("of all", b"", needs=Needs(2, 600, (("gpu", 1),)), priority=1, isolate=True),
    "loop": lambda: Recipe("loop", b"", is_loop=True),
    "limited loop": lambda: Recipe("limited loop", b"", is_loop=True, timeout_s=0.1, deadline_s=1.0),
}


class SchedulerMachine(RuleBasedStateMachine):
    """Everything that can happen to a manager, one thing at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(is_obedient=False)
        self.recipes = {name: make() for name, make in RECIPES.items()}
        self.is_closing = False

    @initialize(
        max_workers=st.integers(1, 3),
        tasks_per_child=st.sampled_from([None, None, 1, 3]),
        min_free_bytes=st.sampled_from([None, None, 600]),
    )
    def make(self, max_workers: int, tasks_per_child: int | None, min_free_bytes: int | None) -> None:
        self.world = World(
            max_workers,
            is_obedient=False,
            max_tasks_per_child=tasks_per_child,
            grace_s=0.5,
            lines=8,
            slots={"gpu": 2},
            min_free_bytes=min_free_bytes,
            memory_patience_s=0.2,
        )
        recipes = self.recipes.items()
        self.recipes = {name: each for name, each in recipes if each.needs is None or each.needs.cores <= max_workers}

    def child(self, index: int, wanted: Callable[[Child], object]) -> Worker | None:
        """Return the worker of one of the children that are as wanted."""
        fitting = [worker for worker in self.world.workers() if wanted(self.world.children[worker])]
        return fitting[index % len(fitting)] if fitting else None

    def recipe(self, name: str) -> Recipe:
        """Return that recipe; another one in place of what needs more than there is, which callers refuse."""
        return self.recipes.get(name, self.recipes["of a slot"])

    # -- callers -------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_closing)
    @rule(names=st.lists(st.sampled_from(sorted(RECIPES)), min_size=1, max_size=6))
    def submit(self, names: list[str]) -> None:
        for name in names:
            self.world.submit(recipe=self.recipe(name))
        self.world.staff()

    @precondition(lambda self: not self.is_closing)
    @rule(names=st.lists(st.sampled_from(sorted(RECIPES)), min_size=2, max_size=6))
    def submit_in_a_burst(self, names: list[str]) -> None:
        recipes = [self.recipe(name) for name in names]
        self.world.submit_burst(*[each for each in recipes if not each.is_loop])

    @precondition(lambda self: self.world.jobs)
    @rule(index=st.integers(0, 30))
    def cancel(self, index: int) -> None:
        jobs = self.world.jobs
        job = jobs[-1 - index % len(jobs)]
        had_ended = ending_of(job) is not None
        assert self.world.cancel(job) is not had_ended

    @rule(timeout_s=st.sampled_from([None, 0.0, 0.05]))
    def close(self, timeout_s: float | None) -> None:
        self.is_closing = True
        self.world.close(timeout_s)

    # -- children ------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 4))
    def say_hello(self, count: int) -> None:
        for _ in range(count):
            worker = self.child(0, lambda child: child.is_alive and not child.is_ready)
            if worker is not None:
                self.world.hello(worker)
                self.world.hear(worker)

    @rule(index=st.integers(0, 5))
    def begin(self, index: int) -> None:
        worker = self.child(index, lambda child: child.is_alive and child.requests and child.job is None)
        if worker is not None:
            self.world.begin(worker)

    @rule(index=st.integers(0, 5), fails=st.booleans(), then=st.sampled_from(["rests", "goes on", "leaves"]))
    def finish(self, index: int, fails: bool, then: str) -> None:
        worker = self.child(index, lambda child: child.is_alive and child.running is not None)
        if worker is not None:
            self.world.finish(worker, fails=fails, leaves=then == "leaves")
            if then == "goes on":
                self.world.begin(worker)

    @rule(index=st.integers(0, 5), fails=st.booleans())
    def iterate(self, index: int, fails: bool) -> None:
        worker = self.child(
            index, lambda child: child.is_alive and child.loop is not None and not child.waits_for_verdict
        )
        if worker is not None:
            (self.world.fail_iteration if fails else self.world.pass_iteration)(worker)

    @rule(index=st.integers(0, 5))
    def read(self, index: int) -> None:
        worker = self.child(index, lambda child: child.said)
        if worker is not None:
            self.world.hear(worker)

    @rule(index=st.integers(0, 5))
    def die(self, index: int) -> None:
        # Not before they are ready: three such deaths in a row end the manager, which is another test's.
        worker = self.child(index, lambda child: child.is_alive and child.is_ready)
        if worker is not None:
            self.world.die(worker)

    @rule(index=st.integers(0, 5))
    def do_as_told(self, index: int) -> None:
        worker = self.child(
            index,
            lambda child: not child.is_alive or child.is_asked_to_stop or child.is_dismissed or child.is_leaving,
        )
        if worker is None:
            return
        world, child = self.world, self.world.children[worker]
        if child.is_alive and not child.is_asked_to_stop and child.loop is not None:
            world.end_loop(worker)
            return
        if child.is_asked_to_stop or world.can_leave(child):
            child.is_alive = False
        if not child.is_alive:
            world.bury(worker)
            world.settle_down()

    @rule()
    def fail_to_launch(self) -> None:
        worker = self.child(0, lambda child: child.is_alive and not child.is_ready and not child.said)
        if worker is not None:
            self.world.fail_launch(worker)

    # -- the supervisor ------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.verdicts)
    @rule()
    def judge(self) -> None:
        self.world.judge(self.world.verdicts.popleft())
        self.world.settle_down()

    @precondition(lambda self: self.world.wants_memory)
    @rule(free_bytes=st.sampled_from([0, 500, 700, 2000]))
    def see_memory(self, free_bytes: int) -> None:
        self.world.see_memory(free_bytes)

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.0011, 0.003, 0.03, 0.1, 0.6]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """Close: once the world obeys, every job has ended and no worker is left."""
        world = self.world
        world.is_obedient = True
        world.close(0.0)
        for worker in list(world.children):
            if worker in world.children:
                world.hear(worker)
        for _ in range(1000):
            if world.has_finished:
                break
            if world.next_due_s == float("inf"):
                world.staff()
                break
            world.advance(max(0.0, world.next_due_s - world.now_s))
            world.begin_all()
        assert world.has_finished, "closing does not come to an end"
        assert [job.handle.name for job in world.jobs if ending_of(job) is None] == []  # type: ignore[attr-defined]
        assert not world.has_workers
        assert not world.children
        world.check()


def machine_with(max_examples: int) -> type[TestCase]:
    """Return the test that tries so many histories."""

    class Machine(SchedulerMachine):
        pass

    Machine.TestCase.settings = settings(
        max_examples=max_examples,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    return Machine.TestCase


TestScheduler = machine_with(80)
TestSchedulerForLong = pytest.mark.slow(pytest.mark.timeout(900)(machine_with(600)))
