"""The ranking as a table, for the screen and as Markdown."""

from __future__ import annotations

from sweeper.contract.trial import Outcome
from sweeper.ranking.ranking import RankedTrial, Ranking

HEADINGS = ("rank", "trial", "cell", "outcome", "tokens/s", "peak MiB", "eval loss", "note")


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
        number(record.metric("tokens_per_s"), "{:,.0f}"),
        number(record.metric("peak_memory_bytes"), "{:,.0f}", 2**20),
        number(record.metric("eval_loss"), "{:.4f}"),
        trial.remark or "; ".join(trial.violations) if completed else record.result.reason or "",
    )


def number(value: float | None, pattern: str, unit: float = 1) -> str:
    """A measurement as text, in units of `unit`; a dash when it is unknown."""
    return "–" if value is None else pattern.format(value / unit)


def to_markdown(ranking: Ranking, title: str, reproduce: str | None) -> str:
    """The ranking as a document: `ranking.md`."""
    lines = [f"# {title}", "", f"Rule: {ranking.rule.sentence()}.", ""]
    lines += _verdict(ranking, reproduce)
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for row in rows(ranking):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verdict(ranking: Ranking, reproduce: str | None) -> list[str]:
    if ranking.best is None:
        return ["No trial satisfies the rule.", ""]
    command = ["", f"    {reproduce}"] if reproduce else []
    return [f"Best: trial {ranking.best.number}, `{ranking.best.label}`.", *command, ""]
