"""What is done with a finished production run: its papers, its MLflow run, its place in the registry.

Each step is done once; what failed is tried again by the same command, without training again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.analysis.open import OpenStudy
from sweeper.contract.folder import ProductionFolder
from sweeper.contract.json_files import read_json, write_json
from sweeper.contract.study_config import ProductionConfig
from sweeper.launchers.ask import NoReplyError, ask
from sweeper.launchers.local import LocalLauncher
from sweeper.production.card import Origin, card
from sweeper.production.promise import Kept
from sweeper.production.tracking import done, is_logged, log_run, note
from sweeper.study.masking import mask, mask_all
from sweeper.study.records import TrialRecord
from sweeper.tracking.preload import StoreError


@dataclass(frozen=True)
class Published:
    """Where the model is to be had, besides its folder."""

    model_uri: str | None = None
    """Address in the MLflow Model Registry."""
    problems: tuple[str, ...] = ()
    """What could not be done, one line each."""


def write_papers(folder: ProductionFolder, record: TrialRecord, kept: Sequence[Kept], origin: Origin) -> None:
    """The card, the exact configuration and the comparison with the trial."""
    shown = [{**dataclasses.asdict(item), "is_outside": item.is_outside} for item in kept]
    write_json(folder.promise, shown)
    text = yaml.safe_dump(_plain(mask_all(record.spec.config)), sort_keys=False, allow_unicode=True)
    folder.config.write_text(text, encoding="utf-8")
    folder.card.write_text(card(record, kept, origin), encoding="utf-8")
    _anchor_base(folder.model / "adapter_config.json")


def _anchor_base(path: Path) -> None:
    """Make an adapter's base that is a local folder known from wherever the adapter is loaded."""
    if not path.exists():
        return
    settings = dict(read_json(path))
    base = settings.get("base_model_name_or_path")
    if base and Path(base).is_dir():
        write_json(path, settings | {"base_model_name_or_path": str(Path(base).absolute())})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def publish(
    study: OpenStudy,
    folder: ProductionFolder,
    record: TrialRecord,
    production: ProductionConfig,
    launcher: LocalLauncher,
) -> Published:
    """Log the run, merge and register the model, as far as that is asked for and not done yet."""
    known, problems = done(folder, study.tracking_uri), []
    wants_model = production.register and not known.get("model_uri")
    wants_merge = production.merge and record.spec.config["adapter"] == "lora" and not folder.merged.exists()
    if is_logged(known) and not wants_model and not wants_merge:
        return Published(known.get("model_uri"))
    run_id = None
    try:
        run_id = log_run(study, folder, record)
    except StoreError as error:
        problems.append(
            f"MLflow at {mask(study.tracking_uri)} failed ({error}): the same command logs the run"
        )
        wants_model = False
    model_uri = known.get("model_uri")
    if wants_model or wants_merge:
        register = _registration(study, record, production, run_id) if wants_model else None
        answer, problem = _ask(folder, {"merge": production.merge, "register": register}, launcher)
        model_uri = answer.get("model_uri") or model_uri
        problems += [problem] if problem else []
    note(study, folder, model_uri=model_uri)
    return Published(model_uri, tuple(problems))


def _registration(
    study: OpenStudy, record: TrialRecord, production: ProductionConfig, run_id: str | None
) -> dict[str, Any]:
    tags = {
        "study": study.record.name,
        "trial": str(record.number),
        "cell": record.label,
        "key": record.spec.key,
    }
    return {"name": production.name or study.record.name, "run_id": run_id, "tags": tags}


def _ask(
    folder: ProductionFolder, request: dict[str, Any], launcher: LocalLauncher
) -> tuple[dict[str, Any], str | None]:
    """Let a process with torch do it; its answer, and what went wrong."""
    try:
        return dict(ask(launcher, "publish", request, folder.path, tries=1)), None
    except NoReplyError as error:
        reason = mask(str(error).strip().splitlines()[-1].strip())[:300]
    problem = f"the model could not be merged or registered ({reason}): see {folder.stderr}"
    return {}, f"{problem}; the same command tries again"


def use_store(uri: str) -> None:
    """Tell the publishing process where the store is: an address may hold a password, so no file does."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
