"""Plots: a PNG per measure, and one that shows every must as a distance from its bound."""

# ruff: noqa: RUF001 - the multiplication sign in texts for people is meant

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; must be chosen before pyplot is imported

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.contenders import BASELINE, CONTENDERS, OURS, Role
from benchmarks.measures import MEASURES, Measure, Metric
from benchmarks.musts import Verdict
from benchmarks.report.as_markdown import number
from benchmarks.report.facts import Facts
from benchmarks.summary import Spread, Summary

OURS_COLOUR = "#0b6e99"
BASELINE_COLOUR = "#5f6b76"
PEER_COLOUR = "#b9c3cc"
FLOOR_COLOUR = "#d9a441"
MET_COLOUR = "#2e8b57"
MISSED_COLOUR = "#c0392b"
DOTS_PER_INCH = 130
CAPTION_INCHES = 0.18
MOST_ABREAST = 2  # three panels side by side shrink to nothing in a README
MARGINS_LABELLED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
MOST_SHOWN = 100.0  # further past a bound, or behind it, is all the same


def write_plots(facts: Facts, folder: Path) -> list[Path]:
    """Write a plot for every measure that has readings; return the paths."""
    written = []
    caption = _caption(facts)
    for measure in facts.plan.measures:
        if not facts.summary.row_names(measure):
            continue
        draw = _draw_growth if measure.is_growth else _draw_bars
        figure = draw(measure, facts.summary)
        if figure is not None:
            written.append(_save(figure, caption, folder / f"{measure.name}.png"))
    figure = _draw_verdicts(facts.verdicts)
    if figure is not None:
        written.append(_save(figure, caption, folder / "musts.png"))
    return written


def _draw_bars(measure: Measure, summary: Summary) -> Any | None:
    panels = [
        (metric, spreads)
        for metric in measure.metrics
        if (
            spreads := {
                name: spread
                for name in summary.row_names(measure)
                if (spread := summary.spread(measure.name, metric.key, name)) is not None
            }
        )
    ]
    if not panels:
        return None
    most_rows = max(len(spreads) for _, spreads in panels)
    lines, columns = (len(panels), 1) if len(panels) > MOST_ABREAST else (1, len(panels))
    size = (max(8.0, 6.2 * columns), 0.6 + lines * (1.0 + 0.36 * most_rows))
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False)
    for axis, (metric, spreads) in zip(axes.flat, panels, strict=True):
        _draw_panel(axis, metric, spreads, measure.spans_decades)
    figure.suptitle(measure.title, fontsize=13, fontweight="bold")
    return figure


def _draw_panel(axis: Any, metric: Metric, spreads: dict[str, Spread], spans_decades: bool) -> None:
    # Rows are counted from below, and the best belongs on top.
    names = sorted(spreads, key=lambda name: spreads[name].median, reverse=not metric.higher_is_better)
    least = min(spread.least for spread in spreads.values())
    most = max(spread.most for spread in spreads.values())
    is_logarithmic = spans_decades and least > 0
    for row, name in enumerate(names):
        _draw_row(axis, row, name, spreads[name], is_bar=not is_logarithmic)
    if is_logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(least / 1.6, most * (most / least) ** 0.2 * 1.6)
        axis.grid(visible=True, which="major", axis="x", alpha=0.3)
        _label_decades(axis.xaxis)
    else:
        axis.set_xlim(min(0.0, least * 1.25), max(0.0, most * 1.2))
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_yticks(range(len(names)), [CONTENDERS[name].title for name in names], fontsize=9)
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == OURS else "normal")
    direction = "more is better" if metric.higher_is_better else "less is better"
    axis.set_xlabel(f"{metric.title}, {metric.unit} ({direction})", fontsize=9)
    _tidy(axis)


def _draw_row(axis: Any, row: int, name: str, spread: Spread, *, is_bar: bool) -> None:
    """Draw a median with its extremes: a bar where the axis has a zero, a dot where it is logarithmic."""
    if is_bar:
        axis.barh(row, spread.median, color=_colour(name))
    else:
        axis.axhline(row, color="#e3e7ea", linewidth=0.8, zorder=0)
        axis.plot(spread.median, row, "o", markersize=8, color=_colour(name))
    axis.errorbar(
        spread.median,
        row,
        xerr=[[spread.median - spread.least], [spread.most - spread.median]],
        fmt="none",
        elinewidth=1.2,
        capsize=3,
        ecolor="#333333" if is_bar else _colour(name),
    )
    axis.annotate(
        number(spread.median),
        (spread.most, row),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        fontweight="bold" if name == OURS else "normal",
    )


