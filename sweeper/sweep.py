"""One run of a study, from the overrides of a command line to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.analysis.choice import judge
from sweeper.analysis.open import OpenStudy
from sweeper.analysis.verdict import write_verdict
from sweeper.config.cell import Cell, ConfigurationError
from sweeper.config.rules import check
from sweeper.contract.config import Config
from sweeper.contract.json_files import write_json
from sweeper.contract.stamps import now
from sweeper.contract.trial import Problem
from sweeper.launchers.base import Launcher
from sweeper.launchers.local import local_launcher
from sweeper.launchers.sight import see_machine
from sweeper.machine import device_memory_bytes, free_memory_bytes, machine
from sweeper.preflight.bill import bill_lines
from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.slots import Slot, make_slots
from sweeper.ranking.ranking import Ranking
from sweeper.ranking.rule import Rule
from sweeper.report import write as write_report
from sweeper.scheduler.board import Board, Listener
from sweeper.scheduler.budget import Budget
from sweeper.scheduler.ledger import OptunaStudy
from sweeper.scheduler.scheduler import Scheduler
from sweeper.space.expand import expand
from sweeper.space.space import Space
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Question
from sweeper.strategies.plan import count_cells
from sweeper.study.folder import CACHE, StudyFolder, find_root_problem
from sweeper.study.masking import mask, mask_all
from sweeper.study.records import StudyRecord, reproduction
from sweeper.tracking.address import check as check_tracking
from sweeper.tracking.address import default_uri, ui_command
from sweeper.tracking.preload import Preload
from sweeper.tracking.tracker import StudyState, Tracker

MOST_CELLS_REPORTED = 1000
"""After a larger study the report, which then takes seconds, is left to `python -m sweeper report`."""
MOST_PREDICTED = 64
"""Cells above which a sweep predicts each only when its turn comes."""


@dataclass(frozen=True)
class Verdict:
    """How a run of a study ended."""

    folder: StudyFolder
    ranking: Ranking
    reused: int
    """Trials that were found and not run again."""
    ran: int
    interrupted: bool
    ui_command: str | None
    """The command that starts MLflow's pages; None when a server shows them already."""
    url: str | None
    """Where the study is to be seen in MLflow; None when the store did not answer."""
    reproduce: str | None
    """The command that runs the best trial again."""
    left: str | None = None
    """Why the study ended although cells are left."""


Listening = Callable[[], AbstractContextManager[Listener]]
Launching = Callable[[], AbstractContextManager[Launcher]]


def sweep(
    arguments: Sequence[str],
    config_name: str,
    command: str,
    listening: Listening,
    launching: Launching = local_launcher,
    flags: Sequence[str] = (),
    refused: Sequence[Problem] = (),
) -> Verdict:
    """Run whatever is missing of the study that the arguments ask for.

    `flags`: Hydra's, which say where options lie; `refused`: mistakes in them. Needs an initialised Hydra.
    Raises ConfigurationError (nothing was written), StudyIsBusyError, BusyDeviceError, or StorageError.
    """
    see_machine(launching)
    space, slots = _checked(arguments, config_name, launching, refused)
    root = Path(space.config.study.root)
    folder = StudyFolder(root / (space.config.study.name or space.name))
    with launching() as launcher, closing(Preload(_tracking_uri(space.config))) as preload:
        identities = Identities(launcher, root / CACHE, machine())
        identities.look(space.cells)
        memory = MemoryScreen(launcher, root / CACHE, device_memory_bytes(), free_memory_bytes())
        for cell in space.cells:
            memory.sized(cell)  # a mistake, where that cannot be done
        preload.wait()
        with folder.locked():
            identities.note([slots[0].fitted(cell) for cell in space.cells])
            study = _study_record(space, folder, command, flags, identities.identities)
            identities.on_new = lambda: folder.write_study(study)
            run = Run(study, folder, space, slots, launcher, identities, memory, preload)
            return run.carry_out(listening)


