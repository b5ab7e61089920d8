"""Calls one function and sends its outcome as the answer.

Sixth stop of a task, within the request loop of `main`. A chunk of `map` is one request with many rows, and a loop is
one request with many iterations.
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import time
from collections.abc import Callable

from procbackground._wire import frames as wire
from procbackground._wire.failures import dump_failure
from procbackground._wire.loading import loads
from procbackground._wire.page import (
    BEGAN_NS,
    IN_PAUSE,
    ITERATIONS,
    LOADING,
    LOOKS,
    NO_ROW,
    PAUSED,
    ROW,
    STOP,
    lowest_byte,
)
from procbackground._wire.parcel import Parcel
from procbackground._wire.shares import ShareLostError
from procbackground._worker.answers import cost_frame, dump_result
from procbackground._worker.channel import Channel
from procbackground._worker.leftovers import STARTS_ONE_S, Leftovers, end_all
from procbackground._worker.output import Redirection
from procbackground._worker.progress import Reporter
from procbackground._worker.rows import BLOCK_ROWS, call_each
from procbackground._worker.stop import StopTask
from procbackground._worker.task_context import Saved, TaskContext
from procbackground.context import Context, wait_in_pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground._worker.spool import Spool
    from procbackground._worker.title import Title

# Shorter attempts are not measured: the system calls, and the bytes of the report, would cost too much.
WORTH_MEASURING_S = 0.001

KEPT_FUNCTIONS = 256


class Executor:
    """Runs calls and loops, one at a time, and answers each."""

    def __init__(self, channel: Channel, words: memoryview) -> None:
        self.channel = channel
        self.words = words
        self.output = Redirection(channel)
        self.base = 0  # of the worker's line among the words
        self.is_calling = False  # whether the user's code is on the stack
        self.is_cooperative = False  # ... and checks `stopping` itself
        self.is_fork = False  # this process is a fork that the user's code has made of the worker
        self._is_loading = False  # PAUSED is LOADING
        self.was_stopped = False
        self._task_fd = -1
        self._is_loop = False
        self.slots: dict[str, tuple[int, ...]] = {}
        self._wake_pipe: tuple[int, int] | None = None
        self.title: Title | None = None
        self.leftovers = Leftovers()
        self._functions: dict[bytes, tuple[Callable[..., Any], str]] = {}
        self._name = ""
        self._attempt = 1
        self._step = "function"  # what fails if an exception comes now, as the answer names it
        self.sequence = 0
        self._context: TaskContext | None = None
        self.reporter = Reporter(channel, words)
        self._chunk_sequence = 0  # of the latest chunk
        self._saved = Saved(None)  # what came with request `_saved_sequence`
        self._saved_sequence = 0
        self.spool: Spool | None = None  # where a journal is kept
        self._key = b""
        self._started = 0.0
        # CPU time of this process, and when it was read. Reading it takes a system call, a fifth of the cost of a short
        # task. So it is read again only when the last reading is older than `WORTH_MEASURING_S`.
        self._cpu_s = self._sampled_s = 0.0

    def open(self, base: int, task_fd: int) -> None:
        """Use the line of the page at `base`; a loop ends when `task_fd` reaches its end."""
        self.base, self._task_fd = base, task_fd
        self.reporter.open(base)

    def running_request(self) -> int:
        """Return the number of the request whose code runs, or 0."""
        return self.sequence if self.is_calling else 0

    # -- one call ------------------------------------------------------------------------------------------

    def call(self, sequence: int, body: bytes) -> bool:
        """Run the request in `body` and send its answer; return whether this process must end now."""
        flags, self._attempt, length = wire.CALL_HEAD.unpack_from(body)
        self.sequence = sequence
        self._context = None
        self.is_cooperative = False
        answer: bytes | Parcel = b""
        start_s = time.perf_counter()
        if start_s - self._sampled_s > WORTH_MEASURING_S:
            self._cpu_s, self._sampled_s = time.process_time(), start_s
        self.is_calling = True
        try:
            if self.words[self.base + STOP]:
                raise StopTask  # it was asked for before, when the handler of SIGTERM does nothing
            fn, arguments = self._load_call(sequence, flags, body, length)
            self._step = "raised"
            if self._is_loading:
                self._end_loading()
            if flags & wire.PER_ITEM:
                answer = call_each(self, fn, arguments, bool(flags & wire.MAY_END_EARLY))
                del arguments
            else:
                value = fn(*arguments[0], **arguments[1]) if flags & wire.HAS_KWARGS else fn(*arguments)
                del arguments
                self._step = "result"
                answer = b"" if value is None else dump_result(value)
                del value
            kind = wire.VALUE if answer else wire.NOTHING
        except StopTask:
            raise
        except BaseException as error:
            if self.is_fork:
                raise
            if self.was_stopped:
                raise StopTask from error  # an exception of an unwinding task is no answer
            if self._is_loading:
                self._end_loading()
            kind = wire.FAILURE
            answer = dump_failure(error, self._step)
            if isinstance(error, ShareLostError):
                self.is_calling = False
                return self._answer(sequence, flags, kind, answer, start_s) or self._leave()
        finally:
            self.is_calling = False
        if self.is_fork:
            raise SystemExit(0)  # the answer is the worker's to give
        return self._answer(sequence, flags, kind, answer, start_s)

    def _load_call(self, sequence: int, flags: int, body: bytes, length: int) -> tuple[Callable[..., Any], Any]:
        """Return the function and the arguments of a request; `_step` says what was being loaded if that raises."""
        if flags & wire.HAS_OUTPUT:
            self._step = "raised"
            body = self.output.begin(sequence, body, bool(flags & wire.PARCEL))
        self._step = "function"
        if flags & wire.PER_ITEM:
            self._chunk_sequence = sequence
            self.words[self.base + ROW] = NO_ROW  # in case unpickling the arguments kills the process
        blob = body[wire.CALL_HEAD_SIZE : wire.CALL_HEAD_SIZE + length]
        if flags & (wire.HAS_SAVED | wire.HAS_KEY):
            length += self._take_extras(sequence, flags, body, wire.CALL_HEAD_SIZE + length)
        parcel = None
        if flags & wire.PARCEL:
            # Receive it first: if the function fails to load, the next task must not find it.
            self._step = "arguments"
            parcel = self.channel.receive_parcel(body[wire.CALL_HEAD_SIZE + length :])
            self._step = "function"
        fn = self._load_function(blob, flags)
        self._step = "arguments"
        if parcel is not None:
            return fn, parcel.load()
        if len(body) > wire.CALL_HEAD_SIZE + length:
            return fn, loads(body[wire.CALL_HEAD_SIZE + length :])
        return fn, ()

    def _answer(self, sequence: int, flags: int, kind: int, answer: bytes | Parcel, start_s: float) -> bool:
        """Send the answer of a call that began at `start_s`, after all that was reported and printed in it.

        Returns whether the call has left processes running.
        """
        if flags & wire.HAS_KEY and kind != wire.FAILURE:
            self._keep(sequence, answer)
        prefix = b""
        took_s = time.perf_counter() - start_s
        if took_s >= WORTH_MEASURING_S:
            # Only shorter calls ran since the last reading; count their whole time as CPU time.
            prefix = cost_frame(time.process_time() - self._cpu_s - (start_s - self._sampled_s))
        if self.title is not None and self.title.is_busy:
            self.title.end(took_s)
        if self._context is not None:
            prefix = self.reporter.pending(sequence) + prefix
        # The output of the task appears before its result.
        if flags & wire.HAS_OUTPUT:
            self.output.end()
        else:
            try:
                sys.stdout.flush()
            except Exception:
                pass
        if type(answer) is Parcel:
            self.channel.send_parcel(sequence, answer, prefix)
        else:
            self.channel.send(kind, sequence, answer, prefix)  # type: ignore[arg-type]
        if took_s < STARTS_ONE_S or not (left := self.leftovers.find()):
            return False
        self.channel.send(wire.LEAVING, 0)
        end_all(left)  # only now: a later call must not come upon what they leave broken, such as a pool
        return True

    def _leave(self) -> bool:
        """Have the parent give later calls to another worker: it sends a shared value to each only once."""
        self.channel.send(wire.LEAVING, 0)
        return True

    def _take_extras(self, sequence: int, flags: int, body: bytes, position: int) -> int:
        """Take what lies between function and arguments of some requests; return how many bytes it has there."""
        begin = position
        if flags & wire.HAS_SAVED:
            position += self._take_saved(sequence, body, position)
        if flags & wire.HAS_KEY:
            (size,) = wire.KEY_HEAD.unpack_from(body, position)
            position += wire.KEY_HEAD.size + size
            self._key, self._started = body[position - size : position], time.time()
        return position - begin

    def _keep(self, sequence: int, answer: bytes | Parcel) -> None:
        """Keep the answer until the journal has it."""
        if self.spool is not None and self.channel.is_own:
            self.spool.keep(sequence, self._key, self._attempt, self._started, answer)

    def _take_saved(self, sequence: int, body: bytes, position: int) -> int:
        """Take the saved state at `position` of a request; return how many bytes it has there."""
        size: int = wire.SAVED_HEAD.unpack_from(body, position)[0]
        begin = position + wire.SAVED_HEAD.size
        self._saved, self._saved_sequence = Saved(body[begin : begin + size]), sequence
        return wire.SAVED_HEAD.size + size

    def _load_function(self, blob: bytes, flags: int) -> Callable[..., Any]:
        kept = self._functions.get(blob)
        title = self.title
        if kept is None:
            # Imports take the time of `start_timeout`, not of the attempt: until `_end_loading`, so with those of the
            # arguments.
            self._is_loading = True
            self.words[self.base + PAUSED] = LOADING
            name, position = wire.unpack_name(blob)
            kept = (pickle.loads(blob[position:]), name)
            if flags & wire.IS_REUSABLE:
                if len(self._functions) >= KEPT_FUNCTIONS:
                    self._functions.clear()
                self._functions[blob] = kept
            if title is not None:
                title.begin(name)
        elif title is not None and title.is_wanted:
            title.begin(kept[1])
        self._name = kept[1]
        return kept[0]

    def _end_loading(self) -> None:
        self._is_loading = False
        self.leftovers.keep()
        self.words[self.base + BEGAN_NS] = time.monotonic_ns()  # first: the parent reads it once nothing is PAUSED
        self.words[self.base + PAUSED] = 0

    # -- a loop --------------------------------------------------------------------------------------------

    def loop(self, sequence: int, body: bytes) -> None:
        """Run iterations until a stop is requested. Between two of them STOP is read, and no message is sent."""
        flags, self._attempt, length = wire.CALL_HEAD.unpack_from(body)
        self.sequence = sequence
        self._saved = Saved(None)
        self._is_loop = True
        if flags & wire.HAS_OUTPUT:
            try:
                body = self.output.begin(sequence, body)
            except OSError as error:
                self.channel.send(wire.FAILURE, sequence, dump_failure(error))
                return
        position = wire.CALL_HEAD_SIZE + length
        if flags & wire.HAS_SAVED:
            position += self._take_saved(sequence, body, position)
        interval_s, notes_starts = wire.LOOP_HEAD.unpack_from(body, position)
        position += wire.LOOP_HEAD.size
        step = "function"
        try:
            fn = self._load_function(body[wire.CALL_HEAD_SIZE : wire.CALL_HEAD_SIZE + length], flags)
            step = "arguments"
            arguments: Any = ()
            if flags & wire.PARCEL:
                arguments = self.channel.receive_parcel(body[position:]).load()
            elif len(body) > position:
                arguments = loads(body[position:])
        except BaseException as error:
            if self.is_fork:
                raise
            self.channel.send(wire.FAILURE, sequence, dump_failure(error, step))
            return
        self._end_loading()
        args, kwargs = arguments if flags & wire.HAS_KWARGS else (arguments, {})
        while self._iterate(fn, args, kwargs, interval_s, notes_starts):
            pass
        self.output.end()
        self.channel.send(wire.LOOP_ENDED, sequence, prefix=self.reporter.pending(sequence))

    def _iterate(self, fn: Callable[..., Any], args: Any, kwargs: Any, interval_s: float, notes_starts: bool) -> bool:
        """Run iterations until one fails or a stop is requested; return whether to continue."""
        words = self.words
        stop, count, began, paused = (self.base + word for word in (STOP, ITERATIONS, BEGAN_NS, PAUSED))
        finished = words[count]
        self.is_calling = True
        try:
            # 0.1 µs an iteration over the body: two words and a call.
            while not words[stop]:
                if notes_starts:
                    words[began] = time.monotonic_ns()
                fn(*args, **kwargs)
                if self.is_fork:
                    raise SystemExit(0)
                finished += 1
                words[count] = finished
                if interval_s:
                    self._pause(interval_s, paused)
            return False
        except StopTask:
            raise
        except BaseException as error:
            if self.is_fork:
                raise
            if self.was_stopped:
                raise StopTask from error
            failure = dump_failure(error)
        finally:
            self.is_calling = False
        words[paused] = IN_PAUSE  # the parent decides now; this time does not count as the iteration's
        self.output.flush()
        self.channel.send(wire.ITERATION_FAILED, self.sequence, failure, self.reporter.pending(self.sequence))
        if not os.read(self._task_fd, wire.HEADER_SIZE):
            return False  # the parent ends this process
        self._attempt = 1
        self._context = None
        if interval_s and not words[stop]:
            self._pause(interval_s, paused)
        words[paused] = 0
        return True

    def _pause(self, interval_s: float, paused: int) -> None:
        self.words[paused] = IN_PAUSE
        self.output.flush()
        self.sleep(interval_s)
        self.words[paused] = 0

    # -- stopping ------------------------------------------------------------------------------------------

    def current(self) -> Context:
        """Return the context of the running task, for `procbackground.current()`."""
        if self._is_loop:
            # Once an iteration has succeeded, the next one is a first attempt.
            attempt = 1 if self.words[self.base + ITERATIONS] else self._attempt
            return TaskContext(self, self._name, attempt, self.sequence, self._saved)
        context = self._context
        # Each row of a chunk is a task of its own, with a state of its own.
        row = self.words[self.base + ROW] if self._chunk_sequence == self.sequence else 0
        if context is None or context.row != row:
            saved = self._saved if self._saved_sequence == self.sequence else Saved(None)
            context = self._context = TaskContext(self, self._name, self._attempt, self.sequence, saved, row)
        return context

    def become_fork(self) -> None:
        """This process is a fork of the worker: it ends where the user's code ends, and answers nothing."""
        self.is_fork = True
        self.channel.close_in_fork()
        page: Any = self.words.obj
        looks = lowest_byte(self.base + LOOKS)
        page[looks] = (page[looks] + BLOCK_ROWS // 2) % BLOCK_ROWS  # a chunk looks up after the row that it is at

    def stop(self) -> None:
        """Handle an announced SIGTERM: called in the main thread, at any point of the user's code."""
        if self._wake_pipe is not None:
            os.write(self._wake_pipe[1], b"\0")
        if not self.is_cooperative and not self.channel.after_writing(self._unwind):
            self._unwind()

    def _unwind(self) -> None:
        self.was_stopped = True
        raise StopTask(-15)

    def sleep(self, seconds: float) -> None:
        """Sleep until `seconds` have passed or a stop is requested: by SIGTERM, or by the end of a loop's task pipe."""
        if self._wake_pipe is None:
            self._wake_pipe = os.pipe()
            os.set_blocking(self._wake_pipe[1], False)
        watched = [self._wake_pipe[0]]
        if self._is_loop:
            watched.append(self._task_fd)
        # Read STOP after making the pipe: a stop before that wrote to no pipe, a later one does.
        if seconds > 0 and not self.words[self.base + STOP]:
            wait_in_pieces(lambda longest_s: bool(select.select(watched, [], [], longest_s)[0]), seconds)
