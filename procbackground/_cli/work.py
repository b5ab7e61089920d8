"""Carries out a set of calls, as `map` and `run` do: makes the manager, writes what ends, returns the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from procbackground._cli.batch import Batch, Pace, window_of
from procbackground._cli.child import print_to_stderr
from procbackground._cli.errors import CANNOT_GO_ON, WRONG_USE, Wrong, say
from procbackground._cli.inputs import Call, Inputs, shuffled
from procbackground._cli.joblog import JobLog
from procbackground._cli.plan import Known, Planner, call_text, needs_asked
from procbackground._cli.records import LEFT_OUT, Ended
from procbackground._cli.results import Folders, Lines, OutputEnded
from procbackground._cli.summary import Summary
from procbackground.errors import ProcbackgroundError

if TYPE_CHECKING:
    from procbackground.manager import Manager

MOST_FAILED = 101  # of the exit code, as GNU parallel has it
PIPE_CLOSED = 141  # as of a program that SIGPIPE ended

FieldsOf = Callable[[Call], "tuple[Callable[..., Any], Mapping[str, Any]]"]


def carry_out(inputs: Inputs, fields_of: FieldsOf, title: str, asked: dict[str, Any]) -> int:
    """Run all calls and write their results.

    Args:
        title: of the bar, and of the manager.
        asked: the values of the options in `options`.
    """
    if asked["dry_run"]:
        return _show_calls(inputs, fields_of)
    return _Work(inputs, fields_of, title, asked).run()


def check_files(asked: Mapping[str, Any]) -> None:
    """Refuse a file without a name, and one that is to be two things: an input would be emptied for the output.

    Raises: `Wrong`.
    """
    named: dict[str, str] = {}
    for name in ("from_", "jsonl", "csv", "journal", "output", "joblog", "events", "results"):
        path, option = asked.get(name), f"--{name.removesuffix('_')}"
        if path == "":  # as of a variable of the shell that is not set
            raise Wrong(f"{option} has an empty name")
        if path is None or path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            continue  # a device may be several things
        other = named.setdefault(os.path.realpath(path), option)
        if other != option:
            raise Wrong(f"{other} and {option} name the same file, {path}")


def _show_calls(inputs: Inputs, fields_of: FieldsOf) -> int:
    lines = Lines(None, False, False)
    try:
        for call in inputs.calls:
            lines.put_call(call_text(fields_of(call)[0], call))
    except OutputEnded:
        return PIPE_CLOSED
    return 0


class _Work:
    """One run. Everything happens in the main thread, but for the reading of the input: see `batch`."""

    def __init__(self, inputs: Inputs, fields_of: FieldsOf, title: str, asked: dict[str, Any]) -> None:
        self._inputs = shuffled(inputs) if asked.get("shuffle") else inputs
        self._fields_of = fields_of
        self._title = title
        self._asked = asked
        self._summary = Summary()
        self._known = _known(asked)

    def run(self) -> int:
        asked = self._asked
        pace = Pace(asked["delay"], asked["load"])
        is_held = asked["keep_order"] and asked.get("shuffle")  # then the last to run may be the first to write
        failure: str | None = None
        with ExitStack() as stack:
            manager, jobs = make_manager(self._title, asked, stack)
            # Not before it has the journal: another run that has it may be writing to the same files.
            self._open_files(stack)
            planner = Planner(self._fields_of, self._known, self._folders, asked["tag"] and self._folders is None)
            batch = Batch(
                manager, self._inputs, planner, window=None if is_held else window_of(jobs, pace, asked["halt"]),
                is_ordered=asked["keep_order"], halt=asked["halt"], pace=pace,
            )  # fmt: skip
            try:
                with self._bar() as advance:
                    for ended in batch:
                        self._write(ended)
                        if ended.is_shown or ended.outcome == LEFT_OUT:
                            advance(ended)
            except OutputEnded:
                manager.close(0.0)
                return _leave(PIPE_CLOSED, batch)
            except OSError as error:
                failure = f"results cannot be written: {error}"
                manager.close(0.0)
            report = manager.close()
            for left in report.left:
                say(f"left behind: {left}")
        return _leave(self._finish(batch, failure), batch)

    def _open_files(self, stack: ExitStack) -> None:
        asked = self._asked
        self._lines = stack.enter_context(closing(Lines(asked["output"], asked["raw"], asked["tag"])))
        self._folders = Folders(asked["results"]) if asked["results"] else None
        self._joblog = stack.enter_context(closing(JobLog(asked["joblog"]))) if asked["joblog"] else None

    def _write(self, ended: Ended) -> None:
        self._summary.add(ended)
        if not ended.is_shown:
            return
        pickled_at = self._folders.write(ended) if self._folders is not None else None
        self._lines.write(ended, pickled_at)
        if self._joblog is not None:
            self._joblog.write(ended, call_text(self._fields_of(ended.call)[0], ended.call))

    @contextmanager
    def _bar(self) -> Iterator[Callable[[Ended], None]]:
        is_wanted = self._asked["progress"]
        if is_wanted is None:
            is_wanted = sys.stderr is not None and sys.stderr.isatty()
        if not is_wanted:
            yield lambda ended: None
            return
        from procbackground.observers.bars import make_bar

        bar = make_bar(self._title, self._inputs.total)
        try:
            yield lambda ended: bar.advance(1, failed=int(ended.has_failed))
        finally:
            bar.close()

    def _finish(self, batch: Batch, failure: str | None) -> int:
        if not self._asked["quiet"]:
            for line in self._summary.lines():
                say(line)
            if self._known is not None and self._known.left_failed:
                say(f"{self._known.left_failed} failed in an earlier run and were left so: --resume-failed")
        if failure is not None:
            say(failure)
            return CANNOT_GO_ON
        if batch.signal is not None:
            return 128 + batch.signal
        if batch.was_closed:
            say("it was ended by its status socket, before all were started")
            return 128 + SIGINT
        if isinstance(batch.error, Wrong):
            say(batch.error.message)
            return WRONG_USE
        if isinstance(batch.error, ProcbackgroundError):
            say(str(batch.error))
            return CANNOT_GO_ON
        if batch.error is not None:
            say(f"the input cannot be read further: {batch.error!r}")
            return CANNOT_GO_ON
        return min(self._summary.failed, MOST_FAILED)


def _leave(code: int, batch: Batch) -> int:
    if batch.is_reading:
        # The thread is in a read of the input that may never return, and an interpreter that exits the usual way may
        # abort over the file's lock.
        for file in (sys.stdout, sys.stderr):
            try:
                file.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)
    return code


def _known(asked: dict[str, Any]) -> Known | None:
    if asked["journal"] is None:
        for name in ("resume", "resume_failed", "retry_failed"):
            if asked[name]:
                raise Wrong(f"--{name.replace('_', '-')} needs --journal FILE, which knows what was run")
        return None
    if asked["resume_failed"] and asked["retry_failed"]:
        raise Wrong("--retry-failed runs nothing but what failed; leave out --resume-failed")
    from procbackground.errors import JournalError

    runs_failed = asked["resume_failed"] or asked["retry_failed"]
    try:
        return Known(asked["journal"], runs_failed, not asked["retry_failed"])
    except JournalError as error:
        raise Wrong(str(error)) from None


def make_manager(title: str, asked: dict[str, Any], stack: ExitStack) -> tuple[Manager, int]:
    """Return a manager under the options, and its number of workers. `stack` closes what belongs to it.

    Raises: `Wrong`.
    """
    from procbackground import Manager
    from procbackground._supervisor.machine import usable_cpus

    set_log_level(asked["log_level"])
    engine = engine_of(asked)
    jobs = asked["jobs"] or (usable_cpus() if engine is None else engine.places())
    options = {name: asked[name] for name in ("journal", "slots") if asked.get(name)}
    make = partial(
        Manager,
        jobs,
        initializer=print_to_stderr,
        observer=observers_of(asked, stack),
        retry=retry_of(asked["retries"], asked["retry_delay"]),
        timeout=asked["timeout"],
        memory_limit=asked["memory"],
        min_free_memory=asked["min_free_memory"],
        grace=asked["grace"],
        nice=asked["nice"] or 0,
        name=title,
        engine=engine,
        **options,
    )
    try:
        try:
            manager = make(status=True)
        except ProcbackgroundError:
            raise
        except OSError:
            manager = make()  # it only cannot be watched by `top`
    except (ProcbackgroundError, ValueError) as error:
        raise Wrong(str(error)) from None
    stack.callback(manager.close, 0.0)
    try:
        manager.options(**needs_asked(asked))  # type: ignore[arg-type, unused-ignore]
    except ValueError as error:
        raise Wrong(str(error)) from None
    return manager, jobs


def engine_of(asked: dict[str, Any]) -> Any:
    """Return the engine that the options ask for, or None. Raises: `Wrong`."""
    if asked["engine"] is None:
        for name in ("scheduler", "security"):
            if asked[name]:
                raise Wrong(f"--{name} goes with --engine dask")
        return None
    if not asked["scheduler"]:
        raise Wrong("--engine dask needs --scheduler ADDRESS, such as tls://host:8786")
    import warnings

    try:
        from procbackground.engines import DaskEngine

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            engine = DaskEngine(asked["scheduler"], asked["security"])
    except (ImportError, OSError, ValueError) as error:
        raise Wrong(str(error)) from None
    for each in caught:
        say(str(each.message))
    return engine


def retry_of(retries: int, delay_s: float) -> Any:
    """Return the policy for so many further attempts, or None for none."""
    if not retries:
        return None
    from tenacity import stop_after_attempt, wait_exponential, wait_random

    from procbackground import Retry

    if not delay_s:
        return Retry.of_attempts(retries + 1)
    wait = wait_exponential(multiplier=delay_s, max=max(600.0, delay_s)) + wait_random(0, delay_s / 2)
    return Retry(stop=stop_after_attempt(retries + 1), wait=wait)


def observers_of(asked: dict[str, Any], stack: ExitStack) -> list[Any]:
    """Return the observers for `--events` and `--prometheus`. Raises: `Wrong`."""
    observers: list[Any] = list(asked.get("observers", ()))
    if asked["events"]:
        from procbackground.observers import JsonLinesObserver

        try:
            open(asked["events"], "a").close()
            observers.append(JsonLinesObserver(asked["events"]))
        except OSError as error:
            raise Wrong(f"cannot write {asked['events']}: {error.strerror or error}") from None
    if asked["prometheus"] is not None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise Wrong("--prometheus needs prometheus_client: pip install 'procbackground[prometheus]'") from None
        from procbackground.observers import PrometheusObserver

        registry = CollectorRegistry()
        observers.append(PrometheusObserver(registry))
        try:
            server, thread = start_http_server(asked["prometheus"], addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise Wrong(f"metrics cannot be offered at port {asked['prometheus']}: {error.strerror or error}") from None
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        if not asked["prometheus"]:
            say(f"metrics at http://127.0.0.1:{server.server_address[1]}/metrics")
    return observers


def set_log_level(level: str) -> None:
    """Write log records of this level and above to standard error, by `logging` and by loguru."""
    import logging

    if sys.stderr is None:
        return
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # Only where the task's function has imported loguru, which takes long to import.
    loguru = sys.modules.get("loguru")
    if loguru is not None:
        loguru.logger.remove()
        loguru.logger.add(sys.stderr, level=level.upper())
