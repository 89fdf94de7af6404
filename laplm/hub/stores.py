"""GGUF files that other programs keep: Ollama's store, LM Studio's folder, llama.cpp's. Read only.

What is found there may be damaged or made to do harm: nothing outside a store is ever opened by
what its tables say, and what cannot be used is listed with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laplm.errors import ModelNotFoundError, did_you_mean

PROGRAMS = {"ollama": "Ollama", "lmstudio": "LM Studio", "llama.cpp": "llama.cpp"}
"""What stands before the colon of a model's name, and whose model it is."""
LM_STUDIO = ("~/.lmstudio/models", "~/.cache/lm-studio/models")
_OLLAMA_HOST, _OLLAMA_OWNER = "registry.ollama.ai", "library"  # of names without them
_LAYER = "application/vnd.ollama.image."
_MIN_LETTERS = 3  # letters; fewer are in too many names
_MAX_MANIFEST = 1 << 20  # bytes; they are a page long


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model of another program.

    Attributes:
        name: What ``-m`` takes, such as ``ollama:llama3.2:1b``.
        path: Its GGUF file; what names it, where there is a problem.
        problem: Why it cannot be used, or None.
    """

    name: str
    path: Path
    problem: str | None = None


def is_store_name(name: str) -> bool:
    """Whether a name is that of a model of another program."""
    return name.partition(":")[0] in PROGRAMS and ":" in name


def find_model_file(name: str) -> Path:
    """The GGUF file of a model of another program.

    Args:
        name: as in ``StoredModel``; of Ollama's, ``:latest`` may be left out.

    Raises:
        ModelNotFoundError: there is none of this name, or it cannot be used.
    """
    program = name.partition(":")[0]
    there = {model.name: model for model in stored_models() if model.name.startswith(f"{program}:")}
    model = there.get(name) or there.get(f"{name}:latest")
    if model is None:
        places = ", ".join(map(str, _places()[program])) or "no place"
        raise ModelNotFoundError(
            f"{name} is not among the models of {PROGRAMS[program]} (looked in {places}); `laplm "
            f"models` lists them{did_you_mean(name, there)}"
        )
    if model.problem:
        raise ModelNotFoundError(f"{name} cannot be used: {model.problem}")
    return model.path


def names_like(name: str, limit: int = 3, *, whole: bool = False) -> list[str]:
    """Names of usable models of other programs that a name without a program may mean.

    Those whose own name is this one, of any owner and tag; else those that have it in theirs.

    Args:
        name: as somebody typed it, such as ``llama3.2`` or ``llama3.2:1b``; in any case.
        limit: how many names, at most.
        whole: only those whose own name it is.
    """
    asked = name.lower()
    if len(asked) < _MIN_LETTERS:
        return []
    there = {model.name: model.name.partition(":")[2].lower() for model in stored_models()
             if model.problem is None}  # fmt: skip
    same = [each for each, own in there.items() if asked in _short_names(own)]
    if same or whole:
        return same[:limit]
    return [each for each, own in there.items() if asked in own][:limit]


def _short_names(own: str) -> set[str]:
    """What people call ``owner/name:tag``: the same without an owner, a tag, or both."""
    last = own.rpartition("/")[2]
    return {own, last, own.rpartition(":")[0], last.rpartition(":")[0]}


def system_message(name: str) -> str | None:
    """What Ollama tells a model about all its answers, by its ``Modelfile``; None for any other."""
    if not name.startswith("ollama:"):
        return None
    with contextlib.suppress(ModelNotFoundError, OSError, ValueError):
        top = find_model_file(name).parent.parent
        for manifest in (top / "manifests").glob("*/*/*/*"):
            if _ollama_name(top, manifest) in (name, f"{name}:latest"):
                blob = top / "blobs" / _blob_name(_layer_digests(manifest).get(f"{_LAYER}system"))
                if blob.is_file() and blob.stat().st_size <= _MAX_MANIFEST:
                    return blob.read_text(encoding="utf-8").strip() or None
    return None


def describe_removal(name: str) -> str:
    """How a model of another program is removed: the end of a sentence."""
    program, _, rest = name.partition(":")
    if program == "ollama":
        return f"`ollama rm {rest}` removes it"
    if program == "lmstudio":
        return "LM Studio removes it, under My Models"
    return f"llama.cpp has no command for that; delete {find_model_file(name)} yourself"


def stored_models() -> list[StoredModel]:
    """The models of all other programs, by name."""
    found: dict[str, StoredModel] = {}
    for program, places in _places().items():
        for place in places:
            models = _ollama(place) if program == "ollama" else _folder(program, place)
            with contextlib.suppress(OSError):  # a place that may not be read
                for model in models:
                    found.setdefault(model.name, model)
    return sorted(found.values(), key=lambda model: model.name)


def _places() -> dict[str, list[Path]]:
    """The directories of each program, as it finds them; they need not be there."""
    ollama = os.environ.get("OLLAMA_MODELS", "~/.ollama/models")
    places = {"ollama": [_path(ollama)], "lmstudio": [_path(place) for place in LM_STUDIO]}
    if sys.platform == "linux" and "OLLAMA_MODELS" not in os.environ:
        places["ollama"].append(Path("/usr/share/ollama/.ollama/models"))  # of the service
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    if sys.platform == "darwin":
        caches = "~/Library/Caches"
    elif sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    places["llama.cpp"] = [_path(os.environ.get("LLAMA_CACHE", f"{caches}/llama.cpp"))]
    return places


def _path(text: str) -> Path:
    # Not Path.expanduser, which raises an error where nobody has the name.
    return Path(os.path.expanduser(text))  # noqa: PTH111


def _folder(program: str, top: Path) -> Iterator[StoredModel]:
    """GGUF files up to three levels deep, so that links in a circle come to an end."""
    for depth in range(3):
        for path in sorted(top.glob("*/" * depth + "*.[gG][gG][uU][fF]")):
            if path.is_file() and not path.name.lower().startswith("mmproj"):
                yield StoredModel(f"{program}:{path.relative_to(top).as_posix()}", path)


def _ollama(top: Path) -> Iterator[StoredModel]:
    """Ollama's: manifests/HOST/OWNER/NAME/TAG name layers, which are files in blobs."""
    manifests = top / "manifests"
    for manifest in sorted(manifests.glob("*/*/*/*")):
        if manifest.name.startswith(".") or manifest.is_dir():
            continue
        full = _ollama_name(top, manifest)
        try:
            yield StoredModel(full, _model_blob(top, manifest))
        except ValueError as error:
            yield StoredModel(full, manifest, str(error))
        except OSError as error:
            yield StoredModel(full, manifest, f"cannot be read: {error.strerror}")


