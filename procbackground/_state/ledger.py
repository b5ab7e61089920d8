"""What tasks need beside a place, what a manager has of it, and what is taken. Arithmetic only.

Three things are taken at different times. Places and memory are taken by an attempt, when it is sent. Slots are taken
by a process, from its launch to its end: so no two processes ever have the same one, not even while one is ending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from procbackground._named import NamedTuple


class Needs(NamedTuple):
    """What a task needs: so many places, bytes of memory (0: none are reserved), and how many of which slots."""

    cores: int = 1
    memory: int = 0
    slots: tuple[tuple[str, int], ...] = ()  # by name

    @property
    def takes_own_kind(self) -> bool:
        """Whether it runs in workers of a kind of its own: see `Kind`."""
        return self.cores > 1 or bool(self.slots)

    def shares_slots(self, other: Needs | Kind) -> bool:
        """Whether both have slots of one name."""
        names = {name for name, _ in self.slots}
        return any(name in names for name, _ in other.slots)

    def rivals(self, other: Needs) -> bool:
        """Whether a task with these needs may take slots or memory that one with `other` waits for."""
        return bool(self.memory and other.memory) or self.shares_slots(other)


class Kind(NamedTuple):
    """What distinguishes a process from ordinary workers; it is set before the process imports anything."""

    threads: int  # its thread caps; 0: those of the manager
    slots: tuple[tuple[str, tuple[int, ...]], ...]  # the numbers that it has, by name

    def suits(self, needs: Needs) -> bool:
        """Whether a task with these needs can run in it."""
        if self.threads != _threads_of(needs):
            return False
        return tuple((name, len(numbers)) for name, numbers in self.slots) == needs.slots


class Ledger:
    """What is taken of one manager's slots and of the machine's memory.

    Attributes: `unreserved`: bytes of memory that are free and reserved for no running attempt, when that was last
    measured, less what was reserved since; None while it is not measured. `is_held_by_others`: nothing was reserved
    then, nor has been since, so what is missing is not ours to give.
    """

    def __init__(self, slots: Mapping[str, int]) -> None:
        self.slots: Mapping[str, int] = slots
        self._free: dict[str, set[int]] = {name: set(range(count)) for name, count in slots.items()}
        self.reserved: int = 0  # bytes, by attempts that run
        self.unreserved: int | None = None
        self.is_held_by_others: bool = False

    # -- slots, by processes -------------------------------------------------------------------------------

    def kind_for(self, needs: Needs) -> Kind | None:
        """Return the kind of a process that could be launched for a task with these needs, with the lowest numbers
        that are free; None where there are too few."""
        chosen: list[tuple[str, tuple[int, ...]]] = []
        for name, count in needs.slots:
            free = sorted(self._free[name])
            if len(free) < count:
                return None
            chosen.append((name, tuple(free[:count])))
        return Kind(_threads_of(needs), tuple(chosen))

    def free_after(self, needs: Needs, kinds: Iterable[Kind]) -> bool:
        """Whether there are enough free slots for these needs once processes of these kinds have ended."""
        missing = {name: count - len(self._free[name]) for name, count in needs.slots}
        for kind in kinds:
            for name, numbers in kind.slots:
                if name in missing:
                    missing[name] -= len(numbers)
        return all(count <= 0 for count in missing.values())

    def take_slots(self, kind: Kind) -> None:
        """A process of this kind is launched."""
        for name, numbers in kind.slots:
            assert self._free[name].issuperset(numbers), f"a slot of {numbers} of {name!r} is taken"
            self._free[name].difference_update(numbers)

    def return_slots(self, kind: Kind) -> None:
        """That process has ended."""
        for name, numbers in kind.slots:
            self._free[name].update(numbers)

    def taken_slots(self) -> dict[str, set[int]]:
        """Return the numbers that processes have, by name."""
        return {name: set(range(count)) - self._free[name] for name, count in self.slots.items()}

    # -- memory, by attempts -------------------------------------------------------------------------------

    def has_memory(self, needs: Needs) -> bool:
        """Whether so much memory is free and not reserved, as far as that is known."""
        return not needs.memory or (self.unreserved is not None and self.unreserved >= needs.memory)

    def reserve(self, needs: Needs) -> None:
        """An attempt begins."""
        self.reserved += needs.memory
        if needs.memory:
            self.is_held_by_others = False
        if self.unreserved is not None:
            self.unreserved -= needs.memory

    def release(self, needs: Needs) -> None:
        """That attempt has ended. What it held shows when the memory is measured next."""
        self.reserved -= needs.memory

    def note_memory(self, free_bytes: int, running: Iterable[tuple[int, int]]) -> None:
        """So much memory is free now; `running` has, of each attempt, how much it reserved and how much it holds."""
        self.unreserved = free_bytes - sum(max(0, reserved - held) for reserved, held in running)
        self.is_held_by_others = not self.reserved


def _threads_of(needs: Needs) -> int:
    return needs.cores if needs.cores > 1 else 0
