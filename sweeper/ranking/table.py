"""The ranking as a table, for the screen and as Markdown."""

from __future__ import annotations

from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.contract.trial import Outcome
from sweeper.ranking.ranking import RankedTrial, Ranking
from sweeper.study.records import TrialRecord
from sweeper.study.units import short_text
from sweeper.study.writing import markdown_table

MAIN_HEADINGS = tuple(METRICS[metric].heading for metric in MAIN_METRICS)
HEADINGS = ("rank", "trial", "cell", "outcome", *MAIN_HEADINGS, "note")


def rows(ranking: Ranking) -> list[tuple[str, ...]]:
    """The ranking as text cells under `HEADINGS`; an unknown value is a dash."""
    return [_cells(trial) for trial in ranking.trials]


def _cells(trial: RankedTrial) -> tuple[str, ...]:
    record = trial.record
    assert record.result is not None
    completed = record.result.outcome is Outcome.COMPLETED
    return (
        str(trial.rank or "–"),
        str(record.number),
        record.label,
        record.result.outcome.value,
        *main_figures(record),
        trial.remark or "; ".join(trial.violations) if completed else record.result.reason or "",
    )


def main_figures(record: TrialRecord) -> tuple[str, ...]:
    """Speed, memory and quality of a trial, under `MAIN_HEADINGS`; an unknown value is a dash."""
    return tuple(short_text(metric, record.metric(metric)) for metric in MAIN_METRICS)


def to_markdown(ranking: Ranking, title: str, reproduce: str | None) -> str:
    """The ranking as a document: `ranking.md`."""
    lines = [f"# {title}", "", f"Rule: {ranking.rule.sentence()}.", ""]
    if left_out := ranking.left_out_sentence():
        lines += [f"{left_out}.", ""]
    lines += _verdict(ranking, reproduce)
    return "\n".join([*lines, *markdown_table(HEADINGS, rows(ranking))]) + "\n"


def _verdict(ranking: Ranking, reproduce: str | None) -> list[str]:
    if ranking.best is None:
        return ["No trial satisfies the rule.", ""]
    command = ["", f"    {reproduce}"] if reproduce else []
    return [f"Best: trial {ranking.best.number}, `{ranking.best.label}`.", *command, ""]
