"""`python -m sweeper report [study.name=…] [constraint.…] [objective.…]`: the study as HTML and Markdown."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from sweeper.analysis.open import OpenStudy, open_study
from sweeper.analysis.studies import summary
from sweeper.report import write


def run(options: Sequence[str], flags: Namespace) -> int:
    """Write the report into the study's folder and attach it to the study's run in MLflow."""
    study = open_study(options)
    write(study)
    print(f"Study {study.record.name}: {study.folder.report_html} and {study.folder.report_markdown.name}")
    problem = _attached(study)
    if problem:
        print(problem, file=sys.stderr)
    return 0


def _attached(study: OpenStudy) -> str | None:
    """Give the report to MLflow, unless the study's own driver will do that when it ends."""
    if study.without_password() or summary(study).state == "running":
        return None
    return study.tracker().attach_report()
