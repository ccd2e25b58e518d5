"""Options of `python -m sweeper production`. They have no effect on the trials of a study."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProductionConfig:
    """How the best configuration of a study is run for real."""

    trial: int | None = None
    """Number of the trial to run for real. Unset: the best under the study's rule, which
    `objective.…` and `constraint.…` on the command line overrule."""
    epochs: float = 1.0
    """Passes over the training data, rounded up to whole optimizer steps. The data is all there is:
    `data.max_train_examples` and `data.max_eval_examples` of the study do not count."""
    steps: int | None = None
    """Optimizer steps, instead of `epochs`."""
    checkpoint_every_steps: int = 50
    """Optimizer steps from one checkpoint to the next, and so the most that a kill can cost. The
    evaluation loss is taken before each; `evaluate.every_steps` has no effect."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, besides the one with the lowest evaluation loss."""
    patience: int | None = 3
    """Evaluations in a row without a new lowest loss after which training ends. Unset: never."""
    merge: bool = False
    """Also write the base weights with the adapter merged into them. No effect under `adapter=full`."""
    register: bool = True
    """Register the model, adapter merged, in the MLflow Model Registry: needs the disk space of all
    weights once more."""
    name: str | None = None
    """Name of the registered model. Unset: the study's name."""
    licence: str | None = None
    """Licence of the result for its model card, as the Hugging Face hub names it (`apache-2.0`). Unset:
    the card says that the licences of base model and data apply."""
    fresh: bool = False
    """Train anew although a run with these options has ended; its folder is kept beside the new one. A
    run that was cut off goes on all the same."""
