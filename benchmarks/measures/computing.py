"""Computing: whether the library leaves the cores to the work."""

from benchmarks import tasks
from benchmarks.contest import Contest, Readings, expect
from benchmarks.measures.steps import timed, warm


def cpu_batch(contest: Contest) -> Readings:
    """Run a batch of computing tasks; the ideal is the CPU time that they used divided by the workers.

    Each computes until its thread has used so much CPU time: a serial run for comparison is made at another moment,
    and a virtual machine's speed differs by a fifth from one to the next.
    """
    count, task_s = contest.count("tasks"), contest.sizes["task_s"]
    with contest.open() as pool:
        warm(pool, contest.workers)
        wall_s, used_s = timed(pool.run_each, tasks.burn_cpu, [(task_s,)] * count)
    expect(len(used_s) == count and min(used_s) >= task_s, "computed for the whole time")
    return Readings({"efficiency_percent": 100 * sum(used_s) / contest.workers / wall_s, "wall_s": wall_s})
