"""Everything that happened in one pass, by name: to browse, or to keep as a NumPy archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, WriteError
from laplm.files import write_file
from laplm.look import figures, passes
from laplm.look.view import (
    EXTENSIONS,
    Column,
    Grid,
    Model,
    Part,
    Table,
    View,
    check_extension,
    model_label,
)
from laplm.look.words import counted
from laplm.model.activations import (
    HOOKS,
    MAX_BYTES,
    ActivationCache,
    activation_names,
    activation_shape,
    check_bytes,
    every_key,
    hook_name,
    in_layers,
)
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ActivationSummary:
    """One activation of one layer, in short.

    Attributes:
        name: ours.
        layer: its layer, or None outside the blocks.
        hook: TransformerLens's name, which it has in a ``.npz`` file.
        shape: of the array.
        rms: the root of the mean square of its numbers, masked ones left out.
        lowest: the least of them.
        highest: the greatest.
    """

    name: str
    layer: int | None
    hook: str
    shape: tuple[int, ...]
    rms: float
    lowest: float
    highest: float


@dataclass(frozen=True, eq=False)
class Trace(View):
    """Every activation of one pass over a text.

    Attributes:
        model: its name.
        tokens: the text's tokens, white space made visible.
        ids: their ids (T,).
        cache: the arrays: ``trace.cache["pattern", 3]``.
    """

    model: str
    tokens: list[str]
    ids: list[int]
    cache: ActivationCache
    extensions: ClassVar[tuple[str, ...]] = (*EXTENSIONS, ".npz")

    @cached_property
    def summary(self) -> list[ActivationSummary]:
        """Each array in short, in the order of the forward pass."""
        found = []
        for (name, layer), array in self.cache.items():
            # A causal mask is minus infinity.
            finite = array[np.isfinite(array)] if name == "attn_scores" else array
            found.append(
                ActivationSummary(
                    name, layer, hook_name(name, layer), array.shape, _rms(finite),
                    float(finite.min()), float(finite.max()),
                )
            )  # fmt: skip
        return found

    def parts(self) -> list[Part]:
        """What there is by name, then the size of each in every layer."""
        names = self._names()
        config, count = self.cache.config, len(self.ids)
        sizes = self._sizes()
        rows = [
            [
                name, HOOKS[name][0].format("{layer}"),
                " × ".join(f"{n:,}" for n in activation_shape(config, name, count)),
                config.n_layer if in_layers(config, name) else 1,
                sum(self.cache[key].nbytes for key in self.cache if key[0] == name) / 1e6,
                *_ends(sizes[i]),
            ]
            for i, name in enumerate(names)
        ]  # fmt: skip
        what = Table(
            title=f"{self.model}: {len(self.cache):,} activations of {count:,} tokens",
            columns=[
                Column("name"), Column("in TransformerLens"), Column("shape"), Column("layers"),
                Column("MB", 3), Column("RMS, first", 3), Column("RMS, last", 3),
            ],
            rows=rows,
            note=f"{self.cache.nbytes / 1e6:,.1f} MB in all. RMS: the root of the mean square, in "
            "the first layer and in the last. Save as .npz to keep the numbers.",
        )  # fmt: skip
        grid = Grid(
            title="RMS of each activation in every layer",
            values=sizes,
            row_labels=names,
            column_labels=self._columns(),
            digits=2,
        )
        return [what, grid]

    def sentence(self) -> str:
        """See ``View``: how much is kept, and where its largest number is."""
        largest = max(self.summary, key=lambda item: max(-item.lowest, item.highest))
        value = largest.highest
        if -largest.lowest > value:
            value = largest.lowest
        where = largest.name + ("" if largest.layer is None else f" of layer {largest.layer}")
        return (
            f"{counted(len(self.cache), 'activation')} of {counted(len(self.ids), 'token')}, "
            f"{self.cache.nbytes / 1e6:,.1f} MB; the number farthest from 0 is {value:+,.2f}, in "
            f"{where}."
        )

    def plot(self) -> Figure:
        """How large each activation is in every layer, the numbers in the cells."""
        sizes = self._sizes()
        largest = np.nanmax(sizes, axis=1, keepdims=True)
        return figures.heatmap(
            sizes / np.where(largest > 0, largest, 1),
            self._names(),
            self._columns(),
            "How large each activation is, layer by layer",
            x_label="layer" + (" (–: outside the layers)" if "–" in self._columns() else ""),
            value_label="RMS, as a share of the row's largest",
            texts=[[_short(value) for value in row] for row in sizes],
            subtitle=f"root of the mean square (RMS); {self.model}, {len(self.ids):,} tokens",
        )

    def to_dict(self) -> dict[str, Any]:
        """Tokens, and each array in short: its numbers are for ``.npz``."""
        rows = [{**vars(row), "shape": list(row.shape)} for row in self.summary]
        return {"model": self.model, "tokens": self.tokens, "ids": self.ids, "activations": rows}

    def save(self, path: str | Path) -> Path:
        """As every view, and ``.npz``: all arrays under TransformerLens's names.

        The archive holds ``token_ids`` and ``tokens`` besides; ``numpy.load`` reads it.

        Raises:
            InputError: the extension is another, or the file cannot be written.
            MissingExtraError: a picture is asked for and matplotlib is not installed.
        """
        path = Path(path)
        if path.suffix.lower() != ".npz":
            return super().save(path)
        check_extension(path, self.extensions)
        arrays: dict[str, Any] = {
            "token_ids": np.array(self.ids), "tokens": np.array(self.tokens),
            **self.cache.by_hook_name(),
        }  # fmt: skip
        try:
            write_file(
                path,
                lambda file: np.savez(file, **arrays),
                advice="save it elsewhere",
                size=self.cache.nbytes,
            )
        except WriteError as error:
            raise InputError(str(error)) from None
        return path

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.cache))

    def _columns(self) -> list[str]:
        config = self.cache.config
        layered = [in_layers(config, name) for name in self._names()]
        once = [] if all(layered) else ["–"]
        layers = range(config.n_layer) if any(layered) else ()
        return [*once, *map(str, layers)]

    def _sizes(self) -> Array:
        """RMS, (names, columns); NaN where there is none."""
        columns = self._columns()
        sizes = np.full((len(self._names()), len(columns)), np.nan, np.float32)
        rows = {name: i for i, name in enumerate(self._names())}
        for item in self.summary:
            at = columns.index("–" if item.layer is None else str(item.layer))
            sizes[rows[item.name], at] = item.rms
        return sizes


def trace(
    model: Model,
    text: passes.Text,
    *,
    names: Iterable[str] | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Trace:
    """Run a text through the model and keep every activation, or those that are named.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        names: of ``laplm.model.activations.HOOKS``; None keeps all.
        max_bytes: refuse more than this, before anything is run.
        progress: called with ("bytes of activations", kept so far, in all), first with 0.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, a name is wrong, or it would take too much memory.
    """
    ids = passes.encode(model, text)
    wanted = (
        activation_names(model.config)
        if names is None
        else [names]
        if isinstance(names, str)
        else list(names)
    )
    if not wanted:
        raise InputError(
            f"no activation is named; they are {', '.join(activation_names(model.config))}"
        )
    size = check_bytes(model.config, len(ids), wanted, max_bytes)
    kept = 0
    keys = set(every_key(model.config, wanted))

    def count(name: str, layer: int | None, array: Array) -> None:
        nonlocal kept
        if progress is not None and (name, layer) in keys:
            kept += array.nbytes
            progress("bytes of activations", kept, size)

    if progress is not None:
        progress("bytes of activations", 0, size)
    cache = passes.run_with_cache(model, ids, wanted, tap=count)
    return Trace(model_label(model), passes.token_labels(model, ids), ids, cache)


def _rms(numbers: Array) -> float:
    return float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))


def _ends(sizes: Array) -> tuple[float, float | None]:
    """The first and the last of a row; one number for what there is only once."""
    there = sizes[np.isfinite(sizes)]
    return float(there[0]), float(there[-1]) if len(there) > 1 else None


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
