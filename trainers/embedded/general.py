"""A general corpus of simple English, generated from a seed: what the tiny model is pre-trained on.

Each document is a fact, a story, a sum, a recipe or a question with its answer, made by one of
`TOPICS`. Some ask for what they have just said, with coined names and codes that no model can know by
heart, so that the model learns to look back. Nothing here speaks of railways: that is left to
fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

SEED = 2024
AVOIDED = ("rail", "train", "track")
"""What the syllables could spell of the dispatch set's own words."""
TRAIN_DOCUMENTS = 24_000
"""About 1 M tokens."""
HELD_OUT_DOCUMENTS = 250

ANIMALS = {  # animal -> where it lives, what it eats, what it is
    "cow": ("on the farm", "grass", "mammal"),
    "horse": ("on the farm", "hay", "mammal"),
    "owl": ("in the forest", "mice", "bird"),
    "fox": ("in the forest", "rabbits", "mammal"),
    "bear": ("in the mountains", "berries", "mammal"),
    "frog": ("in the pond", "flies", "amphibian"),
    "duck": ("in the pond", "seeds", "bird"),
    "shark": ("in the sea", "fish", "fish"),
    "whale": ("in the sea", "krill", "mammal"),
    "camel": ("in the desert", "thorns", "mammal"),
    "lizard": ("in the desert", "beetles", "reptile"),
    "spider": ("in the garden", "gnats", "arachnid"),
    "bee": ("in the garden", "nectar", "insect"),
    "ant": ("in the garden", "crumbs", "insect"),
    "penguin": ("on the ice", "squid", "bird"),
    "goat": ("in the mountains", "leaves", "mammal"),
}
TOOLS = {  # thing -> kind, use
    "knife": ("tool", "cuts bread"),
    "hammer": ("tool", "drives nails"),
    "lamp": ("device", "gives light"),
    "clock": ("device", "shows the time"),
    "boat": ("vessel", "floats on water"),
    "kettle": ("vessel", "boils water"),
    "coat": ("garment", "keeps you warm"),
    "hat": ("garment", "covers the head"),
    "violin": ("instrument", "makes music"),
    "compass": ("instrument", "points to the north"),
    "pencil": ("tool", "writes on paper"),
    "oven": ("device", "bakes bread"),
}
PEOPLE = (
    "Ann Ben Clara David Emma Felix Greta Henry Ida Jack Kira Leo Mia Noah Olga Paul Rosa Sam Tina Victor"
)
FOODS = "apples pears plums carrots potatoes onions beans eggs nuts cherries lemons mushrooms tomatoes peas"
DISHES = "soup cake bread salad stew pudding porridge pie"
COLOURS = "red blue green yellow white black brown grey purple orange"
WEATHERS = "sunny rainy windy cloudy foggy snowy stormy dry"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January March April May June July August October November December"
HOBBIES = "chess football tennis cards piano guitar"
PETS = "cat dog rabbit parrot hamster pony"
MOODS = "happy tired hungry proud surprised sad calm angry"
ROOMS = "kitchen garden cellar attic hall school market library bakery park"
ONSETS = "b br c ch d f fr g gr h j k l m n p pl qu r s sh st t tr v w y z"
VOWELS = "a e i o u ai ee oo ou"
CODAS = "n r l s t m ck nd ll x ge"
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
FORM_QUESTIONS = (
    "Which {key} does {who} use?",
    "What is the {key} of {who}?",
    "How many {key} has {who}?",
    "How {key} is {who}?",
    "Where is the {key} of {who}?",
    "Why is {who} {key}?",
)
FORM_ANSWERS = ("{key} {value}.", "The {key} is {value}.", "It has {value} {key}.", "{value}.")
FORM_REFUSALS = ("The form does not say.", "Nobody knows that.", "This was not written down.")

Topic = Callable[[Random], str]


def _pick(source: Random, words: str) -> str:
    """One of some words given in one string."""
    return source.choice(words.split())


def _coined(source: Random) -> str:
    """A name that (nearly always) does not exist, of one to three syllables."""
    syllables = [_pick(source, ONSETS) + _pick(source, VOWELS) for _ in range(source.choice((1, 2, 2, 3)))]
    word = "".join(syllables) + _pick(source, CODAS)
    return _coined(source) if word.startswith(AVOIDED) else word.capitalize()


def _code(source: Random) -> str:
    """A letter and two or three digits, as on a box or a door."""
    return f"{source.choice('ABCDEFGHKLMNPRSTVW')}{source.randint(10, 399)}"


def _question(asked: str, answer: str) -> str:
    """The one form in which questions are put, here and in the fine-tuning data."""
    return f"Question: {asked}\nAnswer: {answer}"


