"""Mistakes are found before any trial, with what to do about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import GPTJConfig

from sweeper.contract.config import Config
from sweeper.contract.json_files import write_json
from tests.support.samples import SIZES, save_model
from trainers import prepare
from trainers.prepare import Prepared

MakeConfig = Callable[..., Config]


@pytest.fixture
def check(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Prepared]:
    def run(**overrides: Any) -> Prepared:
        (cell,) = prepare.run([make_config(**overrides).to_dict()], tmp_path / "cache")
        return cell

    return run


Check = Callable[..., Prepared]


def test_sound_configuration_has_fingerprints_and_tokens_in_the_cache(check: Check, tmp_path: Path) -> None:
    cell = check()
    assert cell.problems == ()
    assert cell.model_fingerprint
    assert (tmp_path / "cache" / str(cell.data_fingerprint) / "train").is_dir()


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        ({"model.path": "no/such-model"}, "model.path", "save_pretrained"),
        ({"data.path": "absent.jsonl"}, "data.path", "must exist"),
        ({"data.max_length": 257}, "data.max_length", "lower it to 256"),
        ({"data.prompt_field": "prompt"}, "data.path", "data.prompt_field"),
        ({"data.eval_fraction": 0.001}, "data.path", "data.eval_fraction"),
        ({"lora.target_modules": ("q_proj", "query")}, "lora.target_modules", "q_proj"),
        ({"optim": "adamw_torhc"}, "optim", "adamw_torch"),
        ({"optim": "galore_adamw"}, "optim", "install"),
        ({"train.lr_scheduler_type": "cosin"}, "train.lr_scheduler_type", "cosine"),
        ({"quantization": "int8", "lora.use_dora": True}, "quantization", "nf4"),
    ],
)
def test_mistake_is_a_problem_with_a_remedy(
    overrides: dict[str, Any], key: str, said: str, check: Check
) -> None:
    problems = check(**overrides).problems
    assert [problem.key for problem in problems] == [key]
    assert said in f"{problems[0].rule}: {problems[0].remedy}"
    assert problems[0].remedy and problems[0].value


def test_malformed_line_is_a_problem_of_its_own(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question"\nanswer\n')
    problems = check(**{"data.path": str(path)}).problems
    assert len(problems) == 2
    assert "rows.jsonl:2" in problems[0].rule and "rows.jsonl:3" in problems[1].rule


def test_line_that_is_not_utf_8_is_a_problem(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "a", "answer": "b"}\n{"question": "caf\xe9", "answer": "b"}\n')
    (problem,) = check(**{"data.path": str(path)}).problems
    assert (problem.key, problem.remedy) == ("data.path", "convert it") and "rows.jsonl:2" in problem.rule
    sound = tmp_path / "sound.jsonl"
    sound.write_text('{"question": "a", "answer": "b"}\n')
    files = {"data.path": str(sound), "data.eval_path": str(sound), "data.general_path": str(path)}
    (problem,) = check(**files).problems
    assert "rows.jsonl:2" in problem.rule


def test_bytes_that_only_a_reader_meets_are_a_problem(check: Check, tmp_path: Path) -> None:
    texts = pa.array([b"a", b"caf\xe9"], pa.binary()).view(pa.string())
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": texts}), path)
    (problem,) = check(**{"data.path": str(path), "data.eval_path": str(path)}).problems
    assert problem.key == "data.path" and "UnicodeDecodeError" in problem.rule and problem.remedy


def test_flash_attention_without_its_device_is_left_to_the_rules(check: Check) -> None:
    assert check(attention="flash_attention_2", **{"trial.device": "cpu"}).problems == ()


def test_class_without_fused_attention_is_taken_with_its_own(check: Check, tmp_path: Path) -> None:
    save_model(GPTJConfig(**SIZES, rotary_dim=8), tmp_path / "gptj")
    asked = {"model.path": str(tmp_path / "gptj")}
    (problem,) = check(attention="sdpa", **asked).problems
    assert problem.key == "attention" and "attention=auto" in problem.remedy
    assert check(attention="auto", **asked).problems == ()


def test_problems_of_one_configuration_are_found_together(check: Check) -> None:
    problems = check(
        **{"data.path": "absent.jsonl", "lora.target_modules": ("nothing",), "optim": "none"}
    ).problems
    assert {problem.key for problem in problems} == {"data.path", "lora.target_modules", "optim"}


def test_folder_is_answered_in_the_order_of_its_configurations(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    configs = [make_config(**{"lora.r": 4}), make_config(optim="none"), make_config(**{"lora.r": 8})]
    asked = {"configs": [config.to_dict() for config in configs], "cache_dir": str(tmp_path / "cache")}
    write_json(tmp_path / "prepare.json", asked)
    prepare.main(tmp_path)
    cells = json.loads((tmp_path / "prepared.json").read_text())["cells"]
    assert [len(cell["problems"]) for cell in cells] == [0, 1, 0]
    assert set(cells[1]["problems"][0]) == {"rule", "key", "value", "remedy"}
    assert len({cell["data_fingerprint"] for cell in cells}) == 1


def test_model_fingerprint_follows_the_weights(check: Check, tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    same = check(**{"model.path": str(copy)}).model_fingerprint
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert same == check().model_fingerprint != check(**{"model.path": str(copy)}).model_fingerprint
