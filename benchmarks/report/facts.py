"""Facts: everything a report tells, gathered once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.isolation import Result
from benchmarks.musts import Verdict
from benchmarks.schedule import Plan
from benchmarks.summary import Summary


@dataclass(frozen=True)
class Facts:
    """What was measured, on what, when, and what came out.

    Attributes: `skipped` maps contenders that could not be imported to the reason; `versions` are by
    contender.
    """

    plan: Plan
    began: str
    ended: str
    machine: Mapping[str, object]
    versions: Mapping[str, str]
    skipped: Mapping[str, str]
    results: Sequence[Result]
    summary: Summary
    verdicts: Sequence[Verdict]
