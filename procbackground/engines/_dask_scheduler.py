"""What runs in the scheduler of a dask cluster, for one manager: it knows which requests are over.

dask runs a bundle anew where its node is lost. What had ended by then must not run again. The reports of nodes pass
this process: at the end of a request that is alone in its bundle, dask is made to forget the bundle at once, before the
manager has the report. Before a node begins a bundle of several, it asks here which of them are over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from procbackground._wire import attempts as w
from procbackground.engines._bundles import bundle_of, key_of

if TYPE_CHECKING:
    from distributed import Scheduler

OVER = "procbackground_over"  # asked by nodes
ELSEWHERE = "procbackground_elsewhere"
WITHDRAW = "procbackground_withdraw"  # asked by managers
FORGET = "procbackground_forget"
ASK = "procbackground_ask"
REGISTER = "procbackground_register"
LEAVE = "procbackground_leave"
DECLARE = "procbackground_declare"  # asked by nodes
WITHDRAWN = "procbackground-withdrawn"  # sent to a node
ASKED = "procbackground-asked"
DRAIN = "procbackground-drain"
DRAINED = "procbackground-drained"  # sent by it
UNFIT = "unfit"  # reported of a node that cannot run what the manager gives
REGISTER_S = 5.0  # that a manager waits for nodes to know of it; others follow when they can
AGAIN_S = 1.0  # pause before a message to a node that could not be reached is repeated
LATE_S = 2.0  # that a node may take longer for draining than it leaves to attempts
SWEEP_AT = 512  # bundles of which something is known


class SchedulerSide(SchedulerPlugin):  # type: ignore[misc]  # it is untyped
    """What the scheduler knows of one manager."""

    def __init__(self, name: str, client: str, drain_s: float) -> None:
        self.name = name
        self._client = client
        self._drain_s = drain_s
        self._nodes: set[str] = set()  # addresses of those that are ready for the manager; no other is sent anything
        self._refusals: dict[str, str] = {}  # why others never will be
        self._telling: set[asyncio.Task[None]] = set()
        self._drained: dict[str, asyncio.Event] = {}  # by the addresses of nodes that are being retired
        self._over: dict[int, set[int]] = {}  # by the number of the bundle
        self._swept: dict[int, set[int]] = {}  # of bundles that dask did not know at the last look

    async def start(self, scheduler: Scheduler) -> None:
        """Called by dask when the manager registers this."""
        self._scheduler = scheduler
        plugins: dict[str, Any] = scheduler.plugins
        scheduler.handlers[OVER] = lambda name, bundle: sorted(plugins[name].over(bundle))
        scheduler.handlers[ELSEWHERE] = lambda name, bundle: name in plugins and plugins[name].send_elsewhere(bundle)
        scheduler.handlers[WITHDRAW] = lambda name, numbers: plugins[name].withdraw(numbers)
        scheduler.handlers[FORGET] = lambda name, bundle: plugins[name].forget([bundle])
        scheduler.handlers[DECLARE] = lambda name, **what: name in plugins and plugins[name].declare(**what)
        scheduler.handlers[REGISTER] = lambda name, plugin: plugins[name].register(plugin)
        scheduler.handlers[LEAVE] = lambda name: plugins[name].leave()
        scheduler.handlers[ASK] = lambda name, **what: plugins[name].ask(**what)
        scheduler.stream_handlers[DRAINED] = lambda name, worker: name in plugins and plugins[name].has_drained(worker)
        _drain_before_removal(scheduler)

    def over(self, bundle: int) -> set[int]:
        """Return which requests of a bundle have ended, or are not wanted."""
        return self._over.get(bundle) or self._swept.get(bundle) or set()

    def log_event(self, topic: str, msg: Any) -> None:
        """Called by dask for each message of a node: note what ends by it."""
        if topic == self.name:
            over, over_bundles, _ = msg
            for bundle, number in over:
                self._note(bundle, number)
            if over_bundles:
                self.forget(over_bundles)

    def forget(self, bundles: Sequence[int]) -> None:
        """Have dask forget bundles, as if the manager had released them: it would run them again with a lost node."""
        keys = [key_of(self.name, bundle) for bundle in bundles]
        self._scheduler.client_releases_keys(keys=keys, client=self._client)

    def _note(self, bundle: int, number: int) -> None:
        known = self._over.get(bundle)
        if known is None:
            known = self._over[bundle] = self._swept.pop(bundle, set())
            if len(self._over) > SWEEP_AT:
                self._sweep()
        known.add(number)

    def _sweep(self) -> None:
        """Forget bundles that dask has forgotten, but those that it had already at the last look: a manager's request
        not to run something may come before the bundle."""
        tasks = self._scheduler.tasks
        known = {**self._swept, **self._over}
        gone = {bundle for bundle in known if key_of(self.name, bundle) not in tasks}
        self._swept = {bundle: known[bundle] for bundle in gone - self._swept.keys()}
        self._over = {bundle: known[bundle] for bundle in known.keys() - gone}

    def withdraw(self, numbers: list[tuple[int, int]]) -> None:
        """The manager does not want these requests of bundles: they are not begun, and stopped where they run."""
        for bundle, number in numbers:
            self._note(bundle, number)
            task = self._scheduler.tasks.get(key_of(self.name, bundle))
            if task is not None and task.processing_on is not None:
                self._send(task.processing_on.address, WITHDRAWN, number=number)

    def ask(self, number: int, question: str, address: str | None) -> int:
        """Pass a question on to all nodes, or the one of this address; return how many there are. Waits for none."""
        return sum(
            self._send(each, ASKED, number=number, question=question)
            for each in tuple(self._nodes)
            if address in (None, each)
        )

    def _send(self, address: str, op: str, **what: Any) -> bool:
        """Send something to a node; return False if that is not ready for the manager. dask ends a worker that gets an
        `op` which it does not know."""
        if address not in self._nodes:
            return False
        self._scheduler.worker_send(address, {"op": op, "name": self.name, **what})
        return True

    async def drain(self, address: str) -> None:
        """Have a node that is retired finish what it runs, as long as it leaves to that."""
        node = self._scheduler.workers.get(address)
        if node is None or all(bundle_of(task.key, self.name) is None for task in node.processing):
            return
        drained = self._drained[address] = asyncio.Event()
        try:
            if self._send(address, DRAIN):
                await asyncio.wait_for(drained.wait(), self._drain_s + LATE_S)
        except TimeoutError:
            pass  # it is frozen, or lost
        finally:
            del self._drained[address]

    def has_drained(self, address: str) -> None:
        """A node has finished what it ran; its reports came before."""
        if address in self._drained:
            self._drained[address].set()

    async def register(self, plugin: bytes) -> list[str]:
        """Have all nodes know of the manager, also those that come later. Return why those refuse it that do.

        Not as dask does it, where one node that is frozen, or is lost just then, keeps the manager from all others.
        """
        scheduler = self._scheduler
        scheduler.worker_plugins[self.name] = plugin  # later ones get it as they register
        for address in tuple(scheduler.workers):
            task = asyncio.ensure_future(self._tell(address, plugin))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        if self._telling:
            await asyncio.wait(tuple(self._telling), timeout=REGISTER_S)
        return list(self._refusals.values())

    async def _tell(self, address: str, plugin: bytes) -> None:
        """Have a node know of the manager, however often that takes."""
        scheduler = self._scheduler
        node = scheduler.workers.get(address)
        message = {"op": "plugin-add", "plugin": plugin, "name": self.name}
        while scheduler.workers.get(address) is node and address not in self._nodes and address not in self._refusals:
            answers = await scheduler.broadcast(msg=message, workers=[address], on_error="return")
            answer = answers.get(address)
            if isinstance(answer, Exception) and not isinstance(answer, OSError):
                self._refuse(address, f"{type(answer).__name__}: {answer}")  # it cannot even load the plugin
            elif address not in self._nodes:
                await asyncio.sleep(AGAIN_S)

    def _refuse(self, address: str, reason: str) -> None:
        if self._refusals.setdefault(address, reason) == reason:
            self._scheduler.log_event(self.name, ((), (), w.pack([(0, UNFIT, address, reason)])))

    def declare(self, address: str, resources: dict[str, float], refusal: str | None) -> bool:
        """A node is ready for the manager, and has these resources: run what has waited for them. Return True.

        A node may declare itself more than once, as it repeats what was not acknowledged.

        Args:
            resources: all of them. The scheduler may lack any that it was not told, or had no manager to be told for.
            refusal: why the node cannot run anything for the manager.
        """
        scheduler = self._scheduler
        node = scheduler.workers.get(address)
        if refusal is not None:
            self._refuse(address, refusal)
        elif node is not None:
            self._nodes.add(address)
            used = dict(node.used_resources)
            new = {name: quantity for name, quantity in resources.items() if name not in node.resources}
            scheduler.add_resources(address, new)
            node.used_resources.update(used)  # dask forgets that
            runnable = scheduler.bulk_schedule_unrunnable_after_adding_worker(node)
            scheduler.transitions(runnable, "procbackground-declare")
        return True

    def send_elsewhere(self, bundle: int) -> bool:
        """A node that is not ready for the manager has got this: let dask prefer those that are. Return False if none
        is. Without that, it would choose the same node again, which looks idle."""
        task = self._scheduler.tasks.get(key_of(self.name, bundle))
        if task is not None and self._nodes:
            task.worker_restrictions = set(self._nodes)
            task.loose_restrictions = True  # any node, where none of these is left
        return bool(self._nodes)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Called by dask when a node is gone."""
        self._nodes.discard(worker)
        self._refusals.pop(worker, None)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Called by dask when a client is gone: if it is the manager's, nodes forget that, too."""
        if client == self._client and scheduler.plugins.get(self.name) is self:
            self._leaving = asyncio.ensure_future(self.leave())  # kept, as the loop does not

    async def leave(self) -> None:
        """The manager closes, or is gone: have all nodes forget it.

        It is unknown here first. So a node that gets to know of the manager only now learns that when it declares
        itself, and forgets it, too.
        """
        scheduler = self._scheduler
        scheduler.plugins.pop(self.name, None)
        for task in tuple(self._telling):
            task.cancel()
        if scheduler.worker_plugins.pop(self.name, None) is not None:
            await scheduler.broadcast(msg={"op": "plugin-remove", "name": self.name}, on_error="ignore")


def _drain_before_removal(scheduler: Any) -> None:
    """Have nodes that are retired finish what they run first: dask would run it again elsewhere, at once.

    All ways of retiring a node, by people and by clusters that shrink, end in this method, and dask has no hook there.
    By then it gives the node nothing more.
    """
    remove = scheduler.remove_worker
    if getattr(remove, "drains", False):
        return

    async def remove_worker(address: str, *arguments: Any, **options: Any) -> Any:
        if options.get("expected", options.get("safe")):  # its name in older versions
            ours = [plugin for plugin in scheduler.plugins.values() if isinstance(plugin, SchedulerSide)]
            await asyncio.gather(*(plugin.drain(address) for plugin in ours))
        return await remove(address, *arguments, **options)

    remove_worker.drains = True  # type: ignore[attr-defined]  # it is there already, for another manager
    scheduler.remove_worker = remove_worker
