"""`python -m sweeper options [SECTION]`: every option with its meaning and default."""

from __future__ import annotations

import textwrap
from argparse import Namespace
from collections.abc import Sequence

from sweeper.cli.commands import find_near
from sweeper.contract.trial import Problem


def run(words: Sequence[str], flags: Namespace) -> int:
    """Print the options of the sections named, or all. Raises ConfigurationError for unknown words."""
    from sweeper.config.options import documentation

    found = list(documentation())
    check_words(words, [name for name, _, _ in found])
    for name, default, text in found:
        if not words or any(name == item or name.startswith(f"{item}.") for item in words):
            print(f"{name} = {'null' if default is None else default}")
            print(textwrap.indent(textwrap.fill(text, 92), "    "))
    return 0


def check_words(words: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigurationError for words that are neither an option nor a section."""
    from sweeper.config.cell import ConfigurationError

    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    unknown = [word for word in words if word not in names and word not in sections]
    problems = []
    for word in unknown:
        near = find_near(word, [*sections, *names])
        remedy = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(sections)}"
        problems.append((Problem("a section or an option must exist", "SECTION", word, remedy), ""))
    if problems:
        raise ConfigurationError(problems)