def _draw_growth(measure: Measure, summary: Summary) -> Any | None:
    xs = summary.xs(measure)
    if not xs:
        return None
    metrics = measure.metrics
    figure, axes = pyplot.subplots(1, len(metrics), figsize=(3.0 + 3.6 * len(metrics), 4.4), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for name in summary.row_names(measure):
            known = [
                (x, spread) for x in xs if (spread := summary.spread(measure.name, metric.key, name, x)) is not None
            ]
            _draw_curve(axis, name, known)
        axis.set_xscale("log")
        if metric.unit != "%":
            axis.set_yscale("log")
            _label_decades(axis.yaxis)
        else:
            axis.set_ylim(0, 105)
        _label_points(axis, measure, xs)
        axis.set_xlabel(measure.x_title, fontsize=9)
        axis.set_ylabel(f"{metric.title}, {metric.unit}", fontsize=9)
        axis.grid(visible=True, which="major", alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
        _tidy(axis)
    figure.suptitle(measure.title, fontsize=13, fontweight="bold")
    return figure


def _draw_curve(axis: Any, name: str, known: Sequence[tuple[float, Spread]]) -> None:
    xs = [x for x, _ in known]
    axis.plot(
        xs,
        [spread.median for _, spread in known],
        marker="o",
        markersize=4,
        linewidth=1.8,
        color=_colour(name),
        label=CONTENDERS[name].title,
    )
    axis.fill_between(
        xs,
        [spread.least for _, spread in known],
        [spread.most for _, spread in known],
        color=_colour(name),
        alpha=0.18,
        linewidth=0,
    )


def _label_points(axis: Any, measure: Measure, xs: Sequence[float]) -> None:
    shown = xs if len(xs) <= 7 else xs[::2]
    names = [_bytes(x) if measure.x_title == "bytes" else f"{x:,.0f}" for x in shown]
    axis.set_xticks(shown, names, fontsize=8)
    axis.minorticks_off()


def _draw_verdicts(verdicts: Sequence[Verdict]) -> Any | None:
    # An exponent of growth is no multiple of anything; it is told in the table only.
    measured = [
        verdict for verdict in verdicts if verdict.reached is not None and not MEASURES[verdict.measure].is_growth
    ]
    if not measured:
        return None
    measured.reverse()  # barh counts from below
    margins = [_margin(verdict) for verdict in measured]
    figure, axis = pyplot.subplots(figsize=(12, 1.8 + 0.36 * len(measured)))
    axis.barh(
        range(len(measured)),
        [log10(margin) for margin in margins],
        color=[MET_COLOUR if verdict.is_met else MISSED_COLOUR for verdict in measured],
    )
    axis.axvline(0, color="#333333", linewidth=1)
    for row, (verdict, margin) in enumerate(zip(measured, margins, strict=True)):
        axis.annotate(
            f"{number(verdict.reached)} {verdict.unit}".strip(),
            (log10(margin), row),
            xytext=(5 if margin >= 1 else -5, 0),
            textcoords="offset points",
            va="center",
            ha="left" if margin >= 1 else "right",
            fontsize=8.5,
        )
    axis.set_yticks(
        range(len(measured)), [f"{verdict.measure}: {verdict.demand}" for verdict in measured], fontsize=8.5
    )
    axis.margins(x=0.14)
    lower, upper = axis.get_xlim()
    shown = [margin for margin in MARGINS_LABELLED if lower <= log10(margin) <= upper]
    axis.set_xticks([log10(margin) for margin in shown], [f"{margin:g} ×" for margin in shown])
    axis.set_xlabel("how far past the bound (right of 1 × is met)", fontsize=9)
    figure.suptitle("Musts", fontsize=13, fontweight="bold")
    _tidy(axis)
    return figure


def _margin(verdict: Verdict) -> float:
    """Return how many times better than its bound the demand was met, cut to what a plot can show."""
    if not verdict.bound:  # there is no "times better" than none
        return 1.0 if verdict.is_met else 1 / MOST_SHOWN
    reached = max(verdict.reached or 0.0, verdict.bound / MOST_SHOWN)
    margin = reached / verdict.bound if verdict.higher_is_better else verdict.bound / reached
    return min(max(margin, 1 / MOST_SHOWN), MOST_SHOWN)


def _label_decades(axis: Any) -> None:
    """Write a logarithmic axis in plain numbers, with ticks between the decades only where there are few."""
    lower, upper = sorted(axis.get_view_interval())
    steps = (1.0,) if upper / lower > 300 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _colour(name: str) -> str:
    if name == OURS:
        return OURS_COLOUR
    if name == BASELINE:
        return BASELINE_COLOUR
    return FLOOR_COLOUR if CONTENDERS[name].role is Role.FLOOR else PEER_COLOUR


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:g} {unit}"
        size /= 1024
    return f"{size:g} GiB"


def _tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)


def _caption(facts: Facts) -> str:
    kind = "QUICK RUN, NUMBERS MEAN NOTHING · " if facts.plan.is_quick else ""
    machine = facts.machine
    return (
        f"{kind}medians of {facts.plan.repetitions}, whiskers are extremes · {facts.plan.workers} workers · "
        f"{machine['processor']}, {machine['cores']} cores · {machine['python']} · {facts.began[:10]}"
    )


def _save(figure: Any, caption: str, path: Path) -> Path:
    figure.text(0.01, 0.005, caption, fontsize=7, color="#666666", ha="left", va="bottom")
    figure.tight_layout(rect=(0, CAPTION_INCHES / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=DOTS_PER_INCH)
    pyplot.close(figure)
    return path
