"""The parent's side: one thread that owns the scheduler and every worker's pipes.

`supervisor` is what managers and handles call, and `loop` is the thread. The modules, in the order in which a task
passes them:

    supervisor, inbox           posting requests, from any thread; the queue that holds them, and the wake-up
    acceptance, submit_gate     whether work is accepted; where callers wait while the queue is full
    pending_bytes               how many bytes wait
    loop, watches, options      the thread; the descriptors that it waits for; the manager's options
    intake                      requests from the inbox → the scheduler
    workers, channel            commands → workers; one worker's pipes
    shares                      shared values: which workers have them, and when they are freed
    process, page               one worker's process; its words in the shared page
    launching                   which of these starts workers, and with what settings:
    direct, zygote, starter     starting processes: by `multiprocessing`, by a zygote; a thread for what may block
    adoption                    a process made of an interpreter that had a head start
    kinds                       processes with thread caps or slots of their own
    warden                      the helper that ends what directly started workers leave behind
    answers, relay, progress    answers and messages from workers; their log records and progress reports
    output                      the output of attempts, where it is not inherited
    chores                      looks at what nothing announces, such as these:
    exits, stacks               the ends of processes; Python stacks of workers
    keyed                       jobs with a key: looked up in the journal before, and recorded after
    settle, judge, usercode     settling handles; naming failures, asking retry policies; threads for user code
    obstacles, breakage         why a process cannot be started; why no worker can be any more
    unseen                      failures whose handle was never asked
    events_out                  events → observers
    monitor, sampling           memory and CPU of workers: the thread, and what is done with the figures
    questions                   what callers ask of it: counters, figures, processes, stacks
    views, stack_text           what runs now, for people: the status, and the stacks as a traceback
    overview                    the same for the status socket
    machine, clock              CPUs and free memory; monotonic times as wall-clock times
    engine_loop, places, place  in place of processes: the nodes of an engine
    views_of_nodes              what runs on them, asked of them
    inline, inline_runs         in place of all this: running each task in its caller's thread
    inline_context              `current()` there, and slots
    inline_logs, inline_progress  log records and progress reports there
    ending, exiting, forks      the end: a close, a bug, or a fork; the exit of the interpreter; what a fork must forget
    waits                       the handles that are not done, and the end of waits for them in a fork

Threads and ownership
=====================
Callers' threads, any number: make a job, pickle it, append a request to the inbox. They change nothing else, so an
exception at any point of a call, such as a signal handler's, leaves the manager whole. They read single words:
`Acceptance`'s, `Loop.is_ready`, a job's `worker` and `state`.

The supervisor thread (`loop`): the only one that calls the scheduler, that uses and closes the descriptors of workers,
and that settles handles. It neither blocks nor runs code of the user's: what does goes to another thread.

Threads for user code (`usercode`), one at first: unpickling, retry policies, done-callbacks. Verdicts come back by the
inbox. A second such runner with one thread passes log records to handlers, in order.

The observers' thread (`events_out`): takes events from a queue without a bound, in order.

The journal's thread (`_journal.writer`): owns the connection to its file, takes entries from a queue, and posts to the
inbox what it found and what is committed.

The monitor's thread (`monitor`): reads /proc, asks by the inbox which workers have limits, and reports by it.

The starter's thread (`starter`): starts processes through `multiprocessing`, which may block, and reports by the inbox.

Locks that remain: each of those threads guards its own queue by a lock that callers never take. `Loop._start_lock`
orders the first start and the close of an unused manager; both run in threads of their own, never in a caller's.
A caller that waits does so by a raw lock of its own, which only the supervisor releases (`_sync`, `Question`).

The shared page has one writer for each word: see `_wire.page`. The order of stores between parent and child matters in
one place: recalling requests, see `_state.pipeline`.

What this assumes of CPython: `deque.append`, `deque.popleft`, a `set.add` and the reading or storing of an attribute
happen as a whole. Signal handlers run in the main thread only, between two bytecodes and never within a call of C code;
so a caller is interrupted before or after its request is appended, and after that it notifies by one such call.
"""
