#!/usr/bin/env python3
"""A web service whose requests need a CPU for seconds: asyncio stays responsive, since workers do the work.

    python examples/web.py --port 8080
    curl 'http://localhost:8080/primes?below=1000000'

A request that takes longer than `--timeout` seconds is answered by 504, and its worker is stopped. So is that of a
client which hangs up: the asyncio task that awaits a handle is cancelled, and the work with it. With `--queue` requests
waiting, a further one is answered by 503 at once. SIGTERM and Ctrl-C close the service: requests that run get their
answers.

The server is a few lines of `asyncio` streams. In Starlette, FastAPI or aiohttp the handler is the same:
`await manager.run(...)`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
from math import isqrt
from urllib.parse import parse_qs, urlsplit

from procbackground import Manager, QueueFullError, TaskTimeoutError, WorkerDiedError

CLOSE_S = 5.0  # for requests that run when the service is told to end
BAD_CLIENT = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


def count_primes(below: int) -> int:
    """Count the primes below a number, by trial division: a million takes seconds."""
    return sum(all(number % divisor for divisor in range(2, isqrt(number) + 1)) for number in range(2, below))


async def answer(manager: Manager, target: str) -> tuple[int, dict[str, object]]:
    """Return the status and the body for a request."""
    address = urlsplit(target)
    if address.path == "/stats":
        stats = manager.stats()
        return 200, {"running": stats.running, "queued": stats.queued, "cancelled": stats.cancelled}
    if address.path != "/primes":
        return 404, {"error": "there are /primes?below=NUMBER and /stats"}
    try:
        below = int(parse_qs(address.query)["below"][0])
        return 200, {"below": below, "primes": await manager.run(count_primes, below)}
    except (KeyError, ValueError):
        return 400, {"error": "below=NUMBER is missing"}
    except TaskTimeoutError:
        return 504, {"error": "that takes too long"}
    except QueueFullError:
        return 503, {"error": "too many requests wait; try again later"}
    except WorkerDiedError as error:
        return 500, {"error": str(error)}


async def handle_request(manager: Manager, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one request and answer it, unless the client hangs up before."""
    request = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
    answering = asyncio.create_task(answer(manager, request[1].decode()))
    hanging_up = asyncio.create_task(reader.read())  # a client sends nothing more: this ends when it has gone
    await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
    if not answering.done():
        answering.cancel()  # and with it the task in the worker
        return
    hanging_up.cancel()
    status, body = answering.result()
    data = json.dumps(body).encode() + b"\n"
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(data)}", "Connection: close"]
    writer.write("\r\n".join([*head, "", ""]).encode() + data)
    await writer.drain()


async def serve(arguments: argparse.Namespace) -> None:
    told_to_end = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, told_to_end.set)
    requests: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = asyncio.create_task(handle_request(manager, reader, writer))
        requests.add(request)
        request.add_done_callback(requests.discard)
        with contextlib.closing(writer), contextlib.suppress(*BAD_CLIENT):
            await request

    async with Manager(
        arguments.workers, timeout=arguments.timeout, max_pending=arguments.queue, when_full="raise"
    ) as manager:
        server = await asyncio.start_server(connect, arguments.host, arguments.port)
        print(f"serving on http://{arguments.host}:{server.sockets[0].getsockname()[1]}", flush=True)
        await told_to_end.wait()
        server.close()
        if requests:
            await asyncio.wait(requests, timeout=CLOSE_S)
    print("closed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="by default one for each CPU")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for a request (default: %(default)s)")
    parser.add_argument("--queue", type=int, default=100, help="requests that may wait (default: %(default)s)")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
