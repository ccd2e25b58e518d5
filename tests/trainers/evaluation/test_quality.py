"""Forgetting, exact match and invented answers are measured as they are defined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sweeper.contract.config import Config
from sweeper.contract.folder import TrialFolder
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import TrialResult
from trainers import embedded, prepare
from trainers.evaluation.quality import FALSE, Question, answers, general_examples, scores
from trainers.model.source import load_tokenizer

RunTrial = Callable[..., tuple[TrialResult, TrialFolder]]
MakeConfig = Callable[..., Config]
EMBEDDED = {
    "model.path": "embedded:tiny",
    "data.path": "embedded:transport",
    "data.source": "embedded",
    "data.prompt_field": "prompt",
    "data.completion_field": "completion",
}
FEW = {**EMBEDDED, "train.steps": 3, "data.max_eval_examples": 4, "evaluate.general": 8}


def mean_loss(model: nn.Module, texts: list[str], config: Config) -> float:
    """Loss per token, text by text, without batches."""
    tokenizer = load_tokenizer(config.model)
    total, count = 0.0, 0
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id][: config.data.max_length]
        tokens = torch.tensor([ids])
        with torch.no_grad():
            total += float(model(input_ids=tokens, labels=tokens).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return total / count


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_forgetting_is_the_change_of_the_loss_on_the_general_corpus(
    adapter: str, run_trial: RunTrial, make_config: MakeConfig
) -> None:
    measured = run_trial(**FEW, adapter=adapter)[0].measurements
    lines = embedded.general_path().read_text().splitlines()[:8]
    base = AutoModelForCausalLM.from_pretrained(embedded.model_path(), dtype=torch.float32).eval()
    texts = [json.loads(line)["text"] for line in lines]
    assert measured.general_loss_before == pytest.approx(mean_loss(base, texts, make_config(**FEW)), rel=1e-4)
    assert measured.general_loss is not None and measured.general_loss_before is not None
    assert measured.forgetting == pytest.approx(measured.general_loss - measured.general_loss_before)
    assert (measured.forgetting or 0) > 0.01, "a high rate on foreign text must cost some"


def test_forgetting_does_not_change_what_else_is_measured(run_trial: RunTrial) -> None:
    with_it = run_trial(**FEW, **{"lora.dropout": 0.1})[0].measurements
    without = run_trial(**{**FEW, "lora.dropout": 0.1, "evaluate.general": 0})[0].measurements
    assert without.forgetting is None and with_it.forgetting is not None
    for name in ("eval_loss_before", "eval_loss", "train_loss", "tokens"):
        assert getattr(with_it, name) == getattr(without, name), name


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_own_text_takes_the_place_of_the_general_corpus(
    suffix: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    texts = ["A short text.", "", "Another text that is somewhat longer than it."]
    path = tmp_path / f"own{suffix}"
    rows = texts if suffix == ".txt" else [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join(rows))
    config = make_config(**{**FEW, "data.general_path": str(path)})
    found = general_examples(config, load_tokenizer(config.model))
    assert found is not None and len(found) == 2
    assert list(found.lengths) == sorted(found.lengths)


def test_questions_are_answered_greedily_whatever_their_batch(make_config: MakeConfig) -> None:
    config = make_config(**EMBEDDED)
    tokenizer = load_tokenizer(config.model)
    model = AutoModelForCausalLM.from_pretrained(embedded.model_path(), dtype=torch.float32).eval()
    prompts = [
        "Note about Quill: age 10, colour yellow.\nQuestion: Which colour does Quill have?\nAnswer:",
        "The",
    ]
    asked = [Question(tokenizer(prompt)["input_ids"], "The colour is yellow.", True) for prompt in prompts]
    together = answers(model, asked, tokenizer, config, torch.device("cpu"))
    apart = [answers(model, [question], tokenizer, config, torch.device("cpu"))[0] for question in asked]
    assert together == apart
    ids = torch.tensor([asked[0].prompt])
    own: Any = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    said = str(tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    assert said.startswith(together[0]) and together[0]


def test_an_invented_answer_is_told_from_a_refusal() -> None:
    known, refusal = Question([1], "Platform 3.", True), Question([1], "That is not known.", False)
    other = Question([1], "Nobody said.", False)
    asked = [known, known, refusal, refusal, other, other]
    given = ["Platform 3.", "Platform 4.", "That is not known.", "Line L3.", "That is not known.", ""]
    assert scores(asked, given) == {"exact_match": 2 / 6, "hallucination_rate": 2 / 4}
    assert scores([known], ["Platform 3."]) == {"exact_match": 1.0}
    assert False in FALSE and "false" in FALSE and True not in FALSE and "true" not in FALSE


def test_a_trial_that_learns_the_answers_gives_them(run_trial: RunTrial, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Where is train {number}?\nAnswer:", "completion": " Gone.", "answerable": number != 1}
        for number in range(8)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data.path": str(path), "data.eval_path": str(path), "data.source": "file"}
    fields = {"data.prompt_field": "prompt", "data.completion_field": "completion"}
    options = {"model.path": "embedded:tiny", "train.steps": 12, "lora.r": 16, "evaluate.generate": 4}
    measured = run_trial(**data, **fields, **options)[0].measurements
    assert measured.exact_match == 1.0 and measured.hallucination_rate == 0.0


def problems(config: Config, cache_dir: Path) -> list[tuple[str, str]]:
    (cell,) = prepare.run([config.to_dict()], cache_dir)
    return [(problem.rule, problem.remedy) for problem in cell.problems]


def test_what_cannot_be_asked_or_read_is_found_before_any_trial(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Track {number} is clear."}) + "\n" for number in range(40)))
    config = make_config(**{"data.path": str(text), "evaluate.generate": 2})
    ((rule, remedy),) = problems(config, tmp_path / "cache")
    assert "evaluate.generate needs prompts and completions" in rule and remedy == "set it to 0"
    broken = tmp_path / "general.jsonl"
    broken.write_text('{"text": "fine"}\n{"body": 1}\n')
    config = make_config(**{"data.path": str(text), "data.general_path": str(broken)})
    ((rule, _),) = problems(config, tmp_path / "cache")
    assert f"{broken}:2" in rule


def test_new_content_of_the_general_text_is_new_work(make_config: MakeConfig, tmp_path: Path) -> None:
    path, found = tmp_path / "own.txt", []
    for text in ("One text of it.", "Another text of it."):
        path.write_text(text)
        config: Any = make_config(**{**FEW, "data.general_path": str(path)}).to_dict()
        (cell,) = prepare.run([config], tmp_path / "cache")
        found.append(cell.data_fingerprint)
    assert found[0] and found[0] != found[1]


def test_every_quality_figure_has_its_meaning() -> None:
    for name in ("forgetting", "general_loss", "exact_match", "hallucination_rate"):
        assert hasattr(Measurements(), name)
