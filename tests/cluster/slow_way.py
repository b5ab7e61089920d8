"""A way to a server that is slow, and that stalls for a while: a TCP proxy on loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from urllib.parse import urlsplit


class SlowWay:
    """Passes on what comes to `address` after a delay, both ways, in a thread of its own."""

    def __init__(self, to: str, delay_s: float) -> None:
        parts = urlsplit(to)
        self._to = parts.hostname, parts.port
        self._delay_s = delay_s
        self._stalled_until_s = 0.0
        self.longest_s = 0.0  # that something was held back
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow-way", daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.address = "tcp://{}:{}".format(*self._server.sockets[0].getsockname())

    def stall(self, seconds: float) -> None:
        """Pass nothing on for so long."""
        self._stalled_until_s = time.monotonic() + seconds

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        back_reader, back_writer = await asyncio.open_connection(*self._to)
        self._writers.append(back_writer)
        await asyncio.gather(self._pass_on(reader, back_writer), self._pass_on(back_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self._later(writer.write, data)
        except OSError:
            pass
        self._later(writer.close)

    def _later(self, act, *what) -> None:
        now_s = time.monotonic()
        wait_s = max(self._delay_s, self._stalled_until_s - now_s)
        self.longest_s = max(self.longest_s, wait_s)
        self._loop.call_later(wait_s, act, *what)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)
