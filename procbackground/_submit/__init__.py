"""The caller's side: from a call to a job that the supervisor takes. Runs in the caller's
thread, unless a module says otherwise.

    calls       `run`, `run_task` and `options`, of managers and their views
    making      the parts of a manager, made from its options
    shortcut    the quick way of a call whose function was called before
    checks      checks of what the user passes
    setup       environment, thread caps, directory, niceness and CPUs of the workers
    carry       context variables that travel with tasks
    port        what this side needs of the supervisor
    needs       what tasks need of cores, memory and slots, and whether there can be so much
    defaults    the manager's limits, for tasks that have none of their own
    recipes     recipes (function and limits, shared by many calls) and jobs
    bulk        the calls for many tasks
    far         the same for the nodes of an engine
    keyed       keys of jobs, for the journal
    map         `Manager.map`: rows that travel in chunks
    stream      `Manager.stream`: tasks taken lazily
    puller      the thread or asyncio task that takes them, ahead of the consumer; that of lazy maps, too
    closing     closes by a signal, and when the interpreter exits
"""
