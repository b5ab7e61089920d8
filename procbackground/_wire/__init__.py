"""What crosses between parent and child, both ways.

The modules:

    frames        the messages in a worker's two pipes
    pickling      pickles of functions, arguments and values; names the part that cannot be pickled
    failures      pickles of how a call failed
    plain         whether loading a pickle runs none of the user's code
    mainmodule    which functions and classes of the main module the other side has
    byvalue       pickles of what plain pickle cannot carry, or the other side cannot import
    loading       loads pickles
    surroundings  environment, umask, directory, path and limits of the parent, for its children
    parcel        large payloads, sent as the descriptor of a file in memory
    copies        copies of large buffers, which parcels with the same content have in common
    carried       a large function of a map, pickled once
    shares        values that lie in memory once, for all workers
    descriptors   connections, sockets and shared values within payloads
    output        where the output of tasks goes
    stderr        what a worker wrote last to `sys.stderr`, in the shared page
    attempts      what crosses between a manager and a node of its engine
    forking       what a manager and its zygote say to each other
    spool         records of results that workers keep until the journal has them
    page          the shared page: words that parent and child read without messages
    progress      progress reports, and their places in the shared page
"""
