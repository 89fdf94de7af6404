from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import make_model
from model_kinds import make_kind, strings
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

import laplm
from laplm.errors import InputError
from laplm.model import reference
from laplm.model.weights import DenseKVCache
from laplm.run.language_model import LanguageModel
from laplm.tune import tuning
from laplm.tune.data.read import Dataset, Example
from laplm.tune.trainer import StepMetrics, Trainer, best_precision
from laplm.tune.tuning import fine_tune, read_run, split, suitable_learning_rate
from laplm.tune_config import LoRAConfig, TuneConfig

SENTENCES = [
    f"The {a} {b} the {c}.\n"
    for a in ("dog", "cat", "girl", "king", "boy")
    for b in ("saw", "liked", "found")
    for c in ("toy", "ball", "hen", "park")
]
CONFIG = TuneConfig(
    max_steps=30, batch_size=2, n_positions=32, learning_rate=3e-3, evaluations=3, dropout=0.0
)


NOTHING = Dataset(
    examples=(), kind="documents", files=(), n_bytes=0, skipped=(), chat_template=None
)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds") / "base"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("<|endoftext|>\n".join(SENTENCES), encoding="utf-8")
    return file


def weights(directory: Path) -> dict[str, Any]:
    file = next(directory.glob("*model.safetensors"))
    from safetensors.numpy import load_file

    return load_file(file)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuned_model_runs_and_predicts_the_text_better(
    model: LanguageModel, text: Path, tmp_path: Path, method: str
) -> None:
    config = dataclasses.replace(CONFIG, method=method, learning_rate=1e-2)
    result = laplm.fine_tune(text, model, tmp_path / "out", config)
    # Adapters can do less with a base that is all chance.
    assert result.loss_after < {"full": 0.8, "lora": 0.95}[method] * result.loss_before
    assert result.bits_after / result.bits_before == pytest.approx(
        result.loss_after / result.loss_before
    )
    tuned = laplm.load(tmp_path / "out", "fp32")
    assert len(tuned.generate("The dog", 5, temperature=0).token_ids) > 0
    plain = model.gpt.forward(model.tokenizer.encode("The dog saw"))
    changed = tuned.gpt.forward(tuned.tokenizer.encode("The dog saw"))
    assert abs(plain - changed).max() > 0.1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["loss_after"] == result.loss_after
    assert (tmp_path / "out" / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_adapters_has_the_logits_that_training_ended_with(
    model: LanguageModel, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Trainer] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: kept.append(self) or run(self))
    config = dataclasses.replace(
        CONFIG, method="lora", lora=LoRAConfig(r=3, alpha=9.0), precision="fp32"
    )
    fine_tune(text, model, tmp_path / "out", config)
    ids = model.tokenizer.encode("The dog saw the toy.")
    with torch.no_grad():
        expected = kept[0].model.eval()(torch.tensor([ids]))[0]
    found = laplm.load(tmp_path / "out", "fp32").gpt.forward(ids)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_a_tuned_model_learns_to_stop(text: Path, tmp_path: Path) -> None:
    model = LanguageModel(make_model(tmp_path / "model"), "fp32")
    config = dataclasses.replace(CONFIG, max_steps=120, learning_rate=1e-2, batch_size=8)
    fine_tune(text, model, tmp_path / "out", config)
    tuned = laplm.load(tmp_path / "out", "fp32")
    results = tuned.samples("The dog", 8, 30, seed=1)
    assert [r.finish_reason for r in results].count("eos") >= 7
    assert not any("endoftext" in r.text for r in results)
    before = model.samples("The dog", 8, 30, seed=1)
    assert [r.finish_reason for r in before].count("eos") <= 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_goes_on_and_ends_bit_for_bit_the_same(
    model: LanguageModel, text: Path, tmp_path: Path, method: str
) -> None:
    config = dataclasses.replace(CONFIG, method=method, dropout=0.1)
    whole = fine_tune(text, model, tmp_path / "whole", config)

    def stop(progress: StepMetrics) -> None:
        if progress.step == 17:  # as Ctrl-C does: the step in hand ends, and is kept
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(text, model, tmp_path / "parts", config, on_step=stop)
    # The number format is remembered, so that the run goes on in it on another machine too.
    kept = read_run(tmp_path / "parts")["config"]
    assert kept.precision == best_precision()
    assert kept == dataclasses.replace(config, precision=kept.precision)
    steps: list[int] = []
    again = fine_tune(
        text, model, tmp_path / "parts", config, resume=True, on_step=lambda p: steps.append(p.step)
    )
    assert steps == list(range(18, 31))
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert (again.loss_before, again.loss_after) == (whole.loss_before, whole.loss_after)


