"""GPT-2 in torch, for training. Running a model never comes here: see ``laplm.model``.

Shapes: B batch, T positions, C = n_embd, V vocabulary, H heads, D = head_dim (C = H * D).

Parameters carry the GPT-2 checkpoint's own names and layout, linear weights as (inputs, outputs),
so ``state_dict()`` is a checkpoint as it stands and nothing is ever transposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ContextLengthError, MissingExtraError, ModelFormatError
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_shapes
from laplm.model.files.checkpoint import Checkpoint, check_finite
from laplm.progress import Progress
from laplm.tune.kernels.attention import DocumentMask, causal_attention, last_token_attention
from laplm.tune.kernels.pointwise import gelu
from laplm.tune.models.int8_base import Int8Conv1D
from laplm.tune.optim.master_weights import split_master

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


class Conv1D(nn.Module):
    """``x @ weight + bias``; GPT-2 stores its weights (inputs, outputs) and calls it Conv1D."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs)."""
        return functional.linear(x, self.weight.t(), self.bias)


class QKVCache:
    """A key/value cache, with queries too, since a layer makes all three at once."""

    def __init__(self) -> None:
        self._qkv: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Tokens that were read, before and after the layers are through with the next ones."""
        return self._qkv[0].shape[1] if self._qkv else 0

    def update(self, layer: int, qkv: Tensor) -> Tensor:
        """Put (B, T, 3 C) behind those of a layer; gives all of them."""
        before = self._qkv.get(layer)
        self._qkv[layer] = qkv if before is None else torch.cat([before, qkv], dim=1)
        return self._qkv[layer]


class Attention(nn.Module):
    """Causal self-attention with H heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.scale = config.attention_scale(layer)
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, documents: DocumentMask | None = None, kv_cache: QKVCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); no token looks into another of ``documents``.

        With ``kv_cache``, which they are added to, tokens come all at once first, then one by one.
        """
        qkv = self.c_attn(x)
        if kv_cache is not None:
            qkv = kv_cache.update(self.layer, qkv)
        if qkv.shape[1] > x.shape[1]:
            z = last_token_attention(qkv, self.n_head, self.scale)
        else:
            z = causal_attention(qkv, self.n_head, self.scale, documents)
        out: Tensor = self.c_proj(z)
        return out


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_10": lambda x: functional.gelu(x).clamp(-10, 10),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "laplace": lambda x: 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "linear": lambda x: x.clone(),
}


class MLP(nn.Module):
    """The feed-forward layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation_function = config.activation
        self.recompute_activation = True  # unless the whole block is computed again
        self.c_fc = Conv1D(config.n_embd, config.n_inner)
        self.c_proj = Conv1D(config.n_inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        hidden = self.c_fc(x)
        active = self._activate(hidden)
        if not (self.recompute_activation and torch.is_grad_enabled()):
            out: Tensor = self.c_proj(active)
            return out
        where, before = active.data_ptr(), hidden.detach()

        # What comes out of the activation is as large as what goes in, and is soon made again.
        def pack(tensor: Tensor) -> Tensor | torch.Size:
            return tensor.shape if tensor.data_ptr() == where else tensor

        def unpack(packed: Tensor | torch.Size) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            return self._activate(before).view(packed)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            projected: Tensor = self.c_proj(active)
        return projected

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation_function in ("gelu_new", "gelu_pytorch_tanh"):
            return gelu(hidden)
        return _ACTIVATIONS[self.activation_function](hidden)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.dropout = 0.0
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, documents: DocumentMask | None = None, kv_cache: QKVCache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); ``documents`` and ``kv_cache`` as for ``Attention``."""
        share = self.dropout if self.training else 0.0
        x = add_with_dropout(x, self.attn(self.ln_1(x), documents, kv_cache), share)
        return add_with_dropout(x, self.mlp(self.ln_2(x)), share)


def add_with_dropout(x: Tensor, y: Tensor, share: float) -> Tensor:
    """``x + y``, of ``y`` a share dropped at random and the rest made larger by as much.

    Torch's generator decides. On a CPU it only seeds a faster one, since millions of draws for
    every layer would take longer than what they decide about.
    """
    if not share:
        return x + y
    if x.device.type != "cpu":
        return x + functional.dropout(y, share)
    seed = int(torch.randint(1 << 62, ()))
    draws = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 1 << 64, -(-y.numel() // 4), dtype=np.uint64
    )
    threshold = round(share * (1 << 16))
    even = torch.from_numpy(draws.view(np.int16)[: y.numel()]).view(y.shape)  # -32768 to 32767
    kept = (even >= threshold - (1 << 15)).to(y.dtype).mul_(1 / (1 - threshold / (1 << 16)))
    return torch.addcmul(x, y, kept)


def _embedding(n: int, dim: int) -> nn.Embedding:
    """A table of ``n`` rows of ``dim`` numbers, drawn as torch draws them.

    Where there is nothing to draw, as only the shapes are wanted (the device "meta"), nothing is:
    torch would load its compiler to draw it, see ``optim/optimizer.py``.
    """
    table = torch.empty(n, dim)
    return nn.Embedding(n, dim, _weight=table if table.is_meta else nn.init.normal_(table))


class TorchGPT(nn.Module):
    """The whole model. ``forward`` gives logits, ``hidden`` what the loss works from.

    Attributes:
        master_low: what weights lost by ``split_master_weights``, by name; empty before.
        checkpointing: keep only what goes into each block, and compute the rest again when
            gradients are wanted: less memory, about a third more time (Chen et al. 2016,
            arXiv:1604.06174).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.master_low: dict[str, Tensor] = {}
        self.checkpointing = False
        self.wte = _embedding(config.vocab_size, config.n_embd)
        self.wpe = _embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        if not config.tied:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        """The output matrix (V, C): ``wte.weight`` itself when tied."""
        return self.wte.weight if self.config.tied else self.lm_head.weight

    def initialise(self, seed: int, std: float | None = None) -> None:
        """Draw new weights as GPT-2 was begun.

        Normal with deviation ``std``; the two matrices of a layer that write to the residual
        stream are smaller by sqrt(2 * n_layer) (Radford et al. 2019, section 2.3). GPT-2's 0.02
        belongs to a width of 768: by default it is scaled to this width.
        """
        if std is None:
            std = 0.02 * math.sqrt(768 / self.config.n_embd)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".ln_" in name or name.startswith("ln_f"):
                    parameter.fill_(1.0)
                else:
                    small = name.endswith("c_proj.weight")
                    scale = std / math.sqrt(2 * self.config.n_layer) if small else std
                    # Drawn on the CPU so that a seed gives the same weights on every device.
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def set_dropout(self, share: float) -> None:
        """Drop this share of what attention and feed-forward put out, while training.

        Source: Srivastava et al. 2014; where GPT-2 has it (Radford et al. 2018, section 4.1).
        """
        for block in self.h:
            assert isinstance(block, Block)
            block.dropout = share

    def hidden(
        self, ids: Tensor, segments: Tensor | None = None, kv_cache: QKVCache | None = None
    ) -> Tensor:
        """Token ids (B, T) to the final layer norm's output (B, T, C).

        Args:
            ids: (B, T).
            segments: which document of its window each token belongs to, (B, T), equal numbers
                side by side; each is then read as if it stood alone. None: one document a window.
            kv_cache: of the tokens before, as for ``Attention``; without ``segments``.

        Raises:
            ContextLengthError: T, with the tokens before, is more than n_ctx.
        """
        start = 0 if kv_cache is None else len(kv_cache)
        t = start + ids.shape[1]
        if t > self.config.n_ctx:
            raise ContextLengthError(
                f"a training window of {t} tokens does not fit the model's {self.config.n_ctx} "
                "positions; use shorter windows"
            )
        documents = None if segments is None else DocumentMask(segments)
        positions = torch.arange(start, t, device=ids.device)
        x = self.wte(ids) + self.wpe(positions if documents is None else documents.position_ids)
        for block in self.h:
            assert isinstance(block, Block)
            block.mlp.recompute_activation = not self.checkpointing
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, documents, use_reentrant=False)
            else:
                x = block(x, documents, kv_cache)
        out: Tensor = self.ln_f(x)
        return out

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """Token ids (B, T) to logits (B, T, V); ``segments`` as for ``hidden``."""
        return functional.linear(self.hidden(ids, segments), self.output_weight)

    def last_logits(self, ids: Tensor, kv_cache: QKVCache | None = None) -> Tensor:
        """Token ids (1, T) to the logits after the last of them, (V,); ``kv_cache`` as above."""
        return functional.linear(self.hidden(ids, kv_cache=kv_cache)[0, -1], self.output_weight)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The checkpoint: copies of all weights by GPT-2 name, fp32."""
        return {
            name: value.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, value in self.state_dict().items()
        }

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        base_precision: str = "fp32",
        progress: Progress | None = None,
    ) -> TorchGPT:
        """The model of a checkpoint; one tensor at a time is read.

        Args:
            checkpoint: the model's files.
            base_precision: fp32, or int8 for the linear layers of one whose weights stay as they
                are (``int8_base.py``).
            progress: told how many tensors of how many are read.

        Raises:
            ModelFormatError: the file changed since it was opened, or a weight is NaN or infinite.
        """
        with torch.device("meta"):
            model = cls(checkpoint.config)
        for number, name in enumerate(checkpoint.names):
            if progress:
                progress("reading the model", number, len(checkpoint.names))
            layer, _, part = name.rpartition(".")
            parent, _, child = layer.rpartition(".")
            array = checkpoint.tensor(name)
            check_finite(name, array)
            values = torch.tensor(array)
            if base_precision == "int8" and isinstance(model.get_submodule(layer), Conv1D):
                if part == "weight":
                    bias = torch.tensor(checkpoint.tensor(f"{layer}.bias"))
                    setattr(model.get_submodule(parent), child, Int8Conv1D(values, bias))
                continue
            if isinstance(model.get_submodule(layer), Int8Conv1D):
                continue  # the bias came with the weight
            setattr(model.get_submodule(layer), part, nn.Parameter(values))
        if progress:
            progress("reading the model", len(checkpoint.names), len(checkpoint.names))
        return model

    def split_master_weights(self) -> None:
        """Put weights in bfloat16, and what those that are trained lose by it in ``master_low``."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameter.data, self.master_low[name] = split_master(parameter.data)
            else:
                parameter.data = parameter.data.to(torch.bfloat16)

    def load_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take weights over by their GPT-2 names.

        Raises:
            ModelFormatError: a tensor is missing, left over or has another shape.
        """
        wanted = tensor_shapes(self.config)
        if names := sorted(wanted.keys() ^ tensors.keys()):
            where = "missing from" if names[0] in wanted else "unknown to"
            raise ModelFormatError(f"tensor {names[0]} is {where} this GPT-2 model")
        for name, shape in wanted.items():
            if tensors[name].shape != shape:
                raise ModelFormatError(
                    f"tensor {name} has shape {tensors[name].shape}, but the model needs {shape}"
                )
        self.load_state_dict(
            {name: torch.tensor(np.asarray(value)) for name, value in tensors.items()}
        )


def continue_ids(
    model: TorchGPT,
    ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
    last_logits: Callable[[Tensor, QKVCache], Tensor] | None = None,
) -> list[int]:
    """Draw tokens after ``ids``: plain, only to watch a training by.

    Ends at the end of the text. Everything else samples with ``laplm.run``.

    Args:
        model: what draws.
        ids: the text so far.
        max_new_tokens: when to end at the latest.
        temperature: divides the logits.
        seed: of the draws.
        last_logits: tokens (1, T) and what is kept of those before to the logits after the last
            one (V,), where more than ``model`` is needed for them.
    """
    last_logits = last_logits or model.last_logits
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    text, new = list(ids[-model.config.n_ctx :]), []
    was_training = model.training
    model.eval()
    kv_cache = QKVCache()
    with torch.no_grad():
        for _ in range(max_new_tokens):
            if len(text) > model.config.n_ctx:  # positions begin anew: nothing kept holds
                text, kv_cache = text[1:], QKVCache()
            window = torch.tensor([text[len(kv_cache) :]], device=device)
            logits = last_logits(window, kv_cache).float().cpu()
            probabilities = torch.softmax(logits / temperature, dim=0)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
            if token in model.config.eos_token_ids:
                break
            text.append(token)
            new.append(token)
    model.train(was_training)
    return new
