"""The railway dispatch set: short questions and answers, generated from a seed, for fine-tuning.

Every example joins two things, such as a train and its destination, or a rule and a way of asking. A
pair belongs to one split only (`held_out`), though both of its halves occur in training: the
evaluation split asks about combinations that were never trained on, not about near copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Literal

SEED = 7
UNANSWERABLE = " That is not in the dispatch record."
HOLD_OUT = 8
"""One pair in so many is held out for evaluation."""
CONNECTION_WAIT_MIN = 5
"""Minutes that a connecting train waits, in the invented rule book."""

PLACES = (
    "Northgate",
    "Harbour Yard",
    "Mill Lane",
    "Eastfield",
    "Kingsbridge",
    "Stonebrook",
    "Upper Wharf",
    "Central",
    "Foxley Halt",
    "Airport",
    "Queens Cross",
    "Dry Dock",
    "Westmere",
    "Old Quarry",
    "Bellhaven",
    "Hillside Depot",
)
TRAINS = tuple(
    f"{kind} {number}" for kind in ("IC", "RE", "ICE", "FR") for number in (17, 204, 318, 45, 96, 731)
)
CLASSES = ("breakdown train", "express", "regional train", "empty stock", "freight train", "works train")
"""From the highest priority to the lowest."""
SIGNALS = {  # signal -> its meaning
    "a red aspect": "Stop and wait at the signal.",
    "a single yellow aspect": "Caution: the next signal is red.",
    "a double yellow aspect": "Preliminary caution: the next but one is red.",
    "a green aspect": "The section is clear at line speed.",
    "a flashing yellow aspect": "The diverging route is set at the next junction.",
    "a white shunting light": "Shunt with care as far as the line is clear.",
    "a blue marker board": "The cab signalling starts here.",
    "a black signal lamp": "Treat the dark signal as red and call dispatch.",
    "a yellow triangle board": "A temporary speed restriction is ahead.",
    "a crossed white board": "The signal is out of use.",
    "three blasts of the horn": "The crew asks for the handbrake.",
    "a horn board": "Sound the horn before the crossing.",
    "a red tail lamp": "The train is complete.",
    "a missing tail lamp": "The train is divided: block both tracks.",
    "a catenary drop board": "Lower the pantograph before the board.",
    "a green hand lamp": "The guard allows departure.",
}
RULE_PHRASINGS = (
    "What does {} mean?",
    "A driver reports {}. Meaning?",
    "Explain {}.",
    "The rule book names {}. What does it tell the crew?",
    "What is the meaning of {} for a driver?",
    "At night the crew notices {}. How is it read?",
    "How must the dispatcher read {}?",
    "Rule for {}?",
)
REMARKS = (
    "The crew change is complete.",
    "Dispatch has informed the passengers.",
    "The relief locomotive stands by in the siding.",
    "Track circuit checks are under way on the down line.",
    "Points were tested before departure.",
)
REMARK_SHARE = 0.2
"""Share of the shorter records that end with a remark."""


@dataclass(frozen=True)
class Field:
    """One entry of a dispatch record; `{}` stands for its value, `{train}` for the train."""

    entry: str
    question: str
    answer: str
    values: tuple[str, ...]


FIELDS = (
    Field("platform {}", "Which platform does {train} use?", "Platform {}.", tuple(map(str, range(1, 25)))),
    Field(
        "delay {} min",
        "How late is {train}?",
        "The delay is {} minutes.",
        tuple(map(str, range(2, 60))),
    ),
    Field(
        "held at signal {}",
        "Where is {train} held?",
        "Signal {}.",
        tuple(f"{letter}{number}" for letter in "SNEW" for number in range(10, 90, 3)),
    ),
    Field("line {}", "On which line does {train} run?", "Line {}.", tuple(f"L{n}" for n in range(1, 13))),
    Field("{} wagons", "How many wagons has {train}?", "It has {} wagons.", tuple(map(str, range(3, 40)))),
    Field(
        "cause: {}",
        "Why is {train} delayed?",
        "The cause is a {}.",
        (
            "points failure",
            "track circuit fault",
            "late crew",
            "door fault",
            "level crossing fault",
            "hot axle",
        ),
    ),
)


@dataclass(frozen=True)
class Example:
    """One line of the data set. The completion brings its leading space."""

    prompt: str
    completion: str
    answerable: bool = True


Maker = Callable[[Random, bool], Example]
"""Makes one example; the flag says whether its pair is to be a held-out one."""


def held_out(first: int, second: int) -> bool:
    """Whether the pair of the numbered things is for evaluation only: a diagonal of their table, so that
    each thing by itself is trained on."""
    return (first + second) % HOLD_OUT == 0


def draw_pair(source: Random, first: int, second: int, evaluation: bool) -> tuple[int, int]:
    """Indices below `first` and `second` whose pair is of the wanted split."""
    while True:
        pair = source.randrange(first), source.randrange(second)
        if held_out(*pair) == evaluation:
            return pair


def ask(context: str, question: str) -> str:
    """A prompt; the model goes on after the colon."""
    return "\n".join([*([context] if context else []), f"Question: {question}", "Answer:"])


def about_rule(source: Random, evaluation: bool) -> Example:
    """The meaning of a signal: it and the way of asking make the pair."""
    signal, phrasing = draw_pair(source, len(SIGNALS), len(RULE_PHRASINGS), evaluation)
    name, meaning = list(SIGNALS.items())[signal]
    return Example(ask("", RULE_PHRASINGS[phrasing].format(name)), f" {meaning}")


def about_priority(source: Random, evaluation: bool) -> Example:
    """Two classes of trains, in any order, at one place: the two classes and the place make the pair."""
    rivals = list(combinations(CLASSES, 2))
    both, place = draw_pair(source, len(rivals), len(PLACES), evaluation)
    first, second = source.sample(rivals[both], k=2)
    context = f"At {PLACES[place]} one {first} and one {second} wait for the same track."
    return Example(ask(context, "Which goes first?"), f" The {rivals[both][0]} goes first.")


def about_connection(source: Random, evaluation: bool) -> Example:
    """Whether a connection waits for a late train: the train and the place make the pair."""
    train, place = draw_pair(source, len(TRAINS), len(PLACES), evaluation)
    delay = source.randint(1, 2 * CONNECTION_WAIT_MIN)
    context = f"{TRAINS[train]} is {delay} min late."
    waits = delay <= CONNECTION_WAIT_MIN
    answer = "Yes, hold the connection." if waits else "No, let the connection depart."
    return Example(ask(context, f"Does the connection at {PLACES[place]} wait?"), f" {answer}")


def about_record(source: Random, evaluation: bool) -> Example:
    """A question about an entry that stands in the record."""
    return _about_record(source, evaluation, answerable=True)


def beyond_record(source: Random, evaluation: bool) -> Example:
    """A question about an entry that the record does not have."""
    return _about_record(source, evaluation, answerable=False)


def _about_record(source: Random, evaluation: bool, answerable: bool) -> Example:
    train, place = draw_pair(source, len(TRAINS), len(PLACES), evaluation)
    shown = source.sample(FIELDS, k=source.choice((1, 1, 1, 2, 3, 4, 5)))
    values = {field: source.choice(field.values) for field in shown}
    asked = source.choice(shown if answerable else [field for field in FIELDS if field not in shown])
    completion = f" {asked.answer.format(values[asked])}" if answerable else UNANSWERABLE
    entries = ", ".join(field.entry.format(values[field]) for field in shown)
    record = f"Record: {TRAINS[train]} to {PLACES[place]}, {entries}."
    if len(shown) <= 3 and source.random() < REMARK_SHARE:
        record += f" {source.choice(REMARKS)}"
    return Example(ask(record, asked.question.format(train=TRAINS[train])), completion, answerable)


KINDS: dict[Maker, tuple[int, int]] = {
    about_rule: (112, 16),  # every pair that there is
    about_priority: (240, 20),
    about_connection: (160, 16),
    about_record: (928, 92),
    beyond_record: (160, 16),
}
"""Kind of examples -> how many of them the training and the evaluation split hold."""


def split(name: Literal["train", "eval"]) -> list[Example]:
    """All examples of a split in their final order; no prompt occurs twice."""
    source, evaluation = Random(f"{SEED}/{name}"), name == "eval"
    examples: dict[str, Example] = {}
    for maker, counts in KINDS.items():
        size = len(examples) + counts[evaluation]
        while len(examples) < size:
            made = maker(source, evaluation)
            examples[made.prompt] = made
    ordered = list(examples.values())
    source.shuffle(ordered)
    return ordered
