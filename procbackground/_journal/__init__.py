"""The record of keyed tasks: one SQLite file. The supervisor's side of it is `_supervisor.keyed`.

    keys        the default key of a task: a digest of its function and arguments
    schema      the tables; opening and checking a file
    lock        one manager for a file; files on a network
    records     what is written: one entry for each change of a task
    statements  a batch of entries → few statements
    values      stored results ↔ bytes
    spools      results that workers of a killed manager have kept
    writer      the thread that owns the connection, and commits entries in groups
    reader      reading a file, also while a manager writes to it
    export      JSON lines, CSV, and the columns of GNU parallel's joblog

The file
========
It is a SQLite database in WAL mode, with an `application_id` of its own and the version of the schema as
`user_version`. Other programs may read it at any time. Tables and columns are described in `schema`.

An entry is written when a task is given (`queued`), sent to a worker (`running`), and at its end (`succeeded`,
`failed` or `cancelled`). A task is sent to a worker only after it is in the file as queued, and its handle is done only
after its end is in the file and synced to the disk. So whatever kills the program, the next run finds each task as
finished, or runs it again.
"""
