"""The embedded model and data: what is committed is what the scripts make, and it is fit to learn from."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries read it: no test may reach the network

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from trainers import embedded
from trainers.embedded import build, general, tokenization, transport
from trainers.embedded.pretraining import POSITIONS, SEQUENCE, corpus_loss, packed

MAX_FOLDER_BYTES = 8_000_000
RAILWAY = re.compile(
    r"\b(rail\w*|trains?|stations?|platforms?|signals?|tracks?|dispatch\w*|locomotives?|wagons?|depots?)\b",
    re.IGNORECASE,
)

Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sentences(text: str) -> set[str]:
    return {part.strip() for part in re.split(r"[.?!:\n]", text) if part.strip()}


@pytest.fixture(scope="module")
def splits() -> dict[str, Rows]:
    return {"train": read(embedded.data_path("train")), "eval": read(embedded.data_path("eval"))}


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], list[str]]:
    return general.corpus()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(embedded.model_path())
    return loaded


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(embedded.model_path(), dtype=torch.float32)
    assert isinstance(loaded, LlamaForCausalLM)
    return loaded


def test_model_folder_is_complete_and_small() -> None:
    files = {file.name: file.stat().st_size for file in embedded.model_path().iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert needed | {"tokenizer_config.json"} <= files.keys()
    assert sum(files.values()) <= MAX_FOLDER_BYTES


def test_committed_files_name_no_folder_of_the_machine_that_made_them() -> None:
    for file in embedded.model_path().glob("*.json"):
        assert not re.search(r"/(home|root|tmp|work|usr)/", file.read_text(encoding="utf-8")), file


def test_model_has_1_to_4_million_parameters(model: LlamaForCausalLM) -> None:
    assert 1_000_000 <= model.num_parameters() <= 4_000_000


def test_weights_are_stored_as_bfloat16() -> None:
    with safe_open(embedded.model_path() / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_adapters_of_rank_8_get_8_bit_state(model: LlamaForCausalLM) -> None:
    shapes = [
        tuple(weight.shape) for name, weight in model.named_parameters() if re.search(r"[qv]_proj", name)
    ]
    assert shapes and set(shapes) == {(512, 512)}
    assert 8 * 512 >= 4096  # `min_8bit_size` of bitsandbytes' optimizers


def test_widths_of_linear_layers_are_whole_quantisation_blocks(model: LlamaForCausalLM) -> None:
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(layer.in_features % 64 == 0 and layer.out_features % 64 == 0 for layer in linear)


def test_model_knows_general_english(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, corpus: tuple[list[str], list[str]]
) -> None:
    loss = corpus_loss(model, packed(corpus[1], tokenizer, SEQUENCE))
    assert loss < 2 < math.log(len(tokenizer)) / 3


def test_model_has_not_seen_the_dispatch_set(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, splits: dict[str, Rows]
) -> None:
    texts = [row["prompt"] + row["completion"] for row in splits["eval"]]
    assert corpus_loss(model, packed(texts, tokenizer, SEQUENCE)) > 2.5


def test_model_reads_sequences_as_long_as_it_claims(model: LlamaForCausalLM) -> None:
    assert model.config.max_position_embeddings == POSITIONS
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(POSITIONS)[None] % 1024).logits).all()


@pytest.mark.parametrize(
    "text",
    [
        "Question: Where is RE 204?\nAnswer: At Mill Lane.",
        "  two  spaces ",
        "naïve café – 12 €, 鉄道",
        "0123456789",
    ],
)
def test_tokenizer_gives_any_text_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids


def test_special_tokens_have_fixed_ids(tokenizer: PreTrainedTokenizerBase, model: LlamaForCausalLM) -> None:
    names = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert names == (0, 1, 2, 3)
    config = model.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == names[:3]
    assert len(tokenizer) == config.vocab_size == tokenization.VOCABULARY


def test_chat_template_renders_the_form_of_the_corpus(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [
        {"role": "user", "content": "Which goes first?"},
        {"role": "assistant", "content": "The express."},
    ]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole == "<s>Question: Which goes first?\nAnswer: The express.</s>"
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<s>Question: Which goes first?\nAnswer:"


def test_chat_template_marks_what_the_assistant_says(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [
        {"role": "user", "content": "Which goes first?"},
        {"role": "assistant", "content": "The express."},
    ]
    encoded: Any = tokenizer.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [
        token
        for token, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if marked
    ]
    assert tokenizer.decode(said) == " The express.</s>"


def test_scripts_reproduce_the_committed_data(corpus: tuple[list[str], list[str]]) -> None:
    for path, content in build.data_files(corpus[1]).items():
        assert path.read_bytes() == content, path


def test_script_reproduces_the_committed_tokenizer(
    corpus: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    tokenization.train_tokenizer(corpus[0], POSITIONS).save_pretrained(tmp_path)
    committed = embedded.model_path() / "tokenizer.json"
    assert (tmp_path / "tokenizer.json").read_bytes() == committed.read_bytes()


def test_splits_share_no_prompt(splits: dict[str, Rows]) -> None:
    prompts = {name: [row["prompt"] for row in rows] for name, rows in splits.items()}
    assert not set(prompts["train"]) & set(prompts["eval"])
    assert all(len(found) == len(set(found)) for found in prompts.values())
    assert 1200 <= len(prompts["train"]) <= 2000 and 150 <= len(prompts["eval"]) <= 200


def test_combinations_of_train_and_place_are_of_one_split(splits: dict[str, Rows]) -> None:
    pairs = {
        name: set(re.findall(r"Record: (\w+ \d+) to ([\w ]+),", "\n".join(row["prompt"] for row in rows)))
        for name, rows in splits.items()
    }
    assert pairs["eval"] and not pairs["train"] & pairs["eval"]
    for half in (0, 1):  # but each train and each place is known from training
        assert {pair[half] for pair in pairs["eval"]} <= {pair[half] for pair in pairs["train"]}


def test_rules_are_asked_in_ways_not_trained_on(splits: dict[str, Rows]) -> None:
    meanings = {f" {meaning}" for meaning in transport.SIGNALS.values()}
    asked = {
        name: {row["completion"] for row in rows if row["completion"] in meanings}
        for name, rows in splits.items()
    }
    assert asked["train"] == asked["eval"] == meanings


def test_about_a_tenth_cannot_be_answered(splits: dict[str, Rows]) -> None:
    for rows in splits.values():
        unanswerable = [row for row in rows if not row["answerable"]]
        assert 0.08 <= len(unanswerable) / len(rows) <= 0.12
        assert {row["completion"] for row in unanswerable} == {transport.UNANSWERABLE}
        assert all(row["completion"] != transport.UNANSWERABLE for row in rows if row["answerable"])


def test_answers_about_a_record_stand_in_it(splits: dict[str, Rows]) -> None:
    for row in splits["train"] + splits["eval"]:
        record = re.match(r"Record: [\w ]+?, (.*)\nQuestion: (.*)\n", row["prompt"])
        if record is None:
            continue
        field = next(f for f in transport.FIELDS if record[2] in _questions(f))
        value = re.fullmatch(re.escape(field.answer).replace(r"\{\}", "(.+)"), row["completion"].strip())
        assert (value is not None) == row["answerable"], row
        if value is not None:
            assert field.entry.format(value[1]) in record[1], row


def _questions(field: transport.Field) -> set[str]:
    return {field.question.format(train=train) for train in transport.TRAINS}


def test_lengths_vary_and_fit(tokenizer: PreTrainedTokenizerBase, splits: dict[str, Rows]) -> None:
    rows = splits["train"] + splits["eval"]
    lengths = [len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in rows]
    assert max(lengths) < 128
    assert min(lengths) <= 36 and max(lengths) >= 100


def test_prompt_and_completion_meet_at_a_token_border(
    tokenizer: PreTrainedTokenizerBase, splits: dict[str, Rows]
) -> None:
    for row in splits["eval"]:
        apart = tokenizer(row["prompt"])["input_ids"]
        apart = apart + tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == apart


def test_general_text_and_dispatch_set_share_no_sentence(
    corpus: tuple[list[str], list[str]], splits: dict[str, Rows]
) -> None:
    dispatch = {
        s for row in splits["train"] + splits["eval"] for s in sentences(row["prompt"] + row["completion"])
    }
    said = {s for text in corpus[0] + corpus[1] for s in sentences(text)}
    assert dispatch & said <= {"Question", "Answer"}


def test_general_text_does_not_speak_of_railways(corpus: tuple[list[str], list[str]]) -> None:
    assert [text for text in corpus[0] + corpus[1] if RAILWAY.search(text)] == []


def test_held_out_general_text_was_not_trained_on(corpus: tuple[list[str], list[str]]) -> None:
    held_out = [row["text"] for row in read(embedded.general_path())]
    assert held_out == corpus[1] and not set(held_out) & set(corpus[0])


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        embedded.data_path("test")  # type: ignore[arg-type]


def test_paths_are_found_without_any_third_party_library() -> None:
    script = (
        "import sys; from trainers import embedded; embedded.model_path();"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    folder = Path(embedded.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)


def test_model_and_tokenizer_load_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    AutoTokenizer.from_pretrained(embedded.model_path())
    AutoModelForCausalLM.from_pretrained(embedded.model_path())
