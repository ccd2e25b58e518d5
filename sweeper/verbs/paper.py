"""`python -m sweeper paper [STUDIES_ROOT]`: the paper's figures, predicted and measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def run(arguments: Sequence[str]) -> int:
    """Print every claim; trials below the root (default `studies`) give the measured figures. 1 when one
    cannot be predicted."""
    from sweeper.fitting import check_paper
    from sweeper.paper_claims import claims
    from sweeper.records import StudyFolder

    root = Path(arguments[0] if arguments else "studies")
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


def value(number: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "share":
        return f"{number:.0%}"
    if unit == "x":
        return f"{number:.2f}x"
    return f"{number:.2f} {unit}"
