"""Journals when something goes wrong: killed parents, forks, full disks, damaged and foreign files, two managers."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from procbackground import JournalError, Manager, Task, TaskType
from procbackground._journal import lock
from procbackground._journal.reader import Journal
from tests.support.facts import wait_until
from tests.support.gate import PATIENCE_S, stop_at_gate
from tests.support.scripts import ENVIRONMENT, run, running
from tests.support.tasks import journaled, plain
from tests.support.tasks.saving import lines_of


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "batch.sqlite")


def states_of(path):
    with Journal(path) as journal:
        return Counter(entry.state for entry in journal.entries())


# -- the parent is killed ----------------------------------------------------------------------------------------

BATCH = """
    import random, sys
    from procbackground import Manager
    from tests.support.tasks import journaled

    if __name__ == "__main__":
        numbers = list(range({count}))
        random.shuffle(numbers)
        with Manager(max_workers=2, journal={path!r}, grace=0.1) as manager:
            handles = {{n: manager.run(journaled.counted_when_done, {log!r}, n, {seconds}) for n in numbers}}
            acknowledged = open({told!r}, "a")
            for number, handle in handles.items():
                assert handle.result() == number * number
                acknowledged.write(f"{{number}}\\n")
                acknowledged.flush()
        print("complete")
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.004])
def test_batch_that_is_killed_again_and_again_does_each_task_once(tmp_path, path, seconds):
    chance = random.Random(17)
    log, told = str(tmp_path / "log"), str(tmp_path / "told")
    count = 3000 if not seconds else 500
    source = BATCH.format(count=count, path=path, log=log, told=told, seconds=seconds)
    for _ in range(8):
        with running(source, tmp_path) as process:
            before = len(lines_of(log))
            wait_until(lambda: len(lines_of(log)) > before or process.poll() is not None, "a task that is done")  # noqa: B023
            time.sleep(chance.random() * 0.3)  # the point at which it is killed is the chance of this test
            process.kill()
            process.wait()
            acknowledged = {int(line) for line in lines_of(told) if line}
            wait_until(lambda: not lock.is_held(path), "the lock of a dead process")
            with Journal(path) as journal:
                recorded = {entry.command for entry in journal.entries(["succeeded"])}
            assert len(recorded) >= len(acknowledged)
            assert all(any(f", {number}, " in command for command in recorded) for number in list(acknowledged)[:20])
    ran = run(source, folder=tmp_path)
    assert ran.stdout == "complete\n", ran.stderr
    executed = Counter(lines_of(log))
    assert set(executed) == {str(number) for number in range(count)}
    # Seldom, a worker is killed in the microseconds between the end of a task and its note of the result.
    assert sum(executed.values()) - count <= (2 if seconds else 8)
    assert states_of(path) == {"succeeded": count}
    ran = run(source, folder=tmp_path)
    assert ran.stdout == "complete\n", ran.stderr
    assert Counter(lines_of(log)) == executed


def test_kill_leaves_the_truth_and_the_next_run_does_the_rest(tmp_path, path, gate):
    log = str(tmp_path / "log")
    source = f"""
        from procbackground import Manager
        from tests.support.gate import Address
        from tests.support.tasks import journaled

        if __name__ == "__main__":
            with Manager(max_workers=1, journal={path!r}) as manager:
                manager.run(journaled.counted, {log!r}, 1).result()
                held = manager.run(journaled.counted_and_held, {log!r}, Address(*{tuple(gate.address)!r}), "held")
                manager.run(journaled.counted, {log!r}, 3)
                held.result()
    """
    with running(source, tmp_path) as process:
        gate.wait_for_arrival()
        wait_until(lambda: states_of(path) == {"succeeded": 1, "running": 1, "queued": 1}, "a start in the journal")
        process.kill()
        process.wait()
    assert states_of(path) == {"succeeded": 1, "interrupted": 1, "queued": 1}
    gate.open()
    assert run(source, folder=tmp_path).returncode == 0
    assert lines_of(log) == ["1", "held", "held", "3"]
    with Journal(path) as journal:
        assert [attempt.outcome for attempt in journal.past_attempts()] == ["interrupted"]
        assert [run.ended is None for run in journal.runs()] == [True, False]


def test_saved_state_survives_the_parent(tmp_path, path):
    log = str(tmp_path / "log")
    source = f"""
        from procbackground import Manager
        from tests.support.tasks import journaled

        if __name__ == "__main__":
            with Manager(max_workers=1, journal={path!r}) as manager:
                print(manager.run(journaled.count_up, 60, {log!r}).result())
    """
    for goal in (10, 30):
        with running(source, tmp_path) as process:
            wait_until(lambda: len(lines_of(log)) >= goal, "some steps")  # noqa: B023
            process.kill()
            process.wait()
        wait_until(lambda: not lock.is_held(path), "the lock of a dead process")
    assert run(source, folder=tmp_path).stdout == "60\n"
    steps = list(map(int, lines_of(log)))
    assert sorted(set(steps)) == list(range(1, 61))
    assert len(steps) < 60 + 20  # what was not committed is done again, and no more than that


