"""What a fine-tune does to the model besides its speed: what it forgets, and what it answers.

Forgetting is the change of the loss on a fixed general corpus. Answers are taken greedily from the
evaluation questions and compared with their completions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from sweeper.contract.config import Config
from trainers import embedded
from trainers.data.batches import Collator, Examples
from trainers.data.prepared import evaluation_rows
from trainers.data.sources import DataError, refuse_undecodable
from trainers.data.templates import prompt_and_completion, prompt_ids
from trainers.data.tokens import encode_texts
from trainers.evaluation.loss import evaluation_batch, token_weighted_loss
from trainers.methods.precision import autocast

FALSE = (False, 0, "false", "False", "0")
"""What says "unanswerable" in the field `data.answerable_field`; readers of CSV give text or numbers."""


@dataclass(frozen=True)
class Question:
    """A prompt with the completion that is right."""

    prompt: list[int]
    """Token ids."""
    completion: str
    is_answerable: bool


@dataclass(frozen=True)
class Quality:
    """What the quality of one trial is measured on."""

    general: Examples | None
    questions: tuple[Question, ...]
    tokenizer: PreTrainedTokenizerBase
    collator: Collator

    def before(self, model: nn.Module, config: Config, device: torch.device) -> dict[str, float]:
        """What must be known before a full fine-tune changes the base; a LoRA's can be looked at later."""
        if self.general is None or isinstance(model, PeftModel):
            return {}
        return {"general_loss_before": self._general_loss(model, config, device)}

    def after(
        self, model: nn.Module, config: Config, device: torch.device, before: float | None
    ) -> dict[str, float]:
        """The measurements once training has ended; `before` is that of `before`."""
        found: dict[str, float] = {}
        if self.general is not None:
            with _without_adapter(model):
                lower = before if before is not None else self._general_loss(model, config, device)
            loss = self._general_loss(model, config, device)
            found = {"general_loss_before": lower, "general_loss": loss, "forgetting": loss - lower}
        if self.questions:
            given = answers(model, self.questions, self.tokenizer, config, device)
            found |= scores(self.questions, given)
        return found

    def _general_loss(self, model: nn.Module, config: Config, device: torch.device) -> float:
        assert self.general is not None
        return token_weighted_loss(model, self.general, self.collator, config, device)


def _without_adapter(model: nn.Module) -> AbstractContextManager[Any]:
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def prepare_quality(
    config: Config, tokenizer: PreTrainedTokenizerBase, collator: Collator, cache_dir: Path
) -> Quality:
    """Everything that is needed for what `evaluate` asks for. Raises DataError."""
    return Quality(
        general=general_examples(config, tokenizer),
        questions=tuple(questions(config, tokenizer, cache_dir)) if config.evaluate.generate else (),
        tokenizer=tokenizer,
        collator=collator,
    )


def general_examples(config: Config, tokenizer: PreTrainedTokenizerBase) -> Examples | None:
    """The first texts of the general corpus. Raises DataError."""
    if not config.evaluate.general:
        return None
    path = Path(config.data.general_path or embedded.general_path())
    field = config.data.text_field if config.data.general_path else "text"
    found = encode_texts(islice(_texts(path, field), config.evaluate.general), config.data, tokenizer)
    if found is None:
        rule = "data.general_path must hold texts of two tokens or more"
        raise DataError([f"{rule}, but {path} has none: fill it"])
    return Examples(found)


def _texts(path: Path, field: str) -> Iterator[str]:
    refuse_undecodable(path)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            text = (
                line if path.suffix == ".txt" or not line.strip() else _text(line, field, f"{path}:{number}")
            )
            if text.strip():
                yield text.strip()


def _text(line: str, field: str, place: str) -> str:
    try:
        return str(json.loads(line)[field])
    except (ValueError, KeyError, TypeError) as error:
        rule = f"a line must be a JSON object with the field {field!r} (data.text_field)"
        raise DataError([f"{place}: {rule}, but got {line.strip()[:80]!r}: correct it"]) from error


def questions(config: Config, tokenizer: PreTrainedTokenizerBase, cache_dir: Path) -> Iterator[Question]:
    """The first questions of the evaluation split. Raises DataError."""
    data, split = config.data, evaluation_rows(config, cache_dir)
    missing = {data.prompt_field, data.completion_field} - set(split.rows.column_names)
    if missing:
        shown = ", ".join(map(repr, sorted(missing)))
        rule = "evaluate.generate needs prompts and completions"
        raise DataError([f"{rule}, but {split.origin} lacks {shown}: set it to 0"])
    for row in islice(split.rows, config.evaluate.generate):
        prompt, completion = prompt_and_completion(row, data)
        ids = prompt_ids(prompt, tokenizer)[: data.max_length]
        yield Question(ids, completion.strip(), row.get(data.answerable_field, True) not in FALSE)


def answers(
    model: nn.Module,
    asked: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    device: torch.device,
) -> list[str]:
    """What the model goes on with after each prompt, greedily, at most as long as the longest completion."""
    longest = max(len(tokenizer(question.completion)["input_ids"]) for question in asked)
    end = tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=longest + 1,
        do_sample=False,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end,
    )
    batch, was_training = evaluation_batch(config), model.training
    model.eval()
    found: list[str] = []
    with torch.no_grad(), autocast(config, device):
        for start in range(0, len(asked), batch):
            prompts = _padded([question.prompt for question in asked[start : start + batch]], device)
            generated = model.generate(**prompts, generation_config=settings)  # type: ignore[operator]
            found += tokenizer.batch_decode(
                generated[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True
            )
    model.train(was_training)
    return [text.strip() for text in found]


def _padded(prompts: Sequence[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Prompts as one batch, padded on the left: what is generated begins at the same place in all."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def scores(asked: Sequence[Question], given: Sequence[str]) -> dict[str, float]:
    """`exact_match`, and `hallucination_rate` where a question is unanswerable."""
    right = [answer == question.completion for question, answer in zip(asked, given, strict=True)]
    found = {"exact_match": sum(right) / len(right)}
    refusals = {question.completion for question in asked if not question.is_answerable}
    unanswerable = [
        answer for question, answer in zip(asked, given, strict=True) if not question.is_answerable
    ]
    if unanswerable:
        found["hallucination_rate"] = sum(answer not in refusals for answer in unanswerable) / len(
            unanswerable
        )
    return found
