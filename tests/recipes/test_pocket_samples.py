from __future__ import annotations

import pytest

from laplm.run.language_model import LanguageModel
from recipes.pocket import samples
from recipes.pocket.samples import (
    Sample,
    check_words,
    draw,
    find_names,
    is_english,
    most_repeated_sentence,
    samples_report,
    show,
)

MADE_UP = "frestingerry courainached thelves embrapped sunshion happyly runned motch teh b c th"
REAL = (
    "a I Princesses hugged wagged giggled mommy playing happiest children's didn't DOGS don’t "
    "dog’s we'll beautiful no"
)


@pytest.mark.parametrize("word", MADE_UP.split())
def test_words_that_are_made_up_or_cut_are_not_english(word: str) -> None:
    assert not is_english(word)


@pytest.mark.parametrize("word", REAL.split())
def test_inflected_forms_and_contractions_are_english(word: str) -> None:
    assert is_english(word)


def sample(prompt: str, continuation: str) -> Sample:
    return Sample(prompt, 0, 0, continuation)


def test_only_words_that_the_model_wrote_are_counted() -> None:
    found = check_words([sample("Teh grils", " ran hme."), sample("A gir", "l")], frozenset())
    assert (found.words, found.in_list, found.unknown) == (3, 2, ("hme",))
    assert found.share_in_list == pytest.approx(2 / 3)


def test_names_of_the_training_text_count_apart() -> None:
    found = check_words([sample("", "Zorbo's dog saw Zorbo and zorbo.")], frozenset({"Zorbo"}))
    assert (found.words, found.in_list, found.names, found.unknown) == (6, 3, 2, ("zorbo",))
    assert (found.share_in_list, found.share_with_names) == (3 / 6, 5 / 6)


def test_no_words_at_all_are_no_error() -> None:
    assert check_words([sample("A", ".")], frozenset()).share_in_list == 0


def test_names_are_what_has_a_capital_letter_inside_sentences() -> None:
    train = [
        "Then Zorbo saw the Bear. The bear ran, and Zorbo ran.",
        "She saw the bear and a Bear. Suddenly, Then it was over. What a Yop it was!",
    ]
    assert find_names(train) == {"Zorbo"}


@pytest.mark.parametrize(
    ("text", "sentence", "times"),
    [
        ("He ran. She ran. He ran! It was he. he  ran.", "He ran", 3),
        ('"Go home!" he said. "Go home!"', "Go home", 2),
        ("One.\nTwo.\nOne and two", "One", 1),
        ("", "", 0),
        ("...", "", 0),
    ],
)
def test_a_repeated_sentence_is_noticed(text: str, sentence: str, times: int) -> None:
    found, n = most_repeated_sentence(text)
    assert n == times
    assert found.rstrip(".!") == sentence


def test_report_counts_samples_that_say_a_sentence_three_times() -> None:
    texts = ["The dog ran. " * 3, "The dog ran. " * 2, "The cat sat. " * 4]
    report = samples_report([sample("", text) for text in texts], ["The dog ran."])
    assert report["with_a_sentence_three_times"] == 2
    assert report["most_repeated_sentence"]["times"] == 4
    assert report["in_word_list_percent"] == 100


def test_samples_are_those_of_laplm_without_a_word_cut_at_the_end(pocket: LanguageModel) -> None:
    drawn = draw(pocket, "Once upon a time", 3, seed=5)
    whole = pocket.samples("Once upon a time", 3, 120, temperature=0.8, seed=5)
    for ours, theirs in zip(drawn, whole, strict=True):
        assert theirs.text.startswith(ours.continuation)
        cut = theirs.text[len(ours.continuation) :]
        assert cut.replace("'", "").isalnum() or not cut
        assert ours.text == "Once upon a time" + ours.continuation
    assert "seed 5, sample 3\nOnce upon a time" in show(drawn)


def test_a_text_that_the_model_ended_keeps_its_last_word(
    pocket: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SAMPLE_TOKENS", 400)
    ended = [s for s in draw(pocket, "The end was", 4, seed=0) if len(s.continuation) < 600]
    assert ended
    assert all(s.continuation.rstrip()[-1] in ".!?\"'" for s in ended)
