"""Process trees out of a table of processes: which belong to whom, and what they hold together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


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
        if row.group != row.pid and row.group != row.parent and row.group in roots:
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
