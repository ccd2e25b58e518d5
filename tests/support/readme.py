"""The commands of the README."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.sources import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_CI = ("git clone", "make sweep", "make test", ". .venv/bin/activate")
"""What continuous integration does before any test runs."""
MAIN_JOB = "python -m sweeper -m lora.r=8,16 optim=adamw,adafactor,bnb8"
"""Run by test_main_job.py."""


def commands() -> Iterator[str]:
    """The lines of the README's shell blocks, continued lines joined, comments left out."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*", "", line).strip()
            if command and not command.startswith((*BY_CI, MAIN_JOB)):
                yield re.sub(r" +", " ", command)
