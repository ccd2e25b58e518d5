"""`python -m sweeper sync [study.name=…] [tracking.uri=…]`: log to MLflow what it missed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.analysis.open import BROKEN, OpenStudy, asked_studies, describe_damage
from sweeper.analysis.studies import summary
from sweeper.study.folder import StudyIsBusyError
from sweeper.study.masking import mask

if TYPE_CHECKING:
    from sweeper.tracking.tracker import StudyState


def run(options: Sequence[str], flags: Namespace) -> int:
    """Bring every study that is meant up to date in its MLflow store."""
    broken: list[tuple[str, bool]] = []

    def hear_of_broken(name: str, error: Exception) -> None:
        broken.append((f"{name}: {describe_damage(error)}", False))

    studies = asked_studies(options, hear_of_broken)
    lines = [_synced(study) for study in studies] + broken
    for line, _ in lines:
        print(line)
    return 0 if all(done for _, done in lines) else 1


def _synced(study: OpenStudy) -> tuple[str, bool]:
    """What to say about a study, and whether MLflow holds all of it now."""
    name = study.record.name
    if refusal := study.without_password():
        return refusal, False
    try:
        with study.folder.locked():
            return _send(study)
    except StudyIsBusyError:
        return f"{name}: is running; its driver logs what is missing when it ends", True
    except BROKEN as error:
        return f"{name}: {describe_damage(error)}", False


def _send(study: OpenStudy) -> tuple[str, bool]:
    tracker, name = study.tracker(), study.record.name
    problem = tracker.sync()
    state: StudyState = "ended" if summary(study, running=False).state == "ended" else "interrupted"
    ranking = study.choice.ranking
    problem = problem or tracker.log_study(study.trials, state, ranking.best, ranking.left_out_sentence())
    if problem:
        return f"{name}: {problem}", False
    store = mask(study.tracking_uri)
    return f"{name}: {tracker.logged} trials are in {store}, {tracker.sent} of them new", True