# -- two managers, forks -----------------------------------------------------------------------------------------


def test_a_manager_leaves_the_files_of_its_own_workers_alone(make_manager, path, gate, caplog):
    """They are there before the journal is written to: that of a loop, say, which is not recorded."""
    manager = make_manager(journal=path)
    loop = manager.run_task(Task(stop_at_gate, args=(gate.address,), type=TaskType.LOOP))
    pid = gate.wait_for_arrival()
    assert manager.run(plain.square, 3).result(timeout=PATIENCE_S) == 9
    file = Path(path)
    assert list(file.parent.glob(f"{file.name}*-{pid}-a"))
    assert not caplog.text
    loop.cancel()
    assert manager.close(timeout=PATIENCE_S).left == ()
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_second_manager_on_a_file_gets_a_clear_error(path, tmp_path):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 2).result(PATIENCE_S) == 4
        for other in (path, os.path.relpath(path)):
            with pytest.raises(JournalError, match=rf"by a manager of this process \({os.getpid()}\): close that"):
                Manager(journal=other)
        os.symlink(path, tmp_path / "link")
        with pytest.raises(OSError, match="in use"):
            Manager(journal=tmp_path / "link")
        ran = run(f"from procbackground import Manager\nManager(journal={path!r})", "-c")
        assert f"in use by a manager of process {os.getpid()}" in ran.stderr
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
    assert states_of(path) == {"succeeded": 2}


def test_manager_that_was_never_used_gives_the_file_back(path):
    for _ in range(2):
        Manager(journal=path).close()
        Manager(journal=path).shutdown()
        with pytest.raises(ValueError, match="max_workers"):
            Manager(journal=path, max_workers=0)
    dropped = Manager(journal=path)
    del dropped
    import gc

    gc.collect()
    Manager(journal=path).close()


def test_fork_of_the_process_leaves_the_journal_alone(path):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 2).result(PATIENCE_S) == 4
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    Manager(journal=path)
                except JournalError:
                    code = 0
                import gc

                del manager
                gc.collect()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
    assert states_of(path) == {"succeeded": 2}


def test_fork_that_exits_normally_leaves_the_journal_alone(tmp_path, path):
    source = f"""
        import os, sys
        from procbackground import Manager

        if __name__ == "__main__":
            manager = Manager(max_workers=1, journal={path!r}, mp_context="fork" if False else None)
            print(manager.run(pow, 2, 3).result(), flush=True)
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            print(os.waitpid(pid, 0)[1])
            print(manager.run(pow, 2, 4).result())
            manager.close()
    """
    ran = run(source, folder=tmp_path)
    assert ran.stdout == "8\n0\n16\n", ran.stderr
    assert states_of(path) == {"succeeded": 2}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_start_methods(path, method):
    import multiprocessing

    for _ in range(2):
        with Manager(max_workers=2, journal=path, mp_context=multiprocessing.get_context(method)) as manager:
            assert list(manager.map(plain.square, range(5))) == [0, 1, 4, 9, 16]
    assert states_of(path) == {"succeeded": 5}


# -- files that cannot be used -------------------------------------------------------------------------------------


def make_text(path):
    with open(path, "w", encoding="ascii") as file:
        file.write("no database at all, but a text of some length\n" * 100)


