"""What is opened: one entry for each kind of input.

A new format is one ``Format`` in ``FORMATS``: how a good input is changed, and what laplm does
with it. Model files are opened as a user does, through the command line in this process: it must
end with 0, or with 2 and plain lines.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import gguf_bytes, mutate

SIZES = {"vocab_size": 300, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
LONGEST_LINE = 2000  # characters of a message to a person


class FaultError(Exception):
    """Something that no input may cause."""


@dataclass(frozen=True)
class Format:
    """A kind of input.

    Attributes:
        make: writes a changed input into an empty directory; a function of the random numbers.
        use: does with it what a user would; raises for what no input may cause.
    """

    make: Callable[[Random, Path], None]
    use: Callable[[Path], None]


# --- good inputs ------------------------------------------------------------------------------


@functools.cache
def good_model() -> dict[str, bytes]:
    """The files of a small model, by name."""
    import tempfile

    from tests.conftest import make_tokenizer_json

    with tempfile.TemporaryDirectory() as scratch:
        make_tokenizer_json(Path(scratch), SIZES["vocab_size"])
        tokenizer = (Path(scratch) / "tokenizer.json").read_bytes()
    end = SIZES["vocab_size"] - 1
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": end,
        "eos_token_id": end, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "n_ctx": 32, "tie_word_embeddings": True, "attn_pdrop": 0.1, **SIZES,
    }  # fmt: skip
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    settings = {
        "tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "model_max_length": 32,
        "bos_token": {"content": "<|endoftext|>", "lstrip": False}, "chat_template": template,
        "added_tokens_decoder": {str(end): {"content": "<|endoftext|>", "special": True}},
    }  # fmt: skip
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors_bytes(tensors()),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.dumps(settings).encode(),
        "special_tokens_map.json": json.dumps({"eos_token": "<|endoftext|>"}).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [end], "top_k": 50}).encode(),
        "chat_template.jinja": template.encode(),
    }


def tensors() -> dict[str, np.ndarray]:
    """Random weights by GPT-2's names."""
    rng, c = np.random.default_rng(0), SIZES["n_embd"]
    shapes = {"wte.weight": (SIZES["vocab_size"], c), "wpe.weight": (SIZES["n_positions"], c)}
    for i in range(SIZES["n_layer"]):
        for name, shape in (
            ("ln_1.weight", (c,)), ("ln_1.bias", (c,)), ("ln_2.weight", (c,)), ("ln_2.bias", (c,)),
            ("attn.c_attn.weight", (c, 3 * c)), ("attn.c_attn.bias", (3 * c,)),
            ("attn.c_proj.weight", (c, c)), ("attn.c_proj.bias", (c,)),
            ("mlp.c_fc.weight", (c, 4 * c)), ("mlp.c_fc.bias", (4 * c,)),
            ("mlp.c_proj.weight", (4 * c, c)), ("mlp.c_proj.bias", (c,)),
        ):  # fmt: skip
            shapes[f"h.{i}.{name}"] = shape
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    return {name: rng.normal(0, 0.1, s).astype(np.float32) for name, s in shapes.items()}


def safetensors_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        end = at + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + data


# --- changed inputs -----------------------------------------------------------------------------


def model_with(*names: str, how: Callable[[Random, bytes], bytes]) -> Callable[..., None]:
    """A model directory of which one of the named files is changed."""

    def make(rng: Random, directory: Path) -> None:
        files = dict(good_model())
        name = rng.choice(names)
        files[name] = how(rng, files[name])
        for file, content in files.items():
            (directory / file).write_bytes(content)

    return make


def sharded(rng: Random, directory: Path) -> None:
    """Weights in two files, with an index that is changed, or one file of them is."""
    arrays = tensors()
    names = sorted(arrays)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f in parts for n in parts[f]}}
    files = {k: v for k, v in good_model().items() if k != "model.safetensors"}
    files |= {f: safetensors_bytes({n: arrays[n] for n in some}) for f, some in parts.items()}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    if rng.random() < 0.7:
        changed, how = "model.safetensors.index.json", mutate.mutated_json
    else:
        changed, how = "a.safetensors", mutate.mutated_safetensors
    files[changed] = how(rng, files[changed])
    for file, content in files.items():
        (directory / file).write_bytes(content)


