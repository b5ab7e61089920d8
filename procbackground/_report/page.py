"""The report of a run as one HTML page that needs no other file and no network."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from procbackground._printable import printable
from procbackground._report import plots
from procbackground._report.text import HEADS, errors_of, lines_of, row_of

if TYPE_CHECKING:
    from procbackground._report.run import RunReport

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 11em; overflow-wrap: anywhere; }
tr.total td { font-weight: 600; }
svg { width: 100%; height: auto; min-width: 640px; } svg text { font-size: 11px; fill: #555; }
.grid { stroke: #e5e5e5; } .area { fill: #4477aa; opacity: .8; }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
.scroll { overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } svg text { fill: #aaa; }
  .grid { stroke: #333; } th, td { border-color: #333; } }
"""


def page_of(report: RunReport) -> str:
    """Return the page."""
    began = report.as_dict()["began"]
    when = "" if began is None else time.strftime(" of %Y-%m-%d %H:%M:%S", time.localtime(began))
    timeline = plots.timeline(report)
    sections = [
        ("Workers", timeline and timeline + _key(report)),
        ("Utilisation", plots.utilisation(report)),
        ("Memory", plots.memory(report)),
    ]
    body = [f"<h1>Run{when}</h1>", *(f"<p>{escape(line)}</p>" for line in lines_of(report)), _table(report)]
    errors = "".join(f"<li>{escape(error)}</li>" for error in errors_of(report))
    body.append(errors and f"<ul>{errors}</ul>")
    body += [f"<h2>{title}</h2>{content}" for title, content in sections if content]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Report of a run</title><style>{_STYLE}</style></head>\n"
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _table(report: RunReport) -> str:
    names = sorted(report.figures.names.items(), key=lambda item: -item[1].wall.total)
    rows = [("", row_of(name, figures)) for name, figures in names]
    if len(rows) > 1:
        rows.append((' class="total"', row_of("total", report.total())))
    head = "".join(f"<th>{escape(head)}</th>" for head in HEADS)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for _, row in rows]
    body = "".join(f"<tr{kind}>{line}</tr>" for (kind, _), line in zip(rows, lines, strict=True))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _key(report: RunReport) -> str:
    colors = plots.colors_of(report)
    marks = [*colors.items(), ("failed", plots.FAILED), ("cancelled", plots.CANCELLED)]
    if len(report.figures.names) > len(colors):
        marks.insert(len(colors), (f"{len(report.figures.names) - len(colors)} other names", plots.OTHER_NAMES))
    spans = "".join(f'<span style="background:{color}"></span>{escape(printable(name))}' for name, color in marks)
    return f'<p class="key">{spans}</p>'
