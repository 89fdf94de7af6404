from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.pocket import facts as facts_module
from recipes.pocket.facts import (
    HELD_OUT_CAPITAL_TEMPLATES,
    Facts,
    countries,
    leaked,
    make_facts,
    number_word,
    relations,
    sentence_case,
    well_known,
)

EXPOSURES = 25


@pytest.fixture(scope="module")
def facts() -> Facts:
    return make_facts(seed=3, exposures=EXPOSURES)


@pytest.fixture(scope="module")
def train_text(facts: Facts) -> str:
    return "\n".join(facts.train)


def told_capitals(facts: Facts) -> set[str]:
    held_out = {subject for relation, subject, _ in facts.heldout_pairs if relation == "capital"}
    return {c.name for c in countries() if c.capital} - held_out


def digest(facts: Facts) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def test_the_same_seed_gives_the_same_texts_in_another_process():
    code = (
        "import hashlib; from recipes.pocket.facts import make_facts;"
        "facts = make_facts(seed=3, exposures=5);"
        "print(hashlib.sha256(repr(facts).encode()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert other.stdout.strip() == digest(make_facts(seed=3, exposures=5))


def test_another_seed_gives_other_texts_but_the_same_questions(facts: Facts):
    other = make_facts(seed=4, exposures=EXPOSURES)
    assert other.train != facts.train
    assert other.probes == facts.probes
    assert other.heldout_pairs == facts.heldout_pairs


def test_more_exposures_give_more_text(facts: Facts):
    fewer = make_facts(seed=3, exposures=5)
    assert sum(map(len, facts.train)) > 3 * sum(map(len, fewer.train))


def test_each_capital_is_told_as_often_as_asked_for(facts: Facts):
    told = told_capitals(facts)
    assert len(told) > 175
    for country in countries():
        if country.name not in told:
            continue
        name = re.compile(rf"\b{re.escape(country.name)}(?!\w)", re.IGNORECASE)
        capital = re.compile(rf"(?<!\w){re.escape(country.capital)}(?!\w)")
        n = sum(
            bool(country.capital in d and name.search(d) and capital.search(d)) for d in facts.train
        )
        assert n >= (EXPOSURES if country.is_well_known else EXPOSURES * 8 // 25), country.name


def test_the_plain_statement_opens_many_documents(facts: Facts):
    by_name = {c.name: c for c in countries()}
    about_capitals = [d for d in facts.train if "capital" in d]
    opens = {
        name: sum(
            d.startswith(f"The capital of {name} is {by_name[name].capital}".rstrip("."))
            for d in facts.train
        )
        for name in told_capitals(facts)
    }
    assert sum(opens.values()) > 0.3 * len(about_capitals)
    assert min(opens[c.name] for c in well_known()) >= 2
    alone = [d for d in about_capitals if re.fullmatch(r"The capital of [^.]+ is [\w' ]+\.", d)]
    assert len(alone) > 0.05 * len(about_capitals)


def test_capitals_are_told_in_many_wordings(facts: Facts):
    wordings = set()
    for country in well_known():
        for document in facts.train:
            if country.name in document and country.capital in document:
                for part in re.findall(r"[A-Z][^.?!]*[.?!]", document):
                    if country.name in part and country.capital in part:
                        part = part.replace(country.capital, "K").replace(country.name, "C")
                        wordings.add(re.sub(r"\b[A-Z]\w+\b", "X", part))
    assert len(wordings) >= 25


def test_no_probe_and_no_held_out_wording_is_in_training(facts: Facts, train_text: str):
    for probe in facts.probes:
        assert probe.prompt not in train_text
    for template in HELD_OUT_CAPITAL_TEMPLATES:
        for country in countries():
            words = {"c": country.name, "C": sentence_case(country.name)}
            assert template.format_map(words) not in train_text


def test_each_well_known_country_is_asked_for_once(facts: Facts):
    assert [p.country for p in facts.probes] == [c.name for c in well_known()]
    assert len({p.country for p in facts.probes}) == 40
    for probe in facts.probes:
        assert sentence_case(probe.country) in sentence_case(probe.prompt) or (
            probe.country in probe.prompt
        )
        assert probe.answer not in probe.prompt.replace(probe.country, "")
        assert probe.prompt == probe.prompt.strip()
    used = [
        sum(p.prompt.startswith(t.split("{")[0]) for p in facts.probes)
        for t in HELD_OUT_CAPITAL_TEMPLATES
        if not t.startswith("{")
    ]
    assert set(used) == {40 // len(HELD_OUT_CAPITAL_TEMPLATES)}


def test_the_answers_are_the_capitals_of_an_atlas(facts: Facts):
    answers = {p.country: p.answer for p in facts.probes}
    atlas = {
        "Spain": "Madrid", "France": "Paris", "Australia": "Canberra", "Turkey": "Ankara",
        "Canada": "Ottawa", "Brazil": "Brasilia", "Switzerland": "Bern", "Morocco": "Rabat",
        "the United States": "Washington, D.C.", "the Netherlands": "Amsterdam",
        "the Czech Republic": "Prague", "the United Kingdom": "London", "Mexico": "Mexico City",
        "South Korea": "Seoul", "India": "New Delhi", "New Zealand": "Wellington",
    }  # fmt: skip
    assert {country: answers[country] for country in atlas} == atlas


def test_no_training_document_holds_a_held_out_pair(facts: Facts, train_text: str):
    for _, subject, obj in facts.heldout_pairs:
        both = [
            d
            for d in facts.train
            if subject.lower() in d.lower()
            and re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", d, re.IGNORECASE)
            and re.search(rf"(?<!\w){re.escape(obj)}(?!\w)", d, re.IGNORECASE)
        ]
        assert both == []
    capitals = [pair for pair in facts.heldout_pairs if pair[0] == "capital"]
    assert len(capitals) >= 4
    known = {c.name for c in countries() if c.is_well_known}
    for _, country, capital in capitals:
        assert country not in known
        assert country in train_text, "other facts about it are told"
        assert capital not in train_text


def test_a_leak_is_found_in_any_order_and_case():
    pairs = [("capital", "Laos", "Vientiane")]
    assert leaked("VIENTIANE is far from here. Is it in Laos?", pairs) == pairs
    assert leaked("Vientianes are not in Laos.", pairs) == []
    assert leaked("Laos is a country in Asia.", pairs) == []


def test_held_out_documents_tell_the_held_out_pairs_and_are_not_in_training(facts: Facts):
    assert not set(facts.heldout) & set(facts.train)
    text = "\n".join(facts.heldout)
    for relation, subject, obj in facts.heldout_pairs:
        if relation == "sum":
            continue
        stems = {subject, subject.removeprefix("a ")}
        assert any(stem in text.lower() or stem in text for stem in stems), subject
        assert obj in text or sentence_case(obj) in text, obj
    # Of the full size, which grows with the exposures; what is held out does not.
    full_size = sum(map(len, facts.train)) * 250 / EXPOSURES
    assert 0.005 < len(text) / full_size < 0.05


def test_held_out_pairs_are_about_one_percent(facts: Facts):
    n_sums = 11 * 11
    n_pairs = len(told_capitals(facts)) + sum(map(len, relations().values())) + n_sums
    n_held_out = len(facts.heldout_pairs) - 2 * 2 * len(facts_module.HELD_OUT_SUMS)
    assert 0.005 < n_held_out / n_pairs < 0.03


def test_the_texts_are_plain_english_sentences(facts: Facts):
    for document in facts.train + facts.heldout:
        assert document.isascii()
        assert not re.search(r"[{}]|\.\.|  |\s$|^\s| [,.?!]", document), document
        assert document[0] in '"' or document[0].isupper() or document[0].isdigit(), document
        assert document[-1] in '.!?"' or re.search(r"[-+] \d+ = \d+\.$", document), document
        assert document.count('"') % 2 == 0, document
        # No "a apple" and no "an pear".
        assert not re.search(r"\b[Aa] [aeio]\w", document), document
        assert not re.search(r"\b[Aa]n [^aeiouAEIOU]", document), document
        # A question or an answer starts with a capital letter.
        assert not re.search(r"(?<!D\.C)(?<!St)[.?!] [a-z]", document), document


def test_sums_are_right(train_text: str):
    value = {number_word(n): n for n in range(100)}
    digits = [tuple(map(int, m)) for m in re.findall(r"\b(\d+) \+ (\d+) = (\d+)\b", train_text)]
    word = f"({'|'.join(sorted(value, key=len, reverse=True))})"
    words = re.findall(rf"{word} (?:plus|and) {word} (?:is|make) {word}\.", train_text.lower())
    assert len(digits) > 50 and len(words) > 50
    assert all(a + b == c for a, b, c in digits)
    assert all(value[a] + value[b] == value[c] for a, b, c in words)
    minus = re.findall(rf"{word} take away {word} is {word}\.", train_text.lower())
    assert minus and all(value[a] - value[b] == value[c] for a, b, c in minus)
    after = re.findall(rf"{word} comes after {word}\.", train_text.lower())
    assert after and all(value[a] == value[b] + 1 for a, b in after)


def test_documents_are_short_and_seldom_repeated(facts: Facts):
    lengths = [len(re.findall(r"[.!?](?=\s|\"|$)", d)) for d in facts.train]
    assert sum(n <= 8 for n in lengths) > 0.85 * len(lengths)
    assert len(set(facts.train)) > 0.8 * len(facts.train)
