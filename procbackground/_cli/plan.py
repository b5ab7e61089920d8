"""A call → its task: with its key, its capturing of output, and what a journal knows of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from procbackground._cli.child import Capturing
from procbackground._cli.inputs import Call
from procbackground._cli.records import DIED, FAILED, LEFT_OUT, OVER_MEMORY, TIMED_OUT, Ended, Failure
from procbackground._cli.results import Folders
from procbackground.errors import repr_of
from procbackground.task import Task, qualified_name

# Words of a journal for how an attempt ended.
_OUTCOMES = {"timed_out": TIMED_OUT, "over_memory": OVER_MEMORY, "died": DIED}


class Known:
    """What a journal knows of earlier runs, by key.

    Args:
        runs_failed: whether those run again that failed.
        runs_new: whether those run that are not in the journal as failed.
    """

    def __init__(self, path: str, runs_failed: bool, runs_new: bool) -> None:
        self._runs_failed, self._runs_new = runs_failed, runs_new
        self._failed: dict[str, Ended | None] = {}
        self._succeeded: set[str] = set()
        if os.path.exists(path) and os.path.getsize(path):
            self._read(path)

    def _read(self, path: str) -> None:
        from procbackground._journal.reader import Journal

        with Journal(path) as journal:
            for entry in journal.entries(("failed",) if self._runs_new else ("failed", "succeeded")):
                if entry.state == "succeeded":
                    self._succeeded.add(entry.key)
                else:
                    self._failed[entry.key] = None if self._runs_failed else _ended_before(entry)

    @property
    def left_failed(self) -> int:
        """How many tasks failed in an earlier run and do not run again."""
        return 0 if self._runs_failed else len(self._failed)

    def of(self, call: Call, key: str) -> Ended | None:
        """Return how a call ends without being run, or None if it is to run, or its result is stored."""
        if key in self._failed:
            before = self._failed[key]
            return None if before is None else before._replace(call=call)
        if not self._runs_new and key not in self._succeeded:
            return Ended(call, LEFT_OUT)
        return None


def _ended_before(entry: Any) -> Ended:
    failure = Failure(entry.error_type or "unknown", entry.error or "", entry.traceback)
    outcome = _OUTCOMES.get(entry.outcome, FAILED)
    return Ended(Call(0, (), {}), outcome, failure=failure, seconds=entry.seconds or 0.0, is_stored=True)


class Planner:
    """Makes the task of each call.

    Args:
        fields_of: the function of a call, and the fields of its task.
        known: of the journal, if there is one.
        folders: for the results, if there are any.
        is_tagged: whether lines that tasks print begin with their call.
    """

    def __init__(
        self,
        fields_of: Callable[[Call], tuple[Callable[..., Any], Mapping[str, Any]]],
        known: Known | None = None,
        folders: Folders | None = None,
        is_tagged: bool = False,
    ) -> None:
        self._fields_of = fields_of
        self._known = known
        self._folders = folders
        self._is_tagged = is_tagged

    def __call__(self, call: Call) -> Task[Any] | Ended:
        fn, own = self._fields_of(call)
        fields: dict[str, Any] = dict(own)
        if self._known is not None:
            if fields.get("key") is None:
                from procbackground._journal.keys import default_key

                fields["key"] = default_key(fn, call.args, call.kwargs)[0]
            ended = self._known.of(call, fields["key"])
            if ended is not None:
                return ended
        if self._folders is not None or self._is_tagged:
            fields.setdefault("name", qualified_name(fn))
            folder = None if self._folders is None else self._folders.of(call.index)
            fn = Capturing(fn, folder, call.tag if self._is_tagged else None)
        return Task(fn, args=call.args, kwargs=call.kwargs, **fields)


def needs_asked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Task` for what the options say that each needs."""
    needs: dict[str, Any] = {}
    if asked.get("cores"):
        needs["cores"] = asked["cores"]
    if asked.get("slots"):
        needs["slots"] = dict.fromkeys(asked["slots"], 1)
    return needs


def call_text(fn: Callable[..., Any], call: Call) -> str:
    """Return a call as Python would have it."""
    shown = [repr_of(each) for each in call.args]
    shown += [f"{name}={repr_of(value)}" for name, value in call.kwargs.items()]
    return f"{fn.__module__}.{qualified_name(fn)}({', '.join(shown)})"
