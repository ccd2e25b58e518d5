"""The best configuration of a study, run for real: chosen, trained, compared with its trial, published."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.analysis.cells import MeasuredCell
from sweeper.analysis.open import TAKEN, OpenStudy, open_study
from sweeper.config.cell import Cell, ConfigurationError
from sweeper.config.hydra import to_override
from sweeper.contract.config import Config
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.json_files import write_json
from sweeper.contract.stamps import digest
from sweeper.contract.trial import Outcome, Problem, TrialProgress, TrialSpec
from sweeper.launchers.ask import POLL_S
from sweeper.launchers.local import LocalLauncher, local_launcher
from sweeper.launchers.sight import see_machine
from sweeper.machine import machine
from sweeper.preflight.inputs import Identities
from sweeper.preflight.slots import await_slot
from sweeper.production.card import Origin
from sweeper.production.config import production_config
from sweeper.production.promise import Kept, compare
from sweeper.production.publish import Published, publish, use_store, write_papers
from sweeper.production.tracking import end_run, show_run
from sweeper.study.endings import explain_ending
from sweeper.study.folder import CACHE, StudyFolder
from sweeper.study.masking import mask, without_passwords
from sweeper.study.records import TrialRecord

RESULT_OPTIONS = ("epochs", "steps", "checkpoint_every_steps", "patience")
"""Options of `production` that change what is trained: with others, a finished run is the same run."""
TAIL_BYTES = 8192
"""End of the progress file that is looked at; holds some forty steps."""

Watch = Callable[[Sequence[TrialProgress]], None]
"""Is shown the last lines of the run's progress, again and again."""
Say = Callable[[str], None]
"""Is told what a person should know."""


@dataclass(frozen=True)
class Order:
    """What is to be run for real."""

    study: OpenStudy
    cell: MeasuredCell
    """The trial that it comes from, with its repeats."""
    config: Config
    command: str
    """Repeats the run."""

    @property
    def trial(self) -> TrialRecord:
        return self.cell.completed[0]


@dataclass(frozen=True)
class Produced:
    """How a production run stands."""

    order: Order
    folder: ProductionFolder
    record: TrialRecord
    was_finished: bool
    """Whether it had ended before and nothing was trained."""
    kept: tuple[Kept, ...] = ()
    published: Published = field(default_factory=Published)
    ending: str | None = None
    """How the training's process ended, where it left no result."""

    @property
    def is_complete(self) -> bool:
        return self.record.result is not None and self.record.result.outcome is Outcome.COMPLETED


class NothingToProduceError(Exception):
    """No trial can be run for real; the message says why."""


def take_order(arguments: Sequence[str]) -> Order:
    """Choose the trial and configure its production run.

    Raises ConfigurationError, NoStudyError, UnreadableFileError or NothingToProduceError.
    """
    study = open_study([item for item in arguments if item.startswith(TAKEN)])
    see_machine(local_launcher)
    if refusal := study.without_password():
        raise NothingToProduceError(refusal)
    wanted = _wanted_trial(arguments)
    cell = _cell(study, wanted)
    config = production_config(cell.completed[0].spec.config, arguments)
    said = [
        item
        for item in arguments
        if not item.startswith(("study.name=", "production.trial=", "production.fresh="))
    ]
    parts = [
        to_override("study.name", study.record.name),
        f"production.trial={cell.completed[0].number}",
        *said,
    ]
    command = mask(shlex.join(["python", "-m", "sweeper", "production", *parts, "production.fresh=true"]))
    return Order(study, cell, config, command)


def _wanted_trial(arguments: Sequence[str]) -> int | None:
    """`production.trial`, before there is a configuration that it belongs to."""
    values = [item.partition("=")[2] for item in arguments if item.startswith("production.trial=")]
    return int(values[-1]) if values and values[-1].isascii() and values[-1].isdigit() else None


def _cell(study: OpenStudy, wanted: int | None) -> MeasuredCell:
    if wanted is not None:
        found = [cell for cell in study.choice.cells if wanted in {trial.number for trial in cell.completed}]
        if not found:
            numbers = [str(trial.number) for cell in study.choice.cells for trial in cell.completed]
            out = [item.why for item in study.choice.ranking.left_out if item.record.number == wanted]
            more = f" that is not left out ({out[0]})" if out else ""
            rule = f"production.trial must be a completed trial{more}"
            remedy = f"take one of {', '.join(numbers)}"
            raise ConfigurationError([(Problem(rule, "production.trial", str(wanted), remedy), "")])
        return found[0]
    if study.choice.best is None:
        raise NothingToProduceError(
            f"no trial of study {study.record.name} satisfies its rule ({study.rule.sentence()}): relax it "
            "with constraint.…, or name a trial with production.trial=N"
        )
    return study.choice.best


