"""Benchmarks: procbackground beside today's process pools, measured by one command, `python -m benchmarks`.

The folder is the flow of a measurement:

    __main__       ① command line in, exit code out
    environment      which libraries can be imported, and what machine, Python and versions this is
    contenders/      who is measured: a registry and one small adaptor per library, plus the floors
    measures/        what is measured: a catalogue, and the functions that do the work inside a run
    schedule       ② which contender meets which measure, round-robin, repetition by repetition
    isolation      ③ one run in an interpreter of its own, with a time limit, and nothing left behind
    one_run        ④ that interpreter: imports one library, runs one measure, writes its readings
    contest          what a measure is given: how to open its contender, and the sizes of the work
    tasks            the functions that the workers call; imports next to nothing
    summary        ⑤ medians, extremes and ratios
    musts          ⑥ what procbackground must reach, and whether it did
    report/        ⑦ JSON, Markdown and PNG

Beside it: `python -m benchmarks.chaos`, a soak of procbackground alone, and `python -m benchmarks.microseconds`, where
a task's CPU time goes. `python -m benchmarks.compare OLD NEW` measures two versions of procbackground in the same way,
and has its own flow in `compare/`.
"""
