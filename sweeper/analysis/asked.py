"""Which trials answer what the study asks now, and why the others do not.

The losses and speeds of trials can be compared only where all had the same model and data, device, threads
and versions. What the last run of the study found of these stands in its record; every trial has its own in
its spec. A trial of an older version of sweeper has none there: what its result tells is taken, and its key,
which differs from that of another trial of the same configuration exactly when one of these did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.contract.scopes import ABOUT_THE_STUDY
from sweeper.contract.stamps import digest
from sweeper.ranking.ranking import LeftOut
from sweeper.study.masking import mask_all
from sweeper.study.records import StudyRecord, TrialRecord

MOST_NAMED = 3
"""Options that a reason names."""
OTHER_IDENTITY = "another model, data, device, threads or versions"

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """The trials of a study, sorted by whether they answer it."""

    kept: tuple[TrialRecord, ...]
    left_out: tuple[LeftOut, ...]
    """Settled trials that may not be compared with the others."""


def select_asked(study: StudyRecord, records: Iterable[TrialRecord]) -> Asked:
    """The trials that answer what the study asks now.

    Left out are those of an earlier `study.fresh=true`, those whose fixed options (steps, model, data …) were
    others, and those that had another model, data, device, number of threads or version of a library.
    """
    options, identities = _Options(study), [_flat(identity) for identity in study.identities]
    kept: list[TrialRecord] = []
    found: list[LeftOut] = []
    for record in records:
        if record.spec.generation != study.generation:
            why: str | None = "an earlier study.fresh=true"
        else:
            why = options.difference(record) or _difference(record, identities)
        if why is None:
            kept.append(record)
        else:
            found.append(LeftOut(record, why))
    current, replaced = _without_replaced(kept)
    return Asked(tuple(current), tuple(item for item in (*found, *replaced) if _is_settled(item.record)))


def _is_settled(record: TrialRecord) -> bool:
    return record.result is not None and record.result.outcome.is_final


class _Options:
    """The options that a study holds fixed."""

    def __init__(self, study: StudyRecord) -> None:
        self._swept = {*study.swept, *study.touched}
        self._said = {item.partition("=")[0].lstrip("+") for item in study.overrides}
        self._fixed = {key: value for key, value in leaves(study.config) if value is not None}

    def difference(self, record: TrialRecord) -> str | None:
        """Which of them were others in a trial."""
        varied = {key.lstrip("+") for key in self._swept | set(record.spec.overrides)}
        varied |= {key for key, value in self._fixed.items() if value == "auto" and key == "batch.micro"}
        varied |= _derived(varied, self._said) - self._said
        own = dict(leaves(record.spec.config))
        other = [
            key
            for key, value in self._fixed.items()
            if own.get(key, value) != value
            and mask_all(own[key]) != value  # the study's record holds no password
            and not any(key == name or key.startswith(f"{name}.") for name in varied)
        ]
        more = ", …" if len(other) > MOST_NAMED else ""
        return f"another {', '.join(other[:MOST_NAMED])}{more}" if other else None


def _derived(varied: set[str], said: set[str]) -> set[str]:
    """Options that `config.resolved` fills in from others that vary: they differ unasked."""
    found = set()
    if any(key.startswith("batch") for key in varied):
        found.add("batch.accumulation")
        if "batch.accumulation" in varied | said:
            found.add("batch.effective")
    if "train.token_budget" in varied:
        found.add("train.steps")
    return found


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted name and value of every option that is part of a trial's work."""
    for name, value in config.items():
        if not prefix and name in ABOUT_THE_STUDY:
            continue
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _flat(identity: Identity) -> dict[str, Any]:
    versions = identity.get("versions") or {}
    return {**{name: value for name, value in identity.items() if name != "versions"}, **versions}


def _identity_of(record: TrialRecord) -> dict[str, Any]:
    """What stood behind a trial beside its configuration, as far as its records tell."""
    if record.spec.identity:
        return _flat(record.spec.identity)
    environment = record.result.environment if record.result else {}
    device = environment.get("device")
    on_cpu = environment.get("cuda") is None and device == environment.get("cpu")
    return {
        "device": f"cpu {device}" if on_cpu and device else device,
        **(environment.get("libraries") or {}),
    }


def _difference(record: TrialRecord, identities: Sequence[Identity]) -> str | None:
    """What of a trial's identity is in none of the study's; None where nothing is known to be."""
    if not identities:
        return None
    said = [
        _in_words(name, value, [item[name] for item in identities])
        for name, value in _identity_of(record).items()
        if value is not None
        and all(item.get(name) is not None for item in identities)
        and value not in [item[name] for item in identities]
    ]
    return ", ".join(said) or None


def _in_words(name: str, value: Any, current: Sequence[Any]) -> str:
    now = " or ".join(dict.fromkeys(map(str, current)))
    if name in ("model", "data"):
        return "another base model" if name == "model" else "other data"
    return f"{value}, not {now}" if name == "device" else f"{name} {value}, not {now}"


def _without_replaced(records: Sequence[TrialRecord]) -> tuple[list[TrialRecord], list[LeftOut]]:
    """Trials less those whose configuration was measured again because its key had become another."""
    groups: dict[str, list[TrialRecord]] = {}
    for record in records:
        if _is_settled(record):
            groups.setdefault(_configuration(record), []).append(record)
    replaced = {record.number for group in groups.values() for record in _replaced(group)}
    kept = [record for record in records if record.number not in replaced]
    return kept, [LeftOut(record, OTHER_IDENTITY) for record in records if record.number in replaced]


def _configuration(record: TrialRecord) -> str:
    return json.dumps(dict(leaves(record.spec.config)), sort_keys=True, default=str)


def _replaced(group: Sequence[TrialRecord]) -> Iterator[TrialRecord]:
    """The trials of one configuration that do not share the key of its newest one. Of a trial whose identity
    is recorded it is known already that it is what the study asks for."""
    first = [record for record in group if not record.spec.repeat]
    if len({record.spec.key for record in first}) < 2:
        return
    newest = max(first, key=lambda record: (bool(record.spec.identity), record.number)).spec.key
    for record in group:
        repeat = record.spec.repeat
        if record.spec.key != (digest([newest, repeat]) if repeat else newest):
            yield record
