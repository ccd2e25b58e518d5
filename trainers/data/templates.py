"""From a row to token ids and labels: running text, prompt and completion, or chat messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.contract.config import DataConfig
from trainers.data.batches import IGNORED_LABEL

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template marks what the assistant says (transformers' `{% generation %}`)."""

Row = Mapping[str, Any]
Tokens = tuple[list[int], list[int]]
"""Token ids and labels, of equal length; a label is the token's id, or IGNORED_LABEL."""


class RowError(ValueError):
    """One row cannot be used."""


@dataclass(frozen=True)
class Shape:
    """A form in which examples come."""

    name: str
    fields: tuple[str, ...]
    encode: Callable[[Row, DataConfig, PreTrainedTokenizerBase], Tokens]


def shapes(data: DataConfig) -> list[Shape]:
    """The shapes that are understood, the most specific first."""
    return [
        Shape("chat", (data.messages_field,), encode_chat),
        Shape("prompt and completion", (data.prompt_field, data.completion_field), encode_completion),
        Shape("text", (data.text_field,), encode_text),
    ]


def find_shape(data: DataConfig, columns: Sequence[str]) -> Shape | None:
    """The shape whose fields all exist, or None."""
    return next((shape for shape in shapes(data) if set(shape.fields) <= set(columns)), None)


def encode_text(row: Row, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Running text: every token is a target."""
    ids = _with_end(_begin(_text(row, data.text_field), tokenizer), tokenizer)
    return ids, list(ids)


def encode_completion(row: Row, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Prompt and completion, tokenised apart so that the border is exact."""
    prompt, completion = prompt_and_completion(row, data)
    prompt_ids = _begin(prompt, tokenizer)
    completion_ids = _with_end(_ids(tokenizer(completion, add_special_tokens=False)), tokenizer)
    ignored = [IGNORED_LABEL] * len(prompt_ids)
    labels = (ignored if data.completion_only_loss else prompt_ids) + completion_ids
    return prompt_ids + completion_ids, labels


def prompt_and_completion(row: Row, data: DataConfig) -> tuple[str, str]:
    """The two texts. A newline is put between them unless one side brings white space."""
    prompt, completion = _text(row, data.prompt_field), _text(row, data.completion_field)
    if prompt and not prompt[-1].isspace() and not completion[:1].isspace():
        prompt += "\n"
    return prompt, completion


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt that is to be gone on from."""
    return _begin(prompt, tokenizer)


def _text(row: Row, field: str) -> str:
    """A field as text. Numbers are accepted, and shown as a JSON file writes them."""
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"field {field!r} must be text, but got {value!r}: write it as text")
    return str(value)


def _ids(encoding: Any) -> list[int]:
    return list(encoding["input_ids"])


def _begin(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids with the tokenizer's opening tokens, but no end of sequence."""
    ids = _ids(tokenizer(text))
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _with_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]


def encode_chat(row: Row, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Chat messages through the tokenizer's template; targets are the assistant's turns."""
    messages = _messages(row, data.messages_field)
    if not data.completion_only_loss:
        ids = _ids(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True))
        return ids, list(ids)
    if GENERATION_MARK.search(str(tokenizer.get_chat_template())):
        ids, mask = _masked_by_template(messages, tokenizer)
    else:
        ids, mask = _masked_by_rendering(messages, tokenizer)
    return ids, [token if target else IGNORED_LABEL for token, target in zip(ids, mask, strict=True)]


def _messages(row: Row, field: str) -> list[dict[str, str]]:
    messages = row[field]
    if not isinstance(messages, list) or not messages:
        raise RowError(f"field {field!r} must be a list of messages, but got {messages!r}: correct it")
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise RowError(f"a message must have `role` and `content`, but got {message!r}: add them")
    if all(message["role"] != "assistant" for message in messages):
        raise RowError("a conversation must have an assistant's turn, but has none: drop the row")
    # readers of columns fill keys that other rows have with None; templates test for their presence
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _masked_by_template(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    rendered: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return _ids(rendered), [bool(flag) for flag in rendered["assistant_masks"]]


def _masked_by_rendering(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    """Find the assistant's turns by rendering the conversation up to and including each of them."""
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    spans = [
        _turn_span(messages, index, whole, tokenizer)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    mask = [
        any(start < span_end and end > span_start for span_start, span_end in spans)
        for start, end in encoding["offset_mapping"]
    ]
    return _ids(encoding), mask


def _turn_span(
    messages: list[dict[str, str]], index: int, whole: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Where the text of message `index` begins and ends in the rendered conversation."""
    before = str(
        tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        if index
        else ""
    )
    until = str(tokenizer.apply_chat_template(messages[: index + 1], tokenize=False))
    if not (whole.startswith(until) and until.startswith(before)):
        raise RowError(
            "the chat template must render a conversation turn by turn to find the assistant's, but it "
            "changes earlier turns: set data.completion_only_loss=false or mark the assistant's turns "
            "with {% generation %} in the template"
        )
    return len(before), len(until)