def make_foreign(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


def make_newer(path):
    Manager(journal=path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def make_damaged(path):
    with Manager(max_workers=1, journal=path) as manager:
        list(manager.map(plain.square, range(300)))
    with open(path, "r+b") as file:
        for page in range(1, os.path.getsize(path) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 200)


def make_truncated(path):
    with Manager(max_workers=1, journal=path) as manager:
        list(manager.map(plain.square, range(300)))
    os.truncate(path, 8192)


def make_folder(path):
    os.mkdir(path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (make_text, "is no SQLite database"),
        (make_foreign, "of another program"),
        (make_newer, "newer version"),
        (make_damaged, "is damaged"),
        (make_truncated, "is damaged"),
        (make_folder, "is no file"),
    ],
)
def test_file_that_cannot_be_used_is_a_clear_error_and_stays_as_it_is(path, make, text):
    make(path)
    before = Path(path).read_bytes() if os.path.isfile(path) else None
    for _ in range(2):
        with pytest.raises(JournalError, match=text) as caught:
            Manager(journal=path)
        assert isinstance(caught.value, OSError)
        assert path in str(caught.value)
    if before is not None:
        assert Path(path).read_bytes() == before
    assert not os.path.exists(path + "-lock")


def test_missing_folder_and_wrong_names_are_clear_errors(tmp_path):
    with pytest.raises(JournalError, match="there is no folder"):
        Manager(journal=tmp_path / "missing" / "batch.sqlite")
    for name in ("", b"bytes", 3):
        with pytest.raises(TypeError):
            Manager(journal=name)  # type: ignore[arg-type]
    with pytest.raises(JournalError, match="there is no journal"):
        Journal(tmp_path / "missing.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_file_is_a_clear_error(path):
    Manager(journal=path).close()
    os.chmod(path, 0o444)
    with pytest.raises(JournalError, match=r"read-only|may not be"):
        Manager(journal=path)


# -- the disk is full ------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", os.fspath(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", os.fspath(folder)], check=True)


def fill(disk, left_bytes=0):
    state = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (state.f_bavail * state.f_frsize - left_bytes))


@pytest.mark.parametrize("left_bytes", [0, 4096, 20_480, 36_864, 61_440])
def test_journal_that_finds_no_room_is_a_clear_error_and_leaves_nothing(disk, left_bytes):
    fill(disk, left_bytes)
    with pytest.raises(JournalError, match="its disk is full"):
        Manager(journal=disk / "batch.sqlite")
    assert os.listdir(disk) == ["filler"]


def test_journal_can_be_read_on_a_full_disk(disk):
    path = disk / "batch.sqlite"
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
        fill(disk)
        assert states_of(path) == {"succeeded": 1}
    assert states_of(path) == {"succeeded": 1}
    assert sorted(os.listdir(disk)) == ["batch.sqlite", "filler"]


def test_full_disk_costs_no_result_and_is_reported(tmp_path, path):
    source = f"""
        import resource, logging
        from procbackground import Manager
        from tests.support.tasks import plain

        if __name__ == "__main__":
            manager = Manager(max_workers=1, journal={path!r})
            manager.run(plain.square, -1).result()
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
            sizes = [manager.run(plain.bytes_of_size, 20_000 + number) for number in range(40)]
            print(sum(len(handle.result()) for handle in sizes))
            report = manager.close()
            print(report.is_clean, report.left)
    """
    ran = run(source, folder=tmp_path)
    first, second = ran.stdout.splitlines()
    assert first == str(sum(20_000 + number for number in range(40)))
    assert second.startswith("False"), ran.stderr
    assert "results that the journal does not have" in second
    assert ran.stderr.count("tasks continue") == 1, ran.stderr
    assert 1 <= states_of(path)["succeeded"] < 41
    with Manager(max_workers=1, journal=path) as manager:  # the disk has room again
        assert len(manager.run(plain.bytes_of_size, 20_000).result(PATIENCE_S)) == 20_000


def test_trouble_that_passes_loses_no_record(tmp_path, path):
    source = f"""
        import resource, sys
        from procbackground import Manager
        from tests.support.tasks import plain

        if __name__ == "__main__":
            manager = Manager(max_workers=1, journal={path!r})
            manager.run(plain.square, -1).result()
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
            for number in range(40):
                manager.run(plain.bytes_of_size, 20_000 + number).result()
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            manager.run(plain.square, -2).result()
            print(manager.close().left)
    """
    ran = run(source, folder=tmp_path)
    assert ran.stdout == "()\n", ran.stderr
    assert "can be written again" in ran.stderr
    assert states_of(path) == {"succeeded": 42}


def test_other_program_that_holds_the_file_for_a_while_delays_and_loses_nothing(path):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 1).result(PATIENCE_S) == 1
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        waiting = manager.run(plain.square, 2)
        assert not waiting.done()
        holder.execute("COMMIT")
        holder.close()
        assert waiting.result(PATIENCE_S) == 4
    assert states_of(path) == {"succeeded": 2}


@pytest.mark.parametrize("is_used", [False, True])
def test_file_that_is_removed_while_in_use_is_an_error_in_the_report(path, is_used, caplog):
    manager = Manager(max_workers=1, journal=path)
    if is_used:
        assert manager.run(plain.square, 1).result(PATIENCE_S) == 1
    os.unlink(path)
    for number in (2, 3):
        assert manager.run(plain.square, number).result(PATIENCE_S) == number**2
    (left,) = manager.close().left
    assert left.startswith("2 results that the journal does not have")
    assert "was moved, removed or replaced" in left
    assert caplog.text.count("tasks continue") == 1
    assert not os.path.exists(path)


