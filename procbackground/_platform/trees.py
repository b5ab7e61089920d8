"""Process trees: which processes belong to whom, and what they hold together, followed from look to look."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

WALKED = 16  # processes whose children are looked up one by one; above, a pass over the table is cheaper
SURVEY_S = 0.5  # between two passes, which also find what no walk does
SURVEY_SHARE = 400  # a pass takes 10 µs a process at the least: the pause is this many times that, or more


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
    """What a tree holds, summed over its processes; `age_s` is the root's. Shared pages count for each process."""

    rss_bytes: int
    cpu_s: float
    age_s: float


def members_of(table: Mapping[int, Row], roots: Collection[int]) -> dict[int, list[int]]:
    """Return the pids of each root's tree, the root's own first; roots that are not in the table are left out.

    A process whose parent has ended belongs to init, but still to the group that it was started in, which a root
    leads.
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
    """Return the sums over those of `tree` that are in the table; `root` has to be."""
    rows = [table[pid] for pid in tree if pid in table]
    return Figures(sum(row.rss_bytes for row in rows), sum(row.cpu_s for row in rows), table[root].age_s)


class Follower:
    """Follows the trees of some processes from look to look. Not safe for use by several threads.

    A look reads those that are known, and new children where that is cheap; now and then a pass over all processes
    finds the others. How they are read is the platforms'.
    """

    def __init__(self) -> None:
        self._trees: dict[int, set[int]] = {}
        self._next_survey_s = 0.0
        self.survey_cost_s = 0.0  # CPU time of the pass in the latest look, which looks after its own share

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
        """Let go of all that is kept; `look` begins afresh."""
        for root in list(self._trees):
            self._drop(root)
        self._next_survey_s = 0.0

    def _survey(self, roots: Collection[int]) -> None:
        began_s = time.thread_time()
        try:
            for root, tree in members_of(self._read_table(), roots).items():
                self._trees[root].update(tree)
        except OSError:
            pass  # no descriptor is left: the next pass may have one
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
            self._let_go(pid)

    def _read(self, pid: int) -> Row | None:
        """Return how the process is now; None when it has ended, or cannot be read."""
        raise NotImplementedError

    def _children_of(self, row: Row) -> list[int]:
        """Return its children, as far as they are cheap to learn."""
        raise NotImplementedError

    def _let_go(self, pid: int) -> None:
        """The process is none of ours any more."""
        raise NotImplementedError

    def _read_table(self) -> Mapping[int, Row]:
        """Return all processes, with their parents and groups. Raises: `OSError` when no descriptor is left."""
        raise NotImplementedError
