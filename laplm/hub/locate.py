"""Models by name: where they are on disk. Nothing here opens a connection (``pull.py`` does)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm import built_in
from laplm.errors import LaplmError, ModelNotFoundError, did_you_mean, one_of
from laplm.hub.known import KNOWN, KnownModel

if TYPE_CHECKING:
    from laplm.model.files.gguf_reader import GGUFFile

POCKET = "pocket"
PACKAGED = "models"
"""The directory inside ``LAPLM_HOME`` of models out of packages."""
# Short names, and where their models live on the hub.
ALIASES = {model.name: model.hub_id for model in KNOWN.values()}
_SHORT = {repo: name for name, repo in ALIASES.items()}

# The hub's own rule, 96 characters included.
HUB_ID = re.compile(r"(?=.{1,96}\Z)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# One GGUF file of a repository: owner/name:FILE.gguf; or, as Ollama and llama.cpp write it, by how
# it is quantised: owner/name:Q4_K_M. No part of a path begins with a dot.
_PATH_PART = r"[^./\\:\0-\x1f][^/\\:\0-\x1f]*"
_QUANT = r"(?:[a-z]{2,3}-)?(?:[it]?q\d\w*|bf16|f16|f32|mxfp4\w*)"
_GGUF_NAME = re.compile(
    rf"(?P<repo>[^:]+):(?P<file>({_PATH_PART}/)*{_PATH_PART}\.gguf|{_QUANT})", re.IGNORECASE
)
# llama3.2:1b, as Ollama has names; one letter before the colon is a drive of Windows.
_OLLAMA_NAME = re.compile(r"[A-Za-z0-9][\w.-]+(/[A-Za-z0-9][\w.-]*)?:[A-Za-z0-9][\w.-]*")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclasses.dataclass(frozen=True)
class InstalledModel:
    """A model on disk.

    Attributes:
        name: What ``-m`` and ``load`` take.
        path: Its directory, or its GGUF file.
        n_parameters: Count of trained numbers; None when its config cannot be read.
        size_bytes: Bytes of its files.
        dtype: "fp32", "fp16" or "bf16" as stored, or a quantised type such as "Q4_1"; None when the
            weights cannot be looked at.
        problem: Why it cannot be used, or None.
        summary: What it is, in the words of the built-in model's card; None for any other.
        family: Its ``model_type``, such as "llama"; None when its config cannot be read.
    """

    name: str
    path: Path
    n_parameters: int | None
    size_bytes: int
    dtype: str | None
    problem: str | None = None
    summary: str | None = None
    family: str | None = None


# --- on disk ----------------------------------------------------------------------------------


def hub_cache_dir() -> Path:
    """The directory of downloaded models, found as ``huggingface_hub`` finds it."""
    cache = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    if cache is not None:
        return _expand(cache)
    home = os.environ.get("HF_HOME")
    if home is None:
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    return _expand(home) / "hub"


def _expand(path: str) -> Path:
    # Not Path.expanduser, which raises an error where nobody has the name; ~nobody is a directory.
    return Path(os.path.expanduser(os.path.expandvars(path)))  # noqa: PTH111


def locate(name_or_path: str) -> Path:
    """The directory of a model: a path, ``pocket``, a name such as ``gpt2``, or a hub id.

    Or its file, where that is a GGUF file, or a directory that has one and no other weights;
    ``owner/name:FILE.gguf`` or ``owner/name:Q4_K_M`` is one of several in a repository,
    ``ollama:NAME`` one of another program, and a result of ``laplm tune`` has the name that it was
    given. It may be an adapter's:
    ``locate_base`` then gives the model that it belongs to. The built-in model's files are
    compared with their checksums, by whichever name it is asked for.

    Raises:
        ModelNotFoundError: nothing of this name is on disk, or only a part of it.
        ModelFormatError: a file of the built-in model is damaged.
    """
    path = Path(name_or_path or "\0")  # Path("") would be the current directory
    try:
        path = path.expanduser()
        # A directory that happens to be called gpt2 does not hide the model of that name.
        named = name_or_path in ALIASES or name_or_path == POCKET
        if path.is_dir() and (not named or (path / "config.json").is_file()):
            if not named and (result := _tuned_over(name_or_path, path)) is not None:
                return result
            if path.resolve() == built_in.DIRECTORY.resolve():
                built_in.check()
            return _gguf_in(path) or path
        if path.is_file():
            if _is_gguf(path):
                return path
            if (result := _tuned(name_or_path)) is not None:  # of the text of the same name
                return result
            raise ModelNotFoundError(
                f"{name_or_path} is a file and no GGUF; give the directory that holds the model's "
                "files"
            )
    except PermissionError as error:
        raise ModelNotFoundError(
            f"{error.filename} cannot be read ({error.strerror}); check who may read it"
        ) from None
    except (OSError, RuntimeError, ValueError):
        pass  # too long, no such home, NUL
    if name_or_path == POCKET:
        built_in.check()
        return built_in.DIRECTORY
    if ":" in name_or_path:
        from laplm.hub import stores

        if stores.is_store_name(name_or_path):
            return stores.find_model_file(name_or_path)
    repo, file = split_name(name_or_path)
    if file is not None:
        return _locate_file(repo, file)
    if not HUB_ID.fullmatch(name_or_path):
        if (result := _tuned(name_or_path)) is not None:  # names of those have other letters too
            return result
        if is_gguf_name(name_or_path):
            raise _no_such_file(name_or_path)
        if _OLLAMA_NAME.fullmatch(name_or_path):
            raise _not_on_disk(name_or_path)
        raise ModelNotFoundError(
            f"{name_or_path!r}: no such directory; give a model's directory, or a name such as "
            "gpt2 or owner/name"
        )
    if (result := _tuned(name_or_path)) is not None:
        return result
    broken = None
    for folder in folders_of(name_or_path):
        snapshot = _snapshot(folder)
        problem = "its download did not finish" if snapshot is None else _problem(snapshot)
        if snapshot is not None and problem is None and not _gguf_in(snapshot):
            return snapshot
        files = gguf_names(folder)
        if len(files) > 1:
            raise ModelNotFoundError(
                f"{name_or_path} is on disk as {len(files)} GGUF files; name one of them, as in "
                f"{name_or_path}:{next(iter(files))} (`laplm models` lists them)"
            )
        for path in files.values():  # in a folder of its own, or of an older commit
            return path
        broken = broken or (problem if folder.is_dir() else None)
    packaged = out_of_package(name_or_path)
    if packaged is not None and packaged.is_file():
        return packaged
    if broken:
        raise ModelNotFoundError(
            f"{name_or_path} is on disk only in part ({broken}); `laplm pull {name_or_path}` "
            "fetches the rest"
        )
    if is_gguf_name(name_or_path):
        raise _no_such_file(name_or_path)
    raise _not_on_disk(name_or_path)


def is_gguf_name(name: str) -> bool:
    """Whether a name is one of a GGUF file, there or not."""
    return name.lower().endswith(".gguf")


def _no_such_file(name: str) -> ModelNotFoundError:
    """The refusal of a GGUF file that is not there, with those beside it that are called alike."""
    path, near = Path(name), "; `laplm models` lists the models on disk"
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        folder = path.expanduser().parent
        there = [each.name for each in folder.iterdir() if is_gguf_name(each.name)]
        near = did_you_mean(path.name, sorted(there)) or near
    return ModelNotFoundError(f"{name}: there is no such GGUF file{near}")


def _not_on_disk(name: str) -> ModelNotFoundError:
    """The refusal of a name: who has such a model, or what downloads it."""
    from laplm.hub import stores

    cache = hub_cache_dir()
    others = " and ".join(stores.names_like(name))
    if others:
        pull = f", and `laplm pull {name}` downloads it" if name in ALIASES else ""
        return ModelNotFoundError(
            f"{name} is not on disk (looked for a directory of this name, and in {cache}), but "
            f"another program has {others}: that whole name opens it{pull}"
        )
    if name in ALIASES or ("/" in name and ":" not in name):
        return ModelNotFoundError(
            f"{name} is not on disk (looked for a directory of this name, and in {cache}); "
            f"`laplm pull {name}` downloads it{suggestion(name)}"
        )
    return ModelNotFoundError(
        f"{name} is not on disk (looked for a directory of this name, and in {cache}), and no "
        f"short name that `laplm pull` knows{suggestion(name)}"
    )


def _tuned(name: str) -> Path | None:
    """The result of tuning that has a name, or its GGUF file; None where there is none.

    Raises:
        ModelNotFoundError: it has not ended, or its directory is gone.
    """
    if name in ALIASES or "/" in name or not name.isprintable():
        return None
    from laplm.hub import tuned

    return tuned.find_model(name)


def _tuned_over(name: str, path: Path) -> Path | None:
    """The result of tuning of a name that is a directory's too, which holds no model."""
    if _problem(path) is None or not re.fullmatch(r"[^/\\]+", name) or name in (".", ".."):
        return None
    with contextlib.suppress(ModelNotFoundError):
        return _tuned(name)
    return None