def _animal(source: Random) -> str:
    name, (place, food, kind) = source.choice(list(ANIMALS.items()))
    facts = [
        f"The {name} lives {place}.",
        f"The {name} eats {food}.",
        f"The {name} is a kind of {kind}.",
        f"A {_pick(source, COLOURS)} {name} was seen {place} in {_pick(source, MONTHS)}.",
        f"{_pick(source, PEOPLE)} saw the {name} on {_pick(source, DAYS)} and gave it {food}.",
    ]
    return " ".join(source.sample(facts, k=source.randint(2, 4)))


def _animal_question(source: Random) -> str:
    name, (place, food, kind) = source.choice(list(ANIMALS.items()))
    who = _pick(source, PEOPLE)
    asked, answer = source.choice(
        [
            (f"What does the {name} eat?", f"The {name} eats {food}."),
            (f"Where does the {name} live?", f"The {name} lives {place}."),
            (f"What kind of animal is the {name}?", f"The {name} is a kind of {kind}."),
        ]
    )
    return f"{who} asks about the {name} on a {_pick(source, WEATHERS)} day.\n{_question(asked, answer)}"


def _definition(source: Random) -> str:
    name, (kind, use) = source.choice(list(TOOLS.items()))
    owner, colour = _coined(source), _pick(source, COLOURS)
    return source.choice(
        [
            f"A {name} is a {kind} that {use}. {owner} has a {colour} one.",
            f"{owner} bought a {colour} {name}, because it {use}.",
            f"{owner} shows a {colour} {name}.\n"
            + _question(f"What is a {name}?", f"A {name} is a {kind} that {use}."),
            f"{owner} asks for help.\n" + _question(f"Which {kind} {use}?", f"The {name} {use}."),
        ]
    )


def _story(source: Random) -> str:
    who, friend = source.sample(PEOPLE.split(), k=2)
    place, town = _pick(source, ROOMS), _coined(source)
    things, day = _pick(source, FOODS), _pick(source, DAYS)
    start = f"On {day} {who} went to the {place} in {town}."
    middle = source.choice(
        [
            f"There {who} met {friend}, who was {_pick(source, MOODS)}.",
            f"It was {_pick(source, WEATHERS)}, so {who} took a {_pick(source, COLOURS)} coat.",
            f"{friend} gave {who} some {things} and a {_pick(source, PETS)}.",
        ]
    )
    end = source.choice(
        [
            f"In the evening {who} was {_pick(source, MOODS)} and left {town}.",
            f"Then {who} and {friend} ate the {things} and went home.",
            f"After that {who} wrote a letter to {friend} about {town}.",
        ]
    )
    return f"{start} {middle} {end}"


def _arithmetic(source: Random) -> str:
    first, second = source.randint(1, 6), source.randint(1, 6)
    who, things = _pick(source, PEOPLE), _pick(source, FOODS)
    total, spoken = first + second, NUMBERS.split()
    return source.choice(
        [
            f"{who} has {first} {things} and buys {second} more. Now {who} has {total} {things}.",
            f"{spoken[first].capitalize()} plus {spoken[second]} is {spoken[total]}. "
            + f"{who} counts the {things}.",
            f"{who} has {total} {things} and eats {first}. Now {who} has {second} {things}.",
            f"{who} counts {first} {things} and {second} {things}.\n"
            + _question(f"How many {things} are there?", f"There are {total} {things}."),
        ]
    )


def _comparison(source: Random) -> str:
    first, second = source.sample(PEOPLE.split(), k=2)
    low, high = sorted(source.sample(range(2, 60), k=2))
    pairs = [(first, high), (second, low)]
    source.shuffle(pairs)
    ages = " and ".join(f"{name} is {age} years old" for name, age in pairs)
    asked, answer = source.choice(
        [
            ("Who is older?", f"{first} is older than {second}."),
            ("Who is younger?", f"{second} is younger than {first}."),
            (f"Is {first} older than {second}?", f"Yes, {first} is older."),
            (f"Is {second} older than {first}?", f"No, {second} is younger."),
        ]
    )
    return f"{ages}.\n{_question(asked, answer)}"


def _weather(source: Random) -> str:
    town, day, sky = _coined(source), _pick(source, DAYS), _pick(source, WEATHERS)
    degrees = source.randint(1, 35)
    return source.choice(
        [
            f"On {day} it was {sky} in {town}, with {degrees} degrees. People in {town} stayed at home.",
            f"The weather in {town} is {sky} in {_pick(source, MONTHS)}. In {town} it has {degrees} degrees.",
            f"On {day} it is {sky} in {town}, with {degrees} degrees.\n"
            + _question(f"How warm is it in {town}?", f"It has {degrees} degrees in {town}."),
            f"On {day} it is {sky} in {town}, with {degrees} degrees.\n"
            + _question(f"How is the weather in {town}?", f"It is {sky} in {town}."),
        ]
    )


