"""The connection of one manager to a dask cluster: gives work, and takes what becomes of it.

Reports come as events of a topic, and large ones as the result of the task. As long as dask knows a task that has
ended, it runs it again if the node with its result is lost. So the scheduler forgets the task with its last report,
before that comes here; see `_dask_scheduler`. The future is of no more use then, and is released later.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dask.config
from distributed.protocol.pickle import dumps
from distributed.scheduler import KilledWorker

from procbackground._log import logger
from procbackground._wire import attempts as w
from procbackground.engines._answers import Answers
from procbackground.engines._bundles import Bundle, in_bundles, in_messages, key_of
from procbackground.engines._dask_node import LARGE, NodePlugin, address_of, end_loop, run_bundle
from procbackground.engines._dask_scheduler import ASK, FORGET, LEAVE, REGISTER, UNFIT, WITHDRAW, SchedulerSide
from procbackground.engines._dask_shares import SharesOfManager
from procbackground.engines._resources import CORES, resources_of

if TYPE_CHECKING:
    from distributed import Client

    from procbackground.engines.port import Listener


# Between two looks at what no report tells: an attempt that took several nodes down, and the loss of the scheduler. A
# callback for each future would cost a tenth of the throughput, and more in latency than it gains.
LOOK_S = 0.25
DECLARE_S = 2.0  # for nodes to declare what they have, once they know of the manager
SIZE_UP_S = 2.0  # between two looks at the size of the cluster
ENOUGH = 256  # requests that dask has
GATHER_S = 0.1  # for more, while it has so many tasks
GATHER_SHORT_S = 0.01  # ... or so many requests in fewer tasks, which are short
PER_THREAD = 2  # tasks of dask for each thread of a node: one runs, and the next is there
# dask's client sends one message each 10 ms. One that only releases a future would delay the next request by that. So
# futures are released together, here or at the next look.
MOST_UNWANTED = 64
LOST = "the connection to the scheduler is lost"


class Connection:
    """The client of dask, and the two threads that use it: one gives work, one takes what becomes of it."""

    def __init__(
        self, address: str, client: Client, name: str, settings: w.NodeSettings, drain_timeout_s: float,
        listener: Listener,
    ) -> None:  # fmt: skip
        self._name = f"{name}-{os.getpid()}-{os.urandom(4).hex()}"
        self._address = address
        self._listener = listener
        self._bundles: dict[int, Bundle] = {}  # of each request that has not ended
        self._tasks: dict[int, Bundle] = {}  # of dask, by the number of the bundle
        self._unwanted: deque[Any] = deque()  # futures of bundles that are over
        self._threads_of_nodes = 0
        self._answers = Answers()
        self.shares = SharesOfManager(client)
        self._seen_needs: set[tuple[Any, ...]] = set()
        self._unchecked_needs: list[tuple[float, tuple[Any, ...]]] = []  # with when to look for a node that has them
        self._is_lost = self._is_closing = False
        self._work: queue.SimpleQueue[tuple[Callable[..., None], Any] | None] = queue.SimpleQueue()
        self._next: tuple[Any] | None = None  # what was taken from there too early
        self._results: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # of tasks: large reports, packed
        self._client: Any = client
        try:
            self._client.subscribe_topic(self._name, self._take_event)
            self._client.register_plugin(SchedulerSide(self._name, self._client.id, drain_timeout_s), name=self._name)
            plugin = NodePlugin(self._name, w.pack(settings), drain_timeout_s)
            refusals = self._client.sync(
                getattr(self._client.scheduler, REGISTER), name=self._name, plugin=dumps(plugin)
            )
            if refusals:
                raise RuntimeError(refusals[0])
            self._size_up()
            self._threads = [
                threading.Thread(target=run, name=f"{name}-engine-{what}", daemon=True)
                for what, run in (("gives", self._give), ("takes", self._take))
            ]
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._client.close(timeout=1)
            raise

    # -- giving --------------------------------------------------------------------------------------------

    def put(self, act: Callable[..., None], what: Any) -> None:
        """Have `act(what)` called in the thread that gives work."""
        self._work.put((act, what))

    def _give(self) -> None:
        while True:
            (item,), self._next = self._next or (self._work.get(),), None
            if item is None:
                return
            act, what = item
            if self._is_lost:
                continue
            try:
                act(what)
            except Exception as error:
                self._lose(f"dask's client failed: {type(error).__name__}: {error}")

    def _more_requests(self) -> list[w.Request]:
        """Return requests that come next.

        dask takes 2 ms for a message of one request, and 0.2 ms more for each further one. While it has enough to do,
        a moment's wait makes the messages larger, and delays nothing.
        """
        if len(self._bundles) >= ENOUGH:
            time.sleep(GATHER_S if len(self._tasks) >= ENOUGH else GATHER_SHORT_S)
        return self._more_of(self.submit)

    def _more_of(self, act: Callable[..., None]) -> list[Any]:
        """Return what comes next for `act`, as far as nothing else comes between."""
        found: list[Any] = []
        while self._next is None:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                break
            if item is not None and item[0] == act:
                found += item[1]
            else:
                self._next = (item,)
        return found

    def submit(self, requests: Sequence[w.Request]) -> None:
        alike: defaultdict[tuple[Any, ...], list[w.Request]] = defaultdict(list)
        for request in (*requests, *self._more_requests()):
            alike[request.priority, request.needs, request.shares].append(request)
        for (priority, *_), each in sorted(alike.items(), key=lambda item: item[0][0], reverse=True):
            free = PER_THREAD * self._threads_of_nodes - len(self._tasks)
            for together in in_messages(in_bundles(each, max(0, free))):
                self._submit(together, priority)
        if len(self._unwanted) > MOST_UNWANTED:
            self._release_unwanted()

    def _release_unwanted(self) -> None:
        try:
            while True:
                self._unwanted.popleft().release()
        except IndexError:
            pass  # that was all; two threads call this

    def _submit(self, lists: list[list[w.Request]], priority: int) -> None:
        resources = resources_of(lists[0][0])
        if resources:
            self._note_needs(resources)
        try:
            shares = self.shares.futures_of(lists[0][0].shares)
        except TimeoutError:  # no node is there: after what came meanwhile
            self.put(self.submit, [request for requests in lists for request in requests])
            return
        bundles = [Bundle(requests, self._unwanted) for requests in lists]
        for bundle in bundles:
            self._tasks[bundle.number] = bundle
            self._bundles.update(dict.fromkeys(bundle.left, bundle))
        # dask advises against large arguments, as they pass the scheduler. Here they must: data that is scattered to
        # nodes is lost with them.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            futures = self._client.map(
                run_bundle,
                [self._name] * len(bundles),
                [bundle.number for bundle in bundles],
                [w.pack([tuple(request) for request in requests]) for requests in lists],
                [shares] * len(bundles),
                key=[key_of(self._name, bundle.number) for bundle in bundles],
                priority=priority,
                resources=resources or None,
                pure=False,
                retries=0,
            )
        for bundle, future in zip(bundles, futures, strict=True):
            bundle.came(future)
            if bundle.has_result:
                self._fetch_soon(bundle)

    def _note_needs(self, resources: dict[str, float]) -> None:
        key = tuple(sorted(resources.items()))
        if key not in self._seen_needs:
            self._seen_needs.add(key)
            self._unchecked_needs.append((time.monotonic() + DECLARE_S, key))

    def _warn_of_missing(self, key: tuple[Any, ...]) -> None:
        """Warn where no node has what tasks need: they wait until one comes that has."""
        nodes = self._client.scheduler_info()["workers"].values()
        if any(CORES not in node["resources"] for node in nodes):  # a node is busy, and has not declared what it has
            self._unchecked_needs.append((time.monotonic() + DECLARE_S, key))
            return
        if not any(all(node["resources"].get(name, 0) >= much for name, much in key) for node in nodes):
            wanted = ", ".join(f"{much:g} {name}" for name, much in key)
            logger.warning("no node of %s has %s: tasks that need it wait for one that has", self._address, wanted)

    def cancel(self, numbers: Sequence[int]) -> None:
        withdrawn = []
        for number in (*numbers, *self._more_of(self.cancel)):
            bundle = self._forget(number)
            # dask lets go of a task that nobody wants, wherever it is; the plugin then ends its processes.
            if bundle is not None and bundle.left:
                withdrawn.append((bundle.number, number))
        if withdrawn:
            self._client.sync(getattr(self._client.scheduler, WITHDRAW), name=self._name, numbers=withdrawn)
        self._release_unwanted()

    def end_loop(self, number: int) -> None:
        self._client.run(end_loop, self._name, number, on_error="ignore")

    def ask(self, question: str, node: str | None, timeout_s: float) -> list[tuple[str, Any]]:
        address = None if node is None else address_of(node)
        return self._answers.collect(
            lambda number: self._client.sync(
                getattr(self._client.scheduler, ASK), name=self._name, number=number, question=question,
                address=address, callback_timeout=timeout_s,
            ),
            timeout_s,
        )  # fmt: skip

    # -- taking --------------------------------------------------------------------------------------------

    def _take_event(self, event: tuple[float, tuple[Any, Any, bytes]]) -> None:
        """Take reports, in the thread of dask's client."""
        reports = []
        for report in w.unpack(event[1][-1]):
            if report[1] == LARGE:
                bundle = self._bundles.get(report[0])
                if bundle is not None:
                    bundle.has_result = True  # before the look at its future; `_submit` looks the other way round
                    self._fetch_soon(bundle)
                continue
            if report[1] == w.ANSWER:
                self._answers.take(*report)
                continue
            if report[1] == UNFIT:
                logger.warning("a node of %s gets no tasks: %s: %s", self._address, *report[2:])
                continue
            reports.append(report)
            if report[1] in w.ENDS:
                self._forget(report[0])
        if reports:
            self._listener.reports_came(reports)

    def _forget(self, number: int) -> Bundle | None:
        """A request has ended, or was cancelled; return its bundle, if it is known."""
        bundle = self._bundles.pop(number, None)
        if bundle is not None:
            bundle.end(number)
            if not bundle.left:
                self._tasks.pop(bundle.number, None)
        return bundle

    def _take(self) -> None:
        """Take what is no event: large results, failures of dask's own, and the loss of the scheduler."""
        look_s = time.monotonic() + LOOK_S
        while not self._is_closing:
            try:
                result = self._results.get(timeout=max(0.0, look_s - time.monotonic()))
            except queue.Empty:
                result = None
            try:
                if result is not None:
                    self._take_result(result)
                if time.monotonic() >= look_s:
                    self._look()
                    if time.monotonic() >= self._size_up_s and not self._is_lost:
                        self._size_up()
                    look_s = time.monotonic() + LOOK_S
            except Exception as error:
                self._lose(f"dask's client failed: {type(error).__name__}: {error}")

    def _fetch_soon(self, bundle: Bundle) -> None:
        future = bundle.future
        if future is not None and not self._is_lost:
            self._client.loop.add_callback(self._fetch, bundle, future)

    async def _fetch(self, bundle: Bundle, future: Any) -> None:
        """Fetch the result of a dask task; in the thread of dask's client.

        It waits as long as it takes: where the node is lost meanwhile, dask runs the task again. Nothing waits for it.
        """
        try:
            data = await self._client.gather(future, asynchronous=True)
            await getattr(self._client.scheduler, FORGET)(name=self._name, bundle=bundle.number)
        except (Exception, asyncio.CancelledError):
            return  # its requests were cancelled meanwhile; else the next look sees what has happened
        if data is not None:
            self._results.put(data)

    def _take_result(self, data: bytes) -> None:
        """Take the large last reports of a bundle."""
        reports = list(w.unpack(data).values())
        for report in reports:
            self._forget(report[0])
        self._listener.reports_came(reports)

    def _look(self) -> None:
        """Look whether dask has given up requests, or is gone."""
        self._release_unwanted()
        if self._client.status != "running":
            self._lose(LOST)
        elif self._unchecked_needs and time.monotonic() >= self._unchecked_needs[0][0]:
            self._warn_of_missing(self._unchecked_needs.pop(0)[1])
        for bundle in self._tasks.copy().values():  # in one step: other threads add and remove some
            future = bundle.future
            if future is None:
                continue
            status = future.status
            if status == "error":
                self._take_error(bundle, future.exception())
            elif status in ("cancelled", "lost") and bundle.left and bundle.has_shares:
                self._begin_anew(bundle)  # a shared value was lost with the only node that had it
            elif status == "cancelled" and bundle.left:  # while "lost" is a result that comes again
                self._lose(LOST)

    def _begin_anew(self, bundle: Bundle) -> None:
        """Have the manager begin what is left of a bundle that dask has dropped."""
        numbers = tuple(bundle.left)
        for number in numbers:
            self._forget(number)
        self._listener.reports_came([(number, w.STOPPED) for number in numbers])

    def _size_up(self) -> None:
        """See how many threads the nodes have."""
        info = self._client.scheduler_info(n_workers=0)
        threads = info.get("total_threads")  # since 2025.2; before, the description of all nodes comes in any case
        self._threads_of_nodes = _threads_of(info["workers"]) if threads is None else threads
        self._size_up_s = time.monotonic() + SIZE_UP_S

    def _take_error(self, bundle: Bundle, error: BaseException) -> None:
        if isinstance(error, KilledWorker):
            report = self._listener.node_lost
            reason = (
                f"node after node was lost while it ran the task, the last one {error.last_worker.address}; the task "
                f"probably takes down the worker of dask, or the machine. It is not tried again"
            )
        else:
            report = self._listener.not_run
            reason = (
                f"dask could not run the attempt: {type(error).__name__}: {error}. Scheduler and nodes need the same "
                f"Python and procbackground[dask]"
            )
        for number in tuple(bundle.left):
            if self._forget(number) is not None:
                report(number, reason)

    def _lose(self, reason: str) -> None:
        if not self._is_lost and not self._is_closing:
            self._is_lost = True
            self._listener.engine_lost(f"{reason} ({self._address})")

    # -- closing -------------------------------------------------------------------------------------------

    def close(self, timeout_s: float) -> bool:
        """Let nodes forget the manager, and disconnect."""
        if self._is_closing:
            return True
        until_s = time.monotonic() + timeout_s
        self._is_closing = True
        self._work.put(None)
        self._results.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        closer = threading.Thread(target=self._disconnect, args=(timeout_s,), name=f"{self._name}-close", daemon=True)
        closer.start()
        closer.join(max(0.1, until_s - time.monotonic()))
        return not closer.is_alive() and not any(thread.is_alive() for thread in self._threads)

    def _disconnect(self, timeout_s: float) -> None:
        self._bundles.clear()
        self._tasks.clear()
        self._unwanted.clear()
        self.shares.clear()
        if not self._is_lost and self._client.status == "running":
            try:
                self._client.sync(getattr(self._client.scheduler, LEAVE), name=self._name)
            except Exception:
                pass  # the scheduler is gone: so are the nodes
        try:
            self._client.close(timeout=timeout_s)
        except Exception:
            logger.debug("dask's client could not be closed", exc_info=True)  # as when it loses the scheduler meanwhile


def _threads_of(nodes: dict[str, Any]) -> int:
    return sum(node["nthreads"] for node in nodes.values())
