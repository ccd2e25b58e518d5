"""Sources, shapes, tokens and the mistakes that data can hold."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sweeper.contract.config import Config
from tests.support.samples import gsm8k_rows, tokenizer
from trainers.data.batches import IGNORED_LABEL, Collator
from trainers.data.prepared import PreparedData, prepare_data
from trainers.data.sources import DataError

MakeConfig = Callable[..., Config]

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "user", "content": "How many apples?"},
    {"role": "assistant", "content": "Twelve."},
    {"role": "user", "content": "Red?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return tokenizer()


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def prepare(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., PreparedData]:
    """Write rows to a file and tokenise it."""

    def run(rows: Any, tokens: Any = None, name: str = "rows.jsonl", **overrides: Any) -> PreparedData:
        path = tmp_path / name
        if isinstance(rows, str):
            path.write_text(rows)
        elif isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            write_jsonl(path, rows)
        options = {f"data.{key}": value for key, value in overrides.items()}
        config = make_config(**{"data.path": str(path), "data.eval_path": str(path), **options})
        return prepare_data(config, tokens or plain, tmp_path / "cache")

    return run


Prepare = Callable[..., PreparedData]


def decoded(tokens: PreTrainedTokenizerFast, ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    """The text of the targets."""
    return str(tokens.decode(ids[labels != IGNORED_LABEL]))


def problems(prepare: Prepare, *arguments: Any, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        prepare(*arguments, **options)
    return caught.value.problems


def test_text_is_all_target_and_ends_with_the_end_token(
    prepare: Prepare, plain: PreTrainedTokenizerFast
) -> None:
    ids, labels = prepare([{"text": "some apples"}]).train[0]
    assert ids.tolist() == labels.tolist()
    assert plain.decode(ids) == "some apples</s>"


def test_loss_covers_the_completion_only(prepare: Prepare, plain: PreTrainedTokenizerFast) -> None:
    rows = [{"question": "How many?", "answer": "Twelve"}]
    ids, labels = prepare(rows).train[0]
    assert decoded(plain, ids, labels) == "Twelve</s>"
    assert plain.decode(ids) == "How many?\nTwelve</s>"


def test_loss_covers_the_prompt_when_asked(prepare: Prepare, plain: PreTrainedTokenizerFast) -> None:
    ids, labels = prepare(
        [{"question": "How many?\n", "answer": "Twelve"}], completion_only_loss=False
    ).train[0]
    assert decoded(plain, ids, labels) == "How many?\nTwelve</s>"


@pytest.mark.parametrize(
    "template", [CHATML, MARKED], ids=["rendered turn by turn", "marked by the template"]
)
def test_loss_covers_the_assistants_turns_only(prepare: Prepare, template: str) -> None:
    tokens = tokenizer(template)
    ids, labels = prepare([{"messages": CHAT}], tokens).train[0]
    assert decoded(tokens, ids, labels) == "Twelve.</s>Yes.</s>"
    assert str(tokens.decode(ids)).startswith("<|user|>How many apples?</s><|assistant|>Twelve.</s>")


def test_loss_covers_the_whole_chat_when_asked(prepare: Prepare) -> None:
    ids, labels = prepare([{"messages": CHAT}], tokenizer(CHATML), completion_only_loss=False).train[0]
    assert ids.tolist() == labels.tolist()


def test_template_that_changes_earlier_turns_is_refused(prepare: Prepare) -> None:
    last_only = "{{ messages | length }}{{ messages[-1]['content'] }}"
    (problem,) = problems(prepare, [{"messages": CHAT}], tokenizer(last_only))
    assert "rows.jsonl:1" in problem and "completion_only_loss=false" in problem


def test_chat_without_a_template_is_refused(prepare: Prepare) -> None:
    (problem,) = problems(prepare, [{"messages": CHAT}])
    assert "chat template" in problem


def test_long_rows_are_cut_and_counted(prepare: Prepare) -> None:
    data = prepare([{"text": "apples " * 50}, {"text": "few"}], max_length=16)
    assert data.train.lengths.max() == 16
    assert data.facts["train"]["rows_cut"] == 1


def test_rows_whose_targets_are_cut_off_are_left_out(prepare: Prepare) -> None:
    rows = [{"question": "apples " * 50, "answer": "12"}, {"question": "How many?", "answer": "12"}]
    data = prepare(rows, max_length=16)
    assert len(data.train) == 1
    assert data.facts["train"]["without_targets"] == 1


def test_data_without_any_target_is_refused(prepare: Prepare) -> None:
    (problem,) = problems(prepare, [{"question": "apples " * 50, "answer": "12"}], max_length=16)
    assert "raise data.max_length" in problem


def test_packing_fills_sequences_and_loses_no_token(prepare: Prepare, plain: PreTrainedTokenizerFast) -> None:
    rows = [{"text": f"{number} apples and more"} for number in range(40)]
    apart, packed = prepare(rows), prepare(rows, packing=True, max_length=32)
    assert set(packed.train.lengths[:-1]) == {32}
    assert packed.train.lengths.sum() == apart.train.lengths.sum()
    first, _ = packed.train[0]
    assert str(plain.decode(first)).startswith("0 apples and more</s>1 apples")


def test_evaluation_split_is_never_packed(prepare: Prepare) -> None:
    rows = [{"text": f"{number} apples"} for number in range(10)]
    assert len(prepare(rows, packing=True, max_length=32).eval) == 10


def test_padding_is_masked_and_not_a_target(prepare: Prepare) -> None:
    data = prepare([{"text": "one"}, {"text": "one and two and three"}])
    batch = data.collator([data.train[0], data.train[1]])
    length = data.train.lengths[0]
    assert batch["attention_mask"].sum(dim=1).tolist() == data.train.lengths.tolist()
    assert (batch["labels"][0, length:] == IGNORED_LABEL).all()
    assert (batch["input_ids"][0, length:] == 0).all()


def test_collator_pads_to_the_longest_of_the_batch() -> None:
    examples = [(np.ones(n, dtype=np.int32), np.ones(n, dtype=np.int32)) for n in (2, 5)]
    assert Collator(pad_id=0)(examples)["input_ids"].shape == (2, 5)


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_tokens(
    suffix: str, make_config: MakeConfig, plain: PreTrainedTokenizerFast, gsm8k: Path, tmp_path: Path
) -> None:
    rows = gsm8k_rows(20)
    path = tmp_path / f"rows{suffix}"
    writers: dict[str, Callable[[datasets.Dataset], Any]] = {
        ".json": lambda rows: path.write_text(json.dumps(rows.to_list())),
        ".csv": lambda rows: rows.to_csv(path),
        ".parquet": lambda rows: rows.to_parquet(path),
    }
    writers[suffix](datasets.Dataset.from_list(rows))
    reference = tmp_path / "rows.jsonl"
    write_jsonl(reference, rows)
    found, expected = (
        prepare_data(make_config(**{"data.path": str(file)}), plain, tmp_path / "cache")
        for file in (path, reference)
    )
    assert [ids.tolist() for ids, _ in found.train] == [ids.tolist() for ids, _ in expected.train]


def test_numbers_are_taken_as_text(prepare: Prepare, plain: PreTrainedTokenizerFast) -> None:
    ids, labels = prepare("question,answer\nHow many?,12\nAnd now?,7\n", name="rows.csv").train[0]
    assert decoded(plain, ids, labels) == "12</s>"


def test_malformed_lines_are_named(prepare: Prepare) -> None:
    found = problems(prepare, '{"text": "a"}\n{"text": \n\n["text"]\n')
    assert len(found) == 2
    assert "rows.jsonl:2: each line must be a JSON object" in found[0]
    assert "rows.jsonl:4: each line must be a JSON object, but got" in found[1]


def test_malformed_json_file_is_located(prepare: Prepare) -> None:
    (problem,) = problems(prepare, '[\n{"text": "a"},\n{"text" "b"}\n]', name="rows.json")
    assert "rows.json:3" in problem


def test_malformed_csv_file_is_located(prepare: Prepare) -> None:
    (problem,) = problems(prepare, "text\na\nb,c,d\n", name="rows.csv")
    assert "rows.csv:3: a row must have at most the 1 fields" in problem


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "rows.jsonl"),
        (b'[{"text": "a"},\n{"text": "caf\xe9"}]', "rows.json"),
        (b"text\ncaf\xe9\n", "rows.csv"),
    ],
)
def test_line_that_is_not_utf_8_is_named(content: bytes, name: str, prepare: Prepare) -> None:
    (problem,) = problems(prepare, content, name=name)
    assert f"{name}:2: a text file must be UTF-8" in problem


@pytest.mark.parametrize(
    ("content", "name", "line"),
    [
        ('text,n\n"one\ntwo",1\n\n,2\n', "rows.csv", 5),
        ('\n"text\nhere",n\n  \nc,1\n,2\n', "rows.csv", 6),
        ('{"text": "a"}\n\n{"text": null}\n', "rows.json", 3),
        ('\ufeff[\n  {"text": "a"},\n  {\n  "text": null}\n]', "rows.json", 3),
        ('{"text": "a"} {"text": "b"}\n{"text": null}\n', "rows.jsonl", 2),
    ],
)
def test_row_is_named_with_the_line_at_which_it_begins(
    content: str, name: str, line: int, prepare: Prepare
) -> None:
    options = {"text_field": "text\nhere"} if "here" in content else {}
    (problem,) = problems(prepare, content, name=name, **options)
    assert f"{name}:{line}: field" in problem


def test_malformed_json_lines_in_a_json_file_are_named(prepare: Prepare) -> None:
    (problem,) = problems(prepare, '{"text": "a"}\n{"text": "b"}\n{"text" "c"}\n', name="rows.json")
    assert "rows.json:3: each line must be a JSON object" in problem


def test_malformed_csv_row_is_named_with_its_first_line(prepare: Prepare) -> None:
    (problem,) = problems(prepare, 'text\n"a\nb"\n\nc,"d\ne"\n', name="rows.csv")
    assert "rows.csv:5" in problem


def test_many_problems_are_counted(prepare: Prepare) -> None:
    found = problems(prepare, "{\n" * 25)
    assert len(found) == 11 and "15 more" in found[-1]


def test_missing_fields_are_explained(prepare: Prepare) -> None:
    (problem,) = problems(prepare, [{"input": "a", "output": "b"}])
    assert "'input', 'output'" in problem
    assert "data.prompt_field and data.completion_field" in problem and "'question' and 'answer'" in problem


def test_unfilled_field_is_named_with_its_line(prepare: Prepare) -> None:
    (problem,) = problems(prepare, '{"text": "a"}\n\n{"text": null}\n')
    assert "rows.jsonl:3" in problem and "'text'" in problem


def test_line_is_right_when_the_evaluation_split_is_held_out(prepare: Prepare) -> None:
    rows = [{"text": "a"} for _ in range(30)]
    found = problems(prepare, [*rows, {"text": ["no", "text"]}], eval_path=None)
    assert all("must be" in problem for problem in found)


def test_mixed_shapes_are_refused(prepare: Prepare) -> None:
    (problem,) = problems(prepare, [{"question": "a", "answer": "b"}, {"text": "c"}])
    assert "rows.jsonl:2" in problem and "one shape" in problem


def test_missing_file_is_refused(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = make_config(**{"data.path": str(tmp_path / "absent.jsonl")})
    with pytest.raises(DataError, match=r"must exist, but got .*absent\.jsonl"):
        prepare_data(config, plain, tmp_path / "cache")


@pytest.mark.parametrize("name", ["rows.txt", "rows"])
def test_unknown_file_format_is_refused(name: str, prepare: Prepare) -> None:
    (problem,) = problems(prepare, "a", name=name)
    assert ".jsonl" in problem


@pytest.mark.parametrize(
    ("content", "name"), [("", "rows.jsonl"), ("text\n", "rows.csv"), ("[]", "rows.json")]
)
def test_empty_file_is_refused(content: str, name: str, prepare: Prepare) -> None:
    (problem,) = problems(prepare, content, name=name)
    assert "must hold examples" in problem


@pytest.mark.parametrize("fraction", [0.01, 0.0, 1.0])
def test_fraction_that_leaves_a_side_empty_is_refused(fraction: float, prepare: Prepare) -> None:
    rows = [{"text": f"{number}"} for number in range(20)]
    (problem,) = problems(prepare, rows, eval_path=None, eval_fraction=fraction)
    assert "data.eval_fraction" in problem


def test_held_out_share_is_disjoint_and_the_same_for_every_seed(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"{number} apples"} for number in range(50)])
    one, other = (
        prepare_data(make_config(**{"data.path": path, "train.seed": seed}), plain, tmp_path / "cache")
        for seed in (0, 1)
    )
    train, evaluation = ({tuple(ids) for ids, _ in split} for split in (one.train, one.eval))
    assert len(train) == 45 and len(evaluation) == 5 and not train & evaluation
    assert one.fingerprint == other.fingerprint


def test_examples_are_limited_per_split(prepare: Prepare) -> None:
    rows = [{"text": f"{number} apples"} for number in range(50)]
    data = prepare(rows, max_train_examples=7, max_eval_examples=3)
    assert (len(data.train), len(data.eval)) == (7, 3)


def test_data_is_tokenised_once(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config, cache = make_config(), tmp_path / "cache"
    first = prepare_data(config, plain, cache)
    stored = cache / first.fingerprint
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*")}
    again = prepare_data(make_config(**{"lora.r": 64, "train.seed": 3}), plain, cache)
    assert again.fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*")} == before
    assert not list(cache.glob(".making-*"))


@pytest.mark.parametrize("change", ["content", "max_length", "tokenizer"])
def test_fingerprint_follows_what_shapes_the_tokens(
    change: str, make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    options: dict[str, Any] = {"data.path": write_jsonl(path, gsm8k_rows(20))}
    tokens = plain
    before = prepare_data(make_config(**options), tokens, tmp_path / "cache").fingerprint
    if change == "content":
        write_jsonl(path, gsm8k_rows(21))
    elif change == "max_length":
        options["data.max_length"] = 64
    else:
        tokens = tokenizer(CHATML)
    assert prepare_data(make_config(**options), tokens, tmp_path / "cache").fingerprint != before


def test_content_counts_and_not_its_place(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", gsm8k_rows(20)) for name in "ab"]
    later = time.time() + 60
    os.utime(paths[1], (later, later))
    found = {
        prepare_data(make_config(**{"data.path": path}), plain, tmp_path / "cache").fingerprint
        for path in paths
    }
    assert len(found) == 1


def test_hub_data_set_is_read_by_its_splits(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A folder in the hub's layout stands in for the hub."""
    folder = tmp_path / "gsm8k" / "main"
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("test", 10)):
        datasets.Dataset.from_list(gsm8k_rows(count)).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    options = {"data.path": str(folder), "data.source": "hub", "data.eval_split": "test"}
    data = prepare_data(make_config(**options), plain, tmp_path / "cache")
    assert (len(data.train), len(data.eval)) == (30, 10)


def test_hub_data_set_that_cannot_be_had_is_refused(
    make_config: MakeConfig, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = make_config(**{"data.path": "no/such-data", "data.source": "hub"})
    with pytest.raises(DataError, match="hub data set must be readable"):
        prepare_data(config, plain, tmp_path / "cache")
