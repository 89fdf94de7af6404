"""LoRA adapters: the running PEFT model is the truth."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer_json
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

import laplm
from laplm.errors import ModelFormatError, ModelNotFoundError
from laplm.hub import locate
from laplm.model.engine.prepared import prepared
from laplm.model.files.adapter import AdapterConfig, is_adapter, open_adapter, read_adapter_config
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint
from laplm.run.language_model import LanguageModel

IDS = [5, 17, 300, 2, 2, 40, 99]
ALL = ["c_attn", "c_proj", "c_fc"]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def untied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "untied", tie_word_embeddings=False)


def peft_model(base: Path, config: Any) -> Any:
    """An adapter that matters: PEFT begins with B at zero, which any reading would agree with."""
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def save(model: Any, directory: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's note on saved embeddings
        model.save_pretrained(directory)
    return directory


def make_adapter(base: Path, directory: Path, **settings: Any) -> Path:
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ["c_attn"]} | settings
    return save(peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings)), directory)


def logits_of(model: Any) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor([IDS])).logits[0].float().numpy()
    return logits


def our_logits(lm: LanguageModel) -> np.ndarray[Any, Any]:
    return np.asarray(lm.run_with_cache(IDS, ["logits"])["logits"])


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_model_dir, tmp_path / "adapter", target_modules=ALL)


def open_both(adapter: Path, base: Path) -> Checkpoint:
    return open_adapter(adapter, open_checkpoint(base))


def rewrite(adapter: Path, change: Callable[[State], State]) -> None:
    file = adapter / "adapter_model.safetensors"
    state = change(dict(load_file(file)))
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in state.items()},
        file,
        {"format": "pt"},
    )


def configure(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- what is computed -------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["c_attn"]},
    "every matrix": {"target_modules": ALL},
    "one of the two c_proj": {"target_modules": ["mlp.c_proj"]},
    "pattern of names": {"target_modules": r".*h\.[02]\.attn\.c_(attn|proj)"},
    "some layers": {"target_modules": ALL, "layers_to_transform": [1]},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ALL, "use_rslora": True},
    "patterns": {
        "target_modules": ALL,
        "rank_pattern": {"attn.c_proj": 2, r"h\.[01]\.mlp.c_fc": 6},
        "alpha_pattern": {"h.1.attn.c_proj": 3, "c_fc": 20, "mlp.c_fc": 99},
    },
    "patterns and rslora": {
        "target_modules": ALL, "use_rslora": True, "rank_pattern": {"c_proj": 9},
        "alpha_pattern": {"^transformer.h.2.mlp.c_proj": 1},
    },
    "fan_in_fan_out": {"target_modules": ALL, "fan_in_fan_out": True},
    "dora": {"target_modules": ALL, "use_dora": True},
    "bias of the matrices": {"target_modules": ALL, "bias": "lora_only"},
    "every bias": {"target_modules": ["c_attn"], "bias": "all"},
    "bias of B": {"target_modules": ALL, "lora_bias": True},
    "norms saved whole": {"target_modules": ["c_attn"], "modules_to_save": ["ln_1", "ln_f"]},
    "matrix saved whole": {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"]},
    "embeddings": {"target_modules": ["wte", "wpe", "c_attn"]},
    "output matrix": {"target_modules": ["lm_head", "c_fc"]},
    "dora of the embeddings": {"target_modules": ["wte", "lm_head"], "use_dora": True},
    "embedding saved whole": {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
    "output matrix saved whole": {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "orthogonal beginning": {"target_modules": ALL, "init_lora_weights": "orthogonal"},
}  # fmt: skip

# The kinds for which it matters whether the output matrix is one of its own.
EMBEDDINGS = ["embeddings", "output matrix", "dora of the embeddings", "embedding saved whole"]
EMBEDDINGS += ["output matrix saved whole"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "tied"),
    [(kind, tied) for kind in KINDS for tied in (True, False) if tied or kind in EMBEDDINGS],
)
def test_logits_are_those_of_the_running_peft_model(
    kind: str, tied: bool, tiny_model_dir: Path, untied_dir: Path, tmp_path: Path
) -> None:
    base = tiny_model_dir if tied else untied_dir
    settings = {"r": 4, "lora_alpha": 12} | KINDS[kind]
    model = peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    directory = save(model, tmp_path / "adapter")
    lm = laplm.load(directory, "fp32")
    ours, theirs = our_logits(lm), logits_of(model)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs - logits_of(GPT2LMHeadModel.from_pretrained(base))).max() > 0.01
    fresh = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    again = PeftModel.from_pretrained(fresh, directory).eval()
    np.testing.assert_allclose(ours, logits_of(again), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", ["c_attn", "lm_head", "wte"])
def test_embedding_that_was_trained_outside_of_the_adapter_and_saved_with_it(
    target: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[target])
    model = peft_model(tiny_model_dir, config)
    with torch.no_grad():
        wte = model.get_input_embeddings().weight
        wte.add_(torch.randn_like(wte) * 0.05)
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    lm = LanguageModel(tmp_path, "fp32")
    np.testing.assert_allclose(our_logits(lm), logits_of(model), rtol=0, atol=1e-4)
    assert lm.config.tied == (target == "c_attn")


ENLARGED: dict[str, dict[str, Any]] = {
    "saved with the adapter": {"target_modules": ["c_attn"]},
    "trained whole": {"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head"]},
    "adapted": {"target_modules": ["wte", "c_attn"]},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ENLARGED)
def test_adapter_with_more_tokens_than_its_base(
    kind: str, tied: bool, tiny_model_dir: Path, untied_dir: Path, tmp_path: Path
) -> None:
    base = tiny_model_dir if tied else untied_dir
    theirs = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    n_vocab = theirs.config.vocab_size + 5
    theirs.resize_token_embeddings(n_vocab)
    settings = {"r": 4, "lora_alpha": 12} | ENLARGED[kind]
    model = get_peft_model(theirs, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(tmp_path, save_embedding_layers=True)
    lm = LanguageModel(tmp_path, "fp32")
    assert lm.config.vocab_size == n_vocab
    np.testing.assert_allclose(our_logits(lm), logits_of(model), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_new_tokens_in_one_of_two_matrices_are_refused(untied_dir: Path, tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(untied_dir, dtype=torch.float32)
    theirs.resize_token_embeddings(theirs.config.vocab_size + 5)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["wte"])
    get_peft_model(theirs, config).save_pretrained(tmp_path, save_embedding_layers=False)
    message = refused(tmp_path)
    assert "enlarged to 407 tokens, but lm_head.weight is in the base model alone" in message
    assert "which has 402; save both" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_adapter(dtype: torch.dtype, adapter: Path, tiny_model_dir: Path) -> None:
    rewrite(adapter, lambda state: {name: tensor.to(dtype) for name, tensor in state.items()})
    fresh = GPT2LMHeadModel.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(fresh, adapter).eval()
    ours = our_logits(LanguageModel(adapter, "fp32"))
    np.testing.assert_allclose(ours, logits_of(model), rtol=0, atol=1e-4)
    assert open_both(adapter, tiny_model_dir).dtype == "fp32"


def test_tensors_are_those_of_the_merged_model(adapter: Path, tiny_model_dir: Path) -> None:
    fresh = GPT2LMHeadModel.from_pretrained(tiny_model_dir, dtype=torch.float32)
    merged = PeftModel.from_pretrained(fresh, adapter).merge_and_unload().state_dict()
    checkpoint, base = open_both(adapter, tiny_model_dir), open_checkpoint(tiny_model_dir)
    assert checkpoint.names == base.names and checkpoint.config == base.config
    changed = set()
    for name in checkpoint.names:
        ours = checkpoint.tensor(name)
        assert ours.dtype == np.float32 and not ours.flags.writeable
        np.testing.assert_allclose(ours, merged[f"transformer.{name}"].numpy(), atol=1e-6)
        if not np.array_equal(ours, base.tensor(name)):
            changed.add(name.split(".", 2)[-1])
            assert not checkpoint.mapped(name)
    assert changed == {
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    }  # fmt: skip


def test_names_without_peft_prefix_and_of_a_bare_transformer(
    adapter: Path, tiny_model_dir: Path
) -> None:
    want = our_logits(LanguageModel(adapter, "fp32"))
    for prefix in ("base_model.model.", "transformer."):
        rewrite(adapter, lambda s: {n.removeprefix(prefix): t for n, t in s.items()})  # noqa: B023
        assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), want)


@pytest.mark.parametrize("target", ["wte", "wpe"])
def test_rows_are_those_of_the_tensor(target: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = make_adapter(tiny_model_dir, tmp_path / "adapter", target_modules=[target])
    checkpoint, base = open_both(directory, tiny_model_dir), open_checkpoint(tiny_model_dir)
    wanted = np.array([7, 0, 7, 127])
    for name in ("wte.weight", "wpe.weight"):
        rows = checkpoint.rows(name)(wanted)
        assert np.array_equal(rows, checkpoint.tensor(name)[wanted])
        assert np.array_equal(rows, base.rows(name)(wanted)) == (name != f"{target}.weight")
    assert checkpoint.config.tied == (target == "wpe")


def test_int8_is_near_and_texts_are_written(adapter: Path, tiny_model_dir: Path) -> None:
    lm = laplm.load(adapter)
    assert (lm.name, lm.path, lm.precision) == (str(adapter), adapter, "int8")
    exact = our_logits(laplm.load(adapter, "fp32"))
    plain = our_logits(LanguageModel(tiny_model_dir, "fp32"))
    off = np.abs(our_logits(lm) - exact).max()
    assert off < 0.3 * np.abs(exact - plain).max()
    texts = [LanguageModel(d).generate("The capital", 12, seed=1, temperature=1).text
             for d in (adapter, adapter, tiny_model_dir)]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]


def test_run_and_look_take_an_adapter(adapter: Path, laplm_: Callable[..., Any]) -> None:
    ran = laplm_("run", "-m", adapter, "The capital", "-n", "5", "--seed", "1")
    assert ran.code == 0 and ran.out.strip(), ran.err
    looked = laplm_("look", "next", "-m", adapter, "The capital")
    assert looked.code == 0 and looked.out.strip(), looked.err


def test_fingerprint_follows_the_files_of_both(adapter: Path, tiny_model_dir: Path) -> None:
    base = Path(shutil.copytree(tiny_model_dir, adapter.parent / "base"))
    assert open_both(adapter, base).fingerprint == open_both(adapter, base).fingerprint
    seen = {open_both(adapter, base).fingerprint, open_checkpoint(base).fingerprint}
    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    files += [base / "config.json", base / "model.safetensors"]
    for file in files:
        later = time.time_ns() + 10**9
        os.utime(file, ns=(later, later))
        seen.add(open_both(adapter, base).fingerprint)
    assert len(seen) == 6 and all(len(key) == 32 for key in seen)
    checkpoint = open_both(adapter, base)
    assert checkpoint.path == adapter
    assert checkpoint.size_bytes == sum(f.stat().st_size for f in (files[1], files[3]))


# --- where the base model and the tokenizer are -----------------------------------------------


@pytest.mark.parametrize("where", ["adapter", "current"])
def test_base_is_found_from_the_adapter_and_from_the_current_directory(
    where: str, adapter: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = our_logits(LanguageModel(adapter, "fp32"))
    shutil.copytree(tiny_model_dir, adapter.parent / "base")
    if where == "adapter":
        configure(adapter, base_model_name_or_path="../base")
    else:
        configure(adapter, base_model_name_or_path="base")
        monkeypatch.chdir(adapter.parent)
    assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), want)


def put_in_cache(files: Path, repo: str) -> None:
    folder = locate.hub_cache_dir() / ("models--" + repo.replace("/", "--"))
    shutil.copytree(files, folder / "snapshots" / ("b" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("b" * 40)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_base_is_found_by_name(name: str, adapter: Path, tiny_model_dir: Path) -> None:
    want = our_logits(LanguageModel(adapter, "fp32"))
    configure(adapter, base_model_name_or_path=name)
    with pytest.raises(ModelNotFoundError) as caught:
        LanguageModel(adapter)
    message = str(caught.value)
    assert message.startswith(f"{adapter} is an adapter, and its base model cannot be found")
    assert f"{name} is not on disk" in message and f"`laplm pull {name}`" in message
    put_in_cache(tiny_model_dir, "openai-community/gpt2")
    assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), want)


@pytest.mark.parametrize("base", ["/no/such/place", "../base/", "a\0b", "x" * 5000])
def test_base_that_is_nowhere_is_named(base: str, adapter: Path) -> None:
    configure(adapter, base_model_name_or_path=base)
    with pytest.raises(ModelNotFoundError, match="base_model_name_or_path") as caught:
        LanguageModel(adapter)
    assert repr(base) in str(caught.value) and str(adapter) in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_adapter_in_the_hub_cache_is_found_by_name_and_not_listed_as_a_model(
    adapter: Path, tiny_model_dir: Path
) -> None:
    put_in_cache(adapter, "someone/adapter")
    shutil.copyfile(tiny_model_dir / "config.json", adapter / "config.json")
    put_in_cache(adapter, "someone/adapter-with-config")
    for name in ("someone/adapter", "someone/adapter-with-config"):
        assert np.array_equal(
            our_logits(LanguageModel(name, "fp32")), our_logits(LanguageModel(adapter, "fp32"))
        )
    assert [model.name for model in locate.installed()] == ["pocket"]


def test_adapter_has_its_own_tokenizer_or_its_bases(adapter: Path, tiny_model_dir: Path) -> None:
    ids = LanguageModel(adapter).tokenizer.encode("The capital")
    assert ids == LanguageModel(tiny_model_dir).tokenizer.encode("The capital")
    make_tokenizer_json(adapter, 270)
    assert LanguageModel(adapter).tokenizer.vocab_size == 270


def test_whole_model_beside_an_adapter_is_what_is_loaded(
    adapter: Path, tiny_model_dir: Path
) -> None:
    assert is_adapter(adapter) and not is_adapter(tiny_model_dir)
    shutil.copytree(tiny_model_dir, adapter, dirs_exist_ok=True)
    assert not is_adapter(adapter)
    plain = our_logits(LanguageModel(tiny_model_dir, "fp32"))
    assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), plain)


# --- the config -------------------------------------------------------------------------------


def test_config_is_read_as_peft_wrote_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = make_adapter(
        tiny_model_dir, tmp_path / "adapter", use_rslora=True, rank_pattern={"c_attn": 2},
        modules_to_save=["ln_f"], bias="all",
    )  # fmt: skip
    config = read_adapter_config(directory)
    assert config == AdapterConfig(
        str(tiny_model_dir), 4, 12, ("c_attn",), True, True, False, {"c_attn": 2}, {}, "all",
        ("ln_f",), "CAUSAL_LM",
    )  # fmt: skip
    assert config.rank("transformer.h.0.attn.c_attn") == 2
    assert config.rank("transformer.h.0.attn.xc_attn") == 4
    assert config.scale("transformer.h.0.attn.c_attn") == 12 / 2**0.5


# --- what is refused --------------------------------------------------------------------------


def refused(adapter: Path) -> str:
    with pytest.raises(ModelFormatError) as caught:
        LanguageModel(adapter)
    message = str(caught.value)
    assert str(adapter) in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": None}, "has no peft_type"),
        ({"peft_type": "LOHA"}, "a LOHA adapter; laplm reads LoRA adapters. Instead, merge it"),
        ({"task_type": "SEQ_CLS"}, "made for the task 'SEQ_CLS'"),
        ({"init_lora_weights": "pissa_niter_4"}, "began with 'pissa_niter_4', which changes the b"),
        ({"init_lora_weights": "olora"}, "began with 'olora'"),
        ({"alora_invocation_tokens": [1, 2]}, "has alora_invocation_tokens, a kind of LoRA"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "has layer_replication"),
        ({"trainable_token_indices": [3]}, "has trainable_token_indices"),
        ({"base_model_name_or_path": None}, "names no base model; write its name"),
        ({"base_model_name_or_path": ""}, "base_model_name_or_path is ''"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
        ({"r": 0}, "r is 0"),
        ({"r": 4.0}, "r is 4.0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"use_rslora": 1}, "use_rslora is 1"),
        ({"rank_pattern": {"c_attn": 0}}, "rank_pattern is {'c_attn': 0}"),
        ({"rank_pattern": {"c_(": 4}}, "rank_pattern is {'c_(': 4}"),
        ({"rank_pattern": {"c" * 1001: 4}}, "rank_pattern is {'ccc"),
        ({"peft_type": "\x1b[2J"}, r"a '\x1b[2J' adapter"),
        ({"alpha_pattern": ["c_attn"]}, "alpha_pattern is ['c_attn']"),
        ({"modules_to_save": [3]}, "modules_to_save is [3]"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"bias": []}, "bias is []"),
    ],
)
def test_configs_that_cannot_be_used(changes: dict[str, Any], words: str, adapter: Path) -> None:
    configure(adapter, **changes)
    message = refused(adapter)
    assert words in message and "adapter_config.json: " in message


@pytest.mark.timeout(60)
@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    "pattern",
    [
        r"(([a-z_.0-9])+)+!", r"(a|a)*b", r"(.*)*!", r"(.*.*.*.*.*.*.*.*.*.*.*.*)*[^t]n",
        r"(.+)+\1!",
        r"(?=(\w+\.?)+!)x", r"(?:(?:[a-z]+[._0-9]*)+)+[xyz]", r"(x+x+)+y",
        r"((\w|\w\w|\w\w\w)*\.?)*q",
        r"(?:(\w*)(\w*)(\w*)(\w*)(\w*)(\w*)(\w*)(\w*)(\w*)[.]?)+[qn]q",
    ],
)  # fmt: skip
def test_pattern_that_never_ends_is_refused_or_fits_nothing(
    pattern: str, setting: str, adapter: Path
) -> None:
    """Python's own ``re`` takes minutes to years for each of these."""
    want = our_logits(LanguageModel(adapter, "fp32"))
    configure(adapter, **{setting: {pattern: 4}})
    start = time.perf_counter()
    try:
        assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), want)
    except ModelFormatError as error:
        assert "takes too long to find out" in str(error) and "\n" not in str(error)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_config_that_is_no_json(content: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(content)
    assert "adapter_config.json: not" in refused(adapter)


def test_other_kinds_of_peft_are_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    ia3 = IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn"], feedforward_modules=[])
    message = refused(save(peft_model(tiny_model_dir, ia3), tmp_path / "ia3"))
    assert "a IA3 adapter" in message and "merge_and_unload()" in message
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    message = refused(save(peft_model(tiny_model_dir, prompt), tmp_path / "prompt"))
    assert "a PROMPT_TUNING adapter, which changes what a model is given" in message


def test_adapter_of_an_adapter_is_refused(adapter: Path) -> None:
    second = Path(shutil.copytree(adapter, adapter.parent / "second"))
    configure(second, base_model_name_or_path=str(adapter))
    assert f"its base model {adapter} is an adapter too" in refused(second)
    configure(second, base_model_name_or_path=".")
    assert "is an adapter too" in refused(second)


A = "base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"
B = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {}, "holds no tensors"),
        (lambda s: {n: t for n, t in s.items() if n != B}, "h.1.attn.c_attn.weight lacks its LoRA"),
        (lambda s: {n: t for n, t in s.items() if n != A}, "h.1.attn.c_attn.weight lacks its LoRA"),
        (lambda s: s | {A: torch.zeros(4, 65)},
         "LoRA A of h.1.attn.c_attn.weight is [4, 65], not [4, 64]: the base model's "
         "h.1.attn.c_attn.weight is [64, 192]"),
        (lambda s: s | {A: s[A].T}, "is [64, 4], not [4, 64]"),
        (lambda s: s | {A: torch.zeros(5, 64), B: torch.zeros(192, 5)}, "says rank 4"),
        (lambda s: s | {B: torch.full((192, 4), torch.nan)}, "NaN or infinite"),
        (lambda s: s | {A: torch.full((4, 64), torch.inf)}, "NaN or infinite"),
        (lambda s: s | {A: torch.zeros(4, 64, dtype=torch.int8)}, "stored as I8"),
        (lambda s: s | {n.replace("h.1", "h.7"): t for n, t in s.items()},
         "holds an adapter of h.7.attn.c_attn.weight, which the base model does not have"),
        (lambda s: s | {n.replace("attn.c_attn", "ln_1"): t for n, t in s.items()},
         "holds an adapter of h.0.ln_1.weight"),
        (lambda s: s | {"base_model.model.score.weight": torch.zeros(2, 64)},
         "holds score.weight, which the base model does not have"),
        (lambda s: s | {"base_model.model.transformer.wte.weight": torch.zeros(9, 64)},
         "wte.weight is [9, 64], but ["),
        (lambda s: s | {"base_model.model.transformer.wte.weight": torch.zeros(999, 63)},
         "wte.weight is [999, 63], but ["),
        (lambda s: s | {"base_model.model.transformer.wte.weight": torch.zeros(())},
         "wte.weight is [], but ["),
        (lambda s: s | {A: torch.zeros(())}, "is [], not [4, 64]"),
        (lambda s: s | {"\x1b[2J": torch.zeros(1)}, r"holds '\x1b[2J', which the base model"),
        (lambda s: s | {A.removeprefix("base_model.model."): s[A]}, "twice"),
        (lambda s: s | {n.replace("transformer.", ""): t for n, t in s.items()}, "module twice"),
        (lambda s: s | {A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(192)},
         "has a magnitude, but use_dora is off"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(
    change: Callable[[State], State], words: str, adapter: Path
) -> None:
    rewrite(adapter, change)
    message = refused(adapter)
    assert words in message and "adapter_model.safetensors" in message


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dora", [False, True])
def test_sum_beyond_what_fp32_holds_is_named(
    dora: bool, adapter: Path, tiny_model_dir: Path
) -> None:
    more = {A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(192)} if dora else {}
    rewrite(
        adapter,
        lambda s: {A: torch.full((4, 64), 1e30), B: torch.full((192, 4), 1e30), **more},
    )
    configure(adapter, use_dora=dora)
    checkpoint = open_both(adapter, tiny_model_dir)
    with pytest.raises(ModelFormatError, match=r"h\.1\.attn\.c_attn\.weight holds .* infinite"):
        prepared(checkpoint, "int8")


def test_dora_without_its_magnitudes_is_refused(adapter: Path) -> None:
    configure(adapter, use_dora=True)
    assert "lacks its LoRA magnitude" in refused(adapter)


def test_adapter_of_another_model_is_refused_with_both_shapes(
    adapter: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "wide", n_embd=96, n_head=4)
    configure(adapter, base_model_name_or_path=str(other))
    message = refused(adapter)
    assert "is [4, 64], not [4, 96]" in message and "is [96, 288]" in message


def test_damaged_or_missing_weights_are_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    os.truncate(file, file.stat().st_size - 10)
    assert "adapter_model.safetensors: cut short" in refused(adapter)
    file.unlink()
    assert "has adapter_config.json and no adapter_model.safetensors" in refused(adapter)


def test_pickle_says_how_to_convert(adapter: Path) -> None:
    want = our_logits(LanguageModel(adapter, "fp32"))
    state = load_file(adapter / "adapter_model.safetensors")
    torch.save(state, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    message = refused(adapter)
    assert "a pickle file" in message
    exec(message.partition('python -c "')[2].rstrip('"'))  # the command does what it says
    assert np.array_equal(our_logits(LanguageModel(adapter, "fp32")), want)


def test_merging_as_the_messages_say_makes_a_model_that_is_read(
    adapter: Path, tiny_model_dir: Path
) -> None:
    fresh = GPT2LMHeadModel.from_pretrained(tiny_model_dir, dtype=torch.float32)
    merged = adapter.parent / "merged"
    PeftModel.from_pretrained(fresh, adapter).merge_and_unload().save_pretrained(merged)
    shutil.copyfile(tiny_model_dir / "tokenizer.json", merged / "tokenizer.json")
    ours = our_logits(LanguageModel(adapter, "fp32"))
    np.testing.assert_allclose(our_logits(LanguageModel(merged, "fp32")), ours, rtol=0, atol=1e-4)
