"""Which loop `trainer` names."""

from __future__ import annotations

from trainers.loops import accelerate as accelerate_loop
from trainers.loops import hf as hf_trainer

LOOPS = {"accelerate": accelerate_loop.train, "hf": hf_trainer.train}
