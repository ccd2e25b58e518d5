"""The report of a study: one HTML page that needs nothing else, and the same as Markdown.

`sections` says what stands in it, `figures` draws (plain dictionaries in Plotly's words), `page` and
`markdown` write. Every figure has its table, so nothing is told by a picture alone.
"""

from __future__ import annotations

from sweeper.analysis.open import OpenStudy
from sweeper.report.markdown import to_markdown
from sweeper.report.page import to_html
from sweeper.report.sections import report


def write(study: OpenStudy, running: bool | None = None) -> None:
    """Write `report.html` and `report.md` into the study's folder; `running` as in `summary`."""
    content = report(study, running)
    study.folder.report_html.write_text(to_html(content), encoding="utf-8")
    study.folder.report_markdown.write_text(to_markdown(content), encoding="utf-8")


__all__ = ["write"]
