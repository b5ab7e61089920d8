"""joblib's calls, and scikit-learn's, on our backend: what they return, and what becomes of them when they fail."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import pytest

from procbackground import Manager, MemoryLimitError, TaskTimeoutError, WorkerDiedError, current
from tests.support import scripts
from tests.support.facts import child_pids, wait_until, wait_until_gone
from tests.support.gate import PATIENCE_S, stop_at_gate

joblib = pytest.importorskip("joblib")
from joblib import Parallel, delayed, parallel_config  # noqa: E402  # only where it is installed

import procbackground.joblib  # noqa: E402, F401  # registers the backend
from procbackground.joblib import _Backend  # noqa: E402

ROOT = Path(__file__).parents[2]

# joblib itself asks for the default context of multiprocessing, and tells the others of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*joblib.*:ResourceWarning")


@pytest.fixture(autouse=True)
def _workers_go_with_their_backend():
    """A backend that nobody has any more closes its manager. A circle through a traceback may hold it, and a batch
    that is being stopped may hold that circle for a moment: so the collector looks until it is gone."""
    yield

    def is_gone() -> bool:
        gc.collect()
        return not any(type(thing) is _Backend for thing in gc.get_objects())

    wait_until(is_gone, "no backend is kept")


def square(x: int) -> int:
    return x * x


def pid_of(_: object) -> int:
    return os.getpid()


def fail_at(number: int, at: int) -> int:
    if number == at:
        raise LookupError(f"no {number}")
    return number


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(number: int) -> int:
    if number == 3 and current().attempt == 1:
        os._exit(3)
    return number


def stop_at_gate_or_fail(address, number: int) -> None:
    """Number 0 stops at the gate; number 1 waits for its word and fails."""
    answer = stop_at_gate(address, number)
    if answer == "fail":
        raise LookupError("told to")


def total(array) -> float:
    return float(array.sum())


def doubled(array):
    array *= 2  # a memory map of joblib's would not let us
    return array


def hoard() -> None:
    hoarded = []
    while True:
        hoarded.append(bytearray(10_000_000))
        time.sleep(0.01)


def nested_sum(count: int) -> tuple[int, str, int]:
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return sum(Parallel(n_jobs=2)(delayed(square)(x) for x in range(count))), type(backend).__name__, os.getpid()


user: ContextVar[str] = ContextVar("user")


def user_here() -> str:
    return user.get("nobody")


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def blas_threads() -> set[int]:
    import numpy
    import threadpoolctl

    numpy.ones((4, 4)) @ numpy.ones((4, 4))
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


# -- what it returns -----------------------------------------------------------------------------------------


def test_a_call_returns_what_a_sequential_one_does():
    expected = [square(x) for x in range(200)]
    assert Parallel(n_jobs=2, backend="procbackground")(delayed(square)(x) for x in range(200)) == expected
    with parallel_config(backend="procbackground", n_jobs=2):
        assert Parallel()(delayed(square)(x) for x in range(200)) == expected
        assert Parallel()(delayed(lambda x: x * x)(x) for x in range(5)) == expected[:5]
        assert Parallel()([]) == []


def test_work_is_done_in_our_workers_which_later_calls_have_too():
    with parallel_config(backend="procbackground", n_jobs=2):
        first = set(Parallel()(delayed(pid_of)(x) for x in range(50)))
        assert os.getpid() not in first
        assert first <= child_pids()
        assert set(Parallel()(delayed(pid_of)(x) for x in range(50))) & first


def test_workers_go_with_the_block():
    with parallel_config(backend="procbackground", n_jobs=2):
        pids = set(Parallel()(delayed(pid_of)(x) for x in range(4)))
    wait_until_gone(pids)


def test_workers_go_with_the_call():
    wait_until_gone(set(Parallel(n_jobs=2, backend="procbackground")(delayed(pid_of)(x) for x in range(4))))


def test_one_pool_serves_all_calls_of_a_parallel_block():
    with Parallel(n_jobs=2, backend="procbackground") as parallel:
        assert parallel(delayed(square)(x) for x in range(5)) == [0, 1, 4, 9, 16]
        assert parallel(delayed(square)(x) for x in range(3)) == [0, 1, 4]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_can_be_taken_as_they_come(gate, return_as):
    with parallel_config(backend="procbackground", n_jobs=2):
        results = Parallel(return_as=return_as, batch_size=1)(
            delayed(stop_at_gate)(gate.address, number) for number in range(2)
        )
        arrivals = {arrival.label: arrival.pid for arrival in (gate.next_arrival(), gate.next_arrival())}
        first, second = (0, 1) if return_as == "generator" else (1, 0)
        gate.release(arrivals[first], f"answer {first}")
        assert next(results) == f"answer {first}"  # the other is still running
        gate.release(arrivals[second], f"answer {second}")
        assert list(results) == [f"answer {second}"]


def test_short_calls_are_put_into_batches():
    backend = _Backend(nesting_level=0)
    sizes = []
    completed = backend.batch_completed
    backend.batch_completed = lambda size, duration: (sizes.append(size), completed(size, duration))
    assert Parallel(n_jobs=2, backend=backend)(delayed(square)(x) for x in range(5000)) == [x * x for x in range(5000)]
    assert sum(sizes) == 5000
    assert max(sizes) > 1
    assert backend.compute_batch_size() == 1  # reset for the next call


def test_batch_size_is_kept_to():
    backend = _Backend(nesting_level=0)
    sizes = []
    backend.batch_completed = lambda size, duration: sizes.append(size)
    Parallel(n_jobs=2, backend=backend, batch_size=7)(delayed(square)(x) for x in range(70))
    assert sum(sizes) == 70
    assert max(sizes) == 7


def test_large_arrays_cross_both_ways_and_belong_to_the_task():
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(1_000_000)
    with parallel_config(backend="procbackground", n_jobs=2):
        assert Parallel()(delayed(total)(array) for _ in range(4)) == [1e6] * 4
        results = Parallel()(delayed(doubled)(array) for _ in range(2))
    assert all((result == 2).all() for result in results)
    assert (array == 1).all()


# -- how many ------------------------------------------------------------------------------------------------


def test_n_jobs_counts_as_joblib_does():
    backend = _Backend(nesting_level=0)
    cpus = joblib.cpu_count()
    assert backend.effective_n_jobs(3) == 3
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(-1) == cpus
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)


def test_one_job_stays_in_this_process():
    assert Parallel(n_jobs=1, backend="procbackground")([delayed(pid_of)(0)]) == [os.getpid()]


def test_another_n_jobs_gets_another_pool():
    with parallel_config(backend="procbackground"):
        first = Parallel(n_jobs=2)(delayed(pid_of)(x) for x in range(4))
        second = Parallel(n_jobs=3)(delayed(pid_of)(x) for x in range(4))
        assert not set(first) & set(second)
        wait_until_gone(set(first))


def test_a_manager_of_one_s_own_is_used_and_stays_open(make_manager):
    manager = make_manager(max_workers=2)
    with parallel_config(backend="procbackground", manager=manager, n_jobs=-1):
        pids = set(Parallel()(delayed(pid_of)(x) for x in range(20)))
    assert pids <= {process.pid for process in manager.processes()}
    assert manager.run(square, 3).result(timeout=PATIENCE_S) == 9
    assert _Backend(nesting_level=0, manager=manager).effective_n_jobs(50) == 2


def test_calls_in_several_threads():
    found = {}

    def call(number: int) -> None:
        with parallel_config(backend="procbackground", n_jobs=2):
            found[number] = Parallel()(delayed(square)(x) for x in range(number, number + 20))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert found == {number: [x * x for x in range(number, number + 20)] for number in range(3)}


def test_calls_in_calls_take_threads_then_nothing():
    with parallel_config(backend="procbackground", n_jobs=2):
        results = Parallel()(delayed(nested_sum)(count) for count in (10, 20))
    assert [result[:2] for result in results] == [(285, "ThreadingBackend"), (2470, "ThreadingBackend")]
    assert os.getpid() not in {pid for *_, pid in results}


def call_in_worker() -> list[int]:
    with parallel_config(backend="procbackground", n_jobs=2):
        return Parallel()(delayed(square)(x) for x in range(5))


def test_a_task_of_ours_may_call_it(manager):
    assert manager.run(call_in_worker).result(timeout=PATIENCE_S) == [0, 1, 4, 9, 16]


def _call_in_daemon(queue) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        queue.put(Parallel(n_jobs=2, backend="procbackground")([delayed(pid_of)(0)]) == [os.getpid()])
        queue.put(any("daemonic" in str(warning.message) for warning in caught))


def test_a_daemonic_process_does_its_work_itself():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_call_in_daemon, args=(queue,), daemon=True)
    process.start()
    assert [queue.get(timeout=PATIENCE_S) for _ in range(2)] == [True, True]
    process.join(PATIENCE_S)
    process.close()
    queue.close()
    queue.join_thread()


# -- thread caps ---------------------------------------------------------------------------------------------


def test_inner_threads_are_as_many_as_there_are_cpus_for_each_worker(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with parallel_config(backend="procbackground", n_jobs=2):
        (found,) = Parallel()([delayed(variables)("OMP_NUM_THREADS")])
    assert found == [str(max(1, joblib.cpu_count() // 2))]


@pytest.mark.parametrize("options", [{"inner_max_num_threads": 1}, {"threads_per_task": 1}])
def test_inner_threads_can_be_set(options):
    pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")
    with parallel_config(backend="procbackground", n_jobs=2, **options):
        assert Parallel()([delayed(blas_threads)()]) == [{1}]


def test_inner_threads_of_a_manager_that_is_there_cannot_be_set(manager):
    with (
        parallel_config(backend="procbackground", manager=manager, n_jobs=2, inner_max_num_threads=1),
        pytest.raises(TypeError, match="inner_max_num_threads: give it to the manager"),
    ):
        Parallel()([delayed(square)(1)])


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_an_error_is_raised_with_the_child_s_traceback():
    with (
        parallel_config(backend="procbackground", n_jobs=2),
        pytest.raises(LookupError, match="no 7") as caught,
    ):
        Parallel()(delayed(fail_at)(number, 7) for number in range(20))
    assert "in fail_at" in str(caught.value.__cause__)


def test_an_error_stops_what_runs_and_the_pool_goes_on(gate, make_manager):
    manager = make_manager(max_workers=2, grace=1)
    errors = []

    def call() -> None:
        with parallel_config(backend="procbackground", manager=manager, n_jobs=2):
            try:
                Parallel(batch_size=1)(delayed(stop_at_gate_or_fail)(gate.address, number) for number in range(2))
            except LookupError as error:
                errors.append(error)
            assert Parallel()(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]

    thread = threading.Thread(target=call)
    thread.start()
    arrivals = {arrival.label: arrival.pid for arrival in (gate.next_arrival(), gate.next_arrival())}
    gate.release(arrivals[1], "fail")
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(errors) == 1
    wait_until_gone([arrivals[0]])  # it was at the gate all along


def test_joblib_s_timeout_stops_what_runs(gate):
    with parallel_config(backend="procbackground", n_jobs=2, grace=1):
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=4, batch_size=1)(delayed(stop_at_gate)(gate.address) for _ in range(2))
        wait_until_gone([gate.wait_for_arrival(), gate.wait_for_arrival()])
        assert Parallel()(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]


def test_leaving_a_generator_stops_what_runs(gate):
    with parallel_config(backend="procbackground", n_jobs=2, grace=1):
        results = Parallel(return_as="generator", batch_size=1)(delayed(stop_at_gate)(gate.address) for _ in range(4))
        pids = [gate.wait_for_arrival(), gate.wait_for_arrival()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib warns of what we do here on purpose
            results.close()
        wait_until_gone(pids)


def test_a_death_is_told_and_costs_no_later_call():
    with parallel_config(backend="procbackground", n_jobs=2):
        with pytest.raises(WorkerDiedError, match="was killed by SIGKILL while running 'die'"):
            Parallel()(delayed(die)(x) for x in range(4))
        assert Parallel()(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]


def test_with_a_retry_a_death_costs_nothing():
    with parallel_config(backend="procbackground", n_jobs=2, retry=2):
        assert Parallel(batch_size=1)(delayed(die_once)(number) for number in range(6)) == list(range(6))


def test_options_can_be_given_to_the_call():
    results = Parallel(n_jobs=2, backend="procbackground", batch_size=1, retry=2)(
        delayed(die_once)(number) for number in range(6)
    )
    assert results == list(range(6))


def test_every_batch_has_the_context_of_its_call():
    user.set("ada")
    with parallel_config(backend="procbackground", n_jobs=2, context=[user]):
        found = Parallel(batch_size=1, pre_dispatch=2)(delayed(user_here)() for _ in range(30))
        user.set("grace")
        assert found == ["ada"] * 30
        assert Parallel()(delayed(user_here)() for _ in range(30)) == ["grace"] * 30


def test_limits_of_a_manager_hold_for_batches():
    with (
        parallel_config(backend="procbackground", n_jobs=2, memory_limit="300MiB"),
        pytest.raises(MemoryLimitError),
    ):
        Parallel()(delayed(hoard)() for _ in range(2))
    with (
        parallel_config(backend="procbackground", n_jobs=2, timeout=0.3, grace=1),
        pytest.raises(TaskTimeoutError),
    ):
        Parallel()(delayed(time.sleep)(60) for _ in range(2))


def test_what_cannot_be_pickled_is_told():
    lock = threading.Lock()
    with parallel_config(backend="procbackground", n_jobs=2), pytest.raises(Exception, match="cannot be pickled"):
        Parallel()(delayed(square)(lock) for _ in range(2))


def test_wrong_options_are_told(manager):
    with pytest.raises(TypeError, match="n_jobs says how many"):
        parallel_config(backend="procbackground", max_workers=3)
    with pytest.raises(TypeError, match="retry: give them to the manager"):
        parallel_config(backend="procbackground", manager=manager, retry=3)


def test_a_manager_that_was_closed_says_so():
    manager = Manager(max_workers=2)
    manager.close()
    with (
        parallel_config(backend="procbackground", manager=manager, n_jobs=2),
        pytest.raises(RuntimeError, match="closed"),
    ):
        Parallel()(delayed(square)(x) for x in range(4))


def test_without_joblib_the_import_says_what_to_install():
    code = (
        "import sys; sys.modules['joblib'] = None\n"
        "try:\n"
        "    import procbackground.joblib\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert "pip install 'procbackground[joblib]'" in run.stdout


# -- scikit-learn --------------------------------------------------------------------------------------------


def test_a_grid_search_finds_what_a_sequential_one_does():
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    features, labels = make_classification(n_samples=200, n_features=8, random_state=0)
    grid = {"n_estimators": [5, 10], "max_depth": [2, None]}

    def search(n_jobs: int) -> GridSearchCV:
        return GridSearchCV(RandomForestClassifier(random_state=0), grid, cv=3, n_jobs=n_jobs).fit(features, labels)

    sequential = search(1)
    pids: set[int] = set()
    with parallel_config(backend="procbackground"):
        before = child_pids()
        parallel = search(2)
        pids = child_pids() - before
    assert len(pids) >= 2
    assert parallel.best_params_ == sequential.best_params_
    assert parallel.best_score_ == sequential.best_score_
    for name in ("mean_test_score", "std_test_score", "rank_test_score"):
        assert parallel.cv_results_[name].tolist() == sequential.cv_results_[name].tolist()
    assert (parallel.predict(features) == sequential.predict(features)).all()


def test_cross_validation_with_a_failing_fit_is_told():
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import cross_val_score

    features, labels = make_classification(n_samples=60, random_state=0)
    with parallel_config(backend="procbackground", n_jobs=2):
        scores = cross_val_score(DummyClassifier(), features, labels, cv=3)
        assert scores.tolist() == cross_val_score(DummyClassifier(), features, labels, cv=3, n_jobs=1).tolist()
        with pytest.raises(ValueError, match="unknown"):
            cross_val_score(DummyClassifier(strategy="unknown"), features, labels, cv=3, error_score="raise")


def test_nothing_waits_once_a_call_is_over():
    with parallel_config(backend="procbackground", n_jobs=2) as config:
        Parallel()(delayed(square)(x) for x in range(50))
        backend = config["backend"]
        wait_until(lambda: not any(call.handles for call in backend._calls.values()), "no handle is kept")


def test_a_full_queue_makes_joblib_wait_where_other_callers_are_refused(make_manager):
    manager = make_manager(max_pending=1, when_full="raise")
    with parallel_config(backend="procbackground", manager=manager, n_jobs=2):
        for _ in range(5):
            squares = Parallel(pre_dispatch="all", batch_size=1)(delayed(square)(number) for number in range(60))
            assert squares == [number**2 for number in range(60)]


def test_no_lock_is_held_while_joblib_is_told_of_a_batch(make_manager):
    """joblib has a lock of its own, and gives batches under it, which may be done at once."""
    lock_of_joblib, is_inside, is_told = threading.Lock(), threading.Event(), threading.Event()

    def tell_under_the_lock(handle):
        is_inside.set()
        with lock_of_joblib:
            pass

    with parallel_config(backend="procbackground", manager=make_manager()) as config:
        backend = config["backend"]
        backend.configure(n_jobs=2, parallel=None)
        with lock_of_joblib:
            backend.submit(partial(square, 2), tell_under_the_lock)
            assert is_inside.wait(20)
            backend.submit(partial(square, 3), lambda handle: is_told.set())
            assert is_told.wait(20)


# -- calls after calls that failed ---------------------------------------------------------------------------


def fail_at_first(x):
    if x == 0:
        raise LookupError
    return -x


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_call_after_one_that_failed_returns_its_own_results_only(return_as):
    with Parallel(n_jobs=2, backend="procbackground", return_as=return_as) as parallel:
        for _ in range(30):
            with pytest.raises(LookupError):
                list(parallel(delayed(fail_at_first)(x) for x in range(20)))
            assert list(parallel(delayed(square)(x) for x in range(6))) == [0, 1, 4, 9, 16, 25]


def test_a_call_after_one_that_was_abandoned_returns_its_own_results_only():
    with Parallel(n_jobs=2, backend="procbackground", return_as="generator", batch_size=1) as parallel:
        for _ in range(10):
            results = parallel(delayed(square)(x) for x in range(40))
            assert next(results) == 0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.close()
            assert list(parallel(delayed(abs)(-x) for x in range(6))) == [0, 1, 2, 3, 4, 5]


def test_a_call_after_one_whose_iterable_raised_returns_its_own_results_only():
    def broken():
        for x in range(7):
            yield delayed(square)(-x)
        raise LookupError

    with Parallel(n_jobs=2, backend="procbackground", pre_dispatch=3) as parallel:
        for _ in range(10):
            with pytest.raises(LookupError):
                parallel(broken())
            assert parallel(delayed(square)(x) for x in range(6)) == [0, 1, 4, 9, 16, 25]


def test_a_call_that_fails_stops_no_batch_of_another_one_of_the_same_backend(gate):
    with parallel_config(backend="procbackground", n_jobs=2):
        held = Parallel(return_as="generator", batch_size=1)(delayed(stop_at_gate)(gate.address) for _ in range(1))
        pid = gate.wait_for_arrival()
        with pytest.raises(LookupError):
            Parallel()(delayed(fail_at_first)(x) for x in range(4))
        gate.release(pid)
        assert len(list(held)) == 1


# -- within the workers of other backends --------------------------------------------------------------------


def squares_by_name(x):
    return Parallel(n_jobs=2, backend="procbackground")(delayed(square)(y) for y in range(x))


def test_the_backend_can_be_named_in_the_threads_of_another_backend():
    outer = Parallel(n_jobs=2, backend="threading")
    assert outer(delayed(squares_by_name)(x) for x in (2, 3)) == [[0, 1], [0, 1, 4]]


@pytest.mark.parametrize("outer", ["loky", "multiprocessing"])
def test_the_backend_can_be_named_in_the_workers_of_other_backends(outer, tmp_path):
    # Within loky its function travels by value, so that the worker imports nothing for it.
    program = f"""
        import procbackground.joblib, warnings
        from joblib import Parallel, delayed

        def nested(x):
            from joblib import Parallel, delayed
            return Parallel(n_jobs=2, backend="procbackground")(delayed(abs)(-y) for y in range(x))

        if __name__ == "__main__":
            warnings.simplefilter("ignore")
            print(Parallel(n_jobs=2, backend={outer!r})(delayed(nested)(x) for x in (2, 3)))
    """
    done = scripts.run(program, folder=tmp_path)
    assert done.stdout == "[[0, 1], [0, 1, 2]]\n", done.stderr
