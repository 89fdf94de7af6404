"""Models in the forms that other programs read: Hugging Face directories and GGUF files.

Torch is not needed here. A GGUF file holds GPT-2 as llama.cpp lays it out: linear weights as
(outputs, inputs), where GPT-2 keeps (inputs, outputs), and no output matrix of its own where it is
tied to the embedding. What was written is read again and compared before it is moved into place.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, MissingExtraError
from laplm.gpt import reference
from laplm.gpt.adapter import is_adapter
from laplm.gpt.checkpoint import Checkpoint, StoredDtype, open_checkpoint, save_checkpoint
from laplm.gpt.config import GPTConfig, tensor_shapes
from laplm.gpt.pretrained_settings import PretrainedSettings
from laplm.gpt.tokenizer import Tokenizer
from laplm.home import write_whole

Array = NDArray[np.float32]
Form = Literal["hf", "peft-merged", "gguf"]
FORMS = ("hf", "peft-merged", "gguf")
PRECISIONS: dict[str, tuple[str, ...]] = {
    "hf": ("f32", "f16", "bf16"),
    "peft-merged": ("f32", "f16", "bf16"),
    "gguf": ("f32", "f16", "q8_0"),
}
_STORED: dict[str, StoredDtype] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
# How far logits may move, as a share of their own spread, before something must be wrong: rounding
# moves them several times less, a matrix that lies the wrong way round several times more.
_TOLERANCE = {"f32": 1e-4, "f16": 0.05, "bf16": 0.2, "q8_0": 0.25}
_GROUP = 32  # numbers that share a scale in q8_0
_STEMS = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


class Model(Protocol):
    """What exporting needs of a model; ``laplm.LanguageModel`` has it."""

    name: str
    path: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def settings(self) -> PretrainedSettings:
        """What its directory says beside weights and tokens."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the directory, or the ``.gguf`` file.
        size_bytes: of the weights.
        deviation: how far logits moved at most, as a share of their spread.
        also: other files that were written.
    """

    path: Path
    size_bytes: int
    deviation: float
    also: tuple[Path, ...] = ()


def export(model: Model, out: str | Path, form: Form = "hf", precision: str = "f32") -> Exported:
    """Write a model, adapters merged, as another program reads it.

    Args:
        model: what to write.
        out: a new directory for ``hf`` (``peft-merged`` is the same, of an adapter alone); for
            ``gguf`` a file that ends in .gguf, beside which a Modelfile for ollama is put.
        form: of ``FORMS``.
        precision: of ``PRECISIONS[form]``.

    Raises:
        CacheError: the disk is full or cannot be written.
        InputError: the form cannot hold this model, or ``out`` cannot be used.
        MissingExtraError: the gguf package is not installed.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, but it must be one of {', '.join(FORMS)}")
    if precision not in PRECISIONS[form]:
        raise InputError(
            f"precision is {precision!r}, but {form} can be {', '.join(PRECISIONS[form])}"
        )
    if form == "peft-merged" and not is_adapter(model.path):
        raise InputError(f"{model.path} is not an adapter, so there is nothing to merge; use hf")
    path = Path(out)
    if form == "gguf":
        return _export_gguf(model, path, precision)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already; choose another directory")
    return _export_directory(model, path, precision)


def _export_directory(model: Model, path: Path, precision: str) -> Exported:
    tensors = {name: model.checkpoint.tensor(name) for name in model.checkpoint.names}
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        save_checkpoint(
            temporary,
            model.checkpoint.config,
            tensors,
            _STORED[precision],
            model.tokenizer.to_json(),
            model.settings,
        )
        written = open_checkpoint(temporary)
        found = {name: written.tensor(name) for name in written.names}
        deviation = _deviation(model.checkpoint, found, written.config, precision)
        try:
            if path.is_dir():  # and empty, as was checked
                path.rmdir()
            temporary.rename(path)
        except OSError as error:  # a tuning or another export was quicker
            raise InputError(
                f"{path} was written to by someone else meanwhile ({error.strerror}); choose "
                "another directory"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(path, written.size_bytes, deviation)


# --- GGUF -------------------------------------------------------------------------------------


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("A GGUF file", "export") from error
    return gguf


def _export_gguf(model: Model, path: Path, precision: str) -> Exported:
    _gguf()
    config = model.checkpoint.config
    _check_llama_cpp(config)
    if path.suffix != ".gguf":
        raise InputError(f"{path} must end in .gguf")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")
    if path.exists():
        raise InputError(f"{path} is there already; choose another name")
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        try:
            write_gguf(model, temporary, precision)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror})") from None
        found = dict(_read_gguf(temporary, config))
        deviation = _deviation(model.checkpoint, found, config, precision)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    modelfile = path.with_name("Modelfile")
    also: tuple[Path, ...] = ()
    if not modelfile.exists():
        write_whole(modelfile, _modelfile(path, config).encode())
        also = (modelfile,)
    return Exported(path, path.stat().st_size, deviation, also)


