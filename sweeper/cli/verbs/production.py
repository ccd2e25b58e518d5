"""`python -m sweeper production [study.name=…] [KEY=VALUE …]`: the best configuration, run for real."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

from sweeper.cli.signals import INTERRUPTED
from sweeper.contract.trial import Outcome
from sweeper.production.promise import Kept
from sweeper.production.run import Order, Produced, produce, take_order
from sweeper.study.records import TrialRecord
from sweeper.study.units import phrase


def run(options: Sequence[str], flags: Namespace) -> int:
    """Train, compare, publish; or go on where the same command stopped."""
    from sweeper.cli.display import console, watching

    try:
        order = take_order(options)
        print("\n".join(_announcement(order)))
        with watching(console()) as watch:
            produced = produce(order, watch, print)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from the last checkpoint.")
        return INTERRUPTED
    print("\n".join(_report(produced)))
    return 0 if produced.is_complete and not produced.published.problems else 1


def _announcement(order: Order) -> Iterator[str]:
    yield f"Study {order.study.record.name}: {order.study.rule.sentence()}."
    yield f"Running trial {order.trial.number} for real: {order.trial.label}"


def _report(produced: Produced) -> Iterator[str]:
    record, folder = produced.record, produced.folder
    if record.result is None:
        yield f"{produced.ending}."
        yield "The same command goes on from the last checkpoint."
        return
    if produced.was_finished:
        yield "It had been trained before and is not trained again."
    if record.result.outcome is not Outcome.COMPLETED:
        yield f"{record.result.outcome.value}: {record.result.reason}"
        yield f"Log: {folder.stderr}"
        return
    before, after = _loss(record, "eval_loss_before"), _loss(record, "eval_loss")
    kept = f"the weights of step {record.result.active['best_step']} are kept"
    yield f"Trained {record.metric('steps')} steps: evaluation loss {before} before, {after} after; {kept}."
    if record.result.reason:
        yield record.result.reason[0].upper() + record.result.reason[1:] + "."
    yield from map(_kept, produced.kept)
    yield from (f"Warning: {problem}" for problem in produced.published.problems)
    yield f"Model:       {folder.model}"
    if folder.merged.exists():
        yield f"Merged:      {folder.merged}"
    if produced.published.model_uri:
        yield f"Registered:  {produced.published.model_uri}"
    yield f"Repeat:      {produced.order.command}"


def _loss(record: TrialRecord, name: str) -> str:
    return phrase(name, record.metric(name))


def _kept(kept: Kept) -> str:
    name = kept.metric.replace("_", " ")
    figures = (
        f"{name}: {phrase(kept.metric, kept.promised)} in the trial, {phrase(kept.metric, kept.kept)} now"
    )
    if not kept.is_outside:
        return f"{figures}, within the noise"
    return f"Warning: {figures}, outside the noise ({kept.note})"
