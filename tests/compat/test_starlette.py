"""A web application that gives its heavy work to a manager, within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextvars import ContextVar

import pytest

from procbackground import Manager, TaskTimeoutError
from tests.support.facts import wait_until_gone
from tests.support.gate import Address, stop_at_gate
from tests.support.tasks import failing, plain

pytest.importorskip("starlette")
httpx = pytest.importorskip("httpx")
from starlette.applications import Starlette  # noqa: E402  # only where it is installed
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

# Starlette 1 would rather have httpx2.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")

TIMEOUT_S = 2.0  # in which a started worker comes to the gate, on a busy machine too
request_id: ContextVar[str] = ContextVar("request_id")


def who_asks() -> tuple[str, int]:
    return request_id.get(), os.getpid()


class Application:
    """The application, its manager, and a gate at which its work can be held."""

    def __init__(self, gate: Address) -> None:
        self.gate = gate
        self.manager: Manager | None = None
        self.app = Starlette(
            routes=[
                Route("/square/{number:int}", self.square),
                Route("/limited", self.limited),
                Route("/waited", self.waited),
                Route("/who", self.who),
                Route("/fail", self.fail),
            ],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette):
        async with Manager(max_workers=2, grace=1, context=[request_id]) as self.manager:
            await self.manager.run(plain.square, 3)  # starts the workers, which is not what the limits are about
            yield

    async def square(self, request: Request) -> Response:
        return JSONResponse(await self.manager.run(plain.square, request.path_params["number"]))

    async def limited(self, request: Request) -> Response:
        try:
            await self.manager.options(timeout=TIMEOUT_S).run(stop_at_gate, self.gate)
        except TaskTimeoutError:
            return JSONResponse("took too long", status_code=503)
        return JSONResponse("done")

    async def waited(self, request: Request) -> Response:
        try:
            await asyncio.wait_for(self.manager.run(stop_at_gate, self.gate), TIMEOUT_S)
        except TimeoutError:
            return JSONResponse("took too long", status_code=503)
        return JSONResponse("done")

    async def who(self, request: Request) -> Response:
        request_id.set(request.headers["x-request-id"])
        return JSONResponse(await self.manager.run(who_asks))

    async def fail(self, request: Request) -> Response:
        try:
            return JSONResponse(await self.manager.run(failing.fail, "refused"))
        except failing.Flaky as error:
            return JSONResponse(str(error), status_code=422)


@pytest.fixture
def application(gate):
    return Application(gate.address)


def served(application: Application, use) -> None:
    """Have `await use(client)` run beside the application, in one event loop."""

    async def serve() -> None:
        transport = httpx.ASGITransport(app=application.app)
        async with (
            application.lifespan(application.app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await use(client)

    asyncio.run(serve())


def test_work_is_done_beside_the_event_loop(application):
    async def use(client) -> None:
        answers = await asyncio.gather(*(client.get(f"/square/{number}") for number in range(20)))
        assert [answer.json() for answer in answers] == [number * number for number in range(20)]

    served(application, use)


@pytest.mark.parametrize("path", ["/limited", "/waited"])
def test_work_that_takes_too_long_is_answered_for_and_stopped(application, gate, path):
    async def use(client) -> None:
        held = asyncio.create_task(client.get(path))
        pid = await asyncio.to_thread(gate.wait_for_arrival)
        assert (await client.get("/square/3")).json() == 9  # others are served meanwhile
        answer = await held
        assert (answer.status_code, answer.json()) == (503, "took too long")
        await asyncio.to_thread(wait_until_gone, [pid])
        assert (await client.get("/square/4")).json() == 16

    served(application, use)


def test_work_in_time_is_answered(application, gate):
    async def use(client) -> None:
        held = asyncio.create_task(client.get("/limited"))
        gate.release(await asyncio.to_thread(gate.wait_for_arrival))
        assert (await held).json() == "done"

    served(application, use)


def test_a_client_that_goes_away_takes_its_work_along(application, gate):
    async def use(client) -> None:
        held = asyncio.create_task(client.get("/waited"))
        pid = await asyncio.to_thread(gate.wait_for_arrival)
        held.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await held
        await asyncio.to_thread(wait_until_gone, [pid])

    served(application, use)


def test_each_request_s_context_reaches_its_work(application):
    async def use(client) -> None:
        names = [f"r-{number}" for number in range(10)]
        answers = await asyncio.gather(*(client.get("/who", headers={"x-request-id": name}) for name in names))
        assert [answer.json()[0] for answer in answers] == names
        assert os.getpid() not in {answer.json()[1] for answer in answers}

    served(application, use)


def test_the_application_as_a_whole_with_starlette_s_own_client(application):
    from starlette.testclient import TestClient

    with TestClient(application.app) as client:
        assert client.get("/square/12").json() == 144
        answer = client.get("/fail")
        assert (answer.status_code, answer.json()) == (422, "refused")
        assert client.get("/limited").status_code == 503
