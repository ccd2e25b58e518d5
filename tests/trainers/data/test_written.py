"""Text stays as it was written, and a file is the one that was named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from sweeper.contract.config import Config
from tests.support.samples import tokenizer
from trainers.data.prepared import PreparedData, prepare_data
from trainers.data.written import is_guessed_otherwise

MakeConfig = Callable[..., Config]
CHATML = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
WRITTEN = ["00042", "1e2", "1.50", "NA", "None", "null", "True", "false", "2024-01-02", "+7", " 8", "12"]
NUMBERS = ["1e2", "1.50", "-0", "12", "123456789012345678901234567890", "-1.0E+3"]


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return tokenizer()


@pytest.fixture
def prepare(make_config: MakeConfig, tmp_path: Path) -> Callable[..., PreparedData]:
    """Tokenise a file that trains and evaluates."""

    def run(path: Path, tokens: PreTrainedTokenizerFast) -> PreparedData:
        config = make_config(**{"data.path": str(path), "data.eval_path": str(path)})
        return prepare_data(config, tokens, tmp_path / "cache")

    return run


Prepare = Callable[..., PreparedData]


def texts(data: PreparedData, tokens: PreTrainedTokenizerFast) -> list[str]:
    """The training rows, decoded."""
    return [str(tokens.decode(ids)).removesuffix("</s>") for ids, _ in data.train]


def test_fields_of_csv_are_text(prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\n" + "".join(f"q,{label}\n" for label in WRITTEN))
    expected = [f"q{'' if label[0].isspace() else chr(10)}{label}" for label in WRITTEN]
    assert texts(prepare(path, plain), plain) == expected


@pytest.mark.parametrize("label", ["00042", "1e2", "NA", "True", "2024-01-02"])
def test_a_column_of_one_kind_of_csv_is_text(
    label: str, prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text\n{label}\n{label}\n")
    assert texts(prepare(path, plain), plain) == [label, label]


def test_csv_with_an_index_and_repeated_columns_is_read(
    prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",text,note,note\n0,007,a,b\n1,1e2,c,d\n")
    assert texts(prepare(path, plain), plain) == ["007", "1e2"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_numbers_of_json_keep_their_spelling(
    name: str, prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / name
    rows = [f'{{"question": "q", "answer": {number}}}' for number in NUMBERS]
    path.write_text("\n".join(rows) if name.endswith("l") else f"[{', '.join(rows)}]")
    assert texts(prepare(path, plain), plain) == [f"q\n{number}" for number in NUMBERS]


@pytest.mark.parametrize("date", ["2024-01-02", "2024-01-02T03:04:05", "2024-01-02 03:04:05Z"])
def test_dates_of_json_stay_text(
    date: str, prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": date}) * 2)
    assert texts(prepare(path, plain), plain) == [date, date]


def test_a_date_in_a_chat_stays_text(prepare: Prepare, tmp_path: Path) -> None:
    path, tokens = tmp_path / "rows.jsonl", tokenizer(CHATML)
    turns = [{"role": "user", "content": "2024-01-02"}, {"role": "assistant", "content": "2024-01-03"}]
    path.write_text(json.dumps({"messages": turns}))
    assert "".join(texts(prepare(path, tokens), tokens)) == "<|user|>2024-01-02</s><|assistant|>2024-01-03"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["rows[1]", "rows*", "row?1", "{a,b}", "[!a]"])
def test_a_name_with_pattern_characters_is_that_file(
    name: str, suffix: str, prepare: Prepare, plain: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for stem, text in ((name, "named"), ("rows1", "other"), ("a", "other"), ("b", "other")):
        rows, path = datasets.Dataset.from_dict({"text": [text]}), tmp_path / f"{stem}{suffix}"
        writers: dict[str, Callable[[Path], Any]] = {
            ".csv": rows.to_csv, ".jsonl": rows.to_json, ".parquet": rows.to_parquet
        }  # fmt: skip
        writers[suffix](path)
    assert texts(prepare(tmp_path / f"{name}{suffix}", plain), plain) == ["named"]


@pytest.mark.parametrize(
    ("name", "content", "is_otherwise"),
    [
        ("a.csv", "q,a\nhow many,12\nand now,7\n", False),
        ("a.csv", "q,a\nhow many,12\nand now,\n", True),
        ("a.csv", "q,a\nhow many,012\n", True),
        ("a.csv", "q,a\nhow many,NA\n", True),
        ("a.jsonl", '{"q": "how many", "a": 12, "b": true, "c": null}', False),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "hello"}]}', False),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "2024-01-02"}]}', True),
        ("a.jsonl", '{"messages": [{"role": "user", "calls": [{"name": "f"}]}]}', True),
        ("a.json", '[{"a": 1.50}]', True),
    ],
)
def test_only_data_that_became_other_text_before_gets_another_fingerprint(
    name: str, content: str, is_otherwise: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert is_guessed_otherwise(path) is is_otherwise