def split_name(name: str) -> tuple[str, str | None]:
    """``owner/name:FILE.gguf`` as the model's name and its file; of any other name, it and None.

    In place of the file there may be how it is quantised: ``matching_files`` has the files.
    """
    found = _GGUF_NAME.fullmatch(name)
    if found is None or not HUB_ID.fullmatch(found["repo"]):
        return name, None
    return found["repo"], found["file"]


def matching_files(file: str, names: Iterable[str]) -> list[str]:
    """Of the GGUF files of a repository those that a name's second half means.

    Args:
        file: ``FILE.gguf``, or how it is quantised: ``Q4_K_M``, in any case.
        names: of the files that there are.
    """
    if file.lower().endswith(".gguf"):
        return [name for name in names if name == file]
    # As llama.cpp finds it in "SmolLM2-135M-Instruct-Q4_K_M.gguf", and not in "…-Q4_K_M_L.gguf".
    tag = re.compile(rf"(?<![a-z0-9]){re.escape(file)}(?![a-z0-9_])", re.IGNORECASE)
    found = [name for name in names if tag.search(name.rpartition("/")[2])]
    # Unsloth's UD-Q4_K_M is another mixture of types than Q4_K_M, and asked for by its whole name.
    return [name for name in found if f"ud-{file}".lower() not in name.lower()] or found


