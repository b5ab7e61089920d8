"""Decisions only: facts and the time in, commands out.

Nothing here starts a thread, reads a clock, writes to a pipe or logs. `scheduler.Scheduler` is the only door; the
other modules are its parts, and each imports only those above it in this list:

    attempt, commands, timers   one attempt's table; commands to the supervisor; timers that can be cancelled
    ledger                      what tasks need beside a place, and what is taken of it
    job, queue, pipeline        one accepted task; those that wait; those on their way to one worker
    fleet                       one worker and its table
    state                       all data of one scheduler, and the moves that keep its counts right
    enqueue                     many jobs at once to the queue
    outcomes                    how jobs end, wait for their next attempt, or go (back) to the queue
    stops, gate                 stopping and dismissing workers; holding attempts back while memory is short
    launches                    starting workers: how many, at what pace, and when to give up
    dispatch, needy             sending a worker one job; bringing jobs with needs and workers together
    relief                      beginning one attempt, though memory is short
    staffing                    bringing waiting jobs and workers together
    limits, loops               timeouts, deadlines and silence; tasks of iterations without end
    arrivals                    workers that come and go, and what becomes of their jobs
    invariants                  what must hold after every step
    scheduler                   the door: one method for each fact that the supervisor reports
    places                      the same where workers are places on other machines
"""
