"""`PrometheusObserver`: scraped over HTTP as Prometheus does, and read by the client's own parser."""

from __future__ import annotations

import urllib.request

import pytest

from procbackground import Task
from tests.support.facts import wait_until
from tests.support.gate import stop_at_gate
from tests.support.tasks import failing, plain

client = pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from procbackground.observers import PrometheusObserver  # noqa: E402


class Scraper:
    """A registry with its HTTP server."""

    def __init__(self):
        self.registry = client.CollectorRegistry()
        self._server, self._thread = client.start_http_server(0, addr="127.0.0.1", registry=self.registry)

    def scrape(self):
        """Return {name: {sorted labels: value}}."""
        url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            text = answer.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def scraper():
    scraper = Scraper()
    yield scraper
    scraper.close()


def test_a_run_is_counted_by_task_and_outcome(make_manager, scraper):
    manager = make_manager(max_workers=1, observer=PrometheusObserver(scraper.registry))
    list(manager.map(plain.square, range(40)))
    manager.run_task(Task(failing.fail, retry=3))
    manager.run_task(Task(failing.exit_hard, args=(3,)))
    manager.wait()
    manager.run(plain.nothing).cancel()
    manager.close()
    found = scraper.scrape()
    assert found["procbackground_tasks_submitted_total"] == {(): 43}
    finished = found["procbackground_tasks_finished_total"]
    assert finished["succeeded", "square"] == 40
    assert finished["failed", "fail"] == 1
    assert finished["failed", "exit_hard"] == 1
    assert sum(finished.values()) == 43
    attempts = found["procbackground_attempts_total"]
    assert attempts["raised", "fail"] == 3
    assert attempts["died", "exit_hard"] == 1
    assert found["procbackground_task_duration_seconds_count"]["fail",] == 3
    assert found["procbackground_queue_wait_seconds_count"]["square",] == 40
    assert found["procbackground_worker_restarts_total"]["exit",] >= 1
    assert found["procbackground_worker_busy_seconds_total"][()] > 0
    assert found["procbackground_queued_tasks"] == {(): 0}
    assert found["procbackground_workers"] == {("busy",): 0, ("idle",): 0}


def test_what_runs_and_what_waits_is_seen_meanwhile(make_manager, scraper, gate):
    manager = make_manager(max_workers=1, observer=PrometheusObserver(scraper.registry))
    running = manager.run(stop_at_gate, gate.address)
    pid = gate.wait_for_arrival()
    waiting = [manager.run(plain.nothing) for _ in range(3)]
    wait_until(lambda: scraper.scrape()["procbackground_queued_tasks"][()] == 3, "three tasks wait")
    wait_until(lambda: scraper.scrape()["procbackground_worker_memory_bytes"][()] > 1_000_000, "memory is measured")
    found = scraper.scrape()
    assert found["procbackground_workers"] == {("busy",): 1, ("idle",): 0}
    assert found["procbackground_oldest_queued_seconds"][()] > 0
    gate.release(pid)
    manager.close()
    assert running.done()
    assert all(handle.done() for handle in waiting)


def test_managers_that_share_a_registry_are_summed_up(make_manager, scraper):
    for _ in range(2):
        manager = make_manager(observer=PrometheusObserver(scraper.registry))
        manager.run(plain.square, 2)
        manager.close()
    assert scraper.scrape()["procbackground_tasks_finished_total"]["succeeded", "square"] == 2


def test_task_names_beyond_the_limit_are_one(make_manager, scraper):
    manager = make_manager(observer=PrometheusObserver(scraper.registry, max_task_names=2))
    for number in range(5):
        manager.run_task(Task(plain.square, args=(number,), name=f'task "{number}"\udc80')).result(timeout=60)
    manager.close()
    finished = scraper.scrape()["procbackground_tasks_finished_total"]
    assert finished == {
        ("succeeded", 'task "0" '): 1,
        ("succeeded", 'task "1" '): 1,
        ("succeeded", "(other)"): 3,
    }