def out_of_package(name: str) -> Path | None:
    """Where ``laplm pull NAME --from pypi`` puts a model; None for names that it does not take.

    Raises:
        CacheError: LAPLM_HOME begins with the home directory of nobody.
    """
    if name not in KNOWN or (wheel := KNOWN[name].wheel) is None:
        return None
    from laplm import home

    return home.directory_path(PACKAGED) / wheel.file.rpartition("/")[2]


def known_model(path: Path) -> KnownModel | None:
    """Which of the known models ``locate`` found at a path; None for any other."""
    for model in KNOWN.values():
        folders = folders_of(model.name)  # gpt2 may lie under its name of before
        if path == out_of_package(model.name) or any(f in path.parents for f in folders):
            return model
    return None


def _locate_file(repo: str, file: str) -> Path:
    there: list[str] = []
    for folder in folders_of(repo):
        files = gguf_names(folder)
        found = matching_files(file, files)
        if len(found) > 1:
            raise ModelNotFoundError(
                f"{repo}:{file} may be {one_of(found)} on disk; name one of them, as in "
                f"{repo}:{found[0]}"
            )
        if found:
            return files[found[0]]
        there += files
    raise ModelNotFoundError(
        f"{repo}:{file} is not on disk (looked in {hub_cache_dir()}); `laplm pull {repo}:{file}` "
        f"downloads it{did_you_mean(file, there)}"
    )