def _cooking(source: Random) -> str:
    dish, minutes = _pick(source, DISHES), 5 * source.randint(1, 12)
    first, second = source.sample(FOODS.split(), k=2)
    recipe = f"To make {first} {dish}, cut the {first}, add the {second} and cook it for {minutes} minutes."
    asked, answer = source.choice(
        [
            (f"How long does the {dish} cook?", f"It cooks for {minutes} minutes."),
            (f"What is added to the {dish}?", f"The {second} are added."),
        ]
    )
    return source.choice([recipe, f"{recipe}\n{_question(asked, answer)}"])


def _boxes(source: Random) -> str:
    """Codes in a list, one of them asked for."""
    names = source.sample(FOODS.split(), k=source.randint(2, 4))
    held = [(_code(source), name) for name in names]
    listed = ", ".join(f"box {box} holds {name}" for box, name in held)
    box, name = source.choice(held)
    asked, answer = source.choice(
        [
            (f"Which box holds {name}?", f"Box {box} holds {name}."),
            (f"What does box {box} hold?", f"Box {box} holds {name}."),
        ]
    )
    return f"Shelf list: {listed}.\n{_question(asked, answer)}"


def _note(source: Random) -> str:
    """A note about a person, and a question about what stands in it, or does not."""
    who = _coined(source)
    entries = {
        "town": _coined(source),
        "age": str(source.randint(3, 90)),
        "pet": _pick(source, PETS),
        "hobby": _pick(source, HOBBIES),
        "door": _code(source),
        "colour": _pick(source, COLOURS),
    }
    keys = source.sample(list(entries), k=source.randint(2, 5))
    listed = ", ".join(f"{key} {entries[key]}" for key in keys)
    asked = source.choice(keys if source.random() < 0.85 else list(entries))
    answer = f"The {asked} is {entries[asked]}." if asked in keys else "The note does not say."
    asks = source.choice((f"What is the {asked} of {who}?", f"Which {asked} does {who} have?"))
    return f"Note about {who}: {listed}.\n{_question(asks, answer)}"


def _form(source: Random) -> str:
    """Entries with coined names, asked for and told in many ways: all is to be read, nothing to know."""
    who, keys = _coined(source), [_coined(source).lower() for _ in range(source.randint(1, 5))]
    values = [_value(source) for _ in keys]
    shape = source.choice(("{} {}", "{}: {}", "{} of {}", "{1} {0}"))
    listed = ", ".join(shape.format(key, value) for key, value in zip(keys, values, strict=True))
    key, value = source.choice(list(zip(keys, values, strict=True)))
    known = source.random() < 0.9
    asked = key if known else _coined(source).lower()
    asks = source.choice(FORM_QUESTIONS).format(key=asked, who=who)
    answer = source.choice(FORM_ANSWERS if known else FORM_REFUSALS).format(key=key, value=value)
    return f"{_coined(source)}: {who}, {listed}.\n{_question(asks, answer[0].upper() + answer[1:])}"


def _value(source: Random) -> str:
    return source.choice(
        (_code(source), str(source.randint(1, 99)), _coined(source), f"{_coined(source)} {_coined(source)}")
    )


def _meaning(source: Random) -> str:
    """A coined expression and what it stands for."""
    word, first, second = _coined(source).lower(), _coined(source), _coined(source).lower()
    means = f"{first} the {second} {source.choice(('and wait', 'at once', 'with care', 'before you go'))}."
    told = source.choice((f"The {word} says: {means}", f"{word.capitalize()} means: {means}"))
    asks = source.choice(
        (f"What does the {word} mean?", f"What does the {word} say?", f"Explain the {word}.")
    )
    return f"{told}\n{_question(asks, means)}"


TOPICS: tuple[Topic, ...] = (
    _animal,
    _animal_question,
    _definition,
    _story,
    _arithmetic,
    _comparison,
    _weather,
    _cooking,
    _boxes,
    _note,
    _form,
    _form,
    _form,  # more than once: reading what was never seen is what fine-tuning builds on
    _meaning,
)


def corpus() -> tuple[list[str], list[str]]:
    """Training and held-out documents: no document is in both, or twice in one."""
    source = Random(SEED)
    documents: dict[str, None] = {}
    while len(documents) < TRAIN_DOCUMENTS + HELD_OUT_DOCUMENTS:
        documents[source.choice(TOPICS)(source)] = None
    ordered = list(documents)
    return ordered[HELD_OUT_DOCUMENTS:], ordered[:HELD_OUT_DOCUMENTS]