def produce(order: Order, watch: Watch, say: Say = lambda line: None) -> Produced:
    """Do whatever is missing of the order. Raises StudyIsBusyError, ConfigurationError when model or data
    cannot be had, BusyDeviceError, and KeyboardInterrupt after ending the training."""
    study = order.study
    use_store(study.tracking_uri)
    with study.folder.locked(), _launcher(study.folder) as launcher:
        spec = _spec(order, launcher)
        folder = study.folder.production(spec.key)
        if _is_finished(folder) and order.config.production.fresh:
            _set_aside(folder)
        was_finished, ending = _is_finished(folder), None
        if not was_finished:
            slot = await_slot(order.config, machine(), say)
            _begin(folder, dataclasses.replace(spec, devices=slot.device))
            _tell(say, show_run(study, folder, spec))  # now: the store's first use would slow training down
            try:
                ending = _train(folder, launcher, watch)
            finally:
                _tell(say, end_run(study, folder))
        record = TrialRecord(folder.read_spec(), folder.read_result(), folder, folder.read_progress())
        produced = Produced(order, folder, record, was_finished, ending=ending)
        return _finish(produced, launcher) if produced.is_complete else produced


def _tell(say: Say, line: str | None) -> None:
    if line is not None:
        say(line)


def _spec(order: Order, launcher: LocalLauncher) -> TrialSpec:
    """The run's specification; its key is that of the trial's work and of how much of it is done."""
    cache_dir = order.study.folder.path.parent / CACHE
    identities, cell = Identities(launcher, cache_dir, machine()), Cell({}, order.config)
    key = identities.key(cell)
    amount = {name: getattr(order.config.production, name) for name in RESULT_OPTIONS}
    return TrialSpec(
        study=order.study.record.name,
        number=order.trial.number,
        key=digest([key, amount]),
        config=without_passwords(order.config.to_dict()),
        identity=identities.identity(cell),
        overrides=order.trial.spec.overrides,
        generation=order.trial.spec.generation,
        threads=order.config.trial.threads,
        cache_dir=str(cache_dir.absolute()),
        production=True,
    )


def _is_finished(folder: ProductionFolder) -> bool:
    result = folder.read_result()
    return result is not None and result.outcome is Outcome.COMPLETED


def _set_aside(folder: ProductionFolder) -> None:
    number = next(n for n in itertools.count(1) if not Path(f"{folder.path}.{n}").exists())
    os.rename(folder.path, f"{folder.path}.{number}")


def _begin(folder: ProductionFolder, spec: TrialSpec) -> None:
    """Make the folder, or take up the one that is there: a failed run goes on from its last checkpoint."""
    if not folder.spec.exists():
        folder.write_spec(spec)
    elif (before := folder.read_spec()).devices != spec.devices:
        write_json(folder.spec, dataclasses.asdict(dataclasses.replace(before, devices=spec.devices)))
    folder.result.unlink(missing_ok=True)
    folder.stop.unlink(missing_ok=True)


def _train(folder: ProductionFolder, launcher: LocalLauncher, watch: Watch) -> str | None:
    """Train to the end; how the process ended, where it left no result."""
    job = launcher.submit("trial", folder.path, folder.stdout, folder.stderr)
    try:
        while not job.done():
            launcher.wait(POLL_S)
            watch(last_lines(folder.progress))
    finally:
        job.kill()
    return None if folder.result.exists() else explain_ending(job.exit_code or 0, folder.stderr)[1]


def last_lines(path: Path) -> list[TrialProgress]:
    """The last whole lines of a progress file, however long it is."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(start)
        lines = file.read().rpartition(b"\n")[0].split(b"\n")
    whole = lines[1:] if start else lines
    return [TrialProgress.from_json(json.loads(line)) for line in whole if line]


def _finish(produced: Produced, launcher: LocalLauncher) -> Produced:
    order, record, folder = produced.order, produced.record, produced.folder
    trials = tuple(order.study.folder.read_trial(trial.number) for trial in order.cell.trials)
    kept = compare(dataclasses.replace(order.cell, trials=trials), record)
    production = order.config.production
    rule = order.study.rule.sentence()
    origin = Origin(order.study.record.name, order.trial, rule, order.command, production.licence)
    write_papers(folder, record, kept, origin)
    published = publish(order.study, folder, record, production, launcher)
    return dataclasses.replace(produced, kept=tuple(kept), published=published)


@contextmanager
def _launcher(folder: StudyFolder) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(folder.driver_log)
    launcher.start()
    try:
        yield launcher
    finally:
        launcher.close()