def vocabulary_files(rng: Random, directory: Path) -> None:
    """``vocab.json`` with ``merges.txt`` instead of ``tokenizer.json``."""
    files = dict(good_model())
    model = json.loads(files.pop("tokenizer.json"))["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    files["vocab.json"] = json.dumps(model["vocab"]).encode()
    files["merges.txt"] = "\n".join(["#version: 0.2", *merges]).encode()
    files["added_tokens.json"] = json.dumps({"<|pad|>": SIZES["vocab_size"]}).encode()
    name = rng.choice(("vocab.json", "merges.txt", "added_tokens.json"))
    how = mutate.mutated_text if name == "merges.txt" else mutate.mutated_json
    files[name] = how(rng, files[name])
    for file, content in files.items():
        (directory / file).write_bytes(content)


def pytorch_file(rng: Random, directory: Path) -> None:
    """``pytorch_model.bin``: torch's zip archive of a pickle and raw numbers."""
    import torch

    buffer = io.BytesIO()
    weights: dict[str, Any] = {name: torch.from_numpy(a) for name, a in tensors().items()}
    if rng.random() < 0.5:
        name = rng.choice(sorted(weights))
        weights[name] = rng.choice((
            weights[name].to_sparse(), weights[name].to("meta"), weights[name].to(torch.float64),
            weights[name].to(torch.complex64), weights[name].sum(), weights[name].to(torch.int8),
            weights[name].flatten()[:0], "text", None, [1, 2], weights[name].T,
            mutate.odd_value(rng, deepest=200),  # torch writes no more
        ))  # fmt: skip
    torch.save(weights, buffer)
    content = buffer.getvalue()
    if rng.random() < 0.5:
        content = mutate.mutated_bytes(rng, content)
    for file, data in good_model().items():
        if file != "model.safetensors":
            (directory / file).write_bytes(data)
    (directory / "pytorch_model.bin").write_bytes(content)


def adapter(rng: Random, directory: Path) -> None:
    """A LoRA adapter of peft beside its base."""
    base = directory / "base"
    base.mkdir()
    for file, content in good_model().items():
        (base / file).write_bytes(content)
    config = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 4,
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "none", "rank_pattern": {},
        "alpha_pattern": {}, "use_rslora": False, "task_type": "CAUSAL_LM", "modules_to_save": None,
    }  # fmt: skip
    generator, c = np.random.default_rng(1), SIZES["n_embd"]
    arrays = {}
    for i in range(SIZES["n_layer"]):
        stem = f"base_model.model.transformer.h.{i}.attn.c_attn"
        arrays[f"{stem}.lora_A.weight"] = generator.normal(size=(2, c)).astype(np.float32)
        arrays[f"{stem}.lora_B.weight"] = generator.normal(size=(3 * c, 2)).astype(np.float32)
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": safetensors_bytes(arrays),
    }
    name = rng.choice(sorted(files))
    how = mutate.mutated_json if name.endswith("json") else mutate.mutated_safetensors
    files[name] = how(rng, files[name])
    for file, content in files.items():
        (directory / file).write_bytes(content)


