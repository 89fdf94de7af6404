"""Step 1: read the source texts, split them into documents, hold some out.

A source file is plain UTF-8 text with a line ``<|endoftext|>`` after each document.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from laplm.errors import InputError

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Source:
    """One text file of the corpus and the licence that lets us use it."""

    file: str
    title: str
    licence: str


SOURCES = (
    Source(
        "tinystories.txt",
        "a sample of TinyStories (Eldan and Li 2023, dataset roneneldan/TinyStories)",
        "CDLA-Sharing-1.0",
    ),
)


def split_documents(text: str) -> list[str]:
    """Documents of a source text, without their end marks and surrounding white space."""
    return [part.strip() for part in text.split(END_OF_TEXT) if part.strip()]


def is_held_out(document: str, percent: float) -> bool:
    """Whether a document is only for evaluation, by a hash of its text.

    So the choice does not depend on the order of the files, and a document that appears twice
    is never on both sides.
    """
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") < percent / 100 * 2**64


def make_corpus(corpus: Path, work: Path, heldout_percent: float = 1.0) -> None:
    """Write ``train.txt``, ``heldout.txt`` and ``corpus.json`` (what they are) to ``work``.

    Raises:
        InputError: a source file is missing, not UTF-8, or too small to hold a document out.
    """
    train: list[str] = []
    heldout: list[str] = []
    report = []
    for source in SOURCES:
        path = corpus / source.file
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing; --corpus must name the directory that holds {source.file}"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
        documents = split_documents(text)
        out = [d for d in documents if is_held_out(d, heldout_percent)]
        kept = [d for d in documents if not is_held_out(d, heldout_percent)]
        if not (out and kept):
            raise InputError(
                f"{path} has {len(documents)} documents, too few to hold {heldout_percent} % out"
            )
        train += kept
        heldout += out
        report.append(
            {
                "file": source.file,
                "title": source.title,
                "licence": source.licence,
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "train_documents": len(kept),
                "heldout_documents": len(out),
            }
        )
    work.mkdir(parents=True, exist_ok=True)
    write_documents(work / "train.txt", train)
    write_documents(work / "heldout.txt", heldout)
    write_text(work / "corpus.json", json.dumps(report, indent=2) + "\n")


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
