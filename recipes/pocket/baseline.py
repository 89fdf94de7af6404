"""What classic methods need for the held-out text when they have seen the training text: the bar.

Baselines do not depend on the model's weights, so they are measured once.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from pathlib import Path

import numpy as np
import pyppmd

from laplm.model.tokenizer import Tokenizer
from laplm.run.evaluate import Progress
from recipes.pocket import kneser_ney
from recipes.pocket.kneser_ney import KneserNey
from recipes.pocket.make_corpus import read_documents, write_text

# Of PPMd's variants H and I and orders 4 to 64, the best on our stories: 1.09 bits per byte, with
# order 6 1.30. What it learns from 17 MB of text takes 0.4 GB; when the memory is full it forgets.
PPMD_ORDER = 16
PPMD_MEMORY = 1_000 << 20
NGRAM_ORDER = 5

METHODS = {
    "xz": "xz -9, its dictionary reaching back over all of the training text",
    "ppmd": f"PPMd, variant I, order {PPMD_ORDER}",
    "kneser_ney": f"{NGRAM_ORDER}-gram of the model's own tokens, modified Kneser-Ney",
}

Documents = dict[str, list[str]]
"""By source."""
Costs = dict[str, tuple[float, int]]
"""By source: bits, and the bytes of text that they pay for."""


def group_of(source: str) -> str:
    """Simple modern stories, old tales, or facts: what a source holds."""
    if source.startswith("tinystories"):
        return "stories"
    return "facts" if source == "facts" else "tales"


def read_groups(directory: Path) -> dict[str, Documents]:
    """Documents by group and source, of a directory with one file a source.

    Sources without documents are left out.
    """
    groups: dict[str, Documents] = {}
    for path in sorted(directory.glob("*.txt")):
        if documents := read_documents(path):
            groups.setdefault(group_of(path.stem), {})[path.stem] = documents
    return groups


def baselines(
    work: Path, tokenizer: Tokenizer, progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Bits per byte of every held-out source and group by each of ``METHODS``.

    Every method reads the training text of the source's own group first; more text of another
    kind makes PPMd and the n-grams worse, and xz hardly better. The result is kept in
    ``baselines.json`` until texts, tokenizer or methods change.
    """
    path = work / "baselines.json"
    fingerprint = _fingerprint(work, tokenizer)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["fingerprint"] == fingerprint:
            return dict(known["bits_per_byte"])
    train, heldout = read_groups(work / "train"), read_groups(work / "heldout")
    bits: dict[str, dict[str, float]] = {}
    done, total = 0, len(heldout) * len(METHODS)
    for group, sources in heldout.items():
        seen = [text for documents in train.get(group, {}).values() for text in documents]
        for method in METHODS:
            if progress:
                progress("baselines", done, total)
            if method == "xz":
                costs = xz_costs(seen, sources)
            elif method == "ppmd":
                costs = ppmd_costs(seen, sources)
            else:
                costs = kneser_ney_costs(seen, sources, tokenizer)
            everything = sum(b for b, _ in costs.values()), sum(n for _, n in costs.values())
            for name, (n_bits, n_bytes) in {**costs, group: everything}.items():
                bits.setdefault(name, {})[method] = round(n_bits / n_bytes, 4)
            done += 1
    if progress:
        progress("baselines", total, total)
    content = {"fingerprint": fingerprint, "methods": METHODS, "bits_per_byte": bits}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return bits


def xz_costs(train: list[str], heldout: Documents) -> Costs:
    """How much longer the training text's archive gets with each source behind it."""
    prefix = _bytes(train)
    costs = {}
    alone = _xz_length(prefix)
    for name, documents in heldout.items():
        text = _bytes(documents)
        costs[name] = 8.0 * (_xz_length(prefix + text) - alone), len(text)
    return costs


def _xz_length(text: bytes) -> int:
    smallest = 4096  # of the format
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(smallest, len(text))}]
    return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters))


def ppmd_costs(train: list[str], heldout: Documents) -> Costs:
    """What PPMd writes for the sources, one after another, when it has written the training text.

    Source: Shkarin 2002, "PPM: one step to practicality" (DCC).
    """
    encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY)
    encoder.encode(_bytes(train))
    costs = {}
    for name, documents in heldout.items():
        text = _bytes(documents)
        costs[name] = 8.0 * len(encoder.encode(text)), len(text)
    # The last few bytes are still in the encoder.
    costs[name] = costs[name][0] + 8.0 * len(encoder.flush()), costs[name][1]
    return costs


def kneser_ney_costs(train: list[str], heldout: Documents, tokenizer: Tokenizer) -> Costs:
    """What a 5-gram needs for the tokens that ``laplm eval`` scores: all but each text's first."""
    model = KneserNey(_stream(train, tokenizer)[0], tokenizer.vocab_size, NGRAM_ORDER)
    costs = {}
    for name, documents in heldout.items():
        tokens, starts = _stream(documents, tokenizer)
        scored = np.ones(len(tokens), dtype=bool)
        scored[starts] = False
        scored[[0, *(starts[1:] - 1), -1]] = False  # the marks between texts
        n_bytes = sum(len(text.encode()) for text in documents)
        n_bytes -= sum(len(tokenizer.token_bytes(token)) for token in tokens[starts].tolist())
        nats = -float(model.log_probabilities(tokens)[scored].sum())
        costs[name] = nats / math.log(2), n_bytes
    return costs


def _stream(documents: list[str], tokenizer: Tokenizer) -> tuple[kneser_ney.Ids, kneser_ney.Ids]:
    """Documents as one stream of ids, ``<|endoftext|>`` around each; and where each begins."""
    assert tokenizer.eos_token_id is not None
    end = tokenizer.eos_token_id
    encoded = [tokenizer.encode(document) for document in documents]
    lengths = np.array([len(ids) + 1 for ids in encoded])
    tokens = np.fromiter(
        (i for ids in [[], *encoded] for i in (*ids, end)), np.int64, int(lengths.sum()) + 1
    )
    return tokens, 1 + np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _bytes(documents: list[str]) -> bytes:
    return "".join(f"{document}\n" for document in documents).encode()


def _fingerprint(work: Path, tokenizer: Tokenizer) -> str:
    """Changes with anything that the baselines depend on."""
    digest = hashlib.sha256()
    texts = sorted([*(work / "train").glob("*.txt"), *(work / "heldout").glob("*.txt")])
    for path in [*texts, Path(__file__), Path(kneser_ney.__file__)]:
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for token in range(tokenizer.vocab_size):
        digest.update(tokenizer.token_bytes(token) + b"\0")
    return digest.hexdigest()
