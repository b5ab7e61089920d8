"""Each invariant refuses a state that breaks it: else a check that always passes would be taken for a proof."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tenacity import stop_after_attempt, wait_fixed

from procbackground._state import attempt as a
from procbackground._state import fleet
from procbackground._state.job import JUDGED, SETTLED, WAITING, Job, Recipe
from procbackground.retry import Retry
from tests.unit.model import World, prompt_world, short


class Scene(World):
    """A world with something in every place: running with others behind it, idle, spare, queued, in a pause, a loop."""

    def __init__(self) -> None:
        super().__init__(1, begins_at_once=True, keeps_spare=True)
        first, self.running, self.behind, self.behind_too = self.submit_many(4, short())
        self.answer(first)  # the others are sent together then
        self.scheduler.max_workers = 3
        self.long, self.failing = self.submit(), self.submit(retry=Retry(stop_after_attempt(2), wait_fixed(60)))
        self.answer(self.failing, fails=True)
        self.queued, self.queued_too = self.submit_many(2, Recipe("big", b""))
        self.loop = self.submit(recipe=Recipe("loop", b"", is_loop=True))
        self.settle_down()

    @property
    def worker(self) -> fleet.Worker:
        return self.worker_of(self.running)


def test_the_scene_is_whole_before_it_is_spoilt():
    scene = Scene()
    scene.check()
    scheduler = scene.scheduler
    assert scheduler.waiting == {scene.failing}
    assert scene.loop in scheduler.loops
    assert len(scene.worker.pipeline.jobs) > 1
    assert scheduler.spares


def miscount_queue(scene: Scene) -> None:
    scene.scheduler.queue.length += 1


def queue_twice(scene: Scene) -> None:
    scene.scheduler.queue.push_back(scene.behind)
    scene.behind.state = a.QUEUED


def settle_in_pause(scene: Scene) -> None:
    scene.failing.state = SETTLED


def idle_twice(scene: Scene) -> None:
    scene.scheduler.idle.append(scene.worker)


def be_idle_in_no_list(scene: Scene) -> None:
    scene.worker.state = fleet.IDLE


def loses_spare(scene: Scene) -> None:
    scene.scheduler.spares.pop()


def lists_no_spare(scene: Scene) -> None:
    scene.scheduler.spares.append(scene.worker)


def set_state(worker: fleet.Worker, state: str) -> None:
    worker.state = state


def set_job(job: Job, state: str) -> None:
    job.state = state


def spare_with_work(scene: Scene) -> None:
    scene.scheduler.spares[0].pipeline.jobs.append(Job(None, short(), b""))  # type: ignore[arg-type]


def judged_in_a_queue(scene: Scene) -> None:
    scene.failing.state = JUDGED
    scene.scheduler.being_judged.add(scene.failing)
    scene.failing.state = WAITING


def settled_loop_in_the_queue(scene: Scene) -> None:
    job = Job(scene.loop.handle, scene.loop.recipe, b"")
    job.state = SETTLED
    scene.scheduler.loops_queue.append(job)


def lose_the_loop(scene: Scene) -> None:
    loop = Job(scene.loop.handle, scene.loop.recipe, b"")
    scene.scheduler.loops.add(loop)


def loop_in_two_places(scene: Scene) -> None:
    scene.scheduler.loops_queue.append(scene.loop)


def loop_takes_a_slot(scene: Scene) -> None:
    worker = scene.loop.worker
    assert worker is not None
    worker.uses_slot = True


def leaver_takes_a_slot(scene: Scene) -> None:
    scene.worker.state = fleet.LEAVING


def more_than_allowed(scene: Scene) -> None:
    scene.scheduler.max_workers = 1


def count(name: str, change: int) -> Callable[[Scene], None]:
    def change_count(scene: Scene) -> None:
        setattr(scene.scheduler, name, getattr(scene.scheduler, name) + change)

    return change_count


def below_zero(name: str) -> Callable[[Scene], None]:
    def change_counts(scene: Scene) -> None:
        scheduler = scene.scheduler
        value = getattr(scheduler, name) + 1
        setattr(scheduler, name, -1)
        if name != "holds":
            scheduler.succeeded += value  # the sum agrees

    return change_counts


def reorder_requests(scene: Scene) -> None:
    scene.worker.pipeline.jobs.rotate(1)


def repeat_a_number(scene: Scene) -> None:
    scene.behind.sequence = scene.running.sequence


SPOILT: dict[str, tuple[Callable[[Scene], None], str]] = {
    "a queue counts one too many": (miscount_queue, r"a queue of \d jobs says \d"),
    "a job is queued and sent": (queue_twice, r"is in 2 places|is sent, and queued"),
    "a job in its pause is in another state": (settle_in_pause, r"waits for its retry in another state"),
    "a job being judged is in another state": (judged_in_a_queue, r"being judged in another state"),
    "a settled job is in a place": (settled_loop_in_the_queue, r"has settled and is in a place"),
    "a loop is in no place": (lose_the_loop, r"is in no place"),
    "a loop is in two places": (loop_in_two_places, r"is in 2 places"),
    "a worker that is gone is listed": (lambda scene: set_state(scene.worker, fleet.GONE), r"is still listed"),
    "requests are out of order": (reorder_requests, r"has requests"),
    "two requests have one number": (repeat_a_number, r"has requests"),
    "one that leaves uses a slot": (leaver_takes_a_slot, r"uses a slot"),
    "a loop's worker uses a slot": (loop_takes_a_slot, r"runs a loop and uses a slot"),
    "a busy worker is in the list of idle ones": (idle_twice, r"list of idle ones disagree"),
    "an idle worker is in no list": (be_idle_in_no_list, r"list of idle ones disagree"),
    "a spare is in no list": (loses_spare, r"the spares disagree"),
    "a busy worker is in the list of spares": (lists_no_spare, r"the spares disagree"),
    "a spare has work": (spare_with_work, r"has work"),
    "a job is sent and in another state": (lambda scene: set_job(scene.behind, a.RETURNED), r"is sent, and returned"),
    "slots are counted wrong": (count("active", -1), r"places are used, counted are"),
    "more slots are used than there are": (more_than_allowed, r"places are used, counted are"),
    "starts are counted wrong": (count("starting", 1), r"workers start, counted are"),
    "a job was lost from the counts": (count("added", 1), r"added \d+, ended \d+, left \d+"),
    "a job ended twice": (count("failed", 1), r"added \d+, ended \d+, left \d+"),
    "fewer than no one-offs are left": (below_zero("unsettled"), r"below zero"),
    "fewer than no loops are left": (below_zero("unsettled_loops"), r"below zero"),
    "more holds ended than began": (below_zero("holds"), r"below zero"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_check_refuses_a_state_in_which(what):
    spoil, message = SPOILT[what]
    scene = Scene()
    spoil(scene)
    with pytest.raises(AssertionError, match=message):
        scene.scheduler.check()


def test_a_manager_that_does_nothing_passes():
    prompt_world().check()
