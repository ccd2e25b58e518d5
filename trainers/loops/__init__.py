"""The two training loops, which take `(parts, recorder)`, and what they share."""

from __future__ import annotations

from collections.abc import Callable

from trainers.loops import accelerate, hf
from trainers.loops.parts import Parts, Training
from trainers.loops.recorder import Ending, Recorder

__all__ = ["LOOPS", "Ending", "Parts", "Recorder", "Training"]

LOOPS: dict[str, Callable[[Parts, Recorder], None]] = {"accelerate": accelerate.train, "hf": hf.train}
"""Value of `trainer` -> its loop."""
