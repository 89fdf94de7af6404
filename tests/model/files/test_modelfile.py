from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from model_kinds import CHATML, MESSAGES, make_kind

from laplm.model.chat import ChatTemplate
from laplm.model.files.export import export
from laplm.model.files.modelfile import Layout, find_layout, modelfile, write_modelfile
from laplm.run.language_model import LanguageModel
from laplm.tune.data.read import CHAT_TEMPLATE

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<<{{ m.content }}>>\n"
    "{% elif m.role == 'user' %}[Q] {{ m.content }}{% else %} [A] {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} [A] {% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    directory = tmp_path_factory.mktemp("kinds")
    return LanguageModel(make_kind("chatml", directory / "base", directory / "chatml"), "fp32")


def layout(model: LanguageModel, source: str) -> Layout | None:
    return find_layout(ChatTemplate(source, model.tokenizer))


@pytest.mark.parametrize("source", [CHATML, TURNS, CHAT_TEMPLATE])
def test_what_a_template_puts_around_messages_is_found(model: LanguageModel, source: str) -> None:
    found = layout(model, source)
    assert found is not None
    messages = [{**m, "content": m["content"].strip()} for m in MESSAGES]
    for conversation in (messages, messages[1:], messages[1:2]):
        for reply in (True, False):
            wanted = ChatTemplate(source, model.tokenizer).render(
                conversation, add_generation_prompt=reply
            )
            assert found.render(conversation, reply) == wanted


def test_a_template_in_go_says_the_same(model: LanguageModel) -> None:
    found = layout(
        model, "{% for m in messages %}{{ '{{' + m.role + '|' + m.content }};{% endfor %}"
    )
    assert found is not None
    brace = '{{ "{" }}'
    turns = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{brace}{brace}{role}|{{{{ .Content }}}}'
        + (";" if role != "assistant" else "{{ if not $last }};{{ end }}")
        for role in ("system", "user", "assistant")
    )
    assert found.go_template() == (
        "{{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ {turns}{{{{ end }}}}{{{{ if and $last (ne .Role "assistant") }}}}{{{{ end }}}}'
        "{{ end }}"
    )


def test_the_first_turn_may_begin_otherwise_and_a_bos_that_is_put_anyway_is_left_out(
    model: LanguageModel,
) -> None:
    found = layout(model, TURNS)
    assert found is not None
    bos = model.tokenizer.special_tokens["bos_token"]
    assert f"{{{{ if $i }}}}[Q] {{{{ else }}}}{bos}[Q] {{{{ end }}}}" in found.go_template()
    assert bos not in found.go_template(bos)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ loop.index }} {{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{{ messages[-1].content }}",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{{ m.content }}{{ '!' * (messages | length) }}{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_not_told_in_go(model: LanguageModel, source: str) -> None:
    assert layout(model, source) is None
    text = modelfile(
        "a.gguf", model.tokenizer, model.config, model.settings,
        ChatTemplate(source, model.tokenizer),
    )  # fmt: skip
    assert "\nTEMPLATE" not in text and "# The chat template does more" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text


def test_a_chat_model_keeps_its_turns_and_ends(model: LanguageModel, tmp_path: Path) -> None:
    export(model, tmp_path / "a.gguf")
    text = (tmp_path / "Modelfile").read_text()
    assert "{{ .Prompt }}" not in text
    assert 'TEMPLATE """{{ range $i, $m := .Messages }}' in text
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text


def test_a_model_without_a_template_continues_texts(model: LanguageModel) -> None:
    settings = dataclasses.replace(
        model.settings,
        generation_config={"do_sample": True, "temperature": 0.3, "repetition_penalty": 1.2},
    )
    text = modelfile("a.gguf", model.tokenizer, model.config, settings, None)
    for line in ('TEMPLATE "{{ .Prompt }}"', "PARAMETER num_ctx 128", "PARAMETER temperature 0.3",
                 "PARAMETER repeat_penalty 1.2", "PARAMETER top_k 40"):  # fmt: skip
        assert f"\n{line}\n" in text


def test_turns_that_no_control_token_ends_are_stopped_by_their_text(model: LanguageModel) -> None:
    template = ChatTemplate(CHAT_TEMPLATE, model.tokenizer)
    text = modelfile("a.gguf", model.tokenizer, model.config, model.settings, template)
    assert 'PARAMETER stop """\n\n### User:"""\n' in text


def test_a_second_export_makes_the_modelfile_of_the_second_file(
    model: LanguageModel, tmp_path: Path
) -> None:
    export(model, tmp_path / "a.gguf")
    first = (tmp_path / "Modelfile").read_text()
    assert export(model, tmp_path / "b.gguf").also == (tmp_path / "Modelfile",)
    second = (tmp_path / "Modelfile").read_text()
    assert second.splitlines()[1:] == ["FROM ./b.gguf", *first.splitlines()[2:]]


@pytest.mark.parametrize("name", ["./a.gguf", '"./a b.gguf"', "/elsewhere/A.GGUF"])
def test_of_a_modelfile_that_was_changed_only_its_file_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "Modelfile"
    mine = f"# Written by laplm export (0123456789ab)\nSYSTEM Hi\nfrom {name}\nPARAMETER seed 1\n"
    path.write_text(mine)
    assert write_modelfile(path, "new", "b.gguf")
    assert path.read_text() == mine.replace(f"from {name}", "FROM ./b.gguf")


def test_a_modelfile_of_something_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM llama3\n")
    assert not write_modelfile(path, "new", "b.gguf")
    assert path.read_text() == "FROM llama3\n"