def locate_base(adapter: Path, base: str) -> Path:
    """The directory of the model that an adapter was trained on.

    Args:
        adapter: The adapter's directory.
        base: Its ``base_model_name_or_path``: a path, absolute or as seen from the adapter's
            directory or from the current one, or a name that ``locate`` takes. Where nothing is
            there, the copy that ``laplm tune`` puts into an adapter's directory is taken.

    Raises:
        ModelNotFoundError: nothing of this name is on disk, or only a part of it.
        ModelFormatError: a file of the built-in model is damaged.
    """
    try:
        with contextlib.suppress(OSError, ValueError):  # too long, NUL
            if (adapter / base).exists():  # a directory, or a GGUF file
                return locate(str(adapter / base))
        return locate(base)
    except ModelNotFoundError as error:
        from laplm.model.files.adapter import BASE

        if (adapter / BASE).is_dir():  # the adapter was moved, and its base with it
            return locate(str(adapter / BASE))
        raise ModelNotFoundError(
            f"{adapter} is an adapter, and its base model cannot be found (its "
            f"adapter_config.json names it as base_model_name_or_path): {error}"
        ) from None


def _is_gguf(path: Path) -> bool:
    from laplm.model.files.gguf_reader import is_gguf  # NumPy comes with it

    return is_gguf(path)


def _gguf_in(path: Path) -> Path | None:
    """The one GGUF file of a directory that has no other weights."""
    if _layout(path)[0] or not any(path.glob("*.[gG][gG][uU][fF]")):
        return None
    from laplm.model.files.gguf_checkpoint import find_gguf

    return find_gguf(path)


def gguf_names(folder: Path) -> dict[str, Path]:
    """The GGUF files that the cache has of a repository, by their names there: newest first."""
    main = _snapshot(folder)
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        others = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for snapshot in [main, *others] if main else others:
            for path in sorted(snapshot.rglob("*.[gG][gG][uU][fF]")):
                if path.is_file() and not path.name.lower().startswith("mmproj"):
                    found.setdefault(path.relative_to(snapshot).as_posix(), path)
    return found


def has_tokenizer(path: Path) -> bool:
    """Whether a directory holds a tokenizer's files."""
    return any(all((path / name).is_file() for name in names) for names in TOKENIZER_FILES)


def installed() -> list[InstalledModel]:
    """The models on disk: built in, tuned under a name, of the hub cache, packages, other programs.

    Models of kinds that are not run and adapters that share the cache are left out; broken and
    unfinished ones are listed with the reason.
    """
    from laplm.hub import stores, tuned

    models = [_describe_built_in()]
    for run in tuned.finished_runs():
        models.append(_describe(str(run.name), run.model_directory))
    try:
        folders = sorted(hub_cache_dir().glob("models--*"))
    except OSError:
        folders = []
    for folder in folders:
        repo = folder.name.removeprefix("models--").replace("--", "/")
        name = _SHORT.get(repo, repo)
        try:
            model = _describe_folder(name, repo, folder)
        except OSError as error:
            problem = f"its files cannot be read: {error.strerror}"
            model = InstalledModel(name, folder, None, bytes_below(folder / "blobs"), None, problem)
        files = gguf_names(folder)
        if model is not None and not (files and model.problem):
            models.append(model)
        elif len(files) == 1:
            models += [_describe(name, path) for path in files.values()]
            continue
        models += [_describe(f"{name}:{file}", path) for file, path in files.items()]
    whole = {model.name for model in models if model.problem is None}
    for name in KNOWN:
        path = out_of_package(name)
        if path is not None and path.is_file():
            models.append(_describe(str(path) if name in whole else name, path))
    for stored in stores.stored_models():
        if stored.problem:
            models.append(InstalledModel(stored.name, stored.path, None, 0, None, stored.problem))
        else:
            models.append(_describe(stored.name, stored.path))
    return models


def describe(name: str, file: GGUFFile | None = None) -> InstalledModel:
    """What a model on disk is.

    Args:
        name: as ``locate`` takes it.
        file: the tables of its GGUF file, where they have been read already.

    Raises:
        ModelNotFoundError: nothing of this name is on disk, or only a part of it.
    """
    if name == POCKET:
        return _describe_built_in()
    return _describe(name, locate(name), file=file)


