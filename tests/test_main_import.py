"""Who imports the main module: the zygote once, where nobody can notice, else each worker."""

from __future__ import annotations

import os
import sys

import pytest

from procbackground import Manager
from tests.support import scripts
from tests.support.gate import PATIENCE_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("PROCBACKGROUND_PLATFORM") == "portable", reason="there is no zygote"
)

PROGRAM = """
import os, random, socket, time
from procbackground import Manager, Task, current

imported_by = os.getpid()
{made}

def look():
    if current().attempt == 1 and current().name == "retried":
        os._exit(1)
    return os.getpid(), imported_by, {value}

if __name__ == "__main__":
    for _ in range(2):
        with Manager(max_workers=2, retry=2, {options}) as manager:
            handles = [manager.options(isolate=True).run(look) for _ in range(3)]
            handles += [manager.run_task(Task(look, name="retried")), manager.run(look)]
            looks = [handle.result(timeout=20) for handle in handles]
        owners = ["own" if pid == by else "copy" for pid, by, _ in looks]
        print(*sorted(set(owners)), len({{value for _, _, value in looks}}) == len({{pid for pid, _, _ in looks}}))
"""
HARMFUL = {
    "generator": ("made = random.Random()", "made.random()"),
    "connection": ("made = socket.create_server(('127.0.0.1', 0))", "made.getsockname()[1]"),
    "thread": ("import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "os.getpid()"),
}


def run(tmp_path, made: str, value: str, options: str = "") -> list[str]:
    finished = scripts.run(PROGRAM.format(made=made, value=value, options=options), folder=tmp_path)
    assert finished.stderr == ""
    return finished.stdout.splitlines()


@pytest.mark.parametrize("made", HARMFUL)
def test_each_worker_imports_a_main_that_forks_must_not_share(tmp_path, made):
    code, value = HARMFUL[made]
    # Each draws a number of its own, for each task of it.
    value = value if made != "generator" else f"[{value}, os.getpid()][1]"
    assert run(tmp_path, code, value) == ["own True"] * 2


def test_copies_of_a_generator_do_not_give_the_same_numbers(tmp_path):
    finished = scripts.run(
        """
        import random, time
        from procbackground import Manager
        made = random.Random()
        def draw():
            time.sleep(0.05)
            return made.random()
        if __name__ == "__main__":
            with Manager(max_workers=2) as manager:
                print(len(set(manager.options(isolate=True).map(lambda _: draw(), range(4), chunksize=1))))
        """,
        folder=tmp_path,
    )
    assert (finished.stdout, finished.stderr) == ("4\n", "")


def test_workers_are_copies_of_a_harmless_main(tmp_path):
    assert run(tmp_path, "made = random.random()", "os.getpid()") == ["copy True"] * 2


def test_a_main_can_be_shared_all_the_same(tmp_path):
    code, _ = HARMFUL["connection"]
    assert run(tmp_path, code, "os.getpid()", "main_import='once'") == ["copy True"] * 2


def test_each_worker_can_be_made_to_import_a_harmless_main(tmp_path):
    assert run(tmp_path, "", "os.getpid()", "main_import='each'") == ["own True"] * 2


@pytest.mark.slow
def test_a_main_that_takes_seconds_is_imported_once_for_workers_that_wait_meanwhile(tmp_path):
    finished = scripts.run(
        """
        import time
        from procbackground import CallbackObserver, Manager
        print("imported", flush=True)
        if __name__ != "__main__":
            time.sleep(2.5)  # longer than a zygote may take for a fork
        if __name__ == "__main__":
            held = CallbackObserver(on_admission_held=lambda event: print("held", event.error))
            with Manager(max_workers=4, observer=held) as manager:
                for handle in [manager.run(time.sleep, 0.5) for _ in range(4)]:
                    handle.result(timeout=30)
        """,
        folder=tmp_path,
    )
    assert (finished.stdout, finished.stderr) == ("imported\n" * 2, "")


@pytest.mark.parametrize("main_import", ["shared", None, True])
def test_another_word_is_refused(main_import):
    with pytest.raises(ValueError, match="main_import must be 'auto', 'once' or 'each', not"):
        Manager(main_import=main_import)


def test_a_main_that_fails_in_a_worker_is_an_error(tmp_path):
    finished = scripts.run(
        """
        import multiprocessing
        from procbackground import Manager
        if multiprocessing.parent_process() is not None:
            raise LookupError("not here")
        def work(): ...
        if __name__ == "__main__":
            with Manager(max_workers=1, main_import="each") as manager:
                print(type(manager.run(work).exception(timeout=20)).__name__)
        """,
        folder=tmp_path,
    )
    assert finished.stdout == "WorkerStartError\n"
    assert "LookupError: not here" in finished.stderr


def test_a_module_that_forks_must_not_share_is_imported_by_each_worker(make_manager, tmp_path, monkeypatch):
    (tmp_path / "draws.py").write_text(
        "import os, random\n"
        "made, imported_by = random.Random(), os.getpid()\n"
        "def draw(): return made.random(), os.getpid() == imported_by\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import draws  # type: ignore[import-not-found]

    manager = make_manager()
    drawn = [manager.options(isolate=True).run(draws.draw).result(timeout=PATIENCE_S) for _ in range(8)]
    assert len({number for number, _ in drawn}) == 8
    assert all(is_own for _, is_own in drawn)
