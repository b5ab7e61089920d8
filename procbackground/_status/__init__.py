"""The status socket of a manager, `Manager(status=True)`: what runs, and requests to cancel, drain and close.

    places      where sockets are, and whose
    client      asks a manager
    server      answers, in a thread of its own

The protocol
============
A Unix socket `PID-NUMBER[-NAME].sock` in the folder `procbackground` of the user's runtime directory
(`XDG_RUNTIME_DIR`, else `/run/user/UID`, else `/tmp/procbackground-UID`). The folder has mode 0700 and the socket 0600;
a connection of another user than the manager's or root is closed at once.

The client sends a JSON object on a line of at most 64 KiB, and gets one on a line for it: with `"ok": true` and what
was asked for, or with `"ok": false` and a text `error`. A connection takes any number of requests.

    {"do": "status"}    `version` (1; fields may be added without a new number), `pid`, `name`, `began`, `time`, `state`
                        (unused, open, closing, closed or broken), `max_workers`,
                        `tasks`: {added, succeeded, failed, cancelled, retried, queued, running},
                        `respawned`: workers that were replaced,
                        `queue_age`: seconds that the oldest queued task has waited, were they taken in order; or null,
                        `rate`: tasks that ended per second, in the mean since `began`,
                        `memory`: bytes of all workers together,
                        `workers`: [{pid, task, call, attempt, since, memory, cpu_percent}]; `task` (its name), `call`
                        (its name and arguments, shortened) and `attempt` are null if idle
    {"do": "cancel", "pid": 17, "since": 1754049600.25}
                        cancel the task that the worker has been running since then; `cancelled`: whether it still was.
                        Without `since`: what it runs now
    {"do": "drain"}     accept nothing more, cancel what is queued, finish what runs
    {"do": "close", "timeout": 10}
                        begin `Manager.close(timeout)`; without `timeout` it lets all tasks finish

All times are as `time.time()`. A request that begins an end is answered at once, not at the end.
"""