def _ollama_name(top: Path, manifest: Path) -> str:
    """What ``-m`` takes for a manifest."""
    host, owner, name, tag = manifest.relative_to(top / "manifests").parts
    prefix = "" if owner == _OLLAMA_OWNER else f"{owner}/"
    if host != _OLLAMA_HOST:
        prefix = f"{host}/{owner}/"
    return f"ollama:{prefix}{name}:{tag}"


def _blob_name(digest: object) -> str:
    """The file of a digest, in ``blobs``.

    Raises:
        ValueError: it is none, and might lead elsewhere.
    """
    if not isinstance(digest, str) or not re.fullmatch(r"sha256[:-][0-9a-f]{64}", digest):
        raise ValueError("its manifest is damaged (the model's digest is none)")
    return digest.replace(":", "-")


def _layer_digests(manifest: Path) -> dict[str, Any]:
    """The digests that a manifest names, by the media types of their layers.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST:
        raise ValueError("its manifest is no such file")
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        return {layer["mediaType"]: layer["digest"] for layer in layers}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its manifest is damaged; `ollama pull` writes it again") from None


def _model_blob(top: Path, manifest: Path) -> Path:
    """The GGUF file that a manifest names.

    Raises:
        ValueError: why there is none that can be used.
        OSError: something cannot be read.
    """
    digests = _layer_digests(manifest)
    if f"{_LAYER}adapter" in digests:
        raise ValueError("it has an adapter beside the model, which laplm does not read there")
    digest = digests.get(f"{_LAYER}model")
    if digest is None:
        raise ValueError("its manifest names no GGUF file")
    blob = top / "blobs" / _blob_name(digest)
    if not blob.is_file():
        raise ValueError(f"its file {blob.name[:19]}… is missing; `ollama pull` fetches it again")
    return blob
