"""The section that holds the paper's claims against this study."""

from __future__ import annotations

from sweeper.analysis.choice import Choice
from sweeper.analysis.claims import Claim, claims
from sweeper.analysis.cumulative import Way, ways
from sweeper.report.content import Section, Table
from sweeper.study.units import percent

NOT_HERE = "not in this study"


def paper(choice: Choice) -> Section:
    """Each claim that a study can test: what the paper says, what was measured here, the record's verdict."""
    records = [trial for cell in choice.cells for trial in cell.completed]
    found = {} if choice.best is None else {
        way.baseline: way for way in ways(choice.cells, choice.references, choice.best)
    }  # fmt: skip
    rows = []
    for claim in claims():
        if claim.baseline is not None:
            rows.append(_row(claim, _gain(choice, found.get(claim.baseline))))
        elif claim.is_measured:
            rows.append(_row(claim, _figure(claim, claim.measured(records))))
    lines = [
        "Measured are medians over the trials of this study. The verdict is that of the published record; "
        "`python -m sweeper paper` adds what is predicted."
    ]
    table = Table(("claim", "the paper", "this study", "verdict"), rows, frozenset(_ALL), "The claims")
    return Section("claims", "The paper's claims checked", lines, tables=[table], open=True)


_ALL = ("claim", "the paper", "this study", "verdict")


def _row(claim: Claim, measured: str | None) -> tuple[str, ...]:
    return claim.text, claim.in_a_study or claim.paper, measured or NOT_HERE, claim.verdict


def _figure(claim: Claim, value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f} B per parameter" if claim.unit == "GB" else f"{percent(1 + value)} time per step"


def _gain(choice: Choice, way: Way | None) -> str | None:
    """The best cell against the plain one that a way begins at."""
    if way is None or choice.best is None:
        return None
    plain, best = way.stages[0].cell.record, choice.best.record
    memory, less = plain.metric("peak_memory_bytes"), best.metric("peak_memory_bytes")
    speed, faster = plain.metric("tokens_per_s"), best.metric("tokens_per_s")
    if plain.number == best.number or not memory or not less:
        return None
    at = f" at {faster / speed:.2f}x the speed" if speed and faster is not None else ""
    return f"{memory / less:.2f}x less memory{at} (trial {best.number} against trial {plain.number})"
