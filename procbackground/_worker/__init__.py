"""The child's side: what runs in a worker process around the user's function, and the helper processes.

The modules:

    entry                   the functions that a new `multiprocessing` process runs: a worker or the zygote
    alone                   a worker that no zygote has forked
    adopted                 an interpreter that had a head start, and becomes the zygote
    zygote, forker, deputy  the process that forks workers; what it has in common with its deputy; the deputy itself
    rehearsal               runs a worker's code in the zygote, so that forked workers are quicker
    fitness                 what an import has left in the zygote that forks must not share
    boot                    what every worker starts with; the import of the main module
    main                    a worker's life: signals, handshake, request loop, exit
    initializer             the manager's initializer, run once in each worker
    inbox, channel          the child's ends of the two pipes
    execute, rows, stop     calls one function and sends its outcome; once for each row of a chunk; a stop amid that
    task_context, progress  what `current()` returns inside a task; its progress reports → the parent
    spool                   keeps results until the journal has them
    handlers                wraps the signal handlers of tasks, so that they cannot raise in the worker's own code
    leftovers               the processes that a call has left running
    answers                 pickles values, failures and costs of calls
    relay, log_handler      log records → the parent
    debugger                refuses debuggers that would read from the empty standard input
    late_imports            acts on modules that are imported later
    stderr                  what is written to `sys.stderr` → the shared page, for the error of a death
    title                   what `ps` shows of the process
    output                  redirects the output of an attempt
    warden, descendants     ending what workers have started, when the manager's process dies
"""
