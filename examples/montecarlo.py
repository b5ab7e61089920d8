#!/usr/bin/env python3
"""Prices an Asian option by simulation, and stops as soon as the result is precise enough.

    python examples/montecarlo.py                      to a cent
    python examples/montecarlo.py --error 0.002        needs 25 times as many paths

There is no last task: the batches have no end. `stream` takes the next ones as workers become free, and leaving the
`for` loop cancels those that are out. Each batch has a seed of its own, and their results are added in the order of the
seeds: so the price is the same in every run, for any number of workers, and when workers are killed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
from collections.abc import Iterator

from procbackground import Manager, Task, current

PATHS = 2_000  # in a batch: some tenths of a second
STEPS = 50  # in a path
SHOWN_EVERY = 25 * PATHS
START, STRIKE, RATE, VOLATILITY, YEARS = 100.0, 100.0, 0.03, 0.25, 1.0


def simulate(seed: int) -> tuple[int, float, float]:
    """Return the number of paths of a batch, the sum of what the option pays, and the sum of the squares."""
    generator = random.Random(seed)
    step = YEARS / STEPS
    drift, scale = (RATE - VOLATILITY**2 / 2) * step, VOLATILITY * math.sqrt(step)
    discount = math.exp(-RATE * YEARS)
    total = squares = 0.0
    for path in range(PATHS):
        logarithm, mean = math.log(START), 0.0
        for _ in range(STEPS):
            logarithm += drift + scale * generator.gauss(0, 1)
            mean += math.exp(logarithm) / STEPS
        value = discount * max(0.0, mean - STRIKE)
        total, squares = total + value, squares + value * value
        if path % 100 == 0:
            current().progress(path, PATHS)  # for `progress=True`, and a sign of life for `stalled_threshold`
    return PATHS, total, squares


def batches() -> Iterator[Task[tuple[int, float, float]]]:
    """Yield tasks without end, each with the next seed."""
    for seed in itertools.count():
        yield Task(simulate, args=(seed,), name=f"batch {seed}", retry=3, timeout=60)


def estimate(error: float, workers: int | None) -> tuple[float, float, int]:
    """Return the price, its standard error, which is at most `error`, and the number of paths that were needed."""
    paths, total, squares = 0, 0.0, 0.0
    with Manager(workers, stalled_threshold=10, observer="logging") as manager:
        for handle in manager.stream(batches(), ordered=True, buffersize=8):
            more, more_total, more_squares = handle.result()
            paths, total, squares = paths + more, total + more_total, squares + more_squares
            mean = total / paths
            now = math.sqrt((squares / paths - mean**2) / paths)
            if now <= error or paths % SHOWN_EVERY == 0:
                print(f"{paths:9,} paths: {mean:.4f} ± {now:.4f}", file=sys.stderr)
            if now <= error:
                break  # cancels what is out
    return mean, now, paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--error", type=float, default=0.01, help="standard error to reach (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="by default one for each CPU")
    options = parser.parse_args()
    price, error, paths = estimate(options.error, options.workers)
    print(f"price {price:.4f} ± {error:.4f} after {paths:,} paths")


if __name__ == "__main__":
    main()
