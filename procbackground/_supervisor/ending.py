"""The three ways in which a supervisor ends: all is done, a bug, or a fork of the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any

from procbackground._log import logger
from procbackground._supervisor.waits import end_waits_in_fork, unsettled_handles
from procbackground.handle import TaskHandle
from procbackground.report import CloseReport

if TYPE_CHECKING:
    from procbackground._supervisor.loop import Loop


JOURNAL_S = 10.0  # for the journal's last group, on a slow disk

MOMENT_S = 1.0  # for what must end and does not depend on tasks: observers, helpers
PULLER_S = 0.1  # for the threads of streams; one that is in an iterable that blocks is there for good
AN_OBSERVER = "an observer"  # in a report of what is left


def finish(loop: Loop) -> None:
    """All workers are gone: close everything else, in the order in which it depends on each other."""
    loop.settler.wake_callers()
    left: list[str] = []
    is_ready = loop.is_ready
    if not _end_pullers(loop):
        left.append("the iterable of a stream or map, which has not returned")
    if is_ready:
        loop.launcher.close()
        if not loop.starter.stop(MOMENT_S):
            left.append("a start of a process that `multiprocessing` has not ended")
        loop.warden.close()  # which a late start would start
    if loop.initializer is not None:
        loop.initializer.let_go()
    if not loop.monitor.stop(MOMENT_S):
        left.append("the watch over memory")
    if loop.scheduler.failed:
        loop.user_code.put(loop.unseen.report_all)
    if not loop.user_code.stop(MOMENT_S):
        left.append("a callback, retry policy or result that runs code of the user's")
    if not loop.log_records.stop(MOMENT_S):
        left.append("a log handler")
    if loop.keyed is not None:
        left += loop.keyed.stop(JOURNAL_S)
    leftovers = _leftovers(loop) if is_ready else ()
    report = make_report(loop, leftovers=leftovers, left=tuple(left))
    loop.report = report
    loop.events.manager("on_manager_closed", report=report)
    if not loop.events.stop(MOMENT_S, lambda: loop.is_hurried):
        if is_ready:  # else this thread is not one of `threading`, to which logging would add it for good
            warn_of_observer()
        loop.report = make_report(loop, leftovers=leftovers, left=(*left, AN_OBSERVER))
    loop.shares.free_all()
    if is_ready:
        close_descriptors(loop)
    loop.has_closed.set()


def _end_pullers(loop: Loop) -> bool:
    """Tell streams and lazy maps that nothing more is taken; return False if the user's iterable holds up a thread."""
    pullers = list(loop.pullers)
    for puller in pullers:
        puller.end(loop.acceptance.closed_error())
    until_s = time.monotonic() + PULLER_S
    ended = [puller.join(max(0.0, until_s - time.monotonic())) for puller in pullers]
    return all(ended)


def warn_of_observer() -> None:
    logger.warning("an observer has not taken its events %s s after the manager closed", MOMENT_S)


def make_report(loop: Loop, *, leftovers: tuple[int, ...] = (), left: tuple[str, ...] = ()) -> CloseReport:
    """Return how the close went up to now."""
    scheduler = loop.scheduler
    now_s = time.monotonic()
    began_s = now_s if loop.intake.close_began_s is None else loop.intake.close_began_s
    succeeded, failed = loop.intake.settled_at_close
    return CloseReport(
        finished=scheduler.succeeded - succeeded + scheduler.failed - failed,
        cancelled=scheduler.cancelled_by_close,
        stopped=scheduler.stopped,
        killed=scheduler.killed,
        leftovers=leftovers,
        left=left,
        seconds=now_s - began_s,
    )


def _leftovers(loop: Loop) -> tuple[int, ...]:
    """Return what the workers had started and SIGKILL has not ended, a moment later."""
    until_s = time.monotonic() + MOMENT_S
    while True:
        alive = loop.exits.descendants_alive()
        if not alive or time.monotonic() >= until_s:
            return tuple(alive)
        time.sleep(0.01)  # a signal to a running process takes effect at once; this is for slow exits


def close_descriptors(loop: Loop) -> None:
    """Close what the supervisor itself has open."""
    loop.page.close()
    loop.watches.close()
    os.close(loop.page.fd)
    loop.close_life_pipe()
    loop.wakeup.close()


def crash(loop: Loop, error: BaseException) -> None:
    """A bug ended the supervisor: end every wait, with an error that says so, and every process."""
    logger.critical("the supervisor failed; its tasks fail with it", exc_info=error)
    acceptance = loop.acceptance
    acceptance.failure = error
    acceptance.is_refusing = True
    if loop.keyed is not None:
        loop.keyed.is_over = True
    _try(loop.settler.wake_callers)
    _try(loop.settler.note_all_settled)
    _try(loop.intake.gate.refuse_line, acceptance.failure_error)
    for puller in list(loop.pullers):
        _try(puller.end, acceptance.failure_error())
    _try(loop.inbox.end, loop.intake.refuse_late)
    _try(loop.stacks.abandon)
    workers = list(loop.scheduler.workers)
    for worker in workers:
        if worker.process is not None:
            _try(worker.process.kill_tree)
    for handle in unsettled_handles(loop):
        _try(_fail_handle, loop, handle)
    loop.has_drained.set()
    if loop.keyed is not None:
        _try(loop.keyed.stop, MOMENT_S)
    for stop in (loop.monitor.stop, loop.user_code.stop, loop.log_records.stop, loop.events.stop):
        _try(stop, MOMENT_S)
    for worker in workers:
        if worker.process is not None:
            _try(worker.process.close)
    _try(loop.launcher.close)
    _try(loop.starter.stop, MOMENT_S)
    _try(loop.warden.close)
    _try(loop.shares.free_all)
    _try(close_descriptors, loop)
    loop.has_closed.set()


def _try(act: Callable[..., object], *args: Any) -> None:
    """Call `act`, and log whatever it raises: the steps after it must run."""
    try:
        act(*args)
    except BaseException:
        logger.exception("exception in %r after the supervisor failed", act)


def _fail_handle(loop: Loop, handle: TaskHandle[Any]) -> None:
    if handle._settle(FINISHED, None, loop.acceptance.failure_error(handle)):
        loop.user_code.put(handle._invoke_callbacks)


def abandon_in_fork(loop: Loop) -> None:
    """In a fork of the manager's process: the workers belong to the other one.

    Every later call raises `ManagerClosedError`, and so do the waits of the thread that forked (`_sync`). The copies of
    the parent's descriptors are closed, else the workers would not notice its end; nothing is written to any.
    """
    acceptance = loop.acceptance
    if acceptance.is_foreign:
        return  # a fork of a fork: those numbers may be those of its own files now
    acceptance.is_foreign = True
    acceptance.is_refusing = True
    error = acceptance.fork_error()
    end_waits_in_fork(loop)
    loop.shares.watch_no_more()
    loop.inbox.abandon()
    for puller in list(loop.pullers):
        puller.abandon(error)
    is_open = loop.is_ready and not loop.has_closed.is_set
    loop.has_drained.set()
    loop.has_closed.set()
    if not is_open:
        if loop.life_write_fd >= 0:  # it is being started
            os.close(loop.life_write_fd)
        return
    # Not the page and the reading end of the life pipe, which a worker of a `fork` context is about to use.
    fds = {loop.life_write_fd, loop.warden.control_fd, *loop.watches.actions}
    for worker in list(loop.scheduler.workers):
        if worker.process is not None:
            fds.update(worker.process.fds())
    for fd in fds:
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass
    loop.launcher.abandon_in_fork()
    loop.watches.close()