def _check_llama_cpp(config: GPTConfig) -> None:
    """Refuse what llama.cpp's GPT-2 does not compute."""
    standard = GPTConfig()
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        if getattr(config, name) != getattr(standard, name):
            raise InputError(f"llama.cpp has no GPT-2 with {name} {getattr(config, name)}; use hf")
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise InputError(
            f"llama.cpp's GPT-2 has gelu_new, and this model {config.activation_function}; use hf"
        )


def write_gguf(model: Model, path: Path, precision: str) -> None:
    """Write the GGUF file alone; vectors and positions stay fp32, as llama.cpp wants them.

    Raises:
        MissingExtraError: the gguf package is not installed.
        OSError: the file cannot be written.
    """
    gguf = _gguf()
    config = model.checkpoint.config
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_name(Path(model.name).name)
    writer.add_file_type(
        {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
         "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[precision]
    )  # fmt: skip
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _add_tokenizer(writer, gguf, model)
    for name in model.checkpoint.names:
        array = model.checkpoint.tensor(name)
        if _is_linear(name):
            array = np.ascontiguousarray(array.T)
        kind = _kind(gguf, name, array.shape, precision)
        data = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, gguf: Any, model: Model) -> None:
    config, types = model.checkpoint.config, gguf.TokenType
    stored = json.loads(model.tokenizer.to_json())
    ids: dict[str, int] = dict(stored["model"]["vocab"])
    control = {token["content"]: token["id"] for token in stored["added_tokens"]}
    by_id = {id_: token for token, id_ in (ids | control).items()}
    tokens, kinds = [], []
    for i in range(config.vocab_size):
        # A vocabulary may be padded: rows of the embedding that no token has.
        token = by_id.get(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        kinds.append(
            types.UNUSED if token is None else types.CONTROL if token in control else types.NORMAL
        )
    merges = stored["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for end in (config.eos_token_id, model.tokenizer.eos_token_id):
        if end is not None:
            writer.add_bos_token_id(end)
            writer.add_eos_token_id(end)
            break
    writer.add_add_bos_token(False)
    if model.settings.chat_templates:
        writer.add_chat_template(model.settings.listed_templates())


def _gguf_name(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in _STEMS:
        return f"{_STEMS[stem]}.{leaf}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_PARTS[part]}.{leaf}"


def _is_linear(name: str) -> bool:
    """Whether GPT-2 keeps the matrix as (inputs, outputs)."""
    return name.startswith("h.") and name.endswith(".weight") and ".ln_" not in name


def _kind(gguf: Any, name: str, shape: tuple[int, ...], precision: str) -> Any:
    """How a tensor is stored. In q8_0, rows that cannot be cut into groups stay f16."""
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or name == "wpe.weight" or precision == "f32":
        return types.F32
    if precision == "f16" or shape[-1] % _GROUP:
        return types.F16
    return types.Q8_0


def _read_gguf(path: Path, config: GPTConfig) -> Iterator[tuple[str, Array]]:
    """The tensors of a GGUF file by their GPT-2 names, in GPT-2's layout, fp32."""
    gguf = _gguf()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
    for name, shape in tensor_shapes(config).items():
        tensor = stored[_gguf_name(name)]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        array = array.reshape(shape[::-1] if _is_linear(name) else shape)
        yield name, np.ascontiguousarray(array.T) if _is_linear(name) else array


def _modelfile(path: Path, config: GPTConfig) -> str:
    """What ``ollama create NAME -f Modelfile`` needs: a model that continues text as it is."""
    return (
        f"FROM ./{path.name}\n"
        'TEMPLATE """{{ .Prompt }}"""\n'
        f"PARAMETER num_ctx {config.n_ctx}\n"
        "PARAMETER temperature 0.8\n"
        "PARAMETER top_k 40\n"
        "PARAMETER top_p 1.0\n"
        "PARAMETER repeat_penalty 1.0\n"
    )


# --- checking ---------------------------------------------------------------------------------


def _deviation(
    checkpoint: Checkpoint, found: dict[str, Array], config: GPTConfig, precision: str
) -> float:
    """How far the logits of what was written are from the model's, as a share of their spread.

    Raises:
        InputError: further than rounding can bring them.
    """
    ids = np.arange(1, 1 + min(24, config.n_ctx)) * 7919 % config.vocab_size
    exact = {name: checkpoint.tensor(name) for name in checkpoint.names}
    logits = [
        reference.forward(ids, reference.DenseWeights(tensors), each, reference.DensePast())
        for tensors, each in ((exact, checkpoint.config), (found, config))
    ]
    deviation = float(np.abs(logits[1] - logits[0]).max() / (logits[0].std() or 1.0))
    if not deviation <= _TOLERANCE[precision]:
        raise InputError(
            f"what was written does not compute what the model computes (logits differ by "
            f"{deviation:.3g} of their spread); please report this"
        )
    return deviation
