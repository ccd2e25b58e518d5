"""One run of a study, from the overrides of a command line to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.analysis.choice import judge
from sweeper.analysis.open import OpenStudy, study_folders
from sweeper.analysis.verdict import write_verdict
from sweeper.contract.config import Config
from sweeper.contract.json_files import UnreadableFileError, write_json
from sweeper.contract.stamps import now
from sweeper.contract.study_config import StudyConfig
from sweeper.contract.trial import Problem
from sweeper.launchers.base import Launcher
from sweeper.launchers.local import local_launcher
from sweeper.launchers.sight import see_machine
from sweeper.machine import device_memory_bytes, free_memory_bytes, machine
from sweeper.preflight.bill import bill_lines
from sweeper.preflight.checks import check_command, tracking_uri
from sweeper.preflight.inputs import Identities
from sweeper.preflight.memory import MemoryScreen
from sweeper.preflight.slots import Slot
from sweeper.ranking.ranking import Ranking
from sweeper.report import write as write_report
from sweeper.scheduler.board import Board, Listener
from sweeper.scheduler.observers import gather_observers
from sweeper.scheduler.scheduler import Scheduler
from sweeper.scheduler.specs import Specs
from sweeper.space.space import Space
from sweeper.strategies.asking import Asking
from sweeper.strategies.base import Question
from sweeper.strategies.plan import count_cells
from sweeper.study.folder import CACHE, StudyFolder
from sweeper.study.masking import mask, mask_all
from sweeper.study.records import StudyRecord, reproduction
from sweeper.tracking.address import ui_command
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
Say = Callable[[str | None], None]
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
    with launching() as launcher:
        has_work = not _is_probably_over(arguments, command)
        if has_work:
            launcher.start()
        see_machine(lambda: nullcontext(launcher))
        space, slots = check_command(arguments, config_name, launcher, refused)
        with closing(Preload(tracking_uri(space.config))) as preload:
            if has_work:
                preload.start()
            begin = partial(_begin_study, space, command, flags)
            return _prepare_and_run(space, slots, begin, listening, launcher, preload)


def _prepare_and_run(
    space: Space,
    slots: list[Slot],
    begin: Callable[[StudyFolder, list[dict[str, Any]]], StudyRecord],
    listening: Listening,
    launcher: Launcher,
    preload: Preload,
) -> Verdict:
    """Look at models and data; then the study is this driver's until it has ended."""
    root = Path(space.config.study.root)
    folder = StudyFolder(root / (space.config.study.name or space.name))
    identities = Identities(launcher, root / CACHE, machine())
    identities.look(space.cells)
    memory = MemoryScreen(launcher, root / CACHE, device_memory_bytes(), free_memory_bytes())
    for cell in space.cells:
        memory.sized(cell)  # a mistake, where that cannot be done
    with folder.locked():
        identities.note([slots[0].fitted(cell) for cell in space.cells])
        study = begin(folder, identities.identities)
        identities.on_new = lambda: folder.write_study(study)
        run = Run(study, folder, space, slots, launcher, identities, memory, preload)
        return run.carry_out(listening)


def _is_probably_over(arguments: Sequence[str], command: str) -> bool:
    """Whether this very command has ended before and left nothing to do, by the records of the studies. A
    guess, before anything is composed: it decides only what is begun early."""
    roots = [item.partition("=")[2] for item in arguments if item.startswith("study.root=")]
    root = Path(roots[-1] if roots else StudyConfig().root)
    with suppress(OSError, UnreadableFileError):
        for folder in study_folders(root):
            study = folder.read_study()
            if study and study.command == mask(command) and not study.config["study"]["fresh"]:
                ended = sum(1 for _ in folder.trials.glob("*/result.json"))
                return folder.ranking_json.exists() and ended >= (study.cells or 0)
    return False


def _begin_study(
    space: Space, command: str, flags: Sequence[str], folder: StudyFolder, identities: list[dict[str, Any]]
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
            tracking_uri(config),
            config.tracking.experiment or self.study.name,
            self.folder,
            self.study,
            preload=self.preload,
        )
        with listening() as listener:
            board = Board(None if config.repeats.finalists else self.study.cells, len(self.slots))
            say = partial(listener, board)
            scheduler = self._scheduler(tracker, board, say)
            scheduler.settle()
            self._show_bill(scheduler, say)
            if board.done:
                say(f"{board.done} cells were measured before and are not run again")
            interrupted = self._play(scheduler, tracker, say)
            ranking, is_new = _conclude(self.study, self.folder, config, scheduler)
            problem = _log(tracker, self.folder, ranking, interrupted, is_new)
            if problem:
                say(problem)
        return self._verdict(scheduler, tracker, ranking, interrupted)

    def _show_bill(self, scheduler: Scheduler, say: Say) -> None:
        """What the cells that are left will take, predicted before a first trial could be disturbed by it."""
        if scheduler.is_over():
            return
        is_known = self.space.strategy == "grid" and self.space.config.fidelity == "train"
        left = scheduler.missing() if is_known else []
        if not is_known or len(left) > MOST_PREDICTED:
            count = len(left) if is_known else self.study.cells
            cells = "" if count is None else f"{count} cells: "
            say(f"{cells}memory and time are predicted as each one's turn comes")
            return
        for line in bill_lines(left, self.memory, self._cache_dir):
            say(line)

    @property
    def _cache_dir(self) -> Path:
        return Path(self.space.config.study.root) / CACHE

    def _scheduler(self, tracker: Tracker, board: Board, say: Say) -> Scheduler:
        specs = Specs(self.study, self.identities, self.memory, self.slots[0], self._cache_dir)
        before_opening = self.preload.finish  # alembic, which makes the tables of both, serves one at a time
        observers = gather_observers(
            self.study, self.folder, self.space, self.memory, tracker, board, say, before_opening
        )
        screens = (
            self.identities.verdict,
            self.memory.refusal,
            observers.dominance.verdict,
            self.memory.verdict,
        )
        return Scheduler(
            study=self.study,
            folder=self.folder,
            space=self.space,
            asking=Asking(Question(self.space, say)),
            specs=specs,
            slots=self.slots,
            launcher=self.launcher,
            observers=observers,
            show=say,
            screens=screens,
        )

    def _play(self, scheduler: Scheduler, tracker: Tracker, say: Say) -> bool:
        """Whether it was interrupted."""
        if not scheduler.is_over():  # now, since the store's first use would slow down a trial beside it
            say(tracker.log_study([], "running"))
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
            reused=scheduler.observers.board.reused,
            ran=scheduler.observers.board.ran,
            interrupted=interrupted,
            ui_command=ui_command(tracking_uri(self.space.config)),
            url=tracker.url(),
            reproduce=reproduction(self.study, ranking.best) if ranking.best else None,
            left=scheduler.left,
        )


def _conclude(
    study: StudyRecord, folder: StudyFolder, config: Config, scheduler: Scheduler
) -> tuple[Ranking, bool]:
    """Judge the study as `best` does, and write the verdict down; whether it is another than before."""
    opened = OpenStudy(folder, study, config)
    is_small = len(scheduler.observers.board.cells) <= MOST_CELLS_REPORTED
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
