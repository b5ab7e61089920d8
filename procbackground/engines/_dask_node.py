"""What runs in the workers of a dask cluster: a plugin with the agent of one manager.

A worker of dask runs a bundle of attempts as a task, in a thread that waits for the agent. When dask drops a task that
runs, because it was cancelled or its client is gone, the plugin's `transition` is called, and the agent ends its
processes. So the death of a manager and a cancel take the same way.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import Reschedule, get_worker
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import sync

from procbackground._log import logger
from procbackground._node.agent import NodeAgent, node_memory_bytes, node_name
from procbackground._wire import attempts as w
from procbackground.engines._bundles import bundle_of, key_of
from procbackground.engines._dask_scheduler import ASKED, DECLARE, DRAIN, DRAINED, ELSEWHERE, OVER, WITHDRAWN
from procbackground.engines._dask_shares import ShareOnNode
from procbackground.engines._resources import CORES, MEMORY, slots_of

if TYPE_CHECKING:
    from distributed import Worker


# A larger report is the result of the dask task, and is fetched by the manager. A smaller one goes by the events, which
# is a third quicker. The scheduler keeps the last thousand events of each manager, so they must not be large.
MOST_BYTES = 16 << 10
# Between a report and its message, which then has the end of a short attempt too, and goes along with dask's own
# message that the task has ended: each message costs the scheduler 150 µs and more.
GATHER_S = 0.001
GATHER_OF_BUNDLE_S = 0.01  # while a bundle runs: its requests are many, and nobody waits for one of them
LOOK_S = 0.02  # between two looks at what no event tells, such as whether results have been fetched
DECLARE_S = 30.0  # for a scheduler that cannot be reached; then dask has given this node up
READY_S = 1.0  # that a task waits for a node to be ready; then it goes to another one
SEND_S = 1.0  # for the last reports of a node that ends
RUNNING = ("executing", "long-running")  # states of a task of dask
LEAVING = (Status.closing, Status.closing_gracefully)
LARGE = "large"  # reports that the result is that of the dask task


class NodePlugin(WorkerPlugin):  # type: ignore[misc]  # it is untyped
    """The agent of one manager, in one worker of dask."""

    is_ready = False  # the scheduler knows what this node has
    has_refused = False
    _agent: NodeAgent

    def __init__(self, name: str, settings: bytes, drain_s: float) -> None:
        self.name = name
        self._settings = settings
        self._drain_s = drain_s

    async def setup(self, worker: Worker) -> None:
        """Called by dask when the worker gets to know of the manager. Raises: what keeps it from running anything."""
        self._worker = worker
        self._large: dict[int, w.Report] = {}  # too large for an event, by the number of the request
        self._lock = threading.Lock()  # guards the next
        self._reports: list[w.Report] = []
        self._bundles: dict[int, int] = {}  # that run here and have several requests: of each, the number of its bundle
        self._is_leaving = False  # dask takes no results of tasks any more
        self._running: dict[int, list[int]] = {}  # the requests of each bundle that runs here
        self._node = node_name(worker.address)
        try:
            self._agent = self._make_agent()
        except Exception as error:
            self.has_refused = True
            await self._declare({}, str(error))
            raise
        for op, act in ((WITHDRAWN, NodePlugin.withdraw), (ASKED, NodePlugin.ask), (DRAIN, NodePlugin.retire)):
            worker.stream_handlers[op] = partial(_pass_on, worker, act)
        _departure.plugins.add(self)
        _departure.prepare(worker)
        if await self._declare(self._resources(self._agent.slots), None):
            self.is_ready = True
        elif worker.plugins.get(self.name) is self:
            del worker.plugins[self.name]  # the manager has closed meanwhile, and what nodes are sent then came first
            await self.teardown(worker)

    def _make_agent(self) -> NodeAgent:
        """Raises: `RuntimeError` for another version of the package."""
        settings: w.NodeSettings = w.unpack(self._settings)
        version = w.own_version()
        if settings.version != version:
            raise RuntimeError(
                f"the node has procbackground {version}, and the manager {settings.version}: they must be the same"
            )
        state = self._worker.state
        return NodeAgent(settings, state.nthreads, self._node, self._send, slots_of(state.total_resources))

    def _resources(self, slots: dict[str, int]) -> dict[str, float]:
        """Return what tasks may need of this node, where its own command line does not say otherwise."""
        state = self._worker.state
        own = {CORES: state.nthreads, MEMORY: node_memory_bytes(), **slots}
        new = {name: float(quantity) for name, quantity in own.items() if name not in state.total_resources}
        state.total_resources.update(new)
        state.available_resources.update(new)
        return {name: state.total_resources[name] for name in own}

    async def _declare(self, resources: dict[str, float], refusal: str | None) -> bool:
        """Have the scheduler know that this node is ready for the manager, or why not; return False if it does not
        know the manager any more. Repeated until that is acknowledged. Raises: `OSError` where it never is."""
        until_s = time.monotonic() + DECLARE_S
        while True:
            try:
                tell = getattr(self._worker.scheduler, DECLARE)
                address = self._worker.address
                return await tell(name=self.name, address=address, resources=resources, refusal=refusal)  # type: ignore[no-any-return]
            except OSError:
                if time.monotonic() >= until_s:
                    raise
                await asyncio.sleep(LOOK_S)

    def _send(self, report: w.Report) -> None:
        """Send a report soon, with those that come meanwhile. From any thread."""
        if report[1] in w.ENDS and _is_large(report) and not self._is_leaving:
            self._large[report[0]] = report
            report = (report[0], LARGE)
        with self._lock:
            self._reports.append(report)
            is_first = len(self._reports) == 1
        if is_first:
            gather_s = GATHER_OF_BUNDLE_S if self._bundles else GATHER_S
            self._worker.loop.add_callback(self._worker.loop.call_later, gather_s, self._flush)

    def _flush(self) -> None:
        """Send what has come; in the thread of the worker's event loop."""
        with self._lock:
            reports, self._reports = self._reports, []
        if reports:
            ended = [report[0] for report in reports if report[1] in w.ENDS]
            over = [(self._bundles[number], number) for number in ended if number in self._bundles]
            over_bundles = [number for number in ended if number not in self._bundles]  # of which they are all
            self._worker.log_event(self.name, (over, over_bundles, w.pack(reports)))

    def run(self, bundle: int, data: bytes, shares: dict[int, ShareOnNode]) -> bytes | None:
        """Run the requests of a bundle; return the last reports that are too large for an event, by their requests."""
        requests = [w.Request(*facts) for facts in w.unpack(data)]
        numbers = self._running[bundle] = [request.number for request in requests]
        has_several = len(requests) > 1
        if has_several:
            self._bundles.update(dict.fromkeys(numbers, bundle))
        try:
            files = {number: share.file for number, share in shares.items()}
            self._agent.run(requests, partial(self._over, bundle, numbers), files)
        finally:
            del self._running[bundle]
            # Forgotten once the ends are sent, which name the bundle.
            self._worker.loop.add_callback(self._forget, numbers if has_several else ())
        large = {number: self._large.pop(number) for number in numbers if number in self._large}
        return w.pack(large) if large else None

    def _forget(self, numbers: Iterable[int]) -> None:
        self._flush()
        for number in numbers:
            self._bundles.pop(number, None)

    def _over(self, bundle: int, numbers: list[int]) -> list[int]:
        """Return which requests of a bundle are over, once a cancel finds them here.

        All are, if dask has dropped the bundle since it began: `transition` came before they were here. Of several,
        some may have ended on another node; the scheduler knows.
        """
        if not _is_wanted(self._worker, key_of(self.name, bundle)):
            return numbers
        if len(numbers) == 1:
            return []
        ask = getattr(self._worker.scheduler, OVER)
        return sync(self._worker.loop, ask, name=self.name, bundle=bundle)  # type: ignore[no-any-return]

    def withdraw(self, number: int) -> None:
        """Stop a request, if it is here."""
        self._agent.cancel(number)

    def ask(self, number: int, question: str) -> None:
        """Answer a question of the manager soon."""

        def answer() -> None:
            self._send((number, w.ANSWER, self._node, self._agent.answer(question)))

        threading.Thread(target=answer, name="procbackground-answer").start()

    def end_loop(self, number: int) -> None:
        """Let a loop end after its running iteration."""
        threading.Thread(target=self._agent.end_loop, args=(number,), name="procbackground-end-loop").start()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Called by dask when the state of any task changes."""
        if start in RUNNING and finish in ("released", "cancelled", "forgotten"):
            bundle = bundle_of(key, self.name)
            if bundle is not None:
                for number in self._running.get(bundle, ()):
                    self._agent.cancel(number)

    async def drain(self) -> None:
        """Take nothing more, let what runs end, and large results be fetched, if that is soon: dask would run it again
        elsewhere."""
        self._is_leaving = True
        until_s = time.monotonic() + self._drain_s
        await asyncio.to_thread(self._agent.drain, self._drain_s)
        self._flush()
        while self._has_results and time.monotonic() < until_s:
            await asyncio.sleep(LOOK_S)

    @property
    def _has_results(self) -> bool:
        """Whether dask has results here, which the manager has not fetched."""
        tasks = self._worker.state.tasks.items()
        return any(task.state == "memory" and bundle_of(key, self.name) is not None for key, task in tasks)

    def retire(self) -> None:
        """Drain, and say so after the reports of what has ended: then dask removes this node."""

        async def drain() -> None:
            await self.drain()
            self._worker.batched_send({"op": DRAINED, "name": self.name})

        self._retiring = asyncio.ensure_future(drain())  # kept, as the loop does not

    async def teardown(self, worker: Worker) -> None:
        """Called by dask when the worker closes, or the manager has, which wants nothing more."""
        _departure.plugins.discard(self)
        if not hasattr(self, "_agent"):
            return  # it has refused the manager
        if worker.status in LEAVING and not worker.batched_stream.closed():
            await self.drain()  # a nanny ends its worker so, and kills it some seconds later
        await asyncio.to_thread(self._agent.close)
        self._flush()


class _Departure:
    """What happens when this process is asked to end, by SIGTERM.

    Without a nanny, dask drops its connection to the scheduler at once, and what runs here would run again elsewhere.
    So we come first: the scheduler is told that this worker takes no more, what runs ends, and then dask takes over.
    """

    def __init__(self) -> None:
        self.plugins: set[NodePlugin] = set()
        self._dasks_handler: Any = None
        self._has_begun = False

    def prepare(self, worker: Worker) -> None:
        """Take over the handler of SIGTERM, the first time. Where we cannot, dask does what it does."""
        if self._dasks_handler is None and threading.current_thread() is threading.main_thread():
            self._worker = worker
            self._loop = asyncio.get_running_loop()
            self._dasks_handler = signal.signal(signal.SIGTERM, self._handle) or signal.SIG_DFL

    def _handle(self, number: int, frame: Any) -> None:
        if self._has_begun:
            self._go_on()  # the second time: at once
        elif self._worker.status == Status.closing:
            # It was retired, and ends by itself once its plugins are torn down. dask's handler would cancel that, and
            # the process would never end.
            self._has_begun = True
        else:
            self._has_begun = True
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._leave())  # kept, as the loop does not

    async def _leave(self) -> None:
        try:
            self._worker.status = Status.closing_gracefully
            await asyncio.gather(*(plugin.drain() for plugin in tuple(self.plugins)))
            until_s = time.monotonic() + SEND_S
            while self._worker.batched_stream.buffer and time.monotonic() < until_s:
                await asyncio.sleep(0.005)  # dask sends what is there in such steps
        finally:
            self._go_on()

    def _go_on(self) -> None:
        signal.signal(signal.SIGTERM, self._dasks_handler)
        os.kill(os.getpid(), signal.SIGTERM)


_departure = _Departure()


def _is_large(report: w.Report) -> bool:
    return any(isinstance(fact, bytes) and len(fact) > MOST_BYTES for fact in report)


def address_of(node: str) -> str:
    """Return the address in the name of a node, see `node_name`."""
    return node.rpartition("(")[2].removesuffix(")")


def run_bundle(name: str, bundle: int, data: bytes, shares: dict[int, ShareOnNode]) -> bytes | None:
    """The dask task: run the requests of a bundle of the manager `name`."""
    worker = get_worker()
    until_s = time.monotonic() + READY_S
    while True:
        plugin: Any = worker.plugins.get(name)
        if plugin is not None and plugin.is_ready:
            return plugin.run(bundle, data, shares)  # type: ignore[no-any-return]
        if not _is_wanted(worker, key_of(name, bundle)):
            return None  # the manager has closed just before
        if time.monotonic() >= until_s or (plugin is not None and plugin.has_refused):
            elsewhere = getattr(worker.scheduler, ELSEWHERE)
            if not sync(worker.loop, elsewhere, name=name, bundle=bundle):
                time.sleep(READY_S)  # nor is any other node ready
            raise Reschedule
        time.sleep(LOOK_S)


def _is_wanted(worker: Worker, key: Any) -> bool:
    """Whether dask still wants a task that has begun here. From any thread."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state in RUNNING


def _pass_on(worker: Worker, act: Callable[..., None], name: str, **what: Any) -> None:
    """The scheduler has sent this, for a manager. Called by dask, in the thread of the worker's event loop.

    Raises: nothing, for dask would end the worker, with the attempts of all managers.
    """
    plugin: Any = worker.plugins.get(name)
    if plugin is not None:
        try:
            act(plugin, **what)
        except Exception:
            logger.exception("exception in %s for the manager %s", act.__name__, name)


def end_loop(name: str, number: int, dask_worker: Worker) -> None:
    """Let a loop end after its running iteration, if it is here. Run by dask on each worker."""
    _plugin_of(dask_worker, name).end_loop(number)


def _plugin_of(worker: Worker, name: str) -> NodePlugin:
    try:
        return worker.plugins[name]  # type: ignore[no-any-return]
    except KeyError:
        raise RuntimeError("this node does not know the manager; the log of its worker may say why") from None
