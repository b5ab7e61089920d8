"""The status socket, and `procbackground top`."""

from __future__ import annotations

import gc
import json
import os
import socket
import stat
import threading

import pytest

from procbackground import Manager, SerializationError
from procbackground._status import places
from procbackground._status.client import Client, StatusError, living_places
from tests.support.facts import Living, wait_until
from tests.support.gate import stop_at_gate


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """Sockets of a test are its own."""
    folder = tmp_path / "r"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def manager():
    with Manager(max_workers=1, name="crunch", status=True) as manager:
        yield manager


def client() -> Client:
    [place] = living_places()
    return Client(place)


def test_the_socket_is_for_its_user_alone_and_goes_with_the_manager(runtime):
    before = threading.active_count()
    with Manager(max_workers=1, name="a b/c", status=True):
        [place] = places.all_places()
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(place.path)).st_mode) == 0o700
        assert (place.pid, place.name) == (os.getpid(), "a_b_c")
    assert places.all_places() == []
    assert threading.active_count() == before


@pytest.mark.parametrize("wrong", [{"preload": 5}, {"initializer": print, "initargs": (threading.Lock(),)}])
def test_a_manager_that_cannot_be_made_leaves_no_socket_and_its_journal_free(tmp_path, wrong):
    journal = tmp_path / "batch.sqlite"
    with pytest.raises((TypeError, SerializationError)):
        Manager(status=True, journal=journal, **wrong)
    assert places.all_places() == []
    with Manager(max_workers=1, journal=journal) as manager:
        assert manager.run(pow, 2, 3).result(timeout=20) == 8


def test_a_manager_whose_status_has_no_thread_leaves_nothing(tmp_path, monkeypatch):
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "procbackground-status":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    journal = tmp_path / "batch.sqlite"
    with Manager(max_workers=1) as manager:  # what a first manager loads and keeps is there
        assert manager.run(pow, 2, 3).result(timeout=20) == 8
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Manager(status=True, journal=journal)
    assert places.all_places() == []
    assert os.listdir("/proc/self/fd") == before
    with Manager(max_workers=1, journal=journal) as manager:
        assert manager.run(pow, 2, 3).result(timeout=20) == 8


def test_a_manager_that_is_dropped_takes_its_status_along(runtime):
    before = Living.now()
    Manager(max_workers=1, status=True)
    gc.collect()
    wait_until(lambda: not Living.now().more_than(before), "its thread and its socket are gone")
    assert places.all_places() == []


def test_a_folder_that_others_may_write_to_is_refused(runtime):
    (runtime / "procbackground").mkdir(mode=0o700)
    (runtime / "procbackground").chmod(0o777)
    with pytest.raises(PermissionError):
        Manager(status=True)


def test_another_user_is_turned_away(manager, monkeypatch):
    with client() as asked:
        assert places.peer_uid(asked._socket) in (os.geteuid(), None)
    monkeypatch.setattr(places, "peer_uid", lambda connection: os.geteuid() + 1)
    with client() as asked, pytest.raises(StatusError, match="has closed"):
        asked.ask("status")


def test_a_fork_of_the_process_neither_answers_nor_removes_the_socket(manager):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    with client() as asked:
        assert asked.ask("status")["pid"] == os.getpid()


def test_status_shows_workers_tasks_and_the_queue(manager, gate):
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    queued = manager.run(abs, -2)
    with client() as asked:
        status = asked.ask("status")
        assert (status["name"], status["state"], status["max_workers"]) == ("crunch", "open", 1)
        assert (status["tasks"]["running"], status["tasks"]["queued"]) == (1, 1)
        assert status["queue_age"] >= 0
        [worker] = status["workers"]
        assert (worker["pid"], worker["task"], worker["attempt"]) == (pid, "stop_at_gate", 1)
        assert worker["memory"] > 0
        assert asked.ask("cancel", pid=pid, since=worker["since"] - 5)["cancelled"] is False
        assert asked.ask("cancel", pid=pid, since=worker["since"])["cancelled"] is True
    assert running.cancelled()
    queued.result(timeout=60)


