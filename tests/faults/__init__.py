"""The faults of a process pool, one named test each: only the guilty task fails, and nothing hangs or is left behind.

The numbers are those of the table in this folder's README. `scene` has the stage that most of them share.
"""
