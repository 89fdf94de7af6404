"""LanguageModel: a model on disk as one object with ``generate``, ``stream`` and ``samples``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, cast

from laplm.bounds import Bounds
from laplm.errors import (
    ContextLengthError,
    InputError,
    ModelFormatError,
    ModelNotFoundError,
    shown,
    warn,
)
from laplm.hub import locate
from laplm.model.activations import MAX_BYTES, ActivationCache, check_bytes, run_with_cache
from laplm.model.chat import ChatTemplate
from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import KVCache, bytes_per_position
from laplm.model.engine.matrices import default_precision
from laplm.model.engine.model import GPT, cache_bytes, check_learned_positions
from laplm.model.engine.prepared import packed_bytes
from laplm.model.engine.quantize import PRECISIONS, Precision
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint, open_gguf_checkpoint
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import Tokenizer
from laplm.model.weights import Tap
from laplm.progress import Progress
from laplm.run.generate import GenerationStream
from laplm.run.request import (
    SAMPLING,
    GenerationOptions,
    GenerationRequest,
    Prompt,
    encode_prompt,
    make_request,
)
from laplm.run.results import GenerationResult
from laplm.run.sampler import SamplingParams
from laplm.run.tapped import TappedGPT

# Of files, or of a cache; below it the system is not asked, which takes a while.
_UNCHECKED_BYTES = 1 << 28
_MOST_POSITIONS = 1 << 31
_COMFORTABLE = 0.5  # of the memory beside the weights, for the keys and values of a context
_STEP = 1024  # positions


class LanguageModel:
    """A language model, ready to continue text.

    Attributes:
        name: what it was asked for by.
        path: its directory, or that of its adapter; or its GGUF file.
        precision: "fp32", "int8", "int4" or "stored".
        context: the most positions that a sequence may have.
        checkpoint: its files, opened; an adapter's are added to those of its base model.
        tokenizer: its tokenizer.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        precision: Precision | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
        *,
        context: int | None = None,
    ) -> None:
        """Open the model's files; the engine is made when it is first used. See ``load``."""
        start = time.perf_counter()
        self.name: str = str(name_or_path)
        self.path: Path = locate.locate(self.name)
        self.checkpoint: Checkpoint
        self.tokenizer: Tokenizer
        self.checkpoint, self.tokenizer, self._base_path, self._settings = _open(self.path)
        self.precision: Precision = precision or default_precision(self.checkpoint)
        self.context: int = choose_context(self.checkpoint, self.precision, context)
        self._threads = threads
        self._progress = progress
        self._kv_cache: KVCache | None = None
        self._open_seconds = time.perf_counter() - start
        self._engine_seconds = 0.0

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, precision={self.precision!r})"

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.checkpoint.config

    @cached_property
    def settings(self) -> PretrainedSettings:
        """What its directory says beside weights and tokens, for whoever writes it again."""
        return self._settings or PretrainedSettings.from_directories(
            self.path, self._base_path, self.tokenizer
        )

    @cached_property
    def gpt(self) -> GPT:
        """The engine: token ids and a key/value cache in, logits out.

        Raises:
            InputError: the weights do not fit in this machine's memory.
        """
        _check_memory(self.checkpoint, self.precision)
        start = time.perf_counter()
        gpt = GPT(
            self.checkpoint, self.precision, threads=self._threads, context=self.context,
            progress=self._progress,
        )  # fmt: skip
        self._engine_seconds = time.perf_counter() - start
        return gpt

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """How its makers have it sampled, as far as they say: fields of ``SamplingParams``.

        What their files say and no sampler could do is left out, with a warning. Where the files
        say nothing, the model's page may (``KnownModel.sampling``).
        """
        found = {}
        known = locate.known_model(self._base_path)
        said: Mapping[str, Any] = self.settings.sampling or (known.sampling if known else {})
        for name, value in said.items():
            try:
                found[name] = getattr(SamplingParams(**{name: value}), name)
            except InputError:
                warn(
                    f"{self.name}: its generation settings have a {name} of {shown(value)}, which "
                    f"cannot be; {getattr(SamplingParams(), name):g} is used"
                )
        return found

    @property
    def sampling_defaults(self) -> SamplingParams:
        """How it is sampled when nobody says how: as its makers say, else as laplm does."""
        return SamplingParams(**self.sampling)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """What makes token ids of a conversation; None for a model that knows none.

        An adapter without one of its own has that of its base model.

        Raises:
            ChatTemplateError: its files cannot be read.
        """
        if self._settings is not None:
            sources = self._settings.chat_templates
            return ChatTemplate(sources, self.tokenizer) if sources else None
        own = ChatTemplate.from_directory(self.path, self.tokenizer)
        return own or ChatTemplate.from_directory(self._base_path, self.tokenizer)

    @property
    def context_bytes(self) -> int:
        """Memory that the keys and values of a whole context take; it is taken as tokens come."""
        return self.context * cache_bytes(self.checkpoint, self.precision)

    @property
    def load_seconds(self) -> float:
        """Time it took to open the files and make the engine."""
        return self._open_seconds + self._engine_seconds

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        *,
        samples: int = 1,
        tap: Tap | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerationStream:
        """Continue a prompt, giving text as it comes.

        Args:
            prompt: text, bytes (UTF-8 or not) or token ids. An empty one means the beginning of a
                text: the model is given its ``<|endoftext|>``.
            max_new_tokens: tokens per sample, at most; None means 100, or fewer where the model's
                context leaves less room.
            samples: how many continuations, decoded together; steps say whose they are.
            tap: sees, and may replace, every activation on the way (``GPT.forward``); the text
                comes more slowly.
            **options: ``temperature`` (0.8; below 0.0001 is greedy), ``top_k`` (40; 0 is off),
                ``top_p`` (1, off), ``min_p`` (0, off), ``repetition_penalty`` (1, off): of these
                five, what the model's makers say comes before the defaults here. ``seed`` (None
                draws one), ``stop`` (a string or several that end the text), ``logprobs``
                (0; alternatives reported with each token), ``ignore_eos`` (False; go on when the
                model ends its text), ``slide`` (False; go on beyond the model's context by
                dropping its oldest half when it is full).

        Returns:
            An iterator of ``GenerationStep``; its ``results()`` are the whole texts.

        Raises:
            ContextLengthError: prompt and request need more positions than the context has.
            InputError: a setting or the prompt cannot be used.
        """
        request = make_request(
            prompt, self.tokenizer, self.config, max_new_tokens,
            context=self.context, samples=samples, **self._with_defaults(options),
        )  # fmt: skip
        if tap is not None:  # in a cache of its own: what went through a tap is of no use without
            return GenerationStream(TappedGPT(self.gpt, tap), self.tokenizer, request)
        return self.stream_request(request)

    def _with_defaults(self, options: GenerationOptions) -> GenerationOptions:
        if SAMPLING - {"seed"} <= options.keys():
            return options
        return cast("GenerationOptions", {**self.sampling, **options})

    def stream_request(self, request: GenerationRequest) -> GenerationStream:
        """Generate what a request asks for, which is known to fit; see ``stream``.

        What its prompt shares with that of the call before is not computed again.
        """
        gpt = self.gpt
        # Taken out, so that a second stream begun before this one ends has a cache of its own.
        cache, self._kv_cache = self._kv_cache, None
        return GenerationStream(gpt, self.tokenizer, request, cache, self._reuse_cache)

    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        *,
        tap: Tap | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerationResult:
        """Continue a prompt to the end. Arguments and errors as ``stream``."""
        return self.samples(prompt, 1, max_new_tokens, tap=tap, **options)[0]

    def samples(
        self,
        prompt: Prompt,
        n: int,
        max_new_tokens: int | None = None,
        *,
        tap: Tap | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[GenerationResult]:
        """Continue a prompt ``n`` times, together; the first is what ``generate`` gives.

        Arguments and errors as ``stream``.
        """
        stream = self.stream(prompt, max_new_tokens, samples=n, tap=tap, **options)
        for _ in stream:
            pass
        return stream.results()

    def run_with_cache(
        self,
        prompt: Prompt,
        names: Iterable[str] | None = None,
        *,
        tap: Tap | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> ActivationCache:
        """Every activation of one pass over a prompt, by name: ``cache["pattern", 3]``.

        Args:
            prompt: as ``stream``; it may fill the whole context.
            names: keep only these, of ``laplm.model.activations.HOOKS``; ``["logits"]`` say.
            tap: may replace activations on the way; what is kept is what it left.
            max_bytes: refuse more than this, before anything is run.

        Raises:
            ContextLengthError: the prompt has more tokens than the context has positions.
            InputError: the prompt cannot be used, a name is wrong, or it would take too much
                memory.
        """
        ids = encode_prompt(prompt, self.tokenizer, self.config, slide=True)
        if len(ids) > self.context:
            raise ContextLengthError(
                f"the prompt has {len(ids):,} tokens, but the model holds {self.context:,}: "
                "shorten it"
            )
        kept = None if names is None else [names] if isinstance(names, str) else list(names)
        check_bytes(self.config, len(ids), kept, max_bytes)
        return run_with_cache(
            lambda record: self.gpt.forward(ids, tap=record), self.config, ids, kept, tap
        )

    def _reuse_cache(self, kv_cache: KVCache) -> None:
        # The next prompt often begins as this one did: a story that goes on, a changed last line.
        self._kv_cache = kv_cache


def _open(path: Path) -> tuple[Checkpoint, Tokenizer, Path, PretrainedSettings | None]:
    """The weights and the tokenizer of a model, or of an adapter and its base model.

    The directory or file of the base model comes next; of a model that is none, its own. Last come
    the settings of a GGUF file, whose tables take a while to read and so are read once.
    """
    if path.is_file():
        from laplm.model.files.gguf_reader import read_gguf
        from laplm.model.files.gguf_tokenizer import read_gguf_tokenizer

        file = read_gguf(path)
        checkpoint = open_gguf_checkpoint(file)
        found = read_gguf_tokenizer(file.metadata, str(path))
        tokenizer = Tokenizer(found.backend, found.special_tokens, str(path))
        return checkpoint, tokenizer, path, PretrainedSettings.from_gguf(file.metadata, tokenizer)
    if not locate.is_adapter(path):
        return open_checkpoint(path), Tokenizer.from_directory(path), path, None
    from laplm.model.files.adapter import open_adapter, read_adapter_config

    base = locate.locate_base(path, read_adapter_config(path).base_model_name_or_path)
    if locate.is_adapter(base):
        raise ModelFormatError(
            f"{path}: its base model {base} is an adapter too, and laplm adds one at a time; merge "
            "that one into its own model first, with peft's merge_and_unload()"
        )
    has_own = locate.has_tokenizer(path)
    if not base.is_file():
        checkpoint = open_adapter(path, open_checkpoint(base))
        return checkpoint, Tokenizer.from_directory(path if has_own else base), base, None
    checkpoint, tokenizer, _, settings = _open(base)
    assert settings is not None
    tokenizer = Tokenizer.from_directory(path) if has_own else tokenizer
    own = PretrainedSettings.from_directories(path, path, tokenizer)
    return open_adapter(path, checkpoint), tokenizer, base, own.with_defaults_from(settings)


def _check_memory(checkpoint: Checkpoint, precision: Precision) -> None:
    """Refuse weights that this machine cannot hold, before any of them is read."""
    if precision not in PRECISIONS or checkpoint.size_bytes < _UNCHECKED_BYTES:
        return
    from laplm.machine import total_bytes

    needed, there = packed_bytes(checkpoint, precision), total_bytes()
    if needed <= there:
        return
    smaller = next((p for p in ("int8", "int4") if packed_bytes(checkpoint, p) <= there), None)
    advice = f"--precision {smaller} fits" if smaller else "take a smaller model"
    raise InputError(
        f"{checkpoint.path}: its weights take {needed / 1e9:,.1f} GB in {precision}, and this "
        f"machine has {there / 1e9:,.1f} GB of memory; {advice}"
    )


def choose_context(checkpoint: Checkpoint, precision: Precision, context: int | None) -> int:
    """The most positions that a sequence may have; nothing is read for it.

    Args:
        checkpoint: the model's files, opened.
        precision: what it runs in: keys and values are smaller where it is not exact.
        context: what was asked for. None is the model's own, or what half of the memory beside
            its weights holds, where that is less.

    Raises:
        InputError: it is no number of positions, more than the model has embeddings for, or more
            than this machine's memory holds.
    """
    config = checkpoint.config
    if context is None:
        room = _cache_room(checkpoint, precision, config.n_ctx)
        fits = config.n_ctx if room is None else int(room * _COMFORTABLE) // _STEP * _STEP
        return min(config.n_ctx, max(_STEP, fits))
    context = int(Bounds(1, _MOST_POSITIONS, "no model has more").check("context", context))
    check_learned_positions(checkpoint, context)
    room = _cache_room(checkpoint, precision, context)
    if room is not None and context > room:
        each = cache_bytes(checkpoint, precision)
        raise InputError(
            f"context is {context:,}, whose keys and values take {context * each / 1e9:,.1f} GB, "
            f"but beside its weights this machine has memory for {room * each / 1e9:,.1f} GB: "
            f"give at most {room:,}"
        )
    if context > config.n_ctx:
        warn(
            f"the context of {context:,} positions is longer than the {config.n_ctx:,} that "
            f"{checkpoint.path} was trained on; beyond those its text becomes worse"
        )
    return context


def _cache_room(checkpoint: Checkpoint, precision: Precision, context: int) -> int | None:
    """How many positions' keys and values this machine's memory holds beside the weights.

    None where there is room in any case; or where the weights alone are too large, which whoever
    comes to read them is told.
    """
    # The larger of both forms, so that the usual model asks neither its matrices nor the system.
    most = context * bytes_per_position(checkpoint.config, "fp32")
    if most < _UNCHECKED_BYTES or precision not in PRECISIONS:
        return None
    from laplm.machine import total_bytes

    there = total_bytes()
    # Nor its matrices where memory is plentiful: 8 bytes are twice what a weight takes at most.
    if 8 * checkpoint.config.n_parameters + _UNCHECKED_BYTES + most / _COMFORTABLE**2 < there:
        return None
    left = there - packed_bytes(checkpoint, precision)
    return left // cache_bytes(checkpoint, precision) if left > 0 else None


def load(
    name_or_path: str | Path,
    precision: Precision | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    *,
    context: int | None = None,
) -> LanguageModel:
    """Load a model that is on disk; nothing is downloaded.

    Args:
        name_or_path: a directory in the Hugging Face layout, a GGUF file, ``gpt2``,
            ``gpt2-medium``, ``gpt2-large``, ``gpt2-xl``, ``distilgpt2``, another hub id, or
            ``pocket``, the model that comes with the package; or the directory of a LoRA adapter of
            one of these, as PEFT saves it.
        precision: "fp32"; "stored", as the files have each matrix; "int8" or "int4". The first
            use of a model in one of them writes its packed weights to the cache directory. None
            is "stored" for a model that is quantised already, and "int8" for others.
        threads: worker threads; None means one per core.
        progress: called with (what, done, total) while weights are prepared.
        context: the most positions that a sequence may have, prompt and new tokens together; its
            memory is taken as tokens come. None is as many as the model was trained on, or what
            half of the memory beside its weights holds, where that is less. More than it was
            trained on can be asked of a model with rotary positions, and a warning says so.

    Raises:
        ModelNotFoundError: nothing of that name is on disk, or an adapter's base model is not.
        ModelFormatError: the files are not a GPT-2 model that can be read, an adapter does not
            fit its base model, or the built-in model is damaged.
        TokenizerError: the tokenizer files are missing or damaged.
        CacheError: the packed weights cannot be written.
        InputError: the precision, the number of threads or the context is not possible.
    """
    lm = LanguageModel(name_or_path, precision, threads, progress, context=context)
    _ = lm.gpt
    return lm


def default_model() -> tuple[str, str]:
    """The model to use when none is named, and a sentence that says why it is this one."""
    try:
        locate.locate("gpt2")
    except ModelNotFoundError:
        return "pocket", "the small built-in one; `laplm pull gpt2` fetches GPT-2"
    return "gpt2", "it is on disk; -m chooses another"
