"""The output of running attempts, where it is not inherited: read from pipes, kept up to a limit, passed on by lines.

The supervisor reads what is there and never waits: what a task wrote before its answer is in the pipe by then. Whatever
else still holds the other end, such as a process that the task left behind, is not waited for.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from typing import Any

from procbackground._log import logger
from procbackground._printable import printable
from procbackground._state.fleet import Worker
from procbackground._state.job import Job
from procbackground._supervisor.events_out import Events
from procbackground._supervisor.relay import RecordRelay
from procbackground._supervisor.watches import Watches
from procbackground._wire import frames as wire
from procbackground._wire.output import CAPTURE, TAGGED, Plan
from procbackground._wire.parcel import receive_pipes

# So much of the output of an attempt is kept: the beginning often says what was run, the end what went wrong.
HEAD_BYTES = 256 << 10
TAIL_BYTES = 768 << 10
LAST_READS = 64  # of an attempt that has ended: a pipe holds less, unless a process keeps writing
LONGEST_LINE = 64 << 10  # bytes; a longer line is passed on in parts
UNWRITTEN_BYTES = 256 << 10  # that wait for the parent's own output; then the task waits, as it would for a terminal
SHOWN_LINES = 10  # in errors
SHOWN_BYTES = 2000
_NOT_SHOWN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")  # escape sequences, and control characters


class AttemptOutput:
    """What an attempt has written. The supervisor adds to it; any thread may read it."""

    __slots__ = ("_dropped", "_head", "_head_bytes", "_tail", "_tail_bytes")

    def __init__(self) -> None:
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._head_bytes = self._tail_bytes = self._dropped = 0

    def add(self, data: bytes) -> None:
        if self._head_bytes < HEAD_BYTES:
            first = data[: HEAD_BYTES - self._head_bytes]
            self._head.append(first)
            self._head_bytes += len(first)
            data = data[len(first) :]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
                gone = len(self._tail.popleft())
                self._tail_bytes -= gone
                self._dropped += gone

    def text(self) -> str:
        """Return it as text; a line in the middle says how much was left out."""
        dropped = self._dropped
        tail = b"".join(tuple(self._tail))  # a copy in one step, as the supervisor may add to it now
        gap = f"\n... ({dropped} bytes left out) ...\n".encode() if dropped else b""
        return (b"".join(tuple(self._head)) + gap + tail).decode(errors="replace")

    def last_lines(self) -> str:
        """Return the end, for an error."""
        data = b"".join((tuple(self._tail) or tuple(self._head))[-64:])
        return last_lines(data)


class FileOutput:
    """The file that an attempt writes to."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def text(self) -> None:
        """None: it is in the file."""

    def last_lines(self) -> str:
        """Return the end of the file, for an error. May block."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - SHOWN_BYTES))
                return last_lines(file.read(SHOWN_BYTES))
        except OSError:
            return ""


def last_lines(data: bytes) -> str:
    """Return the end of what an attempt wrote, for an error: as a terminal shows it at last, and without colours."""
    text = data[-SHOWN_BYTES:].decode(errors="replace")
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]  # a progress bar overwrites its line
    lines = [_NOT_SHOWN.sub("", line) for line in lines]
    return "\n".join([line for line in lines if line][-SHOWN_LINES:])


class Pipes:
    """The pipes of the attempt that runs in a worker."""

    __slots__ = ("fds", "job", "kept", "partial", "plan", "unmarked_bytes", "worker")

    def __init__(self, worker: Worker, job: Job, plan: Plan, fds: list[int]) -> None:
        self.worker = worker
        self.job = job
        self.plan = plan
        self.kept = AttemptOutput()
        streams = (None,) if plan.mode == CAPTURE else ("stdout", "stderr")
        # Each descriptor, until its end, with the stream if it has a pipe of its own.
        self.fds: dict[int, str | None] = dict(zip(fds, streams, strict=True))
        self.partial: dict[str | None, bytes] = {}  # the line that is not complete yet
        self.unmarked_bytes = 0  # relayed since the last look at whether the parent's output keeps up

    def close(self) -> None:
        """Close the descriptors, without reading."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class Outputs:
    """The pipes of all workers. All methods are called by the supervisor."""

    def __init__(self, watches: Watches, events: Events, records: RecordRelay) -> None:
        self._watches = watches
        self._events = events
        self._records = records
        self._has_event = "on_task_output" in events.wanted

    def begin(self, worker: Worker, sequence: int) -> None:
        """The worker has redirected the output of request `sequence`; the pipes are in its side socket."""
        process, job = worker.process, worker.current
        plan: Plan | None = None if job is None else job.recipe.output
        if job is None or plan is None or job.sequence != sequence:
            return
        self.end(process.output)
        if plan.path:
            job.handle._output = FileOutput(plan.file_of(job.recipe.name, job.number, job.attempt))
            return
        try:
            fds = receive_pipes(process.channel.side_fd, sequence, plan.pipes)
        except (OSError, EOFError) as error:
            logger.warning("the output of %r is lost: its pipe could not be received (%s)", job.recipe.name, error)
            job.handle._output = AttemptOutput()
            return
        process.output = pipes = Pipes(worker, job, plan, fds)
        job.handle._output = pipes.kept
        for fd in fds:
            self._watch(pipes, fd)

    def _watch(self, pipes: Pipes, fd: int) -> None:
        self._watches.watch(fd, lambda: self._read(pipes, fd))

    def _read(self, pipes: Pipes, fd: int) -> bool:
        """Take what a pipe holds; return whether there may be more."""
        try:
            data = os.read(fd, wire.READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        stream = pipes.fds[fd]
        if not data:
            self._watches.forget(fd)
            del pipes.fds[fd]
            os.close(fd)
            return False
        pipes.kept.add(data)
        if self._has_event or pipes.plan.mode != CAPTURE:
            *lines, rest = (pipes.partial.get(stream, b"") + data).split(b"\n")
            while len(rest) > LONGEST_LINE:
                lines.append(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            pipes.partial[stream] = rest
            if lines:
                self._pass_on(pipes, stream, lines)
        return True

    def _pass_on(self, pipes: Pipes, stream: str | None, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace") for line in lines]
        if self._has_event:
            for text in texts:
                self._events.task("on_task_output", pipes.job, line=text, stream=stream)
        if stream is None:
            return
        prefix = f"[{printable(pipes.job.recipe.name)}] " if pipes.plan.mode == TAGGED else ""
        text = "".join(f"{prefix}{line}\n" for line in texts)
        pipes.worker.process.relayed.add(pipes.job.sequence)  # its handle waits for these lines, too
        self._records.put(write_lines, stream, text)
        pipes.unmarked_bytes += len(text)
        if pipes.unmarked_bytes > UNWRITTEN_BYTES:
            pipes.unmarked_bytes = 0
            for fd in pipes.fds:
                self._watches.forget(fd)
            self._records.put(self._records.post, lambda: self._resume(pipes))

    def _resume(self, pipes: Pipes) -> None:
        for fd in pipes.fds:
            if fd not in self._watches.actions:
                self._watch(pipes, fd)

    def drain(self, pipes: Pipes | None) -> None:
        """Take what the pipes hold now."""
        if pipes is not None:
            for fd in tuple(pipes.fds):
                reads = 0
                while reads < LAST_READS and fd in pipes.fds and self._read(pipes, fd):
                    reads += 1

    def end(self, pipes: Pipes | None) -> None:
        """The attempt has ended: take what the pipes hold, and close them."""
        if pipes is None:
            return
        self.drain(pipes)
        pipes.worker.process.output = None
        for fd in pipes.fds:
            self._watches.forget(fd)
        pipes.close()
        for stream, rest in pipes.partial.items():
            if rest:
                self._pass_on(pipes, stream, [rest])


def write_lines(name: str, text: str) -> None:
    """Write lines to this process's own output; runs in the thread of log records, since it may block."""
    stream: Any = getattr(sys, name)
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass  # it is closed, absent, or its disk is full: not the task's fault
