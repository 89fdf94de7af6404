"""Turn one Hugging Face GPT-2 directory into what each peer reads, once, in a cache directory.

Every engine is timed on the same weights. Each function returns the converted file or directory,
and makes it only when it is not there yet: it is written to a temporary name and moved into
place, so that a broken conversion is never mistaken for a finished one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

GGUF_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2}  # llama.cpp's LLAMA_FTYPE_*


def gguf_file(model: Path, workdir: Path, kind: str, *, as_neox: bool = False) -> Path:
    """A GGUF file for llama.cpp, quantised by llama.cpp itself with its own defaults.

    Args:
        model: directory with ``config.json``, ``model.safetensors`` and the tokenizer files.
        workdir: where conversions are kept.
        kind: ``"source"`` (the dtype of the checkpoint), ``"f16"``, ``"q8_0"`` or ``"q4_0"``.
        as_neox: the same matrices called a GPT-NeoX; see ``_write_as_neox``.
    """
    target = workdir / f"{kind}{'-neox' if as_neox else ''}.gguf"
    if kind == "source":
        if as_neox:
            gpt2 = gguf_file(model, workdir, "source")
            return _once(target, lambda temporary: _write_as_neox(gpt2, temporary))
        return _once(target, lambda temporary: _write_gguf(model, temporary))
    source = gguf_file(model, workdir, "source", as_neox=as_neox)
    return _once(target, lambda temporary: _quantize_gguf(source, temporary, GGUF_TYPES[kind]))


def ctranslate2_directory(model: Path, workdir: Path) -> Path:
    """A CTranslate2 model in fp32; CTranslate2 quantises it itself when it loads it."""
    from ctranslate2.converters import TransformersConverter

    return _once(
        workdir / "ctranslate2",
        lambda temporary: TransformersConverter(str(model)).convert(str(temporary)),
    )


def onnx_file(model: Path, workdir: Path, kind: str) -> Path:
    """An ONNX graph with key/value inputs and outputs, for onnxruntime.

    Exported from transformers' own module by ``torch.onnx.export``; int8 is onnxruntime's dynamic
    quantisation of it.

    Args:
        model: the Hugging Face directory.
        workdir: where conversions are kept.
        kind: ``"fp32"`` or ``"int8"``.
    """
    directory = workdir / f"onnx-{kind}"
    if kind == "fp32":
        _once(directory, lambda temporary: _export_onnx(model, temporary))
    else:
        source = onnx_file(model, workdir, "fp32")
        _once(directory, lambda temporary: _quantize_onnx(source, temporary))
    return directory / "model.onnx"


def _once(target: Path, write: Callable[[Path], object]) -> Path:
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
    return target


def _write_gguf(model: Path, target: Path) -> None:
    from laplm.model.files.gguf_writer import write_gguf
    from laplm.run.language_model import LanguageModel

    lm = LanguageModel(model, "fp32")
    write_gguf(lm, target, "f16" if lm.checkpoint.dtype == "fp16" else "f32")


def _write_as_neox(source: Path, target: Path) -> None:
    """A GPT-2 file as a GPT-NeoX of the same matrices: of the same speed, not of the same texts.

    For ik_llama.cpp, whose GPT-2 ends at an assertion (it gives the feed-forward's norm an epsilon
    of 0). Positions are turned into two components of each head, for that there must be some.
    """
    import gguf

    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), "gptneox")
    for key, field in reader.fields.items():
        if key == "general.architecture" or key.startswith("GGUF."):
            continue
        kinds = [*field.types, None]
        writer.add_key_value(
            key.replace("gpt2.", "gptneox."), field.contents(), kinds[0], sub_type=kinds[1]
        )
    writer.add_rope_dimension_count(2)
    writer.add_parallel_residual(False)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    del tensors["position_embd.weight"]
    tensors.setdefault("output.weight", tensors["token_embd.weight"])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantize_gguf(source: Path, target: Path, ftype: int) -> None:
    try:
        from llama_cpp import llama_cpp as lib
    except ImportError:  # ik_llama.cpp's wheel brings the program that does the same
        from ik_llama_cpp.quantize import find_quantize_bin

        program = find_quantize_bin()
        if program is None:
            raise RuntimeError("ik-llama-cpp-python has no llama-quantize") from None
        program.chmod(0o755)  # pip forgets it
        subprocess.run([program, source, target, str(ftype)], check=True)
        return
    params = lib.llama_model_quantize_default_params()
    params.ftype = ftype
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code:
        raise RuntimeError(f"llama_model_quantize gave {code} for {source}")


def _export_onnx(model: Path, target: Path) -> None:
    import torch
    from transformers import DynamicCache, GPT2LMHeadModel

    network = GPT2LMHeadModel.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config = network.config
    layers = range(config.n_layer)

    class WithPast(torch.nn.Module):
        """ids (1, T) and P cached positions -> logits of the last one and P + T positions."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
            out = self.network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            present = [
                t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)
            ]
            return (out.logits, *present)

    head = (1, config.n_head, 3, config.n_embd // config.n_head)
    past = [torch.zeros(head) for _ in layers for _ in "kv"]
    inputs = [f"past.{i}.{part}" for i in layers for part in "kv"]
    outputs = [f"present.{i}.{part}" for i in layers for part in "kv"]
    axes = {"ids": {0: "batch", 1: "new"}, "logits": {0: "batch"}}
    axes |= {name: {0: "batch", 2: "past"} for name in inputs}
    axes |= {name: {0: "batch", 2: "total"} for name in outputs}
    target.mkdir(parents=True)
    with torch.no_grad():
        torch.onnx.export(
            WithPast().eval(),
            (torch.zeros((1, 2), dtype=torch.long), *past),
            str(target / "model.onnx"),
            input_names=["ids", *inputs],
            output_names=["logits", *outputs],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _quantize_onnx(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target.mkdir(parents=True)
    quantize_dynamic(
        str(source), str(target / "model.onnx"), per_channel=True, weight_type=QuantType.QInt8
    )
