"""An engine whose only node is this process: shows what an engine has to do, and runs where there is no dask."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from procbackground._node.agent import NodeAgent
from procbackground._wire import attempts as w
from procbackground._wire.shares import SharedFile


class OwnNode:
    """Runs requests in threads of this process, as a node would: the attempts are in its children."""

    def __init__(self, slots: int = 2) -> None:
        self._slots = slots
        self._withdrawn: set[int] = set()
        self._shares: dict[int, SharedFile] = {}
        self._is_lost = False

    def places(self) -> int:
        return 8 * self._slots

    def start(self, name: str, settings: w.NodeSettings, listener: Any) -> None:
        self.listener = listener
        self._agent = NodeAgent(w.unpack(w.pack(settings)), self._slots, "this process", self._send)
        self._threads = ThreadPoolExecutor(self._slots + 4, thread_name_prefix=f"{name}-node")

    def _send(self, report: w.Report) -> None:
        if not self._is_lost:
            self.listener.reports_came([w.unpack(w.pack(report))])

    def submit(self, requests: Sequence[w.Request]) -> None:
        for request in sorted(requests, key=lambda each: -each.priority):
            self._threads.submit(self._run, w.pack(tuple(request)))

    def _run(self, data: bytes) -> None:
        request = w.Request(*w.unpack(data))
        if request.number not in self._withdrawn:
            self._agent.run([request], shares={number: self._shares[number] for number in request.shares})

    def share(self, number: int, parts: Sequence[memoryview]) -> None:
        self._shares[number] = SharedFile(bytes(parts[0]), parts[1:])

    def unshare(self, number: int) -> None:
        del self._shares[number]

    def cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._withdrawn.add(number)
            self._agent.cancel(number)

    def end_loop(self, number: int) -> None:
        threading.Thread(target=self._agent.end_loop, args=(number,)).start()

    def ask(self, question: str, node: str | None, timeout_s: float) -> list[tuple[str, Any]]:
        return [("this process", self._agent.answer(question))]

    def close(self, timeout_s: float) -> bool:
        self._agent.close()
        self._threads.shutdown()
        self._shares.clear()
        return True

    def lose(self) -> None:
        """Behave as if the way to the node was gone."""
        self._is_lost = True
        self.listener.engine_lost("the way to the node is gone")
