"""Markdown: the tables that people read, the musts first."""

# ruff: noqa: RUF001 - the multiplication sign in texts for people is meant

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.contenders import BASELINE, CONTENDERS, OURS
from benchmarks.measures import Measure, Metric
from benchmarks.musts import Verdict
from benchmarks.report.facts import Facts
from benchmarks.summary import Summary

ANSWERS = {True: "met", False: "**missed**", None: "not measured"}


def markdown_of(facts: Facts) -> str:
    """Return the report as a Markdown document."""
    lines = ["# Benchmark results", "", *_head(facts), "", "## Musts", "", *_verdict_table(facts.verdicts)]
    for measure in facts.plan.measures:
        lines += ["", f"## {measure.title} (`{measure.name}`)", "", measure.explanation]
        tables = _growth_tables if measure.is_growth else _tables
        lines += tables(measure, facts.summary)
        lines += _absences(measure, facts)
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Return a number with about three significant digits, readable at any size."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _head(facts: Facts) -> Iterator[str]:
    machine = facts.machine
    if facts.plan.is_quick:
        yield "**A quick run: sizes and repetitions are cut to test the benchmarks; no number counts.**"
        yield ""
    yield (
        f"Measured {facts.began} to {facts.ended} on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, {machine['python']}; "
        f"{facts.plan.workers} workers, repetitions: {facts.plan.repetitions}, each in its own interpreter, "
        "contenders taking turns. Medians, with the least and the most; ratios are of medians. "
        f"“× {BASELINE}” is the multiple of `{BASELINE}`'s median."
    )
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in facts.versions.items()) + "."
    for name, reason in facts.skipped.items():
        yield ""
        yield f"Skipped: {CONTENDERS[name].title} ({reason})."


def _verdict_table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from _table(
        ("measure", "must", "reached", "", "aim", "aim reached", "remark"),
        "llrlrll",
        (
            (
                f"`{verdict.measure}`",
                verdict.demand,
                f"{number(verdict.reached)} {verdict.unit}".strip() if verdict.reached is not None else "-",
                ANSWERS[verdict.is_met],
                f"{verdict.aim:g} {verdict.unit}".strip() if verdict.aim is not None else "",
                {True: "yes", False: "no", None: ""}[verdict.is_aim_met],
                verdict.remark,
            )
            for verdict in verdicts
        ),
    )


def _tables(measure: Measure, summary: Summary) -> Iterator[str]:
    for metric in measure.metrics:
        best_peer = summary.best_peer(measure, metric)
        direction = "higher is better" if metric.higher_is_better else "lower is better"
        yield from ("", f"{metric.title}, {metric.unit} ({direction}):", "")
        yield from _table(
            (
                "contender",
                "median",
                "min",
                "max",
                "n",
                f"× {BASELINE}",
                f"× best peer ({best_peer})" if best_peer else "× best peer",
                "note",
            ),
            "lrrrrrrl",
            _rows(measure, metric, best_peer, summary),
        )


def _rows(measure: Measure, metric: Metric, best_peer: str | None, summary: Summary) -> Iterator[tuple[str, ...]]:
    spreads = {
        name: spread
        for name in summary.row_names(measure)
        if (spread := summary.spread(measure.name, metric.key, name)) is not None
    }
    best_first = sorted(spreads, key=lambda name: spreads[name].median, reverse=metric.higher_is_better)
    for name in best_first:
        spread = spreads[name]
        title = CONTENDERS[name].title
        yield (
            f"**{title}**" if name == OURS else title,
            number(spread.median),
            number(spread.least),
            number(spread.most),
            str(spread.repetitions),
            number(summary.ratio(measure, metric, name, BASELINE)),
            number(summary.ratio(measure, metric, name, best_peer)),
            summary.notes.get((measure.name, name), ""),
        )


def _growth_tables(measure: Measure, summary: Summary) -> Iterator[str]:
    names = summary.row_names(measure)
    for metric in measure.metrics:
        yield from ("", f"{metric.title}, {metric.unit}, median (min to max):", "")
        yield from _table(
            (measure.x_title, *(CONTENDERS[name].title for name in names)),
            "r" * (1 + len(names)),
            ((f"{x:,.0f}", *(_cell(measure, metric, name, x, summary) for name in names)) for x in summary.xs(measure)),
        )


def _cell(measure: Measure, metric: Metric, name: str, x: float, summary: Summary) -> str:
    spread = summary.spread(measure.name, metric.key, name, x)
    if spread is None:
        return "-"
    return f"{number(spread.median)} ({number(spread.least)} to {number(spread.most)})"


def _absences(measure: Measure, facts: Facts) -> Iterator[str]:
    """Tell who has no row, or fewer readings, and why."""
    absent = [
        f"{contender.title}: {reason}"
        for contender in facts.plan.contenders
        if contender.only is None and (reason := contender.why_not(measure.name)) is not None
    ]
    if absent:
        yield from ("", "Not offered by " + "; ".join(absent) + ".")
    for (name, x, contender), errors in facts.summary.failures.items():
        if name == measure.name:
            at = "" if x is None else f" at {x:,.0f}"
            yield from ("", f"{CONTENDERS[contender].title}{at} failed {len(errors)} times: {errors[-1]}")


def _table(heads: Sequence[str], alignments: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join("--:" if alignment == "r" else "---" for alignment in alignments) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
