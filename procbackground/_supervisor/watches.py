"""The descriptors that the supervisor waits for, each with the function to call when it is ready."""

from __future__ import annotations

from collections.abc import Callable

from procbackground import _platform


class Watches:
    """The poller, and an action for each of its descriptors."""

    def __init__(self, poller: _platform.Poller) -> None:
        self._poller = poller
        self.poll = poller.poll
        self.actions: dict[int, Callable[[], object]] = {}
        self.deferred: list[Callable[[], object]] = []  # the loop calls them after all actions

    def watch(self, fd: int, act: Callable[[], object], *, writable: bool = False) -> None:
        """Have `act` called when `fd` can be read, or with `writable` when it can be written."""
        self.actions[fd] = act
        self._poller.watch(fd, writable=writable)

    def watch_wakeup(self, wakeup: _platform.Wakeup) -> None:
        """Have the wait end when `wakeup` is notified."""
        self.actions[wakeup.fileno()] = wakeup.drain
        self._poller.watch_wakeup(wakeup)

    def watch_deferred(self, fd: int, act: Callable[[], object]) -> None:
        """As `watch`, for what closes and opens descriptors: done after everything else that was ready.

        Before that, an event of a closed descriptor would be taken for one of the new descriptor with its number.
        """
        self.watch(fd, lambda: self.defer(act))

    def defer(self, act: Callable[[], object]) -> None:
        """Have `act` called after everything else that is ready now."""
        self.deferred.append(act)

    def act(self, fd: int) -> None:
        """Do what is done when `fd` is ready; nothing if it is not watched."""
        act = self.actions.get(fd)
        if act is not None:
            act()

    def forget(self, fd: int) -> None:
        """Watch `fd` no more; nothing happens if it is not watched."""
        if self.actions.pop(fd, None) is not None:
            self._poller.forget(fd)

    def close(self) -> None:
        self.actions.clear()
        self._poller.close()
