"""Step 2: learn a byte-level BPE with GPT-2's rules, and encode the corpus with it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.pocket.make_corpus import END_OF_TEXT, FACTS, SOURCES, read_documents
from recipes.pocket.token_data import TokenData

SHUFFLE_SEED = 1
NAME_WEIGHT = 4
"""How often the facts count, so that names of countries and cities become tokens of their own."""


def train_tokenizer(work: Path, vocab_size: int) -> None:
    """Learn merges from the training text; write ``tokenizer.json`` to ``work``.

    As in GPT-2 ``<|endoftext|>`` is special and has the last id.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        text
        for source in (*SOURCES, *[FACTS] * NAME_WEIGHT)
        for text in read_documents(work / "train" / f"{source.name}.txt")
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    temporary = work / "tokenizer.json.tmp"
    # Not indented: the package has a size limit.
    temporary.write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    temporary.replace(work / "tokenizer.json")


def encode_corpus(work: Path) -> None:
    """Write ``train.npz`` and ``heldout.npz``, the token ids of all documents in a mixed order.

    In the training text a source's documents are repeated as its ``repeats`` says.
    """
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    for part in ("train", "heldout"):
        documents: list[str] = []
        for source in (*SOURCES, FACTS):
            repeats = source.repeats if part == "train" else 1
            documents += read_documents(work / part / f"{source.name}.txt") * repeats
        random.Random(SHUFFLE_SEED).shuffle(documents)
        encode_documents(tokenizer, documents).save(work / f"{part}.npz")


def encode_documents(tokenizer: Tokenizer, documents: list[str]) -> TokenData:
    """Ids of all documents, one after another, each ended by ``<|endoftext|>``."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(documents)]
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    return TokenData(
        tokens=np.fromiter((i for ids in encoded for i in ids), np.uint16, int(lengths.sum())),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        n_bytes=sum(len(document.encode()) for document in documents),
    )
