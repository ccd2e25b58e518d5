"""`python -m sweeper paper [STUDIES_ROOT]`: the paper's figures, predicted and measured."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from sweeper.analysis.claims import claims, configurations
from sweeper.config.cell import ConfigurationError
from sweeper.contract.prediction import MemoryPrediction
from sweeper.contract.trial import Problem
from sweeper.launchers.local import local_launcher
from sweeper.preflight.prediction import predictions
from sweeper.study.folder import CACHE, StudyFolder


def run(words: Sequence[str], flags: Namespace) -> int:
    """Print every claim; trials below the root (default `studies`) give the measured figures. 1 when one
    cannot be predicted. Raises ConfigurationError for a root that is not there."""
    root = _find_root(words)
    folders = [StudyFolder(path) for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    records = [record for folder in folders for record in folder.read_trials() if record.result]
    try:
        found = check_paper(root)
    except RuntimeError as error:
        print(f"The paper's figures could not be predicted: {error}", file=sys.stderr)
        return 1
    for claim in claims():
        measured = claim.measured(records)
        figure = value(claim.predicted(found), claim.unit)
        line = f"{claim.text}: paper {claim.paper}, predicted {figure}"
        if measured is not None:
            line += f", measured {value(measured, 'B/param' if claim.unit == 'GB' else claim.unit)}"
        print(f"{line}\n    {claim.verdict}")
    return 0


def _find_root(words: Sequence[str]) -> Path:
    root = Path(words[0] if words else "studies")
    rule = "ROOT must be one folder that holds studies"
    if len(words) > 1 or (words and not root.is_dir()):
        problem = Problem(rule, "ROOT", " ".join(words), "give a folder, or leave it out for studies")
        raise ConfigurationError([(problem, "")])
    return root


def value(number: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "share":
        return f"{number:.0%}"
    if unit == "x":
        return f"{number:.2f}x"
    return f"{number:.2f} {unit}"


def check_paper(root: Path) -> dict[str, MemoryPrediction]:
    """The prediction of each configuration that the paper's claims are about. Raises RuntimeError when one
    cannot be made."""
    configs = configurations()
    with local_launcher() as launcher:
        answers = predictions(list(configs.values()), root / CACHE, launcher)
    found = {}
    for name, answer in zip(configs, answers, strict=True):
        if not isinstance(answer, MemoryPrediction):
            raise RuntimeError(f"{name}: {answer.reason}")
        found[name] = answer
    return found
