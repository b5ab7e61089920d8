"""The command `procbackground`. It needs click and rich: the extra `cli`.

The modules:

    start                   `main`: says how to get the extra where it is missing
    app, settings           the group of commands; their settings from pyproject.toml
    options, values         options that several commands have; types of their values
    map_command, run_command, loop_command  the commands that run functions; what each needs is imported when it runs
    journal_command, top_command, doctor_command  the other commands
    functions               MODULE:FUNCTION → the function
    inputs                  arguments, lines, JSON lines, CSV rows, file names → calls
    work                    a set of calls, from the options to the exit code
    plan                    a call → its task; what a journal knows of it
    batch, signals          running the calls; ending early, as when Ctrl-C is pressed
    child                   in the child: where the output of tasks goes
    records                 a task that ended → the object of its result line
    results, joblog         writing results and folders; GNU parallel's log
    summary                 what a batch came to, for people
    service, sdnotify       running a loop; messages to systemd
    checkup                 what the system offers, and what falls back
    screen                  what `top` shows, and its keys
    errors                  errors as one line; names that are nearly right
"""
