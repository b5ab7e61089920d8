"""A storm of real SIGINTs upon a script that submits, cancels, maps, streams and closes: nothing is lost in it."""

from __future__ import annotations

import json

import pytest

from tests.support.scripts import running

INTERRUPTS = 10_000
SECONDS = 90

STORM = """
    import itertools, json, os, random, signal, subprocess, sys, threading, time
    from concurrent.futures import CancelledError
    from procbackground import Manager, ManagerClosedError, Task
    from tests.support.facts import Living
    from tests.support.tasks import failing, plain

    INTERRUPTS, SECONDS, PATIENCE_S = {interrupts}, {seconds}, 30

    # It is this process's child and signals its parent until it is told to end, or is left alone.
    SHOOTER = '''
    import os, random, signal, sys, time
    target = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.getppid() == target:
        time.sleep(random.uniform(0.001, 0.005))
        os.kill(target, signal.SIGINT)
    '''

    raised = 0
    shields = 0

    def interrupt(number, frame):
        global raised
        if shields:
            return  # the script keeps its books
        raised += 1
        raise KeyboardInterrupt

    counts = dict(submit=0, cancel=0, map=0, stream=0, close=0, wait=0)
    problems = []

    def attempt(what, act):
        # Returns what `act` returned, or None where it was interrupted.
        counts[what] += 1
        return guarded(what, act, 8)

    def guarded(what, act, depth):
        # Interrupts may come while an earlier one is being handled: so there are several lines of defence.
        global shields
        try:
            if depth:
                return guarded(what, act, depth - 1)
            shields = 0
            return act()
        except KeyboardInterrupt:
            return None
        except ManagerClosedError:
            if what == "close":
                raise
        finally:
            shields = 1

    def stream_some(manager, handles):
        tasks = (Task(plain.square, args=(number,)) for number in range(40))
        for handle in manager.stream(tasks, buffersize=8):
            handles.append(handle)

    def play_round(number):
        manager = Manager(max_workers=2, grace=0.2, max_pending=64 if number % 3 == 0 else None)
        handles, streamed = [], []
        end = time.monotonic() + 1.5
        for turn in itertools.count():
            if time.monotonic() > end or raised >= INTERRUPTS:
                break
            handle = attempt("submit", lambda: manager.run(plain.square, turn))
            if handle is not None:
                handles.append(handle)
            if turn % 7 == 0:
                handle = attempt("submit", lambda: manager.run_task(Task(failing.fail, retry=2, deadline=60)))
                if handle is not None:
                    handles.append(handle)
                    attempt("cancel", handle.cancel)
            if turn % 5 == 0 and handles:
                attempt("cancel", random.choice(handles).cancel)
            if turn % 40 == 0:
                attempt("map", lambda: list(manager.map(plain.square, range(300))))
            if turn % 40 == 20:
                attempt("stream", lambda: stream_some(manager, streamed))
            if turn % 100 == 50:
                attempt("wait", lambda: manager.wait(timeout=0.01))
        for _ in range(random.randrange(4)):  # some closes are interrupted, and repeated
            attempt("close", lambda: manager.close(timeout=5))
        if not manager.wait(timeout=PATIENCE_S):
            problems.append(f"round {{number}}: wait() does not return; {{manager.stats()}}")
        undone = [handle for handle in handles + streamed if not handle.done()]
        if undone:
            problems.append(f"round {{number}}: {{len(undone)}} handles are not done: {{undone[:3]}}")
        began = time.monotonic()
        report = manager.close(timeout=0)
        took = time.monotonic() - began
        stats = manager.stats()
        if report.leftovers or report.left or took > 10:
            problems.append(f"round {{number}}: close took {{took}} s: {{report}}")
        if stats.added != stats.succeeded + stats.failed + stats.cancelled or stats.queued or stats.running:
            problems.append(f"round {{number}}: {{stats}}")
        if stats.added < len(handles):
            problems.append(f"round {{number}}: {{len(handles)}} handles, and {{stats}}")

    if __name__ == "__main__":
        shields = 1
        with Manager(max_workers=1) as manager:  # starts what stays: fork server and resource tracker
            manager.run(pow, 2, 10).result()
        signal.signal(signal.SIGINT, interrupt)
        before = Living.now()
        shooter = subprocess.Popen([sys.executable, "-c", __import__("textwrap").dedent(SHOOTER)])
        end = time.monotonic() + SECONDS
        rounds = 0
        while raised < INTERRUPTS and time.monotonic() < end:
            rounds += 1
            play_round(rounds)
        shooter.kill()
        shooter.wait()
        end = time.monotonic() + 10
        while (left := Living.now().more_than(before)) and time.monotonic() < end:
            time.sleep(0.01)
        result = dict(raised=raised, rounds=rounds, operations=counts, problems=problems, left=left)
        print(json.dumps(result), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 150)
def test_a_storm_of_interrupts_loses_no_task_and_leaves_nothing_behind(tmp_path, record_property):
    with running(STORM.format(interrupts=INTERRUPTS, seconds=SECONDS), tmp_path) as process:
        stdout, stderr = process.communicate(timeout=SECONDS + 120)
    assert process.returncode == 0, stderr[-5000:]
    told = json.loads(stdout.splitlines()[-1])
    record_property("storm", told)
    print(told)
    assert told["problems"] == []
    assert told["left"] == []
    assert told["raised"] >= 1000  # fewer would be no storm
    assert min(told["operations"].values()) > 0
