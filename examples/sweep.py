#!/usr/bin/env python3
"""Sweeps a model of an epidemic over two parameters; may be killed at any time, and continues when it is called again.

    python examples/sweep.py sweep.sqlite
    python examples/sweep.py sweep.sqlite --contacts 4 --steps 40      more of them: only the new ones are run

Each pair of parameters is a task, and the journal has the results of those that have succeeded. The key of a task is
made from its function and arguments, so neither the order nor the number of the tasks matters from run to run. The
command `procbackground journal show sweep.sqlite` says what is in the file.
"""

from __future__ import annotations

import argparse
import random

from procbackground import Manager, Task, current

PEOPLE = 5_000
DAYS = 200


def peak_of_epidemic(contacts: float, days_ill: float) -> float:
    """Return the largest share of people who were ill at once, in a simulation with chance."""
    generator = random.Random(f"{contacts} {days_ill}")
    susceptible, ill, peak = PEOPLE - 5, 5, 5
    for day in range(DAYS):
        risk = 1 - (1 - contacts / 10 / PEOPLE) ** ill
        infected = sum(generator.random() < risk for _ in range(susceptible))
        recovered = sum(generator.random() < 1 / days_ill for _ in range(ill))
        susceptible, ill = susceptible - infected, ill + infected - recovered
        peak = max(peak, ill)
        current().progress(day + 1, DAYS)
        if not ill:
            break
    return peak / PEOPLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", help="file that keeps the results from run to run")
    parser.add_argument("--contacts", type=float, default=3.0, help="largest number a day (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of each parameter (default: %(default)s)")
    options = parser.parse_args()
    contacts = [round(options.contacts * (step + 1) / options.steps, 6) for step in range(options.steps)]
    days_ill = [round(2 + 12 * step / max(1, options.steps - 1), 6) for step in range(options.steps)]
    tasks = [
        Task(peak_of_epidemic, args=(each, days), timeout=60, name=f"{each:g} contacts, {days:.1f} days")
        for days in days_ill
        for each in contacts
    ]
    with Manager(journal=options.journal, retry=3, progress=True) as manager:
        handles = [manager.run_task(task) for task in tasks]
        peaks = [handle.result() for handle in handles]
        done = sum(not handle.attempts for handle in handles)
    print("days ill | " + " ".join(f"{each:5.2f}" for each in contacts) + "  contacts a day")
    for row, days in enumerate(days_ill):
        print(f"{days:8.1f} | " + " ".join(f"{peak:5.0%}" for peak in peaks[row * len(contacts) :][: len(contacts)]))
    print(f"{len(tasks) - done} of {len(tasks)} were computed in this run, {done} before")


if __name__ == "__main__":
    main()
