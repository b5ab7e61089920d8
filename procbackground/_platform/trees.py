"""Process trees: which processes belong to which root, and the sums of their figures, updated at each look."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from procbackground._named import NamedTuple

WALKED = 16  # processes whose children are looked up one by one; for more, a survey is cheaper
SURVEY_S = 0.5  # between two surveys of the process table, which find descendants that a walk misses
SURVEY_SHARE = 400  # the pause is at least so many times a survey's cost, which is 10 µs or more a process


class Row(NamedTuple):
    """One process at one moment. `cpu_s` includes the children that it has waited for."""

    pid: int
    parent: int
    group: int
    rss_bytes: int
    cpu_s: float
    age_s: float
    threads: int = 1


class Figures(NamedTuple):
    """The sums over the processes of a tree; `age_s` is the root's.

    `rss_bytes` counts pages that processes share once for each, and pages of files. A tree holds that at most;
    `without_files` and `held_bytes` of the platform's module find out how much it is.
    """

    rss_bytes: int
    cpu_s: float
    age_s: float
    members: Mapping[int, int] = {}  # pid -> its own rss_bytes


def members_of(table: Mapping[int, Row], roots: Collection[int]) -> dict[int, list[int]]:
    """Return the pids of each root's tree, the root's own first; roots that are not in the table are left out.

    A process whose parent has ended is a child of init, but still in the group that it was started in. If a root leads
    that group, the process belongs to the root's tree.
    """
    below: dict[int, list[int]] = {}
    for row in table.values():
        below.setdefault(row.parent, []).append(row.pid)
        if row.group not in (row.pid, row.parent) and row.group in roots:
            below.setdefault(row.group, []).append(row.pid)
    trees = {}
    for root in roots:
        if root not in table:
            continue
        tree = {root: None}
        todo = [root]
        while todo:
            for pid in below.get(todo.pop(), ()):
                if pid not in tree:
                    tree[pid] = None
                    todo.append(pid)
        trees[root] = list(tree)
    return trees


def figures_of(table: Mapping[int, Row], tree: Collection[int], root: int) -> Figures:
    """Return the sums over the processes of `tree` that are in the table; `root` must be."""
    rows = [table[pid] for pid in tree if pid in table]
    members = {row.pid: row.rss_bytes for row in rows}
    return Figures(sum(members.values()), sum(row.cpu_s for row in rows), table[root].age_s, members)


class Follower:
    """Follows the trees of some processes from look to look. Not safe for use by several threads.

    A look reads the known processes, and new children where that is cheap; now and then a survey of all processes finds
    the others. Subclasses implement how processes are read.
    """

    def __init__(self) -> None:
        self._trees: dict[int, set[int]] = {}
        self._next_survey_s = 0.0
        self.survey_cost_s = 0.0  # CPU time of the survey in the latest look; its pause limits its share

    def look(self, roots: Collection[int]) -> dict[int, Figures]:
        """Return the figures of each root's tree as it is now. Roots that have ended are left out."""
        for root in self._trees.keys() - set(roots):
            self._drop(root)
        for root in roots:
            self._trees.setdefault(root, {root})
        self.survey_cost_s = 0.0
        if time.monotonic() >= self._next_survey_s:
            self._survey(roots)
        walks = sum(map(len, self._trees.values())) <= WALKED
        return {root: figures for root in roots if (figures := self._sum(root, walks)) is not None}

    def close(self) -> None:
        """Drop all state; the next `look` begins from scratch."""
        for root in list(self._trees):
            self._drop(root)
        self._next_survey_s = 0.0

    def _survey(self, roots: Collection[int]) -> None:
        began_s = time.thread_time()
        try:
            for root, tree in members_of(self._read_table(roots), roots).items():
                self._trees[root].update(tree)
        except OSError:
            pass  # no descriptor is left: the next survey may get one
        self.survey_cost_s = time.thread_time() - began_s
        self._next_survey_s = time.monotonic() + max(SURVEY_S, SURVEY_SHARE * self.survey_cost_s)

    def _sum(self, root: int, walks: bool) -> Figures | None:
        tree = self._trees[root]
        todo = list(tree)
        table: dict[int, Row] = {}
        while todo:
            pid = todo.pop()
            row = self._read(pid)
            if row is None:
                tree.discard(pid)
                continue
            table[pid] = row
            if walks:
                found = [child for child in self._children_of(row) if child not in tree]
                tree.update(found)
                todo += found
        if root not in table:
            self._drop(root)
            return None
        return figures_of(table, tree, root)

    def _drop(self, root: int) -> None:
        for pid in self._trees.pop(root):
            self._release(pid)

    def _read(self, pid: int) -> Row | None:
        """Return the current figures of a process; None when it has ended or cannot be read."""
        raise NotImplementedError

    def _children_of(self, row: Row) -> list[int]:
        """Return its children if that is cheap, else none."""
        raise NotImplementedError

    def _release(self, pid: int) -> None:
        """Drop what is kept about a process that no tree contains any more."""
        raise NotImplementedError

    def _read_table(self, roots: Collection[int]) -> Mapping[int, Row]:
        """Return all processes, with their parents and groups; a root stands for the group of what is known to be its.

        Raises: `OSError` when no descriptor is left."""
        raise NotImplementedError
