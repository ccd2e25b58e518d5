"""`python -m sweeper export [study.name=…] --format=csv|parquet|json [--output=FILE]`: flat records."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from sweeper.analysis.export import FORMATS, flat, write
from sweeper.analysis.open import open_study
from sweeper.config.cell import ConfigurationError
from sweeper.contract.trial import Problem


def run(options: Sequence[str], flags: Namespace) -> int:
    """Write the records to a file, or to the standard output unless they are binary."""
    kind = flags.format
    if kind not in FORMATS:
        rule = "--format must name a format"
        raise ConfigurationError([(Problem(rule, "--format", kind, f"take one of {', '.join(FORMATS)}"), "")])
    study = open_study(options)
    rows = flat(study.trials, study.choice)
    output = flags.output or (f"{study.record.name}.parquet" if kind == "parquet" else "-")
    if output == "-":
        sys.stdout.buffer.write(FORMATS[kind](rows))  # in UTF-8, whatever the locale
        return 0
    write(rows, kind, Path(output))
    print(f"Wrote {len(rows)} trials of study {study.record.name} to {output}", file=sys.stderr)
    return 0
