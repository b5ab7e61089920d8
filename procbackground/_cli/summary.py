"""What a batch came to, for people: counts, the first messages of failures, time and memory."""

from __future__ import annotations

import time

from procbackground._cli.records import SUCCEEDED, Ended
from procbackground._printable import printable
from procbackground._report.text import size

KEPT_MESSAGES = 3  # of each kind of failure
MESSAGE_LENGTH = 200


class Summary:
    """Counts what ended."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.succeeded = 0
        self.failed = 0
        self.stored = 0
        self.cancelled = 0
        self._retried = 0
        self._busy_s = 0.0
        self._cpu_s = 0.0
        self._peak_bytes = 0
        self._kinds: dict[str, int] = {}
        self._messages: dict[str, dict[str, int]] = {}  # by kind: message → how often

    def add(self, ended: Ended) -> None:
        """Count a call that ended."""
        if not ended.is_shown:
            return
        self.stored += ended.is_stored
        self._retried += max(0, ended.attempts - 1)
        self._busy_s += ended.busy_s
        self._cpu_s += ended.cpu_s
        self._peak_bytes = max(self._peak_bytes, ended.peak_bytes)
        if ended.outcome == SUCCEEDED:
            self.succeeded += 1
        elif ended.has_failed:
            self.failed += 1
            self._kinds[ended.outcome] = self._kinds.get(ended.outcome, 0) + 1
            messages = self._messages.setdefault(ended.outcome, {})
            text = _one_line(str(ended.failure))
            if text in messages or len(messages) < KEPT_MESSAGES:
                messages[text] = messages.get(text, 0) + 1
        else:
            self.cancelled += 1

    def lines(self) -> list[str]:
        """Return the summary."""
        counts = [f"{self.succeeded:,} succeeded{f' ({self.stored:,} of them before)' if self.stored else ''}"]
        if self.failed:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._kinds.items())
            counts.append(f"{self.failed:,} failed" + (f" ({kinds})" if set(self._kinds) != {"failed"} else ""))
        if self.cancelled:
            counts.append(f"{self.cancelled:,} cancelled")
        if self._retried:
            counts.append(f"{self._retried:,} further attempts")
        lines = [", ".join(counts)]
        for kind, messages in self._messages.items():
            for text, count in messages.items():
                lines.append(f"  {kind}: {text}" + (f" ({count:,} times)" if count > 1 else ""))
            more = self._kinds[kind] - sum(messages.values())
            if more:
                lines.append(f"  {kind}: {more:,} with other messages")
        lines.append(self._costs())
        return lines

    def _costs(self) -> str:
        wall_s = time.monotonic() - self._began_s
        parts = [f"{seconds_text(wall_s)} wall"]
        if self._cpu_s:
            parts.append(f"{seconds_text(self._cpu_s)} CPU")
        if self._busy_s > 1.0:  # of less, most is the start
            parts.append(f"speed-up {self._busy_s / wall_s:.1f}")
        if self._peak_bytes:
            parts.append(f"peak memory {size(self._peak_bytes)}")
        return ", ".join(parts)


def seconds_text(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 3] + "..."
