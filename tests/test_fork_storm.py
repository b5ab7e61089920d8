"""A storm of forks made by a signal handler, upon a script that is in random calls: each fork ends in bounded time."""

from __future__ import annotations

import json
import random

import pytest

from tests.support import scripts

BOUND_S = 15  # for a fork: more than any takes on a busy machine

STORM = """
    import faulthandler, json, os, random, signal, sys, time, traceback, warnings
    from concurrent.futures import CancelledError, as_completed, wait
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks in threaded processes
    from procbackground import Manager, ManagerClosedError, Task
    from tests.support.tasks import plain

    SEED, SECONDS, BOUND_S, PERIOD_S, MOST_CHILDREN = {seed}, {seconds}, {bound_s}, 0.013, 6
    REFUSED = ManagerClosedError, CancelledError

    # In a fork, their locks may be held for ever, by a thread of the parent that was about to settle a future.
    STANDARD_WAITS = "as_completed", "wait of futures"

    parent = os.getpid()
    manager = None
    doing = "nothing"
    children = {{}}  # by pid, what the parent was doing
    forks = 0
    problems = []
    is_in_handler = False

    def fork(number, frame):
        global forks, is_in_handler
        if is_in_handler:
            return
        is_in_handler = True
        try:
            # Only now: a handler that came just before may have made this process a fork.
            if os.getpid() != parent or doing in STANDARD_WAITS:
                return
            reap(os.WNOHANG)
            if len(children) < MOST_CHILDREN:
                forks += 1
                pid = os.fork()
                if pid:
                    children[pid] = doing
                else:
                    be_child()
        finally:
            is_in_handler = False

    def reap(how):
        for pid, what in list(children.items()):
            reaped, status = os.waitpid(pid, how)
            if reaped:
                del children[pid]
                if status:
                    problems.append(f"a fork amid {{what}} ended with {{os.waitstatus_to_exitcode(status)}}")

    def be_child():
        faulthandler.dump_traceback_later(BOUND_S, exit=True)
        if manager is None or forks % 2:
            return  # into the call that was interrupted
        for call in random.sample(calls_of(manager), 2):
            try:
                call()
            except REFUSED:
                pass
            except BaseException:
                traceback.print_exc()
                os._exit(2)
        os._exit(0)

    def leave_fork():
        if os.getpid() != parent:
            os._exit(0)

    def tasks(count):
        return (Task(plain.square, args=(number,)) for number in range(count))

    def calls_of(manager):
        return [
            lambda: manager.run(plain.square, 3),
            lambda: list(manager.map(plain.square, range(9))),
            lambda: list(manager.stream(tasks(9))),
            manager.wait, manager.stats, manager.cancel, manager.close,
        ]

    def acts_of(manager, handles):
        def some():
            return [manager.run(plain.square, number) for number in range(10)]

        return {{
            "submit": lambda: handles.append(manager.run(plain.square, 2)),
            "map": lambda: list(manager.map(plain.square, range(50))),
            "lazy map": lambda: list(manager.map(plain.square, iter(range(50)), buffersize=8)),
            "map that is left": lambda: manager.map(plain.square, range(50)).close(),
            "stream": lambda: list(manager.stream(tasks(20), buffersize=4)),
            "as_completed": lambda: list(as_completed(some())),
            "wait of futures": lambda: wait(some()),
            "wait": manager.wait,
            "result": lambda: manager.run(plain.square, 5).result(),
            "cancel": lambda: handles and random.choice(handles).cancel(),
            "cancel all": manager.cancel,
            "stats": manager.stats,
        }}

    def play(end_s):
        global doing
        handles = []
        for _ in range(random.randrange(60)):
            if time.monotonic() > end_s:
                break
            doing, act = random.choice(list(acts_of(manager, handles).items()))
            try:
                act()
            except CancelledError:
                pass
            leave_fork()
        doing = "close"

    def main():
        global manager, doing
        end_s = time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            doing = "make"
            options = dict(status=random.random() < 0.5, max_pending=random.choice([None, 16]))
            manager = Manager(2, **options)
            leave_fork()
            if random.random() < 0.5:
                with manager:
                    play(end_s)
            elif random.random() < 0.8:
                play(end_s)
            manager.close()
            leave_fork()

    if __name__ == "__main__":
        random.seed(SEED)
        with Manager(1) as first:  # starts what stays
            first.run(plain.square, 2).result()
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, PERIOD_S, PERIOD_S)
        try:
            main()
        except REFUSED:
            if os.getpid() == parent:
                raise
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        leave_fork()
        signal.setitimer(signal.ITIMER_REAL, 0)
        reap(0)
        print(json.dumps(dict(forks=forks, problems=problems)))
"""


@pytest.mark.parametrize("seconds", [2, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(150)])])
def test_each_fork_of_a_storm_ends(tmp_path, seconds):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with scripts.running(STORM.format(seed=seed, seconds=seconds, bound_s=BOUND_S), tmp_path) as process:
        stdout, stderr = process.communicate(timeout=seconds + 60)
    assert process.returncode == 0, stderr[-5000:]
    told = json.loads(stdout.splitlines()[-1])
    assert told["problems"] == [], stderr[-10000:]
    assert told["forks"] > 10
