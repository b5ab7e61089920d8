"""Contest: what a measure is handed inside a run, and the readings that it hands back.

Made by `one_run`, used by everything in `measures/`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.contenders.protocol import Contender


class WrongAnswerError(AssertionError):
    """A contender was quick and wrong; its time does not count."""


@dataclass(frozen=True)
class Readings:
    """What one run read: a number per metric, and a remark for the table."""

    values: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Contest:
    """One contender facing one measure.

    Attributes: `make` builds the contender's pool; `workers` is the pool's size; `sizes` says how much work
    the measure is to do; `import_s` is what importing the contender's library took in this interpreter.
    """

    make: Callable[..., Contender]
    workers: int
    sizes: Mapping[str, float] = field(default_factory=dict)
    import_s: float = 0.0

    def open(self, *, fresh: bool = False, workers: int | None = None) -> Contender:
        """Return a new pool; with `fresh`, one that gives every task a process of its own."""
        return self.make(workers or self.workers, fresh=fresh)

    def count(self, name: str) -> int:
        """Return the size called `name` as an integer."""
        return int(self.sizes[name])


def expect(is_right: bool, what: str) -> None:
    """Raise `WrongAnswerError` unless the answer is right: there is no speed without correctness."""
    if not is_right:
        raise WrongAnswerError(what)
