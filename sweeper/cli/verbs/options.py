"""`python -m sweeper options [SECTION]`: every option with its meaning and default."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Print the options of the sections named, or all."""
    from sweeper.config.options import documentation

    for name, default, text in documentation():
        if not arguments or any(name == item or name.startswith(f"{item}.") for item in arguments):
            print(f"{name} = {'null' if default is None else default}")
            print(textwrap.indent(textwrap.fill(text, 92), "    "))
    return 0