def test_the_plan_comes_first_and_no_ends_there_without_a_trace(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    plans: list[tuning.Plan] = []
    out = tmp_path / "out"
    assert fine_tune(text, model, out, CONFIG, planned=lambda p: bool(plans.append(p))) is None
    assert not out.exists()
    (plan,) = plans
    assert plan.settings.max_steps == 30 and plan.settings.tokens_per_step == 64
    assert len(plan.heldout.documents) == 3 and len(plan.train.documents) == 57
    assert 0 < plan.seconds_per_step < 60 and plan.minutes == plan.seconds_per_step / 2
    assert plan.first_window.startswith("The ") and "¶" in plan.first_window
    assert 0 < plan.memory.total < plan.available and plan.n_processes == 1


def test_epochs_decide_how_many_steps_there_are(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    plans: list[tuning.Plan] = []
    for epochs in (1, 2.5):
        config = dataclasses.replace(CONFIG, max_steps=None, epochs=epochs)
        fine_tune(text, model, tmp_path / "out", config, planned=lambda p: bool(plans.append(p)))
    windows = len(plans[0].train.windows(32, 1))
    assert [p.settings.max_steps for p in plans] == [
        math.ceil(windows / 2),
        math.ceil(2.5 * windows / 2),
    ]


def test_what_does_not_fit_is_refused_with_settings_that_do(
    model: LanguageModel, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[tuning.Plan] = []
    monkeypatch.setattr("laplm.tune.memory.resident_bytes", lambda: 0)  # grows from test to test
    big = dataclasses.replace(CONFIG, batch_size=64)
    fine_tune(text, model, tmp_path / "a", big, planned=lambda p: bool(plans.append(p)))
    # A little less: activations are computed twice, and it fits.
    enough = plans[0].memory.total - plans[0].memory.activations // 4
    monkeypatch.setattr(tuning, "available_bytes", lambda: enough)
    fine_tune(text, model, tmp_path / "a", big, planned=lambda p: bool(plans.append(p)))
    assert not plans[0].checkpointing and plans[1].checkpointing
    assert plans[1].memory.activations < plans[0].memory.activations / 2
    enough = plans[1].memory.total - plans[1].memory.activations // 4
    monkeypatch.setattr(tuning, "available_bytes", lambda: enough)
    said = r"needs about .* GB.*--batch-size \d+ --grad-accum-steps \d+"
    with pytest.raises(InputError, match=said) as refused:
        fine_tune(text, model, tmp_path / "b", big)
    size, parts = (int(w) for w in str(refused.value).split() if w.isdigit())
    assert size * parts == 64
    monkeypatch.setattr(tuning, "available_bytes", lambda: 1000)
    with pytest.raises(InputError, match="--method lora, a shorter --window"):
        fine_tune(text, model, tmp_path / "c", big)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_saved_are_the_best_weights_to_the_last_bit_of_fp32(
    model: LanguageModel, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    kept: list[Trainer] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: kept.append(self) or run(self))
    config = dataclasses.replace(CONFIG, method=method, precision="bf16")
    fine_tune(text, model, tmp_path / "out", config)
    file = {"full": "model.safetensors", "lora": "adapter_model.safetensors"}[method]
    saved = safetensors.torch.load_file(tmp_path / "out" / file)
    best = kept[0].best_weights()
    for name, value in best.items():
        there = name if method == "full" else f"base_model.model.transformer.{name}.weight"
        (found,) = (v for k, v in saved.items() if k.removeprefix("transformer.") in (there, name))
        assert torch.equal(found, value)
    rounded = [value.to(torch.bfloat16).float() for value in best.values()]
    assert not all(torch.equal(a, b) for a, b in zip(best.values(), rounded, strict=True))


def test_adapters_learn_beside_weights_in_int8(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, method="lora", base_precision="int8", learning_rate=1e-2)
    result = fine_tune(text, model, tmp_path / "out", config)
    assert result.loss_after < 0.95 * result.loss_before
    tuned = laplm.load(tmp_path / "out", "fp32")
    plain = model.gpt.forward(ids := model.tokenizer.encode("The dog saw"))
    assert abs(tuned.gpt.forward(ids) - plain).max() > 0.1
    with pytest.raises(InputError, match="int8 cannot be trained"):
        dataclasses.replace(CONFIG, base_precision="int8")


def test_tensorboard_sees_what_the_metrics_say(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    loaded = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fine_tune(text, model, tmp_path / "out", CONFIG, tensorboard=True)
    events = loaded.EventAccumulator(str(tmp_path / "out" / "run" / "tensorboard"))
    events.Reload()
    lines = [
        json.loads(line) for line in (tmp_path / "out/run/metrics.jsonl").read_text().splitlines()
    ]
    wanted = {m["step"]: m["heldout_loss"] for m in lines if "heldout_loss" in m}
    assert {e.step: e.value for e in events.Scalars("heldout_loss")} == pytest.approx(wanted)


def test_only_completions_are_learned(model: LanguageModel, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}:", "completion": f" the dog {i}"} for i in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plans: list[tuning.Plan] = []
    fine_tune(file, model, tmp_path / "out", CONFIG, planned=lambda p: bool(plans.append(p)))
    learned = sum(len(model.tokenizer.encode(row["completion"])) + 1 for row in rows)
    assert plans[0].train.n_loss_tokens + plans[0].heldout.n_loss_tokens == learned


def test_conversations_bring_their_template(model: LanguageModel, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Hi {i}"},
                      {"role": "assistant", "content": f"Hello {i}"}]} for i in range(10)
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for method in ("full", "lora"):
        out = tmp_path / method
        fine_tune(file, model, out, dataclasses.replace(CONFIG, max_steps=2, method=method))
        assert "### " in json.loads((out / "tokenizer_config.json").read_text())["chat_template"]


@pytest.mark.parametrize("order", [1, -1])
def test_documents_are_held_out_by_their_text_and_never_on_both_sides(
    model: LanguageModel, order: int
) -> None:
    examples = [Example(((f"text {i % 50}", True),)) for i in range(100)]
    train, heldout = split(examples[::order], model.tokenizer, 0.1)
    assert len({e.text for e in heldout}) == len(heldout) == 5
    assert len(train) == 90
    assert not {e.text for e in train} & {e.text for e in heldout}
    assert {e.text for e in heldout} == {e.text for e in split(examples, model.tokenizer, 0.1)[1]}


def test_of_one_long_document_the_end_is_held_out(model: LanguageModel) -> None:
    text = "once upon a time " * 100
    train, heldout = split([Example(((text, True),))], model.tokenizer, 0.05)
    (first,), (last,) = train, heldout
    assert text.startswith(first.text) and text.endswith(last.text)
    assert 0.03 < len(last.text) / len(text) < 0.07
    assert not first.text[-1].isspace() or not last.text[0].isspace()


def test_wider_models_take_smaller_steps() -> None:
    assert suitable_learning_rate("full", 768) == 2e-4
    assert suitable_learning_rate("full", 1600) < 2e-4 < suitable_learning_rate("lora", 768)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "half"}, "method is 'half'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": math.nan}, "epochs is nan"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"heldout_share": 1.0}, "heldout_share is 1.0"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TuneConfig(**settings)


