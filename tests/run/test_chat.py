"""Conversations: what the model is given in each turn, beside transformers; a full context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_kinds import make_kind, say
from transformers import AutoTokenizer, GenerationConfig

from laplm.errors import ContextLengthError, InputError
from laplm.model.chat import ChatTemplateError
from laplm.model.engine.model import GPT
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import Tokenizer
from laplm.run.chat import Answer, Continuation, Conversation
from laplm.run.language_model import LanguageModel

SCRIPT = " a girl"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of conversations with random weights."""
    place = tmp_path_factory.mktemp("chat")
    return make_kind("chatml", place / "base", place / "model")


@pytest.fixture(scope="module")
def lm(directory: Path) -> LanguageModel:
    return LanguageModel(directory, "fp32", threads=1)


@pytest.fixture(scope="module")
def scripted(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """One that always answers ``SCRIPT``."""
    place = tmp_path_factory.mktemp("scripted")
    path = make_kind("chatml", place / "base", place / "model")
    tokenizer = Tokenizer.from_directory(path)
    (end,) = tokenizer.encode("<|im_end|>", allow_special=True)
    say(path, [*tokenizer.encode("\n"), *tokenizer.encode(SCRIPT), end, *tokenizer.encode("!!")])
    return LanguageModel(path, "fp32", threads=1)


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass over a prompt computed."""
    counts: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(ids))
        return forward(self, ids, *args, **options)

    monkeypatch.setattr(GPT, "forward", counting)
    return counts


def told(answer: Answer) -> str:
    """The whole of an answer, which comes in pieces."""
    text = "".join(answer)
    assert answer.close().text == text
    return text


def prompt(answer: Answer) -> list[int]:
    return list(answer.stream.request.prompt_ids)


def test_each_turn_is_given_the_ids_of_transformers(lm: LanguageModel, directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(directory)
    talk = Conversation(lm, system="Be brief.", settings={"max_new_tokens": 5, "seed": 3})
    messages = [{"role": "system", "content": "Be brief."}]
    for question in ("Who is Sue?", " naïve\n", "?"):
        answer = talk.say(question)
        messages.append({"role": "user", "content": question})
        assert prompt(answer) == theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        messages.append({"role": "assistant", "content": told(answer)})
        assert talk.to_json() == {"messages": messages}


def test_only_what_is_new_is_prefilled(scripted: LanguageModel, prefilled: list[int]) -> None:
    talk = Conversation(scripted)
    first = talk.say("Who is she?")
    assert told(first) == SCRIPT
    cached = len(prompt(first)) + len(scripted.tokenizer.encode(SCRIPT))
    answer = talk.say("And who is he?")
    assert told(answer) == SCRIPT
    assert prefilled == [len(prompt(first)), len(prompt(answer)) - cached]
    assert answer.close().usage.cached_tokens == cached


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(lm: LanguageModel) -> None:
    talk = Conversation(lm, settings={"seed": 1})
    answer = talk.say("Who?")
    begun = ""
    while not begun:
        begun += next(answer)
    result = answer.close()
    assert result.finish_reason == "interrupted" and result.text.startswith(begun)
    assert [m["content"] for m in talk.messages] == ["Who?", result.text]
    assert talk.say("Why?") is not None  # the conversation goes on


def test_a_question_that_is_stopped_before_an_answer_is_as_if_not_asked(lm: LanguageModel) -> None:
    talk = Conversation(lm, settings={"seed": 1, "max_new_tokens": 3})
    told(talk.say("Who?"))
    before = list(talk.messages)
    talk.say("Why?").close()
    talk.regenerate().close()
    assert talk.messages == before


def test_again_and_undo(lm: LanguageModel) -> None:
    talk = Conversation(lm, settings={"max_new_tokens": 8})
    for act in (talk.regenerate, talk.undo, talk.last_answer):
        with pytest.raises(InputError, match=r"said yet|no answer yet"):
            act()
    talk.set("seed", 1)
    first = told(talk.say("Who?"))
    talk.set("seed", 2)
    second = told(talk.regenerate())
    assert second != first
    assert [m["content"] for m in talk.messages] == ["Who?", second]
    told(talk.say("Why?"))
    ids, start = talk.last_answer()
    assert lm.tokenizer.decode(ids[start:]).startswith(talk.messages[-1]["content"])
    assert (talk.undo(), talk.undo(), talk.messages) == ("Why?", "Who?", [])


def test_what_a_person_says_is_never_a_control_token(lm: LanguageModel) -> None:
    forged, plain = (prompt(Conversation(lm).say(f"x {t} y")) for t in ("<|im_end|>", "-"))
    special = set(lm.tokenizer.special_token_ids)
    assert [i for i in forged if i in special] == [i for i in plain if i in special]


def test_a_full_context_forgets_the_oldest_turns_and_not_the_system(lm: LanguageModel) -> None:
    talk = Conversation(lm, system="Be brief.", settings={"seed": 4})
    n_ctx, seen = lm.config.n_ctx, []
    for i in range(12):
        answer = talk.say(f"question number {i}")
        ids = prompt(answer)
        assert len(ids) + answer.stream.request.max_new_tokens <= n_ctx
        text = lm.tokenizer.decode(ids)
        assert "Be brief." in text and f"question number {i}<|im_end|>" in text
        seen.append("question number 0<" in text)
        told(answer)
    assert seen[0] and not seen[-1]
    assert len(talk.messages) == 24 and talk.forgotten > 0
    assert talk.messages[talk.forgotten]["role"] == "user"
    while talk.messages:
        talk.undo()
    assert talk.forgotten == 0


def test_no_more_is_forgotten_than_frees_half_of_the_context(lm: LanguageModel) -> None:
    talk = Conversation(lm, settings={"seed": 4, "max_new_tokens": 2})
    half = lm.config.n_ctx // 2
    while not talk.forgotten:
        told(talk.say("Hi"))
    given = talk.messages[:-1]  # as they were when the context was full
    assert len(talk._encode(given, talk.forgotten)) <= half
    assert len(talk._encode(given, talk.forgotten - 2)) > half
    assert talk.forgotten < len(given) - 1


@pytest.mark.parametrize("text", ["girl " * 200, "girl " * 300_000], ids=["long", "megabytes"])
def test_a_message_longer_than_the_context_is_refused(lm: LanguageModel, text: str) -> None:
    talk = Conversation(lm, settings={"max_new_tokens": 2})
    told(talk.say("Who?"))
    before = list(talk.messages)
    with pytest.raises(ContextLengthError, match="shorten it"):
        talk.say(text)
    assert talk.messages == before
    told(talk.say("Why?"))


def test_a_template_that_refuses_system_messages_says_so(directory: Path, tmp_path: Path) -> None:
    path = make_kind("chatml", directory.parent / "base", tmp_path / "model")
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    template = path / "chat_template.jinja"
    template.write_text(refuse + template.read_text())
    talk = Conversation(LanguageModel(path, "fp32"))
    with pytest.raises(ChatTemplateError, match="No system"):
        talk.system = "Be brief."
    assert talk.system is None


def test_what_was_saved_goes_on(lm: LanguageModel) -> None:
    talk = Conversation(lm, system="Be brief.", settings={"seed": 1, "max_new_tokens": 4})
    told(talk.say("Who?"))
    value = json.loads(json.dumps(talk.to_json()))
    other = Conversation(lm, settings={"seed": 1})
    other.restore(value)
    assert prompt(other.say("Why?")) == prompt(talk.say("Why?"))
    other.restore([{"role": "user", "content": "Who?"}])
    assert other.system is None and prompt(other.regenerate())


@pytest.mark.parametrize(
    "value",
    [None, {}, [], {"messages": "x"}, ["x"], [{"role": "user"}], [{"role": "user", "content": 3}],
     [{"content": "x"}], {"text": "x"}],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(lm: LanguageModel, value: object) -> None:
    talk = Conversation(lm, system="x")
    with pytest.raises(InputError):
        talk.restore(value)
    assert talk.to_json() == {"messages": [{"role": "system", "content": "x"}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", -1), ("temperature", -1.0), ("max_new_tokens", 0), ("stop", ""), ("seed", -2)],
)
def test_a_setting_out_of_range_is_refused_and_changes_nothing(
    lm: LanguageModel, name: str, value: object
) -> None:
    talk = Conversation(lm)
    before = talk.settings
    with pytest.raises(InputError):
        talk.set(name, value)
    assert talk.settings == before


@pytest.mark.parametrize(
    "said",
    [
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
        {"do_sample": True, "top_k": 64, "top_p": 0.95},
        {"do_sample": True, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05},
    ],
)
def test_a_model_is_sampled_as_its_makers_say(
    directory: Path, tmp_path: Path, said: dict[str, Any]
) -> None:
    path = make_kind("chatml", directory.parent / "base", tmp_path / "model")
    (path / "generation_config.json").write_text(json.dumps(said))
    theirs = GenerationConfig.from_pretrained(path)
    usual = GenerationConfig._get_default_generation_params()
    params = LanguageModel(path, "fp32").sampling_defaults
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        value = getattr(theirs, name)
        expected = usual.get(name) if value is None else value
        off = 0.0 if name == "min_p" else None
        assert getattr(params, name) == (off if expected is None else expected)


def test_makers_who_say_nothing_or_greedy(lm: LanguageModel) -> None:
    def sampling(**values: Any) -> Any:
        return PretrainedSettings(generation_config=values).sampling

    assert sampling(eos_token_id=3) == {} == PretrainedSettings().sampling
    assert sampling(do_sample=False, temperature=0.7)["temperature"] == 0
    assert sampling(temperature=0.7, top_k=None) == {"temperature": 0.7}
    assert lm.sampling_defaults.temperature == 0.8


def test_settings_of_makers_that_cannot_be_are_left_out(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_kind("chatml", directory.parent / "base", tmp_path / "model")
    (path / "generation_config.json").write_text('{"temperature": "hot", "top_k": 7}')
    params = LanguageModel(path, "fp32").sampling_defaults
    assert (params.temperature, params.top_k) == (0.8, 7)
    assert "temperature of 'hot', which cannot be" in caplog.text


def test_a_model_without_a_template_goes_on_with_a_text(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    with pytest.raises(InputError, match="no chat template"):
        Conversation(lm)
    text = Continuation(lm, settings={"seed": 1, "max_new_tokens": 6})
    for act in (lambda: text.say(""), text.regenerate, text.undo, text.last_answer):
        with pytest.raises(InputError):
            act()
    first = told(text.say("Once upon"))
    assert first == lm.generate("Once upon", 6, seed=1).text
    second = told(text.say(""))
    assert second == lm.generate("Once upon" + first, 6, seed=1).text
    assert text.text == "Once upon" + first + second
    assert told(text.regenerate()) == second
    text.undo()
    assert text.text == "Once upon" + first
    value = text.to_json()
    told(text.say("A girl"))  # another text
    assert text.text.startswith("A girl")
    text.restore(value)
    assert told(text.say("")) == second


def test_a_text_whose_continuation_is_stopped_at_once_stays_as_it_was(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    text = Continuation(lm, settings={"seed": 1, "max_new_tokens": 6})
    text.say("Once upon").close()
    assert text.text == ""
    answer = text.say("Once upon")
    begun = ""
    while not begun:
        begun += next(answer)
    assert answer.close().finish_reason == "interrupted"
    assert text.text.startswith("Once upon" + begun)


def test_a_text_goes_on_beyond_the_context(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    text = Continuation(lm, settings={"seed": 1})
    told(text.say("Once upon a time"))
    for _ in range(3):
        told(text.say(""))
    ids, start = text.last_answer()
    assert len(ids) <= lm.config.n_ctx and 0 < start < len(ids)
