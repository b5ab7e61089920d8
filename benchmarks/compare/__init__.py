"""Compare: two versions of this library side by side, `python -m benchmarks.compare OLD NEW`.

The flow of a comparison, beside that of a measurement, whose parts it uses where it can:

    __main__       ① command line in, table and exit code out
    catalogue        what is measured, in runs of a few seconds: most of `measures`, and what `measures.ours` adds
    sides          ② a folder or an executable → an interpreter with that version in it, and the same measuring code
    (schedule)     ③ old and new take turns, repetition by repetition
    (isolation)    ④ each run in an interpreter of its own, the side's
    pairs          ⑤ readings of the same repetition → ratios
    table          ⑥ text and JSON
"""
