"""The sections on switches: what each did alone, and what they do to each other."""

from __future__ import annotations

from sweeper.analysis.choice import Choice
from sweeper.analysis.effects import Effect
from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.report.changes import effect_bars, interaction_map
from sweeper.report.content import Section, Table
from sweeper.study.units import UNKNOWN, change_text

MAIN_HEADINGS = tuple(METRICS[metric].heading for metric in MAIN_METRICS)
MOST_BARS = 24
"""Changes that are drawn; the table has all."""


def effects(choice: Choice) -> Section:
    """Main effects, from pairs of cells that differ in one switch."""
    title = "What each switch did"
    found = [effect for effect in choice.effects if effect.pairs]
    if not found:
        return Section("effects", title, ["No two completed cells differ in a single switch."])
    lines = [
        "Over all pairs of completed cells that differ in nothing else: the median ratio for throughput, "
        "the mean difference for memory and loss. Blue is better, orange worse. Lost are pairs of which only "
        "the cell before completed in its memory and time, gained those of which only the cell after did.",
    ]
    cut = found[:MOST_BARS]
    drawn = [effect_bars(cut, metric) for metric in MAIN_METRICS]
    headings = ("switch", "from", "to", *MAIN_HEADINGS, "pairs", "lost", "gained")
    table = Table(headings, [_row(effect) for effect in choice.effects], frozenset({"switch", "from", "to"}))
    return Section("effects", title, lines, [figure for figure in drawn if any(figure.data[0]["x"])], [table])


def _row(effect: Effect) -> tuple[str, ...]:
    return (
        effect.switch,
        effect.before,
        effect.after,
        *(_delta(metric, effect) for metric in MAIN_METRICS),
        str(effect.pairs),
        str(effect.lost or UNKNOWN),
        str(effect.gained or UNKNOWN),
    )


def _delta(metric: str, effect: Effect) -> str:
    delta = effect.deltas.get(metric)
    return change_text(metric, delta.mean, delta.ratio) if delta else UNKNOWN


def interplay(choice: Choice) -> Section | None:
    """Pairwise interactions; left out when no four cells show one."""
    found = choice.interactions
    if not found:
        return None
    lines = [
        "How far two changes together lie from what each does alone. Throughput: percent on the product of "
        "both ratios. Memory: MiB on the sum of both differences. 0 means that they do not touch each other."
    ]
    drawn = [interaction_map(found, metric) for metric in ("tokens_per_s", "peak_memory_bytes")]
    headings = ("first", "second", *MAIN_HEADINGS, "squares")
    rows = [
        (
            " ".join((item.first[0], item.first[1], "→", item.first[2])),
            " ".join((item.second[0], item.second[1], "→", item.second[2])),
            *(
                change_text(metric, item.excess.get(metric), item.excess.get(metric))
                for metric in MAIN_METRICS
            ),
            str(item.squares),
        )
        for item in found
    ]
    table = Table(headings, rows, frozenset({"first", "second"}))
    return Section("interactions", "How switches act together", lines, drawn, [table])
