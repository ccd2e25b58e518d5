"""The storages of a real run, counted by the same meter and in the same loops as the prediction's dry run.

This is what the prediction is verified against where there is no allocator that keeps count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import set_seed

from sweeper.contract.config import Config
from sweeper.contract.prediction import MemoryPrediction
from trainers.data.batches import plan
from trainers.data.prepared import prepare_data
from trainers.evaluation.loss import evaluation_loss, token_weighted_loss
from trainers.evaluation.quality import general_examples
from trainers.loops import LOOPS, Parts
from trainers.memory.kernels import inner_bytes
from trainers.memory.predict import as_prediction
from trainers.memory.steps import SilentRecorder, describe_model, watched
from trainers.memory.storages import StorageMeter
from trainers.meters.environment import quiet_libraries
from trainers.methods.optimizers import build_optimizer
from trainers.methods.precision import device
from trainers.model.source import load_tokenizer
from trainers.setup import build_model, training_arguments


def count(config: Config, cache_dir: Path) -> MemoryPrediction:
    """Train and evaluate as a trial of `config` does, and return what was counted, in a prediction's form."""
    quiet_libraries()
    set_seed(config.train.seed)
    where = device(config)
    tokenizer = load_tokenizer(config.model)
    data, general = prepare_data(config, tokenizer, cache_dir), general_examples(config, tokenizer)
    work = plan(config, data.train)
    meter = StorageMeter(inner_bytes=inner_bytes(where.type == "cuda"))
    with meter:
        with meter.during("load", "weights"):
            model = build_model(config, where)
            describe_model(model, meter)
            arguments = training_arguments(config, work.steps, Path("unused"))
            optimizer = build_optimizer(model, arguments)
        with watched(model, optimizer, meter):
            evaluation_loss(model, data, config, where)
            recorder: Any = SilentRecorder()
            LOOPS[config.trainer](Parts(config, work, data, model, arguments, optimizer), recorder)
            evaluation_loss(model, data, config, where)
            if general is not None:
                token_weighted_loss(model, general, data.collator, config, where)
    return as_prediction(meter.peaks, None)