def _checked(
    arguments: Sequence[str], config_name: str, launching: Launching, refused: Sequence[Problem]
) -> tuple[Space, list[Slot]]:
    """The space and the slots; when anything is wrong with them, everything that is."""
    known = [(item, "") for item in refused]
    try:
        space = expand(arguments, config_name, machine())
    except ConfigurationError as error:
        raise _completed(ConfigurationError([*known, *error.problems], error.cells), launching) from None
    slots, too_many = make_slots(space.config, machine())
    found = (_store_problem(space.config), too_many)
    problems = [*known, *((item, "") for item in found if item is not None)]
    if problems:
        raise _completed(ConfigurationError(problems, space.cells), launching)
    return space, slots


def _completed(error: ConfigurationError, launching: Launching) -> ConfigurationError:
    """The same error with what a look at models, data and tracking adds to it."""
    known = {(problem.key, problem.value) for problem, _ in error.problems}
    problems = list(error.problems)
    if error.cells and (store := _store_problem(error.cells[0].config)):
        problems.append((store, ""))
    sound = [cell for cell in error.cells if _has_sound_inputs(cell)]
    if sound and not find_root_problem(sound[0].config.study.root):
        with launching() as launcher:
            try:
                Identities(launcher, Path(sound[0].config.study.root) / CACHE, machine()).look(sound)
            except ConfigurationError as more:
                problems += [item for item in more.problems if (item[0].key, item[0].value) not in known]
    return ConfigurationError(list(dict.fromkeys(problems)))


def _has_sound_inputs(cell: Cell) -> bool:
    broken = {problem.key.partition(".")[0] for problem in check(cell.config, machine())}
    return not broken & {"model", "data"}


def _store_problem(config: Config) -> Problem | None:
    """Why the study's folder or its store in MLflow cannot be written."""
    uri = _tracking_uri(config)
    if problem := find_root_problem(config.study.root):
        return problem
    refusal = check_tracking(uri)
    return None if refusal is None else Problem(refusal, "tracking.uri", mask(uri), "")


def _tracking_uri(config: Config) -> str:
    return config.tracking.uri or default_uri(Path(config.study.root))


def _study_record(
    space: Space,
    folder: StudyFolder,
    command: str,
    flags: Sequence[str],
    identities: list[dict[str, Any]],
) -> StudyRecord:
    """What is asked for now, in the generation that it belongs to; written to `study.json`."""
    before = folder.read_study()
    generation = before.generation if before else 1
    if before and space.config.study.fresh:
        generation += 1
    study = StudyRecord(
        name=folder.path.name,
        created_at=before.created_at if before else now(),
        command=mask(command),
        overrides=tuple(mask(item) for item in space.fixed),
        swept=space.swept,
        config=mask_all(space.base),
        generation=generation,
        sweeper_version=__version__,
        identities=identities,
        cells=count_cells(space),
        flags=tuple(flags),
        touched=space.touched,
    )
    folder.write_study(study)
    return study


