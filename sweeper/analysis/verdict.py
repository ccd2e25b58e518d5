"""The verdict of a study on disk: `ranking.json` and `ranking.md`."""

from __future__ import annotations

from sweeper.analysis.choice import Judged
from sweeper.contract.json_files import write_json
from sweeper.ranking.table import to_markdown
from sweeper.study.folder import StudyFolder
from sweeper.study.records import StudyRecord, reproduction


def write_verdict(study: StudyRecord, folder: StudyFolder, judged: Judged) -> bool:
    """Write the verdict; whether it is another than the one that was there."""
    before = folder.ranking_json.read_bytes() if folder.ranking_json.exists() else None
    write_json(folder.ranking_json, judged.to_json())
    best = judged.ranking.best
    text = to_markdown(judged.ranking, f"Study {study.name}", reproduction(study, best) if best else None)
    folder.ranking_markdown.write_text(text, encoding="utf-8")
    return folder.ranking_json.read_bytes() != before