@functools.cache
def good_gguf() -> tuple[dict[str, Any], list[gguf_bytes.Tensor]]:
    """The tables of a small GGUF file, with the good model's vocabulary."""
    stored = json.loads(good_model()["tokenizer.json"])
    vocab = stored["model"]["vocab"] | {t["content"]: t["id"] for t in stored["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in stored["model"]["merges"]]
    return gguf_bytes.good_tables(SIZES, sorted(vocab, key=vocab.__getitem__), merges)


def gguf_file(rng: Random, directory: Path) -> None:
    """A GGUF file of which something is changed."""
    (directory / "a.gguf").write_bytes(gguf_bytes.mutated_gguf(rng, *good_gguf()))


def release(rng: Random, directory: Path) -> None:
    """A damaged release of OpenAI's: settings, and a table that is no table."""
    sizes = {"n_vocab": 300, "n_ctx": 32, "n_embd": 32, "n_head": 2, "n_layer": 2}
    table = (
        b"\x00\x00\x00\x00\x01\x00\x00\x00" + bytes(40) + (0xDB4775248B80FB57).to_bytes(8, "little")
    )
    (directory / "hparams.json").write_bytes(mutate.mutated_json(rng, json.dumps(sizes).encode()))
    (directory / "model.ckpt.index").write_bytes(mutate.mutated_bytes(rng, table * 2))
    (directory / "model.ckpt.data-00000-of-00001").write_bytes(rng.randbytes(100))
    (directory / "tokenizer.json").write_bytes(good_model()["tokenizer.json"])


ROWS = (
    {"text": "A first text. It says, more or less, nothing."},
    {"text": "A second one<|endoftext|>with two parts"},
    {"text": 'Quoted "words"; and semicolons'},
)
CHATS = (
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"prompt": "What is 1 + 1?", "completion": " 2"},
    {"instruction": "Add", "input": "1 and 1", "output": "2"},
)


def training_data(rng: Random, directory: Path) -> None:
    """A file to train on: text, rows of JSON, a table."""
    kind = rng.choice((".txt", ".jsonl", ".json", ".csv", ".tsv"))
    rows = ROWS if rng.random() < 0.5 else (rng.choice(CHATS),) * 3
    if kind == ".txt":
        content = "\n<|endoftext|>\n".join(row["text"] for row in ROWS).encode()
        content = mutate.mutated_text(rng, content)
    elif kind in (".jsonl", ".json"):
        some = list(rows)
        if rng.random() < 0.7:
            at = rng.randrange(len(some))
            some[at] = mutate.mutated_value(rng, some[at])
        if kind == ".json":
            content = mutate.as_json(rng, some)
        else:
            content = b"\n".join(mutate.as_json(rng, row) for row in some)
        if rng.random() < 0.3:
            content = mutate.mutated_text(rng, content)
    else:
        mark = rng.choice((",", ";", "\t", "|"))
        lines = [mark.join(("text", "source"))]
        lines += [f'"{row["text"]}"{mark}x'.replace('"words"', '""words""') for row in ROWS]
        content = mutate.mutated_text(rng, "\r\n".join(lines).encode())
    (directory / f"data{kind}").write_bytes(content)


BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "small", "prompt": "The capital", "max_tokens": 3, "temperature": 0.7, "n": 1,
        "top_p": 0.9, "top_k": 5, "seed": 1, "stop": ["\n"], "logprobs": 2, "echo": False,
        "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"5": 1}, "stream": False,
    },
    "/v1/chat/completions": {
        "model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3,
        "logprobs": True, "top_logprobs": 2, "stream": False, "n": 1, "response_format": None,
        "stream_options": None, "tools": None,
    },
    "/api/look/next": {"model": "small", "text": "The capital", "k": 5},
    "/api/look/attention": {"model": "small", "text": "The capital of", "layer": 0, "head": 1},
    "/api/look/ablate": {"model": "small", "text": "The capital of", "target": " a"},
    "/api/models/load": {"model": "small"},
    "/api/tune": {"model": "small", "data": "A text.", "name": "x.txt", "max_steps": 1},
}  # fmt: skip


def http_body(rng: Random, directory: Path) -> None:
    """A request: a route and the bytes of its body."""
    route = rng.choice(sorted(BODIES))
    body = BODIES[route]
    some = {key: body[key] for key in body if key in ("prompt", "messages", "text", "max_tokens")
            or rng.random() < 0.5}  # fmt: skip
    raw = json.dumps(some or body).encode()
    (directory / "route").write_text(route)
    (directory / "body").write_bytes(mutate.mutated_json(rng, raw))


# --- what is done with them ---------------------------------------------------------------------


def open_model(directory: Path) -> None:
    """``laplm look next``: the model, its tokenizer and one forward pass."""
    run_command("look", "next", "The capital of", "-m", str(directory))


def chat_with_gguf(directory: Path) -> None:
    """A conversation with the model in a GGUF file, and ``laplm look next``."""
    from laplm.errors import LaplmError
    from laplm.run.language_model import LanguageModel

    with contextlib.suppress(LaplmError):
        lm = LanguageModel(directory, "fp32")
        if lm.chat_template is not None:
            lm.chat_template.encode([{"role": "user", "content": "Hi <|endoftext|>"}])
    open_model(directory)


def render_chat(directory: Path) -> None:
    """What a conversation becomes with the model's own template, and the model itself."""
    from laplm.errors import LaplmError
    from laplm.model.chat import ChatTemplate
    from laplm.model.tokenizer import Tokenizer

    messages = [{"role": "user", "content": "Hi <|endoftext|>"}]
    with contextlib.suppress(LaplmError):
        tokenizer = Tokenizer.from_directory(directory)
        template = ChatTemplate.from_directory(directory, tokenizer)
        if template is not None:
            template.encode(messages, add_generation_prompt=True)
    open_model(directory)


