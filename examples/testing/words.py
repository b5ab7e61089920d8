"""A small library to test: it counts words in files, a task for each file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from procbackground import Manager, Retry, current

logger = logging.getLogger(__name__)


def count_words(path: Path) -> Counter[str]:
    """Count the words of one file. Runs in a worker."""
    text = path.read_text(encoding="utf-8")
    if not text:
        logger.warning("%s is empty", path.name)
    current().progress(1, 1)
    return Counter(text.lower().split())


def count_all(manager: Manager, paths: Iterable[Path], retry: Retry | int | None = None) -> Counter[str]:
    """Count the words of all files together."""
    total: Counter[str] = Counter()
    for counts in manager.options(retry=retry).map(count_words, paths):
        total.update(counts)
    return total
