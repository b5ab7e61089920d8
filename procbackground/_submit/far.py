"""Giving work to a manager with an engine.

What belongs to the main module travels by value: the machines of an engine do not have it. Other managers of the
process send references to it. What tasks need is met by the engine and its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from procbackground._state.job import Recipe
from procbackground._submit.recipes import Submitter
from procbackground._wire.mainmodule import main_by_value
from procbackground.errors import SerializationError
from procbackground.handle import TaskHandle
from procbackground.task import Task


class FarSubmitter(Submitter):
    """Each call as in `Submitter`."""

    @property
    def may_shorten(self) -> bool:
        return False  # the shortcut pickles by reference

    def submit_call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskHandle[Any]:
        with main_by_value():
            return super().submit_call(fn, args, kwargs)

    def submit_task(self, handle: TaskHandle[Any], task: Task[Any]) -> None:
        with main_by_value():
            super().submit_task(handle, task)

    def submit_row(self, fn: Callable[..., Any], args: tuple[Any, ...], handle: TaskHandle[Any]) -> TaskHandle[Any]:
        with main_by_value():
            return super().submit_row(fn, args, handle)

    def submit_failed_row(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        failure: bytes | BaseException,
        handle: TaskHandle[Any] | None = None,
        saved: bytes | None = None,
    ) -> TaskHandle[Any]:
        with main_by_value():
            return super().submit_failed_row(fn, args, failure, handle, saved)

    def submit_chunk(
        self, chunk: TaskHandle[Any], fn: Callable[..., Any], columns: tuple[Sequence[Any], ...], may_end_early: bool
    ) -> None:
        with main_by_value():
            super().submit_chunk(chunk, fn, columns, may_end_early)

    def _make_recipe(self, task: Task[Any], blob: bytes, *, is_reusable: bool, is_loop: bool, is_chunk: bool) -> Recipe:
        recipe = super()._make_recipe(task, blob, is_reusable=is_reusable, is_loop=is_loop, is_chunk=is_chunk)
        recipe.node_needs, recipe.needs = recipe.needs, None
        recipe.is_apart = recipe.isolate
        return recipe

    def _recipe_of_call(self, task: Task[Any]) -> tuple[Recipe, SerializationError | None]:
        return self._recipe_of_task(task)