def gguf_tables(name: str) -> GGUFFile | None:
    """The tables of a model's GGUF file: they take a moment to read, and tell all about it.

    None for other models, and for a file that cannot be read: ``describe`` says why.

    Raises:
        ModelNotFoundError: nothing of this name is on disk, or only a part of it.
    """
    if name == POCKET:
        return None
    path = locate(name)
    with contextlib.suppress(LaplmError, OSError):
        if path.is_file():
            from laplm.model.files.gguf_reader import read_gguf

            return read_gguf(path)
    return None


def _describe_folder(name: str, repo: str, folder: Path) -> InstalledModel | None:
    """A model of the hub cache; None for a kind that is not run, an adapter, or GGUF files."""
    from laplm.model.families import FAMILIES

    snapshot = _snapshot(folder)
    if snapshot is not None and is_adapter(snapshot):
        return None  # some come with a copy of their base model's config
    if snapshot is not None and _gguf_in(snapshot):
        return None
    if snapshot is None or not (snapshot / "config.json").is_file():
        # Without a config its kind is unknown: listed when laplm fetched it or knows it.
        if repo in _SHORT or repo in ALIASES or any(folder.glob("blobs/*.laplm.incomplete")):
            size = bytes_below(folder / "blobs")
            return InstalledModel(name, folder, None, size, None, "its download did not finish")
        return None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.get("model_type", "gpt2") not in FAMILIES:
            return None
    return _describe(name, snapshot)


def _describe_built_in() -> InstalledModel:
    problem = None
    try:
        built_in.check()
    except LaplmError as error:
        problem = str(error)
    model = _describe(POCKET, built_in.DIRECTORY, problem)
    return dataclasses.replace(model, summary=built_in.summary())


def _describe(
    name: str, path: Path, problem: str | None = None, file: GGUFFile | None = None
) -> InstalledModel:
    with contextlib.suppress(PermissionError):
        if path.is_file():
            return _describe_file(name, path, file)
    from laplm.model.files.checkpoint import open_checkpoint, read_config

    n_parameters, dtype, family = None, None, None
    problem = problem or _problem(path)
    if is_adapter(path):
        return _describe_adapter(name, path)
    try:
        config = read_config(path)
        n_parameters, family = config.n_parameters, config.family
        if problem is None and _layout(path)[0].startswith(WEIGHT_FILES[1]):
            # Looking into it would take torch's two seconds; its formats are not told apart.
            if importlib.util.find_spec("torch") is None:
                problem = f'{_layout(path)[0]} needs torch: pip install "laplm[tune]"'
        elif problem is None:
            dtype = open_checkpoint(path).dtype
    except LaplmError as error:
        problem = problem or str(error)
    size = bytes_below(path)
    return InstalledModel(name, path, n_parameters, size, dtype, problem, family=family)


def _describe_adapter(name: str, path: Path) -> InstalledModel:
    """An adapter, with the family of its base model and the parameters of both."""
    from laplm.model.files.adapter import read_adapter_config
    from laplm.model.files.checkpoint import read_config

    n_parameters, family, problem = None, None, None
    try:
        base = locate_base(path, read_adapter_config(path).base_model_name_or_path)
        config = read_config(base)
        n_parameters, family = config.n_parameters, config.family
    except LaplmError as error:
        problem = str(error)
    size = bytes_below(path)
    return InstalledModel(name, path, n_parameters, size, None, problem, family=family)


def _describe_file(name: str, path: Path, file: GGUFFile | None) -> InstalledModel:
    """A GGUF file. Its vocabulary takes a moment to read, and people have dozens: read once."""
    try:
        stat = path.stat()
    except OSError as error:  # just deleted
        return InstalledModel(name, path, None, 0, None, f"it cannot be read: {error.strerror}")
    if file is not None:
        return dataclasses.replace(_describe_tables(path, stat.st_size, file), name=name)
    return dataclasses.replace(_read_file(path, stat.st_size, stat.st_mtime_ns), name=name)


@functools.lru_cache(maxsize=1024)
def _read_file(path: Path, size: int, changed: int) -> InstalledModel:
    """What a GGUF file of a size is, as of the time when it was changed."""
    return _describe_tables(path, size, None)


