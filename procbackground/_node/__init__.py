"""A node's side of an engine: the same local supervision as a manager's, for attempts that come from elsewhere.

The modules:

    agent   runs requests of one manager, and sends reports
    loop    the supervisor of a node, whose jobs come and go pickled
"""