def run_command(*words: str) -> None:
    """A command in this process: it must end with 0, or with 2 and plain lines."""
    from laplm import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(words))
    said = err.getvalue()
    if code not in (0, 2):
        raise FaultError(f"exit code {code}: {said[-600:]}")
    if "Traceback" in said or "Warning:" in said:
        raise FaultError(f"not for people: {said[-600:]}")
    if code == 2 and not re.search(r"^laplm: .", said, re.MULTILINE):
        raise FaultError(f"refused without a reason: {said[-600:]!r}")
    odd = next((c for c in said if ord(c) < 32 and c not in "\n\r"), None)
    if odd is not None or "\x7f" in said:
        raise FaultError(f"control characters reach the terminal: {said[-600:]!r}")
    if any(len(line) > LONGEST_LINE for line in said.splitlines()):
        raise FaultError(f"a line of {max(map(len, said.splitlines()))} characters")


def read_data(directory: Path) -> None:
    """The reader of training data, and its documents as tokens."""
    from laplm.errors import LaplmError
    from laplm.model.tokenizer import Tokenizer
    from laplm.tune.data.packing import encode_example
    from laplm.tune.data.read import read_examples

    (file,) = directory.iterdir()
    tokenizer = small_tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    try:
        reading = read_examples(file)
        for example in reading.examples:
            encode_example(example, tokenizer, tokenizer.vocab_size - 1)
    except LaplmError as error:
        if "\n" in str(error) or not str(error):
            raise FaultError(f"not one plain line: {error!s:.600}") from error


@functools.cache
def small_tokenizer() -> Any:
    """The good model's tokenizer."""
    import tokenizers

    from laplm.model.tokenizer import Tokenizer

    return Tokenizer(tokenizers.Tokenizer.from_str(good_model()["tokenizer.json"].decode()))


@functools.cache
def client() -> Any:
    """A client of the server's application in this process, which serves the good model."""
    import tempfile

    from fastapi.testclient import TestClient

    from laplm.serve.app import ServerOptions, make_app
    from laplm.serve.models import ServingSettings

    directory = Path(tempfile.mkdtemp(prefix="laplm-fuzz-"))
    for file, content in good_model().items():
        (directory / file).write_bytes(content)
    serving = ServingSettings(precision="fp32")
    app, _ = make_app(ServerOptions({"small": str(directory)}, "small", serving))
    opened = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    opened.__enter__()
    # Compiled here, and not by some input whose time is counted.
    opened.post("/v1/completions", json={"model": "small", "prompt": "a", "max_tokens": 1})
    return opened


def post_body(directory: Path) -> None:
    """One request: no answer is a fault of ours, and each is strict JSON."""
    route, body = (directory / "route").read_text(), (directory / "body").read_bytes()
    answer = client().post(route, content=body, headers={"Content-Type": "application/json"})
    if answer.status_code >= 500:
        raise FaultError(f"{answer.status_code}: {answer.text[:600]}")
    if answer.headers["content-type"].startswith("application/json"):
        json.loads(answer.content, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise FaultError(f"{name} is not JSON")


def emptied(directory: Path) -> None:
    """Leave nothing in a directory."""
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        model_with("model.safetensors", how=mutate.mutated_safetensors), open_model
    ),
    "sharded": Format(sharded, open_model),
    "config": Format(model_with("config.json", how=mutate.mutated_json), open_model),
    "tokenizer": Format(model_with("tokenizer.json", how=mutate.mutated_json), open_model),
    "vocabulary": Format(vocabulary_files, open_model),
    "settings": Format(
        model_with(
            "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
            how=mutate.mutated_json,
        ),
        render_chat,
    ),
    "template": Format(model_with("chat_template.jinja", how=mutate.mutated_text), render_chat),
    "pytorch": Format(pytorch_file, open_model),
    "adapter": Format(adapter, open_model),
    "gguf": Format(gguf_file, chat_with_gguf),
    "release": Format(release, open_model),
    "data": Format(training_data, read_data),
    "http": Format(http_body, post_body),
}  # fmt: skip
