"""Chores of the supervisor's loop: looks at what nothing announces, only while there is something to look at.

With short tasks there are none, and a pass of the loop computes no time for the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbackground._supervisor.process import NO_LOOK_S

if TYPE_CHECKING:
    from procbackground._supervisor.loop import Loop


class Chores:
    """The looks of one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._due_s = NO_LOOK_S

    def next_due_s(self) -> float:
        """Return when the next one is due, at the latest; `inf` without any."""
        loop = self._loop
        due_s = NO_LOOK_S
        if loop.stacks.dumps:
            due_s = loop.stacks.next_due_s
        if loop.exits.awaited or loop.exits.unwatched:
            due_s = min(due_s, loop.exits.next_due_s)
        if loop.launcher.is_starting:
            due_s = min(due_s, loop.launcher.look_s)
        if loop.user_code.work:
            due_s = min(due_s, loop.user_code.look_s)
        if loop.answers.progress.looks:
            due_s = min(due_s, loop.answers.progress.next_due_s)
        if loop.log_records.waiting:
            due_s = min(due_s, loop.log_records.look_s)
        # Some ask for a look in so many seconds from now, whenever that is. Passes in between must not put it off.
        self._due_s = due_s if due_s == NO_LOOK_S else min(due_s, self._due_s)
        return self._due_s

    def do(self, now_s: float) -> None:
        """Take the looks that are due."""
        self._due_s = NO_LOOK_S
        loop = self._loop
        if now_s >= loop.stacks.next_due_s:
            loop.stacks.look(now_s)
        if now_s >= loop.exits.next_due_s:
            loop.exits.look(now_s)
        if now_s >= loop.launcher.look_s:
            loop.launcher.look_after(now_s)
        if now_s >= loop.answers.progress.next_due_s:
            loop.answers.progress.look(now_s)
        loop.log_records.look(now_s)
        loop.user_code.add_thread_if_blocked()
