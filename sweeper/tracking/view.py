"""The view of a study that MLflow's pages open with: trials sorted by the objective that ranks, the swept
values, what the rule looks at and the main metrics as columns, the main charts first.

Without it MLflow shows one collapsed row and no metric, and its charts leave out collapsed runs. The
view is what the button "Share view" stores: JSON in a tag of the experiment. A version of MLflow that
does not know it shows its usual page.
"""

from __future__ import annotations

import json
from typing import Any

from sweeper.contract.measurements import MAIN_METRICS, METRICS
from sweeper.ranking.rule import Rule
from sweeper.study.masking import mask
from sweeper.study.records import StudyRecord
from sweeper.tracking.address import is_server
from sweeper.tracking.entries import param_name

_LOCAL_ADDRESS = "http://127.0.0.1:5000"  # where `mlflow ui` listens by default


def view_tag(study_id: str, generation: int) -> str:
    """Name of the experiment tag that holds the view."""
    return f"mlflow.sharedViewState.{_key(study_id, generation)}"


def view(study: StudyRecord, run_filter: str) -> str:
    """The view as JSON. `run_filter` picks the study's runs, in MLflow's search language."""
    rule = Rule.recorded(study.config)
    asked = [*(item.metric for item in rule.objectives), *(item.metric for item in rule.constraints)]
    shown = dict.fromkeys(METRICS[metric].tracked_name for metric in (*asked, *MAIN_METRICS))
    state = {
        "searchFilter": run_filter,
        "orderByKey": f"metrics.`{METRICS[rule.metric].tracked_name}`",
        "orderByAsc": not rule.objective.maximize,
        "selectedColumns": [
            *(f"params.`{param_name(key)}`" for key in study.swept),
            *(f"metrics.`{name}`" for name in shown),
            "tags.`outcome`",
        ],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True}
            for name in ("Comparison", "curve", "Model metrics")
        ],
        "compareRunCharts": _charts(),
        "isAccordionReordered": True,
    }
    return json.dumps(state)


def view_url(uri: str, experiment_id: str, study_id: str, generation: int) -> str:
    """Address of the view: on the tracking server, or where `mlflow ui` will listen."""
    base = mask(uri).rstrip("/") if is_server(uri) else _LOCAL_ADDRESS
    key = _key(study_id, generation)
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def _key(study_id: str, generation: int) -> str:
    return f"sweeper-{study_id}-{generation}"


def _charts() -> list[dict[str, Any]]:
    speed, memory, loss = (METRICS[metric].tracked_name for metric in MAIN_METRICS)
    bars = [_chart("BAR", name, metricKey=name, isGenerated=True) for name in (speed, memory, loss)]
    trade_offs = [
        _chart(
            "SCATTER", f"{up} against {across}", xaxis=_axis(across), yaxis=_axis(up), runsCountToCompare=100
        )
        for across, up in ((memory, speed), (memory, loss))
    ]
    return bars + trade_offs


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {
        "uuid": name,
        "displayName": name,
        "type": kind,
        "metricSectionId": "Comparison",
        "deleted": False,
    }
    return {"runsCountToCompare": 10, "isGenerated": False, **common, **settings}


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}
