"""Path patching against transformers with hooks: edges one at a time, and a circuit alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer_json
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.errors import InputError
from laplm.look.path_patching import Edge, Node, PathPatching
from laplm.look.target import Target
from laplm.run.language_model import LanguageModel

TEXT, OTHER = "The capital of Spain is", "The capital is Spain is"
TARGET = Target(5, "a", 7, "b")


class Oracle:
    """The same model in transformers, whose sublayers are handed the inputs that one likes."""

    def __init__(self, directory: Path) -> None:
        self.hf = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.config = self.hf.config
        body = self.hf.transformer if hasattr(self.hf, "transformer") else self.hf.model
        self.layers = body.h if hasattr(body, "h") else body.layers
        self.norm = body.ln_f if hasattr(body, "ln_f") else body.norm
        self.n_head = self.config.num_attention_heads

    def norms(self, layer: int) -> tuple[Any, Any]:
        block = self.layers[layer]
        if hasattr(block, "ln_1"):
            return block.ln_1, block.ln_2
        return block.input_layernorm, block.post_attention_layernorm

    def output(self, layer: int) -> Any:
        block = self.layers[layer]
        return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj

    @contextmanager
    def hooks(self, *pairs: tuple[Any, Any]) -> Iterator[None]:
        handles = [module.register_forward_pre_hook(hook) for module, hook in pairs]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, ids: Sequence[int], *pairs: tuple[Any, Any]) -> torch.Tensor:
        with torch.no_grad(), self.hooks(*pairs):
            return self.hf(torch.tensor([list(ids)])).logits[0, -1]

    def z(self, ids: Sequence[int], layer: int, x: torch.Tensor | None = None) -> torch.Tensor:
        """What goes into the output of a layer's attention (T, C), when it reads ``x`` instead."""
        kept: list[torch.Tensor] = []
        pairs = [(self.output(layer), lambda m, args: kept.append(args[0][0].clone()))]
        if x is not None:
            pairs.append((self.norms(layer)[0], lambda m, args: (x[None],)))
        self.logits(ids, *pairs)
        return kept[0]

    def head(self, z: torch.Tensor, layer: int, head: int) -> torch.Tensor:
        """What one head adds, from (..., C)."""
        size = z.shape[-1] // self.n_head
        some = slice(head * size, (head + 1) * size)
        module = self.output(layer)
        weight = module.weight if hasattr(module, "nf") else module.weight.T  # (in, out)
        with torch.no_grad():
            return z[..., some] @ weight[some]

    def feed_forward(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        with torch.no_grad():
            return self.layers[layer].mlp(self.norms(layer)[1](x[None]))[0]

    def streams(self, ids: Sequence[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The residual stream before each layer's attention and before its feed-forward."""
        pre: list[Any] = [None] * len(self.layers)
        mid: list[Any] = [None] * len(self.layers)
        pairs = []
        for i in range(len(self.layers)):
            first, second = self.norms(i)
            pairs.append((first, lambda m, a, i=i: pre.__setitem__(i, a[0][0].clone())))
            pairs.append((second, lambda m, a, i=i: mid.__setitem__(i, a[0][0].clone())))
        self.logits(ids, *pairs)
        return pre, mid

    def outputs(self, ids: Sequence[int]) -> torch.Tensor:
        """What every node adds, (S, T, C)."""
        pre, mid = self.streams(ids)
        parts = [pre[0]]
        for layer in range(len(self.layers)):
            z = self.z(ids, layer)
            parts += [self.head(z, layer, head) for head in range(self.n_head)]
            parts.append(self.feed_forward(mid[layer], layer))
        return torch.stack(parts)


SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32},
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are so large that every edge counts."""
    path = tmp_path_factory.mktemp("models") / request.param
    path.mkdir()
    make_tokenizer_json(path)
    n = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    ids = {"vocab_size": n, "eos_token_id": n - 1, "bos_token_id": n - 1}
    values = SIZES[request.param] | ids
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> LanguageModel:
    return LanguageModel(str(directory), "fp32")


@pytest.fixture(scope="module")
def oracle(directory: Path) -> Oracle:
    return Oracle(directory)


@pytest.fixture(scope="module")
def both(model: LanguageModel) -> tuple[list[int], list[int]]:
    ids = model.tokenizer.encode(TEXT)
    rng = np.random.default_rng(1)
    other = list(ids)
    other[2] = int(rng.integers(10, 300))
    other[3] = int(rng.integers(10, 300))
    return ids, other


@pytest.fixture(scope="module")
def patching(model: LanguageModel, both: tuple[list[int], list[int]]) -> PathPatching:
    return PathPatching(model, *both)


def diff(logits: Any) -> float:
    return float(logits[TARGET.token_id] - logits[TARGET.contrast_id])


def test_what_each_node_adds_is_what_it_adds_in_transformers(
    patching: PathPatching, oracle: Oracle, both: tuple[list[int], list[int]]
) -> None:
    for ours, ids in zip((patching.clean, patching.corrupted), both, strict=True):
        np.testing.assert_allclose(ours, oracle.outputs(ids), atol=1e-4)


def test_an_edge_patched_alone_changes_what_it_changes_in_transformers(
    patching: PathPatching, oracle: Oracle, both: tuple[list[int], list[int]]
) -> None:
    ids, other = both
    clean, corrupted = oracle.outputs(ids), oracle.outputs(other)
    pre, mid = oracle.streams(ids)
    n, last = oracle.n_head, len(ids) - 1
    whole = diff(oracle.logits(ids))
    size = clean.shape[-1] // n
    readers = [Node(1 + (n + 1) + 1, last), Node(1 + (n + 1) + 2, last - 1), Node(1 + n, last - 1),
               Node(2 * (n + 1), last), patching.logits_node]  # fmt: skip
    tried: list[float] = []
    for reader in readers:
        edges = patching.candidate_edges(reader, 1e12)
        effects = patching.effects(edges, TARGET)
        kind, layer, head = patching.component(reader.sender)
        for edge, effect in list(zip(edges, effects, strict=True))[:: max(1, len(edges) // 7)]:
            sender, q = edge.sender
            change = corrupted[sender, q] - clean[sender, q]
            if kind == "head":
                x = pre[layer].clone()
                x[q] += change
                z = oracle.z(ids, layer, x)[reader.position]
                some = slice(head * size, (head + 1) * size)

                hook = put((0, reader.position, some), z[some])
                got = oracle.logits(ids, (oracle.output(layer), hook))
            elif kind == "feed-forward":
                x = mid[layer].clone()
                x[q] += change
                # The norm's input is what the feed-forward alone reads: the stream goes around it.
                got = oracle.logits(ids, (oracle.norms(layer)[1], put((0,), x)))
            else:
                moved = final_stream(oracle, ids)[-1] + change
                got = oracle.logits(ids, (oracle.norm, put((0, -1), moved)))
            assert effect == pytest.approx(whole - diff(got), abs=2e-4), (kind, edge)
            tried.append(abs(effect))
    assert len(tried) > 25 and np.median(tried) > 5e-3


def put(where: tuple[Any, ...], value: torch.Tensor) -> Any:
    """A hook that puts a value into a module's input."""

    def hook(module: Any, args: Any) -> Any:
        out = args[0].clone()
        out[where] = value
        return (out,)

    return hook


def test_a_circuit_alone_gives_what_it_gives_in_transformers(
    patching: PathPatching, oracle: Oracle, both: tuple[list[int], list[int]]
) -> None:
    ids, other = both
    clean, corrupted = oracle.outputs(ids), oracle.outputs(other)
    pre, mid = oracle.streams(ids)
    rng = np.random.default_rng(3)
    every = [edge for s in range(1, patching.n_senders + 1)
             for q in range(len(ids))
             if s < patching.n_senders or q == len(ids) - 1
             for edge in patching.edges_into(Node(s, q))]  # fmt: skip
    for share in (0.3, 0.7):
        some = [edge for edge in every if rng.random() < share]
        current = corrupted.clone()
        current[0] = clean[0]
        for reader in sorted({edge.reader for edge in some}):
            senders = [edge.sender for edge in some if edge.reader == reader]
            kind, layer, head = patching.component(reader.sender)
            before = {"head": pre, "feed-forward": mid}.get(kind)
            stream = before[layer] if before else final_stream(oracle, ids)
            x = stream - (clean - corrupted)[: patching.senders_before(reader.sender)].sum(0)
            for node in senders:
                x[node.position] += current[node] - corrupted[node]
            if kind == "logits":
                with torch.no_grad():
                    logits = oracle.hf.lm_head(oracle.norm(x[None]))[0, -1]
            elif kind == "head":
                z = oracle.z(other, layer, x)
                current[reader] = oracle.head(z[reader.position], layer, head)
            else:
                current[reader] = oracle.feed_forward(x, layer)[reader.position]
        got = patching.run_circuit(some)
        np.testing.assert_allclose(got, logits, atol=5e-4)
        assert abs(diff(got) - diff(oracle.logits(ids))) > 1e-3, "it is another run"


def final_stream(oracle: Oracle, ids: Sequence[int]) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    oracle.logits(ids, (oracle.norm, lambda m, args: kept.append(args[0][0].clone())))
    return kept[0]


def test_all_edges_are_the_clean_run_and_none_is_the_corrupted_one(
    patching: PathPatching, oracle: Oracle, both: tuple[list[int], list[int]]
) -> None:
    ids, other = both
    every = [edge for s in range(1, patching.n_senders) for q in range(len(ids))
             for edge in patching.edges_into(Node(s, q))]  # fmt: skip
    every += patching.edges_into(patching.logits_node)
    np.testing.assert_allclose(patching.run_circuit(every), oracle.logits(ids), atol=5e-4)
    np.testing.assert_allclose(patching.run_circuit([]), oracle.logits(other), atol=5e-4)


@pytest.mark.parametrize("how", ["mean", "zero"])
def test_without_a_corrupted_prompt_nodes_are_their_mean_or_nothing(
    model: LanguageModel, oracle: Oracle, both: tuple[list[int], list[int]], how: str
) -> None:
    ids, _ = both
    patching = PathPatching(model, ids, how)
    clean = oracle.outputs(ids)
    instead = clean.mean(1, keepdim=True) if how == "mean" else torch.zeros_like(clean)
    stream = final_stream(oracle, ids) - (clean - instead).sum(0)
    stream[stream.abs() < 1e-5] = 0  # what rounding leaves of nothing, a norm would make large
    with torch.no_grad():
        want = oracle.hf.lm_head(oracle.norm(stream[None]))[0, -1]
    np.testing.assert_allclose(patching.run_circuit([]), want, atol=5e-4)


def test_edges_that_change_nothing_are_no_candidates(
    patching: PathPatching, both: tuple[list[int], list[int]]
) -> None:
    (first, *_) = [i for i, pair in enumerate(zip(*both, strict=True)) if pair[0] != pair[1]]
    reader = Node(1 + 4 + 1, patching.logits_node.position)  # the first head of layer 1
    found = patching.candidate_edges(reader, 1e12)
    rest = set(patching.edges_into(reader)) - set(found)
    assert {edge.sender.position for edge in found} == set(range(first, len(both[0])))
    assert all(np.abs(patching.effects([edge], TARGET)) < 1e-6 for edge in list(rest)[:3])


def test_of_too_many_edges_those_are_ranked_that_a_head_reads_most(
    patching: PathPatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laplm.look import path_patching

    monkeypatch.setattr(path_patching, "_FEWEST", 8)
    reader = Node(1 + 5 + 1, patching.logits_node.position)  # head 1.1
    assert patching.component(reader.sender) == ("head", 1, 1)
    few, every = patching.candidate_edges(reader, 1.0), patching.candidate_edges(reader, 1e12)
    looks = patching.pattern[1][1, reader.position].copy()
    looks[-1] = 1
    change = np.linalg.norm(patching.clean - patching.corrupted, axis=-1)

    def read(edge: Edge) -> float:
        return float(change[edge.sender] * looks[edge.sender.position])

    assert len(few) == 8 and few == sorted(few, key=every.index)
    assert min(map(read, few)) >= max(read(edge) for edge in every if edge not in few)


def test_a_text_too_long_for_the_memory_is_refused(
    model: LanguageModel, both: tuple[list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from laplm.look import path_patching

    monkeypatch.setattr(path_patching, "MAX_BYTES", 20_000)
    with pytest.raises(InputError, match=r"at \d tokens takes 0 MB.*shorten the text"):
        PathPatching(model, *both)


def test_edges_are_counted_that_lead_to_the_last_logits(patching: PathPatching) -> None:
    last, found = patching.logits_node.position, set()
    waiting = [patching.logits_node]
    seen = set(waiting)
    while waiting:
        for edge in patching.edges_into(waiting.pop()):
            found.add(edge)
            if edge.sender not in seen and edge.sender.sender > 0:
                seen.add(edge.sender)
                waiting.append(edge.sender)
    assert patching.n_edges() == len(found)
    assert all(isinstance(edge, Edge) and edge.sender.position <= last for edge in found)