def test_drain_cancels_what_is_queued_and_finishes_what_runs(manager, gate):
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    queued = [manager.run(stop_at_gate, gate.address) for _ in range(3)]
    with client() as asked:
        asked.ask("drain")
        assert all(handle.cancelled() for handle in queued)
        assert asked.ask("status")["state"] == "closing"
    gate.open()
    running.result(timeout=60)


def test_close_stops_what_runs(manager, gate):
    running = manager.run(stop_at_gate, gate.address)
    gate.wait_for_arrival()
    with client() as asked:
        asked.ask("close", timeout=0)
    assert manager.close().is_clean is False
    assert running.cancelled()


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"do": "explode"}', b'{"do": "cancel"}', b"\xff", b'{"do": 1}'])
def test_bad_requests_are_answered_and_harm_nothing(manager, line):
    with client() as asked:
        asked._socket.sendall(line + b"\n")
        assert json.loads(asked._answers.readline())["ok"] is False
        assert asked.ask("status")["state"] == "unused"
        with pytest.raises(StatusError, match="no worker has pid 1"):
            asked.ask("cancel", pid=1)


def test_an_endless_request_is_left(manager):
    with client() as asked:
        try:
            asked._socket.sendall(b"x" * 1_000_000)
            assert asked._socket.recv(1) == b""
        except ConnectionError:
            pass
    with client() as asked:
        assert asked.ask("status")["ok"]


def test_sockets_of_killed_processes_are_removed(runtime, manager):
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(runtime / "procbackground" / "1-1-gone.sock")
    left.bind(path)
    left.close()
    assert len(living_places()) == 1
    assert not os.path.exists(path)


def answering(answer: bytes) -> socket.socket:
    """Return a socket where a manager would have its own; one client gets `answer` there, and the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.path.join(places.make_folder(), "1-1-odd.sock"))
    listener.listen()

    def answer_one() -> None:
        for _ in range(2):  # `living_places` only connects
            connection, _ = listener.accept()
            with connection:
                if connection.recv(1000):
                    connection.sendall(answer)

    threading.Thread(target=answer_one, daemon=True).start()
    return listener


@pytest.mark.parametrize("answer", [b"", b'{"ok": true, "sta'])
def test_a_manager_that_ends_in_the_midst_of_its_answer_has_closed(answer):
    with answering(answer), client() as asked, pytest.raises(StatusError, match="has closed"):
        asked.ask("status")


def test_inline_managers_have_no_status():
    with pytest.raises(ValueError, match="inline"):
        Manager(inline=True, status=True)


def test_top_prints_one_status(command):
    with command.running("map", "tasks:sleeps", "-j", "1", "a", "b") as process:
        assert process.stderr.readline() == "begun\n"
        ran = command("top", "--once", "--json")
        status = json.loads(ran.out)
        assert (status["name"], status["pid"]) == ("tasks:sleeps", process.pid)
        assert status["workers"][0]["call"] == "sleeps('a')"
        ran = command("top", "tasks:sleeps", "--once")
        assert "1 running  1 queued" in ran.out
        assert all(len(line) <= 80 for line in ran.out.splitlines())
        assert "did you mean tasks:sleeps?" in command("top", "tasks:sleep", "--once").err
        assert "no terminal" in command("top", str(process.pid)).err
    ran = command("top", "--once")
    assert ran.code == 2
    assert "no manager of yours" in ran.err


def test_a_drained_run_says_so(command):
    with command.running("map", "tasks:sleeps", "-j", "1", ":::", "a", "b", ":::+", "1", "60") as process:
        assert process.stderr.readline() == "begun\n"
        folder = os.path.join(command.environment["XDG_RUNTIME_DIR"], "procbackground")
        [name] = os.listdir(folder)
        with Client(places.Place(os.path.join(folder, name), process.pid, 1, "")) as asked:
            asked.ask("drain")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["succeeded"]
    assert "ended by its status socket" in err
