"""The screen of `procbackground top`: what it shows, and its keys."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from procbackground._cli.errors import Wrong
from procbackground._cli.summary import seconds_text
from procbackground._printable import printable
from procbackground._report.text import size
from procbackground._status.client import Client, StatusError

HEAD_LINES = 8  # above and below the workers
RATE_S = 10.0  # a rate is that of the last seconds: of a single look it would be 0 where tasks take longer than that
KEYS = "↑↓ choose  c cancel  d drain  x close  q leave"


def render(status: dict[str, Any], rate: float, chosen: int | None = None, most: int | None = None,
           last_line: str = "") -> Group:  # fmt: skip
    """Return the status as something that rich prints.

    Args:
        rate: tasks that ended per second.
        chosen: the pid of a worker.
        most: workers that there is room for.
        last_line: keys, or a question.
    """
    tasks = status["tasks"]
    name = f" {printable(status['name'])}" if status["name"] else ""
    up = seconds_text(status["time"] - status["began"])
    head = Text(f"procbackground{name}, process {status['pid']}, {status['state']}, up {up}", style="bold")
    queue_age = status["queue_age"]
    waited = f", the oldest for {seconds_text(queue_age)}" if queue_age is not None else ""
    counts = Text()
    counts.append(f"{tasks['succeeded']:,} succeeded", style="green")
    counts.append(f"  {tasks['failed']:,} failed", style="red" if tasks["failed"] else "")
    counts.append(f"  {tasks['cancelled']:,} cancelled  {tasks['retried']:,} retried  {rate:.1f}/s")
    queue = Text(f"{tasks['running']:,} running  {tasks['queued']:,} queued{waited}")
    workers = status["workers"]
    busy = sum(1 for each in workers if each["task"] is not None)
    machine = Text(
        # Loops and spares are processes beside the `max_workers`.
        f"{len(workers)} processes, {busy} busy, max_workers {status['max_workers']}, {size(status['memory'])}, "
        f"{status['respawned']} replaced"
    )
    parts: list[Any] = [head, counts, queue, machine, Text(""), _table(workers, status["time"], chosen, most)]
    if most is not None and len(workers) > most:
        parts.append(Text(f"... and {len(workers) - most} more", style="dim"))
    if last_line:
        parts.append(Text(last_line, style="reverse" if last_line != KEYS else "dim"))
    return Group(*parts)


def _table(workers: list[dict[str, Any]], now: float, chosen: int | None, most: int | None) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    for title in ("pid", "time", "memory", "CPU", "attempt"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    for each in workers if most is None else workers[:most]:
        is_idle = each["task"] is None
        cells = (
            str(each["pid"]), seconds_text(max(0.0, now - each["since"])), size(each["memory"]),
            f"{each['cpu_percent']:.0f}%", "" if is_idle else str(each["attempt"]),
        )  # fmt: skip
        style = "reverse" if each["pid"] == chosen else "dim" if is_idle else ""
        table.add_row(*cells, Text("idle" if is_idle else printable(each["call"])), style=style)
    return table


def watch(client: Client, interval_s: float) -> int:
    """Show a manager until it closes, or `q` is pressed; return the exit code."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Wrong("this is no terminal; --once prints the status, --json for programs")
    return _Watch(client, interval_s).run()


class _Watch:
    def __init__(self, client: Client, interval_s: float) -> None:
        self._client = client
        self._interval_s = interval_s
        self._console = Console()
        self._status: dict[str, Any] = {}
        self._ended: deque[tuple[float, int]] = deque()  # when, and how many had ended then
        self._rate = 0.0
        self._chosen: int | None = None
        self._question: tuple[str, str, dict[str, Any]] | None = None  # text, request
        self._note = ""

    def run(self) -> int:
        end = ""
        try:
            with _keys_unbuffered(), Live(console=self._console, screen=True, auto_refresh=False) as live:
                keys, due_s = _Keys(), 0.0
                while True:
                    if time.monotonic() >= due_s:
                        self._refresh()
                        due_s = time.monotonic() + self._interval_s
                    live.update(self._render(), refresh=True)
                    key = keys.next_within(max(0.0, due_s - time.monotonic()))
                    if key == "q" and self._question is None:
                        break
                    if key:
                        self._press(key)
        except StatusError as error:
            end = str(error)
        except KeyboardInterrupt:
            pass
        if end:
            print(end)
        return 0

    def _refresh(self) -> None:
        self._status = self._client.ask("status")
        now, ended = self._status["time"], _ended(self._status)
        if not self._ended:
            self._ended.append((self._status["began"], 0))
        while len(self._ended) > 1 and self._ended[0][0] < now - RATE_S:
            self._ended.popleft()
        began, ended_before = self._ended[0]
        self._ended.append((now, ended))
        self._rate = (ended - ended_before) / max(1e-3, now - began)

    def _render(self) -> Group:
        last_line = KEYS
        if self._question is not None:
            last_line = f"{self._question[0]} y/n"
        elif self._note:
            last_line = self._note
        most = max(1, self._console.height - HEAD_LINES)
        return render(self._status, self._rate, self._chosen, most, last_line)

    def _press(self, key: str) -> None:
        self._note = ""
        if self._question is not None:
            (_, do, facts), self._question = self._question, None
            if key in ("y", "Y"):
                answer = self._client.ask(do, **facts)
                self._note = "it had ended already" if answer.get("cancelled") is False else "done"
            return
        workers = self._status["workers"]
        pids = [each["pid"] for each in workers]
        if key in ("up", "down") and pids:
            at = pids.index(self._chosen) if self._chosen in pids else -1 if key == "down" else 0
            self._chosen = pids[(at + (1 if key == "down" else -1)) % len(pids)]
        elif key == "c":
            chosen = next((each for each in workers if each["pid"] == self._chosen and each["task"] is not None), None)
            if chosen is None:
                self._note = "choose a worker that runs a task, by the arrows"
            else:
                facts = {"pid": chosen["pid"], "since": chosen["since"]}
                self._question = f"Cancel {printable(chosen['call'])} in process {chosen['pid']}?", "cancel", facts
        elif key == "d":
            tasks = self._status["tasks"]
            text = f"Drain: cancel {tasks['queued']:,} queued tasks, finish {tasks['running']:,}?"
            self._question = text, "drain", {}
        elif key == "x":
            self._question = f"Close: stop {self._status['tasks']['running']:,} running tasks?", "close", {"timeout": 0}


def _ended(status: dict[str, Any]) -> int:
    tasks = status["tasks"]
    return tasks["succeeded"] + tasks["failed"] + tasks["cancelled"]  # type: ignore[no-any-return]


@contextmanager
def _keys_unbuffered() -> Iterator[None]:
    """Let keys come one by one, and unseen."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Keys:
    """The keys that are pressed. Several may come in one read, as when one is held down."""

    _NAMES: ClassVar = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
    _ONE = re.compile(rb"\x1b[\[O][A-Z]|.", re.DOTALL)

    def __init__(self) -> None:
        self._pending: deque[bytes] = deque()

    def next_within(self, seconds: float) -> str:
        """Return the next key, or "" if none is pressed within some time."""
        if not self._pending:
            fd = sys.stdin.fileno()
            if not select.select([fd], [], [], seconds)[0]:
                return ""
            pressed = os.read(fd, 64)
            if not pressed:
                return "q"  # the terminal is gone
            self._pending.extend(self._ONE.findall(pressed))
        key = self._pending.popleft()
        return self._NAMES.get(key, key.decode("ascii", "ignore"))
