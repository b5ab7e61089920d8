"""Reports of runs: the figures that a manager collected, or those in a file of events, for people.

    run                 `RunReport`: the figures as a dict, as text, and as a page
    lines               a file of events → the figures
    text                the report as text
    page, plots         the report as one HTML page; its plots as SVG
    command             `python -m procbackground.report FILE`

Nothing here is imported before a report is asked for.
"""
