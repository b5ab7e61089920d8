"""The number of rows in the next chunk of a map, from the durations of earlier rows. Pure decisions."""

from __future__ import annotations

# The duration of a chunk: long enough that its cost on the way is small, short enough to share work evenly. On the way
# are four threads of two processes: 0.3 to 0.5 ms where all cores compute. With 2 ms, and 0.25 ms at the end, a map of
# tiny numbers took a tenth longer.
CHUNK_S = 0.003
FIRST_ROWS = 1
GROWTH = 32  # at most so many times the rows of the chunk before
MAX_ROWS = 32768
OUT_PER_WORKER = 3  # chunks of a map that sizes its chunks itself; more would keep their first size
LEAST_SHARE = 3  # at the end of the input, chunks shrink down to this part of their size to end together


class Sizing:
    """The size of one map's chunks.

    Attributes: `rows`, of a chunk that takes `CHUNK_S`, as far as is known.
    """

    def __init__(self, rows: int) -> None:
        self.rows: int = rows or FIRST_ROWS
        self._has_learned = False  # from this map; the first size may come from an earlier one

    def learn(self, given: int, done: int, took_s: float) -> bool:
        """Take in that of a chunk of `given` rows `done` were done in `took_s`; return whether the size is new."""
        if done < self.rows and done == given:
            return False  # a chunk that was small on purpose says little
        self.rows = max(1, min(MAX_ROWS, GROWTH * self.rows, int(done * CHUNK_S / max(1e-6, took_s))))
        self._has_learned = True
        return True

    def next_rows(self, left: int, workers: int) -> int:
        """Return the rows of the next chunk where `left` are left: fewer at the end, so that all end together."""
        fair = -(-left // (2 * workers))
        # The durations of an earlier map may be wrong for these rows, so at first every worker gets some.
        least = self.rows // LEAST_SHARE if self._has_learned else 0
        return min(self.rows, max(fair, least, 1))
