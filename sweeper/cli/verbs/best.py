"""`python -m sweeper best [study.name=…] [constraint.…] [objective.…] [--json]`: the verdict, re-judged."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

from sweeper.analysis.choice import Choice, Rival, effect_sentence, reasons, to_json
from sweeper.analysis.open import OpenStudy, open_study
from sweeper.analysis.studies import summary
from sweeper.cli.display import print_json
from sweeper.contract.measurements import METRICS
from sweeper.study.records import reproduction
from sweeper.study.units import difference, percent


def run(options: Sequence[str], flags: Namespace) -> int:
    """Print the best combination, why it won and what each switch bought."""
    study = open_study(options)
    if flags.json:
        print_json(to_json(study.choice))
    else:
        print("\n".join(_lines(study)))
    return 0 if study.choice.best else 1


def _lines(study: OpenStudy) -> Iterator[str]:
    choice = study.choice
    more = f" (the latest of {study.others + 1}; take another with study.name=…)" if study.others else ""
    state = summary(study)
    yield f"Study {study.record.name}{more}: {state.state}, {state.progress()}"
    yield f"Rule: {choice.ranking.rule.sentence()}."
    if left_out := choice.ranking.left_out_sentence():
        yield f"{left_out}."
    yield ""
    if choice.best:
        yield f"Best: trial {choice.best.record.number}, {choice.best.label}"
    else:
        yield "Best: none"
    yield from (f"  {line}" for line in reasons(choice))
    if choice.best:
        yield from _rivals(choice)
        yield f"  Run it again: {reproduction(study.record, choice.best.record)}"
    yield from _effects(choice)


def _rivals(choice: Choice) -> Iterator[str]:
    near, following = choice.neighbour, choice.next_best
    if near and near.switch and choice.best:
        here, there = choice.best.settings[near.switch], near.cell.settings[near.switch]
        yield (
            f"  Runner-up in one switch: trial {near.cell.record.number}, {near.switch} {here} → {there}: "
            f"{_against(near)}"
        )
    if following and (near is None or following.cell is not near.cell):
        yield f"  Next: trial {following.cell.record.number}, {following.cell.label}: {_against(following)}"


def _against(rival: Rival) -> str:
    parts = []
    for metric, delta in rival.deltas.items():
        known = METRICS[metric]
        shown = f"{difference(metric, delta.mean)} {known.quantity.unit or known.heading}"
        parts.append(f"{shown} ({percent(delta.ratio)})" if known.quantity.is_rate else shown)
    return ", ".join(parts) + (", inside the noise" if rival.in_noise else "")


def _effects(choice: Choice) -> Iterator[str]:
    if not choice.effects:
        return
    yield ""
    yield "What each switch did, over pairs of cells that differ in nothing else:"
    for effect in choice.effects:
        lost = f"; {effect.lost} more no longer fit" if effect.lost else ""
        gained = f"; {effect.gained} more fit only so" if effect.gained else ""
        yield f"  {effect_sentence(effect)}{lost}{gained}"
