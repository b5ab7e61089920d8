"""`procbackground top`: a running manager, refreshed in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from procbackground._cli import values

if TYPE_CHECKING:
    from procbackground._status.places import Place

HELP = """Watch a running manager: its workers, tasks, rates, memory and the age of its queue.

It shows managers that offer a status socket, Manager(status=True), and every `procbackground map` and `run` of yours.
MANAGER is a process id or a name; without it, there must be one manager only.

Keys: arrows choose a worker, c cancels its task, d drains (what is queued is cancelled, what runs is finished), x
closes (running tasks are stopped), q leaves. What ends something asks first.
"""


@click.command("top", help=HELP, short_help="Watch a running manager, and steer it.")
@click.argument("manager", metavar="[NAME|PID]", required=False)
@click.option("--once", is_flag=True, help="Print the status once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: with --once one object, else one each interval.")
@click.option("--interval", type=values.Duration(), default=1.0, metavar="TIME", help="Between refreshes. [default: 1]")
def command(manager: str | None, once: bool, as_json: bool, interval: float) -> int:
    from procbackground._cli.errors import Wrong
    from procbackground._status.client import Client, StatusError

    try:
        with Client(_find(manager)) as client:
            if as_json or once:
                return _print(client, once, as_json, interval)
            from procbackground._cli.screen import watch

            return watch(client, interval)
    except StatusError as error:
        raise Wrong(str(error)) from None


def _print(client: Any, once: bool, as_json: bool, interval_s: float) -> int:
    import json
    import time

    while True:
        status = client.ask("status")
        if as_json:
            status.pop("ok")
            print(json.dumps(status), flush=True)
        else:
            from rich.console import Console

            from procbackground._cli.screen import render

            Console().print(render(status, status["rate"]))
        if once:
            return 0
        time.sleep(interval_s)


def _find(wanted: str | None) -> Place:
    """Return the manager that is meant. Raises: `Wrong`."""
    from procbackground._cli.errors import Wrong, near
    from procbackground._status.client import living_places
    from procbackground._status.places import safe_name

    try:
        places = living_places()
    except OSError as error:
        raise Wrong(f"{error.filename}: {error.strerror}") from None
    if not places:
        raise Wrong("no manager of yours offers a status socket; see Manager(status=True)")
    shown = "".join(f"\n  {place.pid}  {place.name}" for place in places)
    if wanted is None:
        if len(places) > 1:
            raise Wrong(f"there are several managers; say which:{shown}")
        return places[0]
    found = [place for place in places if wanted == str(place.pid) or safe_name(wanted) == place.name]
    if not found:
        names = [place.name for place in places if place.name] + [str(place.pid) for place in places]
        raise Wrong(f"there is no manager {wanted!r}{near(wanted, names)}; there are:{shown}")
    if len(found) > 1:
        raise Wrong(f"several managers are called {wanted!r}; say the process id:{shown}")
    return found[0]
