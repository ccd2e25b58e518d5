"""What stands in a report, section by section; each says something sensible of a study with nothing in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.analysis.choice import Choice, reasons
from sweeper.analysis.cumulative import Way, ways
from sweeper.analysis.export import flat
from sweeper.analysis.noise import interval
from sweeper.analysis.open import OpenStudy
from sweeper.analysis.ranked import RankedCell
from sweeper.analysis.studies import Summary, summary
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.contract.stamps import now
from sweeper.contract.trial import Outcome
from sweeper.ranking.pareto import pareto_front
from sweeper.report import figures
from sweeper.report.claims import paper
from sweeper.report.content import Figure, Report, Section, Table, Tile
from sweeper.report.curves import common_tokens, curve, thinned
from sweeper.report.effects import effects, interplay
from sweeper.report.facts import environment, failures
from sweeper.report.memory import memory
from sweeper.report.procedure import procedure
from sweeper.study.records import TrialRecord, reproduction
from sweeper.study.units import UNKNOWN, percent, text

MOST_SWITCH_COLUMNS = 6
"""With more switches the table names the cell in one column."""
MOST_CURVES = 6
"""Curves in colour; the others stand behind them in grey."""


def report(study: OpenStudy, running: bool | None = None) -> Report:
    """Everything that the page and the Markdown say of a study."""
    choice, state = study.choice, summary(study, running)
    best = choice.best
    sections = [
        _ranking(choice),
        _trade_off(choice),
        _cumulative(choice),
        procedure(study),
        effects(choice),
        interplay(choice),
        _losses(study),
        memory(choice),
        paper(choice),
        failures(study),
        environment(study),
    ]
    return Report(
        study=study.record.name,
        subtitle=_subtitle(state),
        headline=f"Trial {best.record.number} is best" if best else _no_headline(state),
        chips=list(best.settings.items()) if best else [],
        rule=f"{choice.ranking.rule.sentence()}.",
        tiles=_tiles(choice),
        reasons=reasons(choice),
        command=reproduction(study.record, best.record) if best else None,
        sections=[section for section in sections if section is not None],
        records=flat(study.trials, choice),
    )


def _no_headline(state: Summary) -> str:
    return "No trial satisfies the rule" if state.outcomes else "No trial has ended yet"


def _subtitle(state: Summary) -> str:
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in state.outcomes.items())
    parts = [state.progress(), counts, state.state, f"written {now()[:16].replace('T', ' ')} UTC"]
    return " · ".join(part for part in parts if part)


def _tiles(choice: Choice) -> list[Tile]:
    if choice.best is None:
        return []
    record = choice.best.record
    way = _arriving(choice)
    metrics = dict.fromkeys((choice.ranking.rule.metric, *MAIN_METRICS))
    return [_tile(choice, record, metric, way) for metric in metrics if record.metric(metric)]


def _tile(choice: Choice, record: TrialRecord, metric: str, way: Way | None) -> Tile:
    value, known = record.metric(metric), METRICS[metric]
    notes = []
    if metric == choice.ranking.rule.metric and choice.interval:
        notes.append(f"{text(metric, choice.interval.low)} to {text(metric, choice.interval.high)}")
    if way is not None and (before := way.stages[0].cell.record.metric(metric)) and value is not None:
        against = percent(value / before)
        notes.append(f"{'as' if against == '0%' else f'{against} against'} the {way.baseline} baseline")
    return Tile(text(metric, value), known.quantity.unit, known.label, notes)


def _arriving(choice: Choice) -> Way | None:
    """The first way from a baseline to the best cell that has a step in it."""
    if choice.best is None:
        return None
    found = ways(choice.cells, choice.references, choice.best)
    return next((way for way in found if way.arrives and len(way.stages) > 1), None)


def _ranking(choice: Choice) -> Section:
    trials = choice.ranking.trials
    if not trials:
        return Section("ranking", "Ranking", ["No trial has ended yet: this fills as trials end."])
    switches = list(choice.references)
    columns = tuple(switches) if 0 < len(switches) <= MOST_SWITCH_COLUMNS else ("cell",)
    first, *others = dict.fromkeys((choice.ranking.rule.metric, *MAIN_METRICS))
    headings = (
        "rank",
        "trial",
        *columns,
        METRICS[first].heading,
        "interval",
        *(METRICS[name].heading for name in others),
    )
    front = {record.number for record in pareto_front([trial.record for trial in trials])}
    rows = [_row(choice, trial, columns, others, front) for trial in trials]
    if any(row[-1] for row in rows):
        headings = (*headings, "note")
    else:
        rows = [row[:-1] for row in rows]
    table = Table(headings, rows, frozenset((*columns, "note")), "All cells", 0 if choice.best else None)
    explained = ["Eligible cells by the rule, then the others. ◆ marks the Pareto front of speed and memory."]
    if left_out := choice.ranking.left_out_sentence():
        explained.append(f"{left_out}: they may not be compared with these.")
    return Section("ranking", "Ranking", explained, tables=[table], open=True)


def _row(
    choice: Choice, trial: RankedCell, columns: Sequence[str], others: Sequence[str], front: set[int]
) -> tuple[str, ...]:
    record, cell = trial.record, trial.cell
    assert record.result is not None
    found = interval(cell, choice.ranking.rule.metric)
    metric = choice.ranking.rule.metric
    numbers = ", ".join(str(item.number) for item in (cell.completed or cell.trials))
    return (
        str(trial.rank or UNKNOWN),
        numbers + (" ◆" if record.number in front and cell.completed else ""),
        *([record.label] if columns[0] == "cell" else [cell.settings[key] for key in columns]),
        text(metric, record.metric(metric)),
        f"{text(metric, found.low)} to {text(metric, found.high)}" if found else UNKNOWN,
        *(text(name, record.metric(name)) for name in others),
        note(trial),
    )


def note(trial: RankedCell) -> str:
    """Why a cell is not eligible, or how it ended; of the best one, which others are as good."""
    result = trial.record.result
    assert result is not None
    if result.outcome is Outcome.COMPLETED:
        return trial.remark or "; ".join(trial.violations)
    return result.outcome.value.replace("_", " ")


def _trade_off(choice: Choice) -> Section:
    drawn = [trial.record for trial in choice.ranking.trials if trial.cell.completed]
    if not drawn:
        return Section(
            "trade-off", "Speed against memory", ["No cell completed, so there is nothing to compare."]
        )
    failed = [trial for trial in choice.ranking.trials if not trial.cell.completed]
    unseen = sum(figures.memory_at_failure(trial.record) is None for trial in failed)
    lines = ["Up and to the left is better. The dotted line joins the cells that no other beats in both."]
    if unseen:
        lines.append(f"{unseen} cells that did not finish have no known memory and are not drawn.")
    front = pareto_front(drawn)
    rows = [
        (str(record.number), record.label, *(text(name, record.metric(name)) for name in MAIN_METRICS))
        for record in front
    ]
    headings = ("trial", "cell", *(METRICS[name].heading for name in MAIN_METRICS))
    table = Table(headings, rows, frozenset({"cell"}), f"The Pareto front: {len(front)} cells")
    return Section("trade-off", "Speed against memory", lines, [figures.trade_off(choice)], [table])


def _cumulative(choice: Choice) -> Section | None:
    title = "What the methods add up to"
    if choice.best is None:
        return None
    found = ways(choice.cells, choice.references, choice.best)
    told = [way for way in found if len(way.stages) > 1]
    lines = [
        "From a baseline to the best cell, one switch at a time, through cells that were measured. "
        "Each step saves the most memory first; in another order the steps differ, the ends do not."
    ]
    missing = [name for name in ("fp32", "16-bit") if name not in {way.baseline for way in found}]
    if missing:
        lines.append(f"This study has no plain {' and no plain '.join(missing)} cell to compare with.")
    lines += [
        f"The best cell is itself the {way.baseline} baseline."
        for way in found
        if way.arrives and len(way.stages) == 1
    ]
    lines += [
        f"No measured way leads from the {way.baseline} baseline to the best cell."
        for way in found
        if not way.arrives and len(way.stages) == 1
    ]
    lines += [
        f"The way from the {way.baseline} baseline ends before the best cell: the next cell was not measured."
        for way in told
        if not way.arrives
    ]
    drawn = [figure for way in told for figure in _waterfalls(way)]
    return Section("cumulative", title, lines, drawn, [_way_table(way) for way in told])


def _waterfalls(way: Way) -> Iterator[Figure]:
    for metric in ("peak_memory_bytes", "tokens_per_s"):
        values = [value for stage in way.stages if (value := stage.cell.record.metric(metric)) is not None]
        if len(values) == len(way.stages):
            labels = [f"{way.baseline} baseline", *(stage.label for stage in way.stages[1:])]
            title = f"{METRICS[metric].label.capitalize()}, from the {way.baseline} baseline"
            yield figures.waterfall(f"waterfall-{way.baseline}-{metric}", title, labels, values, metric)


def _way_table(way: Way) -> Table:
    first = way.stages[0].cell.record
    rows = []
    for stage in way.stages:
        record = stage.cell.record
        row = [stage.label, str(record.number)]
        for metric in MAIN_METRICS:
            value, start = record.metric(metric), first.metric(metric)
            row += [text(metric, value), percent(value / start) if value is not None and start else UNKNOWN]
        rows.append(tuple(row))
    compared = [name for metric in MAIN_METRICS for name in (METRICS[metric].heading, "in all")]
    return Table(
        ("added", "trial", *compared), rows, frozenset({"added"}), f"From the {way.baseline} baseline"
    )


def _losses(study: OpenStudy) -> Section:
    title, choice = "Loss at equal tokens", study.choice
    progress = {trial.number: trial for trial in study.folder.read_trials(progress=True)}
    records = [progress[trial.record.number] for trial in choice.ranking.trials]
    curves = [found for record in records if (found := curve(record))]
    completed = {trial.record.number for trial in choice.ranking.trials if trial.cell.completed}
    finished = [item for item in curves if item.record.number in completed]
    if not curves:
        return Section("loss", title, ["No trial has logged a step."])
    common = common_tokens(finished)
    lines = ["Training loss of every step (line) and evaluation loss (diamonds) over tokens trained on."]
    if len(curves) > MOST_CURVES:
        lines.append(
            f"The {MOST_CURVES} best cells are in colour, the other {len(curves) - MOST_CURVES} in grey."
        )
    slim = thinned(curves)
    figure = figures.loss_curves(slim[:MOST_CURVES], slim[MOST_CURVES:])
    reached = f"train loss at {common:,} tokens" if common else "train loss"
    headings = ("trial", "cell", "tokens", reached, "eval loss before", "eval loss")
    rows = []
    for item in curves:
        record = item.record
        at_common = item.at(common) if common else None
        before, after = (text("eval_loss", record.metric(name)) for name in ("eval_loss_before", "eval_loss"))
        rows.append(
            (
                str(record.number),
                record.label,
                f"{item.tokens[-1]:,}",
                text("eval_loss", at_common),
                before,
                after,
            )
        )
    return Section("loss", title, lines, [figure], [Table(headings, rows, frozenset({"cell"}))])
