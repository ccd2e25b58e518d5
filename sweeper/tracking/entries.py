"""What MLflow is told about a trial or a study: params, metrics, curves, tags and artifacts.

Pure functions from records to plain values; `tracker.py` sends them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from sweeper.contract.measurements import METRICS
from sweeper.contract.trial import Outcome, TrialProgress
from sweeper.study.folder import StudyFolder
from sweeper.study.masking import mask, mask_all
from sweeper.study.records import StudyRecord, TrialRecord
from sweeper.study.writing import thin

RUN_STATUS = {
    Outcome.COMPLETED: "FINISHED",
    Outcome.PRUNED: "KILLED",
    Outcome.TIMED_OUT: "KILLED",
    Outcome.CANCELLED: "KILLED",
    Outcome.OUT_OF_MEMORY: "FAILED",
    Outcome.DIVERGED: "FAILED",
    Outcome.CRASHED: "FAILED",
    Outcome.INVALID: "FAILED",
    Outcome.PREDICTED_OOM: "FAILED",
}
"""MLflow has three ways to end: FINISHED did its work, KILLED was ended by the driver, FAILED could
not do it. The tag `outcome` says exactly."""

MAIN_SETTINGS = (
    "trainer",
    "adapter",
    "lora.r",
    "quantization",
    "precision",
    "attention",
    "checkpointing",
    "optim",
    "batch.micro",
    "batch.effective",
    "model.path",
    "data.path",
    "data.max_length",
    "train.seed",
    "trial.memory_limit_gib",
)
"""Settings that every run shows, swept or not; the artifact `config.yaml` holds all of them."""

RUN_COLORS = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#777777",
    "#EE7733",
    "#009988",
    "#882255",
)
"""One after the other by trial number: MLflow's own choice repeats colours within six runs. Paul Tol's
bright scheme, then from his vibrant and muted ones (https://sronpersonalpages.nl/~pault/): told apart
by colour-blind readers."""

POINTS_PER_CURVE = 180
"""Longer curves are thinned, so that a trial fits into one request of MLflow (1,000 metrics); the
trial's `progress.jsonl` has every point."""

_MAX_PARAM = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
_MAX_TAG = 5000  # older servers cut here; 8,000 is mlflow.utils.validation.MAX_TAG_VAL_LENGTH of 3.17
_STDERR_TAIL_BYTES = 64 * 1024
_NOT_IN_A_NAME = re.compile(r"[^\w\-. :/]")  # mlflow.utils.validation: characters that names may have


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    time_ms: int
    step: int = 0


def trial_params(record: TrialRecord) -> dict[str, str]:
    """The main settings as resolved, and the swept ones as typed; settings without a value are left out."""
    config = record.spec.config
    without_effect = "lora." if config.get("adapter") == "full" else None
    settings = {
        key: value
        for key in MAIN_SETTINGS
        if (value := _setting(config, key)) is not None
        and not (without_effect and key.startswith(without_effect))
    }
    return _params(settings | dict(record.spec.overrides))


def trial_tags(record: TrialRecord) -> dict[str, str]:
    """How the trial ended and where its folder is. Empty for a trial that still runs."""
    if record.result is None:
        return {}
    reason = record.result.reason
    tags = {
        "outcome": str(record.result.outcome),
        "reason": reason,
        "folder": str(record.folder.path),
        "mlflow.runColor": RUN_COLORS[record.number % len(RUN_COLORS)],
        "mlflow.note.content": _failure_note(record) if reason else None,
    }
    return _tags(tags)


def trial_points(record: TrialRecord) -> list[Point]:
    """The measurements under the names of `result.json` (memory in GiB), then the curves over steps."""
    if record.result is None:
        return []
    start_ms = milliseconds(record.result.started_at)
    end_ms = milliseconds(record.result.ended_at) or start_ms
    measured = shown_metrics(dataclasses.asdict(record.result.measurements) | record.derived())
    finals = [Point(name, value, end_ms) for name, value in measured.items()]
    return finals + curves(record.progress, start_ms)


def shown_metrics(measurements: Mapping[str, float | None]) -> dict[str, float]:
    """Known values by the name that MLflow shows: as measured, but memory in GiB."""
    shown: dict[str, float] = {}
    for name, value in measurements.items():
        if value is None or not math.isfinite(value):
            continue
        metric = METRICS[name]
        shown[metric.tracked_name] = value / metric.quantity.tracked_divisor
    return shown


def curves(progress: Sequence[TrialProgress], start_ms: int) -> list[Point]:
    """The progress lines as `curve/…` metrics over optimizer steps, at most POINTS_PER_CURVE each."""
    steps = thin([line for line in progress if line.event == "step"], POINTS_PER_CURVE)
    evaluations = thin([line for line in progress if line.event == "eval"], POINTS_PER_CURVE)
    return [
        Point(f"curve/{name}", value, start_ms + round(line.time_s * 1000), line.step)
        for line in (*steps, *evaluations)
        for name, value in _curve_values(line)
        if value is not None and math.isfinite(value)
    ]


def trial_artifacts(record: TrialRecord) -> dict[str, str]:
    """File name -> content."""
    files = {"config.yaml": yaml.safe_dump(_plain(mask_all(record.spec.config)), sort_keys=False)}
    if record.result is None:
        return files
    files["environment.json"] = _json(record.result.environment)
    files["result.json"] = _json(record.result.to_json())
    if record.result.outcome is not Outcome.COMPLETED and (tail := _tail(record.folder.stderr)):
        files["stderr_tail.txt"] = tail
    return files


def study_params(study: StudyRecord) -> dict[str, str]:
    """What was swept, as lists, and what was fixed on the command line."""
    fixed = dict(override.split("=", 1) for override in study.overrides if "=" in override)
    swept = {key: ",".join(values) for key, values in study.swept.items()}
    return _params(fixed | swept)


def study_tags(
    folder: StudyFolder,
    study: StudyRecord,
    trials: Iterable[TrialRecord],
    best: TrialRecord | None,
    left_out: str | None = None,
) -> dict[str, str]:
    """The best trial, the trials by outcome, those that are not judged, and a description with the ranking
    once there is one.

    These are tags and not metrics, because MLflow would chart the study as one more trial.
    """
    outcomes = Counter(str(trial.result.outcome) for trial in trials if trial.result)
    ranking = _text(folder.ranking_markdown)
    note = f"`{study.command}`\n\n{ranking}"
    if len(note) > _MAX_TAG:
        note = f"`{study.command}`\n\nThe ranking is among the artifacts: `{folder.ranking_markdown.name}`."
    tags = {
        "best": best.label if best else None,
        "trials": ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
        "left_out": left_out or "none",
        "folder": str(folder.path),
        "mlflow.note.content": note,
    }
    return _tags(tags)


def study_artifacts(folder: StudyFolder) -> dict[str, str]:
    """The study's own files, as far as they exist: file name -> content."""
    paths = (folder.study, folder.ranking_json, folder.ranking_markdown)
    files = {path.name: mask(text) for path in paths if (text := _text(path))}
    return files | report_artifacts(folder)


def report_artifacts(folder: StudyFolder) -> dict[str, str]:
    """The study's report, as far as it was written; it holds no secret."""
    paths = (folder.report_html, folder.report_markdown)
    return {path.name: text for path in paths if (text := _text(path))}


def milliseconds(time: str | None) -> int:
    """ISO 8601 as milliseconds since 1970, which is what MLflow counts in; 0 where unknown."""
    return round(datetime.fromisoformat(time).timestamp() * 1000) if time else 0


def _curve_values(line: TrialProgress) -> Iterator[tuple[str, float | None]]:
    if line.event == "eval":
        yield "eval_loss", line.loss
        return
    yield "train_loss", line.loss
    yield "learning_rate", line.learning_rate
    yield "grad_norm", line.grad_norm
    if line.tokens is not None and line.step_time_s:
        yield "tokens_per_s", line.tokens / line.step_time_s


def _setting(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _params(settings: Mapping[str, Any]) -> dict[str, str]:
    return {param_name(key): mask(_typed(value))[:_MAX_PARAM] for key, value in settings.items()}


def _tags(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: mask(value)[:_MAX_TAG] for name, value in values.items() if value}


def param_name(key: str) -> str:
    """A name that MLflow accepts: `+trial.x` and `optim@y` are valid overrides but not valid names."""
    return _NOT_IN_A_NAME.sub("_", key.lstrip("+"))


def _typed(value: Any) -> str:
    """A value as one types it in an override: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _failure_note(record: TrialRecord) -> str:
    assert record.result is not None
    traceback = record.result.traceback
    details = f"\n\n```\n{traceback[-3000:]}\n```" if traceback else ""
    return f"**{record.result.outcome}**: {record.result.reason}{details}\n\nRepeat it by hand: " + (
        f"`python -m trainers {record.folder.path}`"
    )


def _plain(value: Any) -> Any:
    """Through JSON and back: YAML's safe writer knows only plain types."""
    return json.loads(json.dumps(value, default=str))


def _json(value: Any) -> str:
    return json.dumps(mask_all(value), indent=2, sort_keys=True) + "\n"


def _tail(path: Path) -> str:
    """The end of a text file; empty when it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _STDERR_TAIL_BYTES))
            return mask(file.read().decode("utf-8", errors="replace"))
    except FileNotFoundError:
        return ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