def _describe_tables(path: Path, size: int, file: GGUFFile | None) -> InstalledModel:
    """What a GGUF file of a size is by its tables, which are read where they have not been."""
    from laplm.model.files.checkpoint import open_checkpoint

    try:
        checkpoint = open_checkpoint(path, file)
    except LaplmError as error:
        return InstalledModel(str(path), path, None, size, None, str(error))
    config = checkpoint.config
    return InstalledModel(
        str(path), path, config.n_parameters, size, checkpoint.dtype, family=config.family
    )


def bytes_below(path: Path) -> int:
    """Bytes of the files in a directory; 0 where there is none."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link to nothing
                total += entry.stat().st_size
    return total


def folders_of(name: str) -> list[Path]:
    """Where a name may lie in the cache: under its name of today, or of before."""
    repos = dict.fromkeys([ALIASES.get(name, name), name, _SHORT.get(name, name)])
    return [repo_folder(repo) for repo in repos]


def repo_folder(repo: str) -> Path:
    """Where the hub's cache keeps a repository."""
    return hub_cache_dir() / ("models--" + repo.replace("/", "--"))


def _snapshot(folder: Path) -> Path | None:
    """The directory of a model's files as of its main branch.

    Where the cache does not say what that is (one commit was fetched by its hash, or the cache was
    copied without its ``refs``), it is the newest that is whole.
    """
    main = folder / "refs" / "main"
    with contextlib.suppress(OSError, ValueError):
        if main.is_file():
            commit = main.read_text(encoding="utf-8").strip()
            path = folder / "snapshots" / commit
            return path if re.fullmatch(r"[0-9A-Za-z]+", commit) and path.is_dir() else None
    with contextlib.suppress(OSError):
        there = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        there.sort(key=lambda path: (_problem(path) is None, path.stat().st_mtime))
        return there[-1] if there else None
    return None


def _layout(path: Path) -> tuple[str, list[str]]:
    """The file that a model's weights begin with, and all that belong to it; ("", []) if none."""
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return name, [name]
        index = path / f"{name}.index.json"
        if index.is_file():
            try:
                shards = shard_names(json.loads(index.read_text(encoding="utf-8")))
            except (OSError, ValueError, RecursionError):
                shards = []
            return index.name, shards
    return "", []


def _problem(path: Path) -> str | None:
    """What a model's directory lacks, by the names of its files; None when it is whole."""
    try:
        return _missing_part(path)
    except OSError as error:
        return f"its files cannot be read: {error.strerror}"


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter and no model of its own."""
    try:
        if not (path / ADAPTER_FILES[0]).is_file():
            return False
    except OSError:
        return False
    from laplm.model.files import adapter  # NumPy comes with it

    return adapter.is_adapter(path)


def _missing_part(path: Path) -> str | None:
    if is_adapter(path):
        return None  # whether it is whole is told when it is opened, with its base model
    if _gguf_in(path) is not None:
        return None  # all in one
    if not (path / "config.json").is_file():
        return "config.json is missing"
    first, files = _layout(path)
    if not first:
        return "the weights are missing"
    if not files:
        return f"{first} cannot be read"
    missing = [name for name in files if not (path / name).is_file()]
    if missing:
        return f"{len(missing)} of {len(files)} weight files are missing"
    if not has_tokenizer(path):
        return "its tokenizer is missing"
    return None


def shard_names(index: Any) -> list[str]:
    """The weight files that an index names.

    Raises:
        ValueError: it is no index, or names something that is not a plain file name.
    """
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError("no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError(f"{name!r} is not a plain file name")
    return names


def suggestion(name: str) -> str:
    """The end of a message about a name that is not known: those on disk that look like it."""
    from laplm.hub import tuned

    known = [POCKET, *ALIASES, *(str(run.name) for run in tuned.finished_runs())]
    with contextlib.suppress(OSError):
        for folder in hub_cache_dir().glob("models--*"):
            known.append(folder.name.removeprefix("models--").replace("--", "/"))
    if name in known:
        return ""
    close = did_you_mean(name, known)
    if close or "/" in name:
        return close
    return f". Names without an owner: {', '.join([POCKET, *ALIASES])}"