def test_second_manager_is_kept_off_though_the_file_of_the_lock_was_removed(path, tmp_path):
    with Manager(max_workers=1, journal=path) as manager:
        os.unlink(path + "-lock")
        assert manager.run(plain.square, 2).result(PATIENCE_S) == 4
        other = run(f"from procbackground import Manager\nManager(journal={path!r})\n", folder=tmp_path)
        assert "is in use by a manager of process" in other.stderr


def test_results_are_found_though_the_write_ahead_log_was_removed_while_in_use(path, tmp_path, caplog):
    count = f"import sqlite3; print(sqlite3.connect({path!r}).execute('SELECT count(*) FROM tasks').fetchone()[0])"
    with Manager(max_workers=1, journal=path) as manager:
        for number in (1, 2, 3):
            assert manager.run(plain.square, number).result(PATIENCE_S) == number**2
            assert run(count, folder=tmp_path).stdout == f"{number}\n"
            os.unlink(path + "-wal")
        assert manager.close().left == ()
    assert "was removed while it was in use" in caplog.text
    assert states_of(path) == {"succeeded": 3}


def test_file_that_is_moved_back_has_everything(path, caplog):
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(plain.square, 1).result(PATIENCE_S) == 1
        os.rename(path, path + "-elsewhere")
        Path(path).write_text("of another program", encoding="ascii")
        assert manager.run(plain.square, 2).result(PATIENCE_S) == 4
        os.rename(path + "-elsewhere", path)
        assert manager.run(plain.square, 3).result(PATIENCE_S) == 9
        assert manager.close().left == ()
    assert "can be written again" in caplog.text
    assert states_of(path) == {"succeeded": 3}


def test_damage_of_a_result_is_noticed_and_the_task_runs_again(tmp_path, path):
    log = str(tmp_path / "log")
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(journaled.same, log, b"x" * 50_000).result(PATIENCE_S) == b"x" * 50_000
    with open(path, "r+b") as file:
        content = file.read()
        place = content.rindex(b"x" * 3000)
        file.seek(place)
        file.write(b"y")
    with Manager(max_workers=1, journal=path) as manager:
        assert manager.run(journaled.same, log, b"x" * 50_000).result(PATIENCE_S) == b"x" * 50_000
    assert lines_of(log) == ["same", "same"]


def test_network_file_systems_are_recognised(tmp_path, monkeypatch, caplog):
    found = lock.network_of(str(tmp_path))
    mounts = "1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /net\\040work rw shared:1 - nfs4 server:/x rw\n"
    file = tmp_path / "mountinfo"
    file.write_text(mounts)
    real_open = open

    def open_other(name, *rest, **more):
        return real_open(file if name == "/proc/self/mountinfo" else name, *rest, **more)

    monkeypatch.setattr("builtins.open", open_other)
    assert lock.network_of("/net work/batch.sqlite") == "nfs4"
    assert lock.network_of("/net worker/batch.sqlite") is None
    assert lock.network_of("/home/batch.sqlite") is None
    monkeypatch.undo()
    monkeypatch.setattr("procbackground._journal.writer.network_of", lambda path: "nfs4")
    Manager(journal=tmp_path / "batch.sqlite").close()
    assert "network file system (nfs4)" in caplog.text
    assert found is None or isinstance(found, str)


def test_interrupt_of_the_parent_leaves_a_file_that_continues(tmp_path, path):
    log = str(tmp_path / "log")
    source = f"""
        from procbackground import Manager
        from tests.support.tasks import journaled

        if __name__ == "__main__":
            with Manager(max_workers=1, journal={path!r}, grace=0.1) as manager:
                handles = [manager.run(journaled.counted_when_done, {log!r}, n, 0.01) for n in range(40)]
                print(sum(handle.result() for handle in handles))
    """
    with running(source, tmp_path) as process:
        wait_until(lambda: len(lines_of(log)) > 3, "some tasks")
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    assert states_of(path)["succeeded"] >= 2
    assert states_of(path)["running"] == 0
    assert run(source, folder=tmp_path).stdout == f"{sum(n * n for n in range(40))}\n"
    executed = Counter(lines_of(log))
    assert set(executed) == set(map(str, range(40)))
    assert sum(executed.values()) <= 42


def test_hash_seed_and_process_do_not_change_keys(tmp_path):
    code = textwrap.dedent("""
        from functools import partial
        from procbackground._journal.keys import default_key
        from tests.support.tasks.journaled import Point
        values = ({"b", "a", "c"}, {"x": 1, "y": {2.5, None}}, Point(1, 2.0), partial(pow, 2), "text" * 3, b"x")
        print(default_key(lambda x: x + 1, values, {"k": frozenset("abc")})[0], default_key(pow, (1, "a"), {})[0])
    """)
    found = set()
    for seed in ("1", "2", "3"):
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        found.add(ran.stdout)
    assert len(found) == 1