def test_directories_that_hold_something_are_refused(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    fine_tune(text, model, tmp_path / "run", dataclasses.replace(CONFIG, max_steps=1))
    with pytest.raises(InputError, match=r"holds a run; go on with it \(laplm tune --resume"):
        fine_tune(text, model, tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="is not empty"):
        fine_tune(text, model, model.path, CONFIG)
    with pytest.raises(InputError, match="is a file"):
        fine_tune(text, model, text, CONFIG)
    with pytest.raises(InputError, match="no run to go on with"):
        fine_tune(text, model, tmp_path / "other", CONFIG, resume=True)
    text.write_text("Something else.<|endoftext|>\nAnd more.", encoding="utf-8")
    with pytest.raises(InputError, match="data is no longer what the run"):
        fine_tune(text, model, tmp_path / "run", CONFIG, resume=True)
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        fine_tune(text, model, tmp_path / "run", CONFIG, resume=True)


def test_a_second_run_in_a_directory_is_refused_while_the_first_one_trains(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", []

    def intrude(progress: StepMetrics) -> None:
        # Without run.json, with it, and as one that goes on: none may write there.
        for resume in (False, True):
            with pytest.raises(InputError, match=f"is in use by process {os.getpid()} on") as error:
                fine_tune(text, model, out, CONFIG, resume=resume)
            said.append(str(error.value))
        assert (out / "run" / "lock").exists()

    def planned(plan: tuning.Plan) -> bool:
        intrude(StepMetrics(**dict.fromkeys(StepMetrics.__annotations__, 0)))
        return True

    fine_tune(
        text, model, out, dataclasses.replace(CONFIG, max_steps=2), planned=planned, on_step=intrude
    )
    assert len(said) == 6
    lines = (out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [m["step"] for m in map(json.loads, lines) if "train_loss" in m] == [1, 2]
    assert not (out / "run" / "lock").exists()
    # What a killed process left behind refuses nobody.
    (out / "run" / "lock").touch()
    (out / "run" / "lock.json").write_text('{"pid": 1, "host": "elsewhere"}', encoding="utf-8")
    fine_tune(text, model, out, dataclasses.replace(CONFIG, max_steps=2), resume=True)


def test_a_run_that_is_refused_leaves_the_directories_as_they_were(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(InputError, match="n_positions is 999"):
            fine_tune(text, model, tmp_path / name, dataclasses.replace(CONFIG, n_positions=999))
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_an_adapter_on_an_adapter_is_refused_before_anything_is_trained(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    lora = dataclasses.replace(CONFIG, method="lora", max_steps=2)
    fine_tune(text, model, tmp_path / "one", lora)
    adapted = LanguageModel(tmp_path / "one", "fp32")
    with pytest.raises(InputError, match=r"is an adapter.*--to peft-merged"):
        fine_tune(text, adapted, tmp_path / "two", lora)
    assert not (tmp_path / "two").exists()
    fine_tune(text, adapted, tmp_path / "whole", dataclasses.replace(CONFIG, max_steps=2))
    assert (tmp_path / "whole" / "model.safetensors").exists()


def test_a_run_begun_with_a_relative_path_goes_on_from_elsewhere(
    tiny_model_dir: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_dir.parent)
    model = LanguageModel(tiny_model_dir.name, "fp32")
    fine_tune(
        text, model, tmp_path / "out", dataclasses.replace(CONFIG, method="lora", max_steps=2)
    )
    os.chdir(tmp_path)
    assert LanguageModel(read_run(tmp_path / "out")["model"], "fp32").config == model.config
    assert LanguageModel(tmp_path / "out", "fp32").config == model.config


def test_other_settings_are_named_when_a_run_goes_on(
    model: LanguageModel, text: Path, tmp_path: Path
) -> None:
    lora = dataclasses.replace(CONFIG, method="lora", max_steps=2)
    fine_tune(text, model, tmp_path / "run", lora)
    other = dataclasses.replace(lora, lora=LoRAConfig(r=4))
    with pytest.raises(InputError, match=r"a run with r 8, not 4"):
        fine_tune(text, model, tmp_path / "run", other, resume=True)
    other = dataclasses.replace(lora, learning_rate=1.0)
    with pytest.raises(InputError, match="a run with learning_rate"):
        fine_tune(text, model, tmp_path / "run", other, resume=True)


def test_a_single_short_text_is_refused_plainly(model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("word", encoding="utf-8")
    with pytest.raises(InputError, match="too little in it to hold some out"):
        fine_tune(file, model, tmp_path / "out", CONFIG)


def test_text_shorter_than_a_window_is_enough(model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("The dog saw the cat and the cat saw the dog.", encoding="utf-8")
    result = fine_tune(
        file, model, tmp_path / "out", dataclasses.replace(CONFIG, heldout_share=0.3)
    )
    assert result is not None and result.steps == 30


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["chatml", "single_digits", "bos_and_pad", "slow_files"])
def test_a_tuned_model_keeps_tokenizer_template_and_ends(
    kinds: Path, tmp_path: Path, kind: str, method: Any
) -> None:
    source = make_kind(kind, kinds, tmp_path / "source")
    chat, out = LanguageModel(source, "fp32"), tmp_path / "out"
    config = TuneConfig(method=method)
    gpt = tuning.model_to_train(chat.checkpoint, config, "fp32")
    weights = {name: p.detach() for name, p in gpt.named_parameters()}
    if method == "lora":
        weights = {name: value for name, value in weights.items() if "lora_" in name}
    out.mkdir()
    tuning._save(out, weights, chat, config, dataclasses.replace(NOTHING, chat_template="own"))
    theirs, ours = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(out)
    for text in strings(60):
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids, repr(text)
        for skip in (False, True):
            wanted = theirs.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids, skip_special_tokens=skip) == wanted
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.all_special_tokens == theirs.all_special_tokens
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.chat_template == ("own" if theirs.chat_template is None else theirs.chat_template)
    tuned = LanguageModel(out, "fp32")
    assert tuned.config.eos_token_ids == chat.config.eos_token_ids
    assert tuned.tokenizer.special_tokens == chat.tokenizer.special_tokens


def test_peft_finds_the_base_of_an_adapter_of_the_built_in_model(
    pocket: LanguageModel, tmp_path: Path
) -> None:
    config = TuneConfig(method="lora")
    gpt = tuning.model_to_train(pocket.checkpoint, config, "fp32")
    generator = torch.Generator().manual_seed(0)
    parts = {n: p.detach() for n, p in gpt.named_parameters() if "lora_" in n}
    weights = {n: torch.randn(p.shape, generator=generator) * 0.05 for n, p in parts.items()}
    out = tmp_path / "out"
    out.mkdir()
    tuning._save(out, weights, pocket, config, NOTHING)
    theirs = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = pocket.tokenizer.encode("The little cat sat on the mat.")
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()

    def ours(directory: Path) -> np.ndarray:
        model = LanguageModel(directory, "fp32")
        tensors = {name: model.checkpoint.tensor(name) for name in model.checkpoint.names}
        weights = reference.DenseWeights(tensors, model.config)
        return reference.forward(np.array(ids), weights, model.config, DenseKVCache())

    np.testing.assert_allclose(ours(out), wanted, rtol=0, atol=2e-3)
    assert AutoTokenizer.from_pretrained(out)("The little cat")["input_ids"] == ids[:3]
    out.rename(tmp_path / "moved")
    np.testing.assert_allclose(ours(tmp_path / "moved"), wanted, rtol=0, atol=2e-3)
    card = (tmp_path / "moved" / "README.md").read_text()
    assert "in `base/`, the model that comes with laplm" in card


def test_the_base_of_an_adapter_is_named_in_full_where_the_hub_has_it(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "models--openai-community--gpt2" / "snapshots" / "123"
    shutil.copytree(tiny_model_dir, cached)
    model = LanguageModel(cached, "fp32")
    model.name = "gpt2"
    assert tuning._base_for_others(tmp_path, model) == "openai-community/gpt2"
    here = LanguageModel(tiny_model_dir, "fp32")
    assert tuning._base_for_others(tmp_path, here) == str(tiny_model_dir.resolve())
