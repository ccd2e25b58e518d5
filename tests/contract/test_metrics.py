"""One table says of each metric what it is, how it is written, and which way is better."""

from __future__ import annotations

import dataclasses

import pytest

from sweeper.contract.config import Config
from sweeper.contract.measurements import METRICS, Measurements
from sweeper.contract.metrics import CUDA
from sweeper.contract.speed import measure_speed
from sweeper.contract.trial import Outcome, TrialProgress, TrialResult
from sweeper.scheduler.running import told
from sweeper.study.units import phrase, short_text, text
from sweeper.tracking.entries import shown_metrics


def test_every_metric_is_defined_once() -> None:
    assert set(METRICS) > {item.name for item in dataclasses.fields(Measurements)}
    definitions = [metric.definition for metric in METRICS.values()]
    assert all(definitions) and len(set(definitions)) == len(definitions)
    headings = [metric.heading for metric in METRICS.values()]
    assert len(set(headings)) == len(headings), "no two columns are named alike"


def test_what_a_metric_needs_is_an_option_or_a_device() -> None:
    plain = Config().to_dict()
    for name, metric in METRICS.items():
        if metric.needs not in ("", CUDA):
            section, _, option = metric.needs.partition(".")
            assert option in plain[section], name


@pytest.mark.parametrize(
    ("metric", "value", "written"),
    [
        ("tokens_per_s", 1234.5, ("1,234", "1,234", "1,234 tokens/s")),
        ("peak_memory_bytes", 3 * 2**19, ("1.5", "2", "1.5 MiB")),
        ("optimizer_state_bytes_per_parameter", 2.0, ("2.00", "2.00", "2.00 B")),
        ("trainable_share", 0.125, ("12.50%", "12.50%", "12.50%")),
        ("energy_per_token_j", 0.001234, ("0.001234", "0.001234", "0.001234 J")),
        ("steps", 12345, ("12,345", "12,345", "12,345")),
        ("eval_loss", None, ("–", "–", "–")),
    ],
)
def test_a_value_is_written_as_the_table_says(
    metric: str, value: float | None, written: tuple[str, str, str]
) -> None:
    assert (text(metric, value), short_text(metric, value), phrase(metric, value)) == written


def test_mlflow_is_given_memory_in_gib_and_all_else_as_measured() -> None:
    given = {"peak_memory_bytes": 3 * 2**29, "adapter_bytes": 4096, "tokens_per_s": 7.0, "hfu": None}
    assert shown_metrics(given) == {"peak_memory_gib": 1.5, "adapter_bytes": 4096, "tokens_per_s": 7.0}


def test_the_driver_reads_the_speed_that_the_trial_would_have_written() -> None:
    tokens, times_s = [100, 110, 90, 300], [0.1, 0.1, 0.2, 0.3]
    lines = [
        TrialProgress("step", 1.0 * step, step, 4, tokens=count, step_time_s=time_s)
        for step, (count, time_s) in enumerate(zip(tokens, times_s, strict=True), start=1)
    ]
    own = measure_speed(tokens[1:], times_s[1:])
    read = told(TrialResult(Outcome.PRUNED), lines, warmup_steps=1).measurements
    assert dataclasses.asdict(own) == {name: getattr(read, name) for name in dataclasses.asdict(own)}
    assert own.measured_steps == 3 and own.step_time_s == 0.2
    warming_up = told(TrialResult(Outcome.PRUNED), lines[:1], warmup_steps=1).measurements
    assert warming_up.tokens_per_s is None and warming_up.measured_steps == 0
