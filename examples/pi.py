"""Estimates pi by throwing points at a square, in tasks that continue where they were when they are killed.

    python examples/pi.py pi.sqlite                  # kill it as often as you like, and call it again
    python examples/pi.py pi.sqlite --samples 50000000 --parts 4

Each part saves its state several times a second: how far it is, and the state of its random numbers. An attempt that
dies is followed by another one from there; so is one whose parent died, in the next run. So the answer is the same
as without any interruption, to the last digit.
"""

from __future__ import annotations

import argparse
import random
import time

from procbackground import Manager, Task, current

BLOCK = 2_000  # samples between two looks at the clock
SAVE_EVERY_S = 0.05


def count_hits(seed: int, samples: int) -> int:
    """Return how many of `samples` random points of the unit square lie within the unit circle."""
    context = current()
    generator = random.Random(seed)
    done = hits = 0
    if context.saved is not None:
        done, hits, state = context.saved
        generator.setstate(state)
    saved_s = time.monotonic()
    while done < samples:
        for _ in range(min(BLOCK, samples - done)):
            hits += generator.random() ** 2 + generator.random() ** 2 < 1
        done = min(samples, done + BLOCK)
        if time.monotonic() - saved_s >= SAVE_EVERY_S:
            context.save((done, hits, generator.getstate()))
            context.progress(done, samples)
            saved_s = time.monotonic()
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", help="file that keeps results and states from run to run")
    parser.add_argument("--samples", type=int, default=20_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=2, help="tasks (default: %(default)s)")
    parser.add_argument("--attempts", type=int, default=20, help="of a task in one run (default: %(default)s)")
    options = parser.parse_args()
    share = options.samples // options.parts
    with Manager(journal=options.journal, retry=options.attempts) as manager:
        parts = [manager.run_task(Task(count_hits, args=(seed, share))) for seed in range(options.parts)]
        hits = sum(part.result() for part in parts)
        attempts = sum(len(part.attempts) for part in parts)
    print(f"pi is about {4 * hits / (share * options.parts)}")
    print(f"({attempts} attempts in this run)")


if __name__ == "__main__":
    main()