@dataclass
class Run:
    """One run of a study that was found sound."""

    study: StudyRecord
    folder: StudyFolder
    space: Space
    slots: list[Slot]
    launcher: Launcher
    identities: Identities
    memory: MemoryScreen
    preload: Preload

    def carry_out(self, listening: Listening) -> Verdict:
        """Run what is missing, then say which trial is best."""
        config = self.space.config
        tracker = Tracker(
            _tracking_uri(config),
            config.tracking.experiment or self.study.name,
            self.folder,
            self.study,
            preload=self.preload,
        )
        with listening() as listener:
            scheduler = self._scheduler(listener, tracker)
            scheduler.settle()
            self._show_bill(scheduler)
            reused = scheduler.board.done
            if reused:
                listener(scheduler.board, f"{reused} cells were measured before and are not run again")
            interrupted = self._play(scheduler, tracker)
            ranking, is_new = _conclude(self.study, self.folder, config, scheduler)
            problem = _log(tracker, self.folder, ranking, interrupted, is_new)
            if problem:
                listener(scheduler.board, problem)
        return self._verdict(scheduler, tracker, ranking, interrupted)

    def _show_bill(self, scheduler: Scheduler) -> None:
        """What the cells that are left will take, predicted before a first trial could be disturbed by it."""
        if scheduler.is_over():
            return
        is_known = self.space.strategy == "grid" and self.space.config.fidelity == "train"
        left = scheduler.missing() if is_known else []
        if not is_known or len(left) > MOST_PREDICTED:
            count = len(left) if is_known else self.study.cells
            cells = "" if count is None else f"{count} cells: "
            scheduler.say(f"{cells}memory and time are predicted as each one's turn comes")
            return
        for line in bill_lines(left, self.memory, self._cache_dir):
            scheduler.say(line)

    @property
    def _cache_dir(self) -> Path:
        return Path(self.space.config.study.root) / CACHE

    def _scheduler(self, listener: Listener, tracker: Tracker) -> Scheduler:
        space, config = self.space, self.space.config
        board = Board(None if config.repeats.finalists else self.study.cells, len(self.slots))
        question = Question(space, lambda line: listener(board, line))
        return Scheduler(
            study=self.study,
            folder=self.folder,
            space=space,
            asking=Asking(question),
            identities=self.identities,
            slots=self.slots,
            launcher=self.launcher,
            optuna=OptunaStudy(
                self.study.name,
                config.study.storage or f"sqlite:///{self.folder.optuna.absolute()}",
                Rule.of(config.objective, config.constraint),
            ),
            tracker=tracker,
            board=board,
            listener=listener,
            cache_dir=self._cache_dir,
            budget=Budget(config.budget),
            screens=[self.memory.verdict],
            memory=self.memory,
        )

    def _play(self, scheduler: Scheduler, tracker: Tracker) -> bool:
        """Whether it was interrupted."""
        if not scheduler.is_over():  # now, since the store's first use would slow down a trial beside it
            scheduler.say(tracker.log_study([], "running"))
        try:
            scheduler.run()
        except KeyboardInterrupt:
            return True
        return False

    def _verdict(
        self, scheduler: Scheduler, tracker: Tracker, ranking: Ranking, interrupted: bool
    ) -> Verdict:
        return Verdict(
            folder=self.folder,
            ranking=ranking,
            reused=scheduler.board.reused,
            ran=scheduler.board.ran,
            interrupted=interrupted,
            ui_command=ui_command(_tracking_uri(self.space.config)),
            url=tracker.url(),
            reproduce=reproduction(self.study, ranking.best) if ranking.best else None,
            left=scheduler.left,
        )


def _conclude(
    study: StudyRecord, folder: StudyFolder, config: Config, scheduler: Scheduler
) -> tuple[Ranking, bool]:
    """Judge the study as `best` does, and write the verdict down; whether it is another than before."""
    opened = OpenStudy(folder, study, config)
    is_small = len(scheduler.board.cells) <= MOST_CELLS_REPORTED
    judged = opened.judged if is_small else judge(study, folder.read_trials(), opened.rule)
    is_new = write_verdict(study, folder, judged)
    if scheduler.asking.question.decisions:
        write_json(folder.decisions, scheduler.asking.question.decisions)
    if is_small:
        write_report(opened, running=False)
    return judged.ranking, is_new


def _log(
    tracker: Tracker, folder: StudyFolder, ranking: Ranking, interrupted: bool, is_new: bool
) -> str | None:
    """Bring MLflow up to date; `is_new`: the verdict is another than before."""
    if tracker.is_complete() and not is_new:
        return None
    problem = tracker.sync()
    records = folder.read_trials()
    state: StudyState = "interrupted" if interrupted else "ended"
    return problem or tracker.log_study(records, state, ranking.best, ranking.left_out_sentence())
