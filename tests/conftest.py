"""Generated models that the tests run on: nothing is downloaded, nothing outside is read."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

import laplm

if TYPE_CHECKING:
    from laplm.run.language_model import LanguageModel

os.environ["HF_HUB_OFFLINE"] = "1"
# pytest's workers may set it, and views in a pipe are as wide as it says.
os.environ.pop("COLUMNS", None)
# torch's threads wait for each other asleep. Awake they take the cores from the other worker's, and
# from each other: half of all CPU time was spent so. Read when torch is loaded, here or in a child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# numpy has one, for its matrices here are small. Read when numpy is loaded, which no plugin that
# pyproject.toml names does before this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No test is about time: a busy machine makes none of them fail. The inputs that hypothesis makes
# are the same at each run, so that a change breaks a test and not chance; others on request.
timeless = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("laplm", timeless, derandomize=True)
settings.register_profile("explore", timeless)  # --hypothesis-profile=explore
settings.load_profile("laplm")

TEXT = """The capital of Spain is Madrid. The capital of France is Paris. Once upon a time, there
was a little girl named Sue. She had a regular day at her play school. Grüße, naïve café, 北京, 🙂.
def f(x): return x**2 + 3*x - 1  # don't, we'll, I'm, they've, 1234 567
"""


# Files of tests, those first that take longest: whoever runs them side by side (a file is one
# worker's) shall not wait for one of these alone at the end.
LONGEST = (
    "test_readme.py", "web/test_page.py", "web/test_look_tab.py", "talk/test_slides.py",
    "tune/test_processes.py", "serve/test_tune_routes.py", "model/engine/test_model.py",
    "tune/test_trainer.py", "serve/test_server.py", "tune/test_tuning.py",
    "examples/test_examples.py", "model/engine/test_families.py", "tune/test_memory.py",
    "cli/test_look.py", "model/files/test_adapter.py",
)  # fmt: skip
LEFT_OUT = ("torch", "transformers", "peft", "schemathesis", "gguf")
WITHOUT_TORCH = "LAPLM_TINY_MODEL" in os.environ  # on purpose: scripts/lowest
if WITHOUT_TORCH:
    _imports = re.compile(rf"^(?:import|from) (?:{'|'.join(LEFT_OUT)})\b", re.MULTILINE)
    _here = Path(__file__).parent
    collect_ignore = [
        str(path.relative_to(_here))
        for path in _here.rglob("test_*.py")
        if _imports.search(path.read_text(encoding="utf-8"))
    ]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Files in the order in which they are collected, not those with most tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
        # When a worker dies, xdist may wait for ever for its tests: the run ends instead.
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Without torch, on purpose, models that it makes are left out."""
    yield from _without_what_is_left_out()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Without torch, on purpose, tests that compare with it have no oracle."""
    yield from _without_what_is_left_out()


def _without_what_is_left_out() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if WITHOUT_TORCH and error.name in LEFT_OUT:
            pytest.skip(f"{error.name} is left out")
        raise


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared weights and kernels go to one throw-away place, the hub cache is an empty one.

    The workers of pytest-xdist share the former: what one has compiled the others load.
    """
    base = tmp_path_factory.getbasetemp()
    all_workers = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAPLM_HOME", str(all_workers / "laplm-home"))
        patch.setenv("HF_HOME", str(base / "hf-home"))
        # What other programs have on this machine is no part of the tests.
        for name in ("OLLAMA_MODELS", "LLAMA_CACHE"):
            patch.setenv(name, str(base / "no-models"))
        patch.setattr("laplm.hub.stores.LM_STUDIO", ())
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LAPLM_ISA"):
            patch.delenv(name, raising=False)
        # Hundreds of processes load the package: compiled by the first, as ever, into __pycache__.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


def make_tokenizer_json(directory: Path, vocab_size: int = 600) -> None:
    """Train a small byte-level BPE with GPT-2's rules and write ``tokenizer.json``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(directory / "tokenizer.json"))


def make_model(directory: Path, *, seed: int = 0, **sizes: object) -> Path:
    """A GPT-2 with random weights at GPT-2's initial scale, as transformers writes it."""
    import torch
    from tokenizers import Tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    directory.mkdir(parents=True, exist_ok=True)
    make_tokenizer_json(directory)
    vocab = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab, "n_positions": 128, "n_embd": 64, "n_layer": 3, "n_head": 4,
        "bos_token_id": vocab - 1, "eos_token_id": vocab - 1,
    } | sizes  # fmt: skip
    model = GPT2LMHeadModel(GPT2Config(**settings))
    with torch.no_grad():  # biases and gains that matter, unlike a fresh model's 0 and 1
        for name, tensor in model.named_parameters():
            if name.endswith("bias") or ".ln_" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, four heads, 64 wide, 128 positions, about 480 tokens. Read only."""
    if WITHOUT_TORCH:
        return Path(os.environ["LAPLM_TINY_MODEL"])
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and the tiny model's tokenizer. Read only."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "llama"
    path.mkdir()
    make_tokenizer_json(path)
    n = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=n, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=n - 1, eos_token_id=n - 1, pad_token_id=n - 1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def bos_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a BOS that its tokenizer puts, and ends named in three files."""
    path = tmp_path_factory.mktemp("models") / "bos"
    shutil.copytree(tiny_model_dir, path)
    values = json.loads((path / "tokenizer.json").read_text())
    begin, end = values["model"]["vocab"]["!"], values["added_tokens"][0]["id"]
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "!", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"!": {"id": "!", "ids": [begin], "tokens": ["!"]}},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(values))
    (path / "tokenizer_config.json").write_text('{"eos_token": "?"}')
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"eos_token_id": [end, 5]}))
    (path / "generation_config.json").write_text('{"eos_token_id": [6], "bos_token_id": 7}')
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF in Q4_1, where it is given: a model that people have."""
    path = os.environ.get("LAPLM_TEST_SMOLLM2")
    if not path:
        pytest.skip("LAPLM_TEST_SMOLLM2 names no SmolLM2-135M-Instruct.Q4_1.gguf")
    return Path(path)


@pytest.fixture(scope="session")
def smollm2_in_transformers(smollm2: Path) -> Any:
    """The same file as transformers reads it, in fp32."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    with pytest.MonkeyPatch.context() as patch:
        # transformers reads the file twice, and asks for all names once for each module.
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        return AutoModelForCausalLM.from_pretrained(
            smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
        )


@pytest.fixture(scope="session")
def pocket() -> LanguageModel:
    """The built-in model in fp32; its engine is made, in some seconds, only when it is used."""
    from laplm.run.language_model import LanguageModel

    return LanguageModel("pocket", "fp32")


@pytest.fixture(scope="session")
def hf_pocket() -> Any:
    """The same weights in transformers, fp32, with attention that gives its patterns. Read only."""
    import torch
    from transformers import GPT2LMHeadModel

    path = Path(laplm.__file__).parent / "pocket"
    model = GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@pytest.fixture
def laplm_(capsys, monkeypatch) -> Callable[..., SimpleNamespace]:
    """Run a command in this process: ``laplm_("run", ..., stdin=b"...")``."""

    from laplm import cli

    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


def chromium() -> str:
    """The browser, or a skip that says what to install."""
    named = os.environ.get("LAPLM_CHROMIUM")
    found = named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium: install it, or name it in LAPLM_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window.

    Not for longer than a module: beside it nothing else can have an event loop.
    """
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield launched
        launched.close()
