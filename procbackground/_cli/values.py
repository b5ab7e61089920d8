"""Types of option values: durations, sizes, numbers of jobs, when to halt, limits of load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|min|s|m|h|d)?\s*", re.IGNORECASE | re.ASCII)
if TYPE_CHECKING:
    _Type: TypeAlias = click.ParamType[Any]
else:
    _Type = click.ParamType  # generic in newer versions, to type checkers only

HALT_FORM = "write when,why=how many, such as now,fail=1 or soon,fail=10%"


class Duration(_Type):
    """Seconds: `30`, `0.5`, `500ms`, `5m`, `1h30m`, `2d`."""

    name = "duration"

    def __init__(self, least: float = 0.0, *, may_be_least: bool = False) -> None:
        self.least, self.may_be_least = least, may_be_least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        seconds, at = 0.0, 0
        while at < len(text):
            match = _PART.match(text, at)
            if match is None or (match[2] is None and match.end() - match.start() < len(text)):
                self.fail(f"{text!r} is no duration; write seconds, or such as 500ms, 5m, 1h30m", param, ctx)
            seconds += float(match[1]) * UNITS_S[(match[2] or "s").lower()]
            at = match.end()
        if not text or seconds < self.least or (seconds == self.least and not self.may_be_least):
            self.fail(f"{text!r} must be more than {self.least:g} seconds", param, ctx)
        return seconds


class Size(_Type):
    """Bytes: `2GiB`, `512M`, `1000000`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from procbackground.task import parse_size

        text = str(value).strip()
        try:
            return parse_size(int(text) if text.isdigit() else text)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Slots(_Type):
    """Numbered slots by name: `gpu=4`, `gpu=4,licence=2`."""

    name = "slots"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        slots: dict[str, int] = {}
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*([^\s=]+)\s*=\s*(\d+)\s*", part, re.ASCII)
            if match is None or not int(match[2]) or match[1] in slots:
                self.fail(f"{value!r} names no slots; write such as gpu=4, or gpu=4,licence=2", param, ctx)
            slots[match[1]] = int(match[2])
        return slots


class Jobs(_Type):
    """Workers: a number, a share of the usable CPUs (`50%`), or all but some (`-1`)."""

    name = "jobs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from procbackground._supervisor.machine import usable_cpus

        text = str(value).strip()
        match = re.fullmatch(r"([+-]?)(\d+)(%?)", text)
        if match is None or (match[1] and match[3]):
            self.fail(f"{text!r} is no number of workers; write 8, 50%, or -1 for all CPUs but one", param, ctx)
        cpus, number = usable_cpus(), int(match[2])
        if match[3]:
            return max(1, round(cpus * number / 100))
        if match[1]:
            return max(1, cpus + int(match[1] + match[2]))
        if number < 1:
            self.fail("at least one worker is needed", param, ctx)
        return number


class Load(_Type):
    """A load average: a number, or a share of the CPUs (`80%`)."""

    name = "load"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from procbackground._supervisor.machine import usable_cpus

        text = str(value).strip()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
        if match is None or float(match[1]) <= 0:
            self.fail(f"{text!r} is no load; write such as 4, or 80% of the CPUs", param, ctx)
        return float(match[1]) * (usable_cpus() / 100 if match[2] else 1)


class Halt(NamedTuple):
    """When a batch ends early: with `now` what runs is stopped, else it is finished."""

    is_now: bool
    why: str  # fail, success or done
    number: float
    is_percent: bool

    def is_due(self, failed: int, succeeded: int, total: int | None) -> bool:
        """Whether so many have ended so. Without a total, a share is that of those that ended, from the third on."""
        done = failed + succeeded
        count = {"fail": failed, "success": succeeded, "done": done}[self.why]
        if not self.is_percent:
            return count >= self.number
        if total is None:
            return count >= 3 and 100 * count >= self.number * done
        return total > 0 and 100 * count >= self.number * total


class HaltType(_Type):
    """`now,fail=1`, `soon,fail=10%`, `now,success=1`, `soon,done=50%`, `never`."""

    name = "halt"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Halt | None:
        if isinstance(value, Halt):
            return value
        text = str(value).strip()
        if text in ("never", "0"):
            return None
        if text in ("1", "2"):  # GNU parallel's short forms
            return Halt(text == "2", "fail", 1, False)
        match = re.fullmatch(r"(now|soon),(fail|success|done)=(\d+(?:\.\d+)?)(%?)", text)
        if match is None or float(match[3]) <= 0:
            self.fail(f"{text!r} does not say when to halt; {HALT_FORM}", param, ctx)
        return Halt(match[1] == "now", match[2], float(match[3]), bool(match[4]))
