"""Activation patching: which activation of one prompt's run brings its answer into another's.

The model runs on a clean prompt and on a corrupted one of as many tokens. Then it runs on the
corrupted prompt again and again, each time with one activation at one position taken from the
clean run. How far the answer comes back says what that activation carries. Sources: Meng et al.
2022, "Locating and Editing Factual Associations in GPT", section 2.1 (causal tracing); Heimersheim
and Nanda 2024, "How to use and interpret activation patching" (denoising, and the logit difference
as its measure).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.sweep import Branch, sweep
from laplm.look.view import Column, Grid, Model, Part, Table, View, model_label
from laplm.look.views.continuations import Continuations, continuations
from laplm.look.words import percent, quoted
from laplm.model.activations import ActivationCache
from laplm.model.config import ModelConfig
from laplm.model.weights import Tap
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Stage = Literal["resid_pre", "attn_out", "mlp_out"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Patching(View):
    """How far each patch brings the clean answer back: 0 as corrupted, 1 as clean.

    Attributes:
        model: the model's name.
        clean: the clean prompt, token by token.
        corrupted: the corrupted prompt, token by token.
        target: the token whose logit is followed.
        contrast: the token that it is compared with, or None.
        clean_logit_diff: the target's logit (less the other's) after the clean prompt.
        corrupted_logit_diff: the same after the corrupted prompt.
        stages: what was patched, of "resid_pre", "attn_out" and "mlp_out".
        logit_diffs: after each patch, (stages, layers, positions).
        recovered: (logit_diff - corrupted) / (clean - corrupted), (stages, layers, positions).
    """

    model: str
    clean: list[str]
    corrupted: list[str]
    target: str
    contrast: str | None
    clean_logit_diff: float
    corrupted_logit_diff: float
    stages: list[str]
    logit_diffs: Array
    recovered: Array

    def parts(self) -> list[Part]:
        """See ``View``: patches in order of what they bring back, and a map for each stage."""
        order = np.argsort(-np.abs(self.recovered), axis=None, kind="stable")
        rows = []
        for i, layer, at in (np.unravel_index(o, self.recovered.shape) for o in order):
            logit_diff, recovered = self.logit_diffs[i, layer, at], self.recovered[i, layer, at]
            rows.append(
                [
                    self.stages[i],
                    int(layer),
                    int(at),
                    self.clean[at],
                    self.corrupted[at],
                    float(logit_diff),
                    float(recovered),
                ]
            )
        name = targets.logit_diff_name(self.target, self.contrast)
        table = Table(
            title=self._title,
            columns=[
                Column("patched"),
                Column("layer"),
                Column("position"),
                Column("clean token"),
                Column("corrupted token"),
                Column("logit diff", digits=3, signed=True),
                Column("recovered", digits=3, signed=True),
            ],
            rows=rows,
            note=f"logit diff: {name}; {self.clean_logit_diff:+.3f} after the clean prompt, "
            f"{self.corrupted_logit_diff:+.3f} after the corrupted one.",
        )
        grids = [
            Grid(
                title=f"Recovered by patching {stage}",
                values=values,
                row_labels=self._rows,
                column_labels=self._columns,
                diverging=True,
            )
            for stage, values in zip(self.stages, self.recovered, strict=True)
        ]
        return [table, *grids]

    def sentence(self) -> str:
        """See ``View``: where the answer sits in the residual stream, and what moves it."""
        said = []
        if "resid_pre" in self.stages:
            best = self.recovered[self.stages.index("resid_pre")].argmax(axis=-1)
            where = [self._where(int(best[0]))]
            if best[-1] != best[0]:
                stays, moved = (int(np.argmax(best != best[0])), int(np.argmax(best == best[-1])))
                where = [
                    f"{where[0]} up to layer {stays - 1}",
                    f"{self._where(int(best[-1]))} from layer {moved} on",
                ]
            said.append(f"the residual stream brings most back at {' and at '.join(where)}")
        found = [
            (float(self.recovered[i, layer, at]), stage, layer, at)
            for i, stage in enumerate(self.stages)
            if stage != "resid_pre"
            for layer, at in np.ndindex(self.recovered.shape[1:])
        ]
        if found:
            share, stage, layer, at = max(found)
            among = "of the sublayers, " if said else ""
            said.append(
                f"{among}{stage} of layer {layer} does at {self._where(at)}, {percent(share, 0)}"
            )
        name = targets.logit_diff_name(self.target, self.contrast)
        text = "; ".join(said)
        return (
            f"{text[0].upper()}{text[1:]}, where 100% is the {name} of the clean prompt "
            f"({self.clean_logit_diff:+.1f}; corrupted {self.corrupted_logit_diff:+.1f})."
        )

    def _where(self, at: int) -> str:
        clean, corrupted = self.clean[at], self.corrupted[at]
        token = quoted(clean) if clean == corrupted else f"{quoted(clean)} for {quoted(corrupted)}"
        return f"position {at} ({token})"

    def plot(self) -> Figure:
        """See ``View``: a map of layers × positions for each stage."""
        return figures.panels(
            [
                figures.Panel(
                    values=values,
                    title=stage,
                    row_labels=self._rows,
                    column_labels=self._columns,
                    y_label="layer",
                )
                for stage, values in zip(self.stages, self.recovered, strict=True)
            ],
            self._title,
            value_label="share of the clean answer that comes back",
            diverging=True,
        )

    @property
    def _title(self) -> str:
        name = targets.logit_diff_name(self.target, self.contrast)
        return f"{self.model}: what brings the {name} back"

    @property
    def _rows(self) -> list[str]:
        return [str(layer) for layer in range(self.recovered.shape[1])]

    @property
    def _columns(self) -> list[str]:
        pairs = zip(self.clean, self.corrupted, strict=True)
        return [a if a == b else f"{a} / {b}" for a, b in pairs]


def patch(
    model: Model,
    clean: passes.Text,
    corrupted: passes.Text,
    *,
    target: str | None = None,
    contrast: str | None = None,
    stages: Sequence[str] = STAGES,
    progress: Progress | None = None,
) -> Patching:
    """Patch every layer and position of a corrupted run from a clean one, one at a time.

    Args:
        model: the model.
        clean: the prompt with the answer.
        corrupted: a prompt of as many tokens that leads to another answer.
        target: the token whose logit is followed, with its space; None means the likeliest after
            the clean prompt.
        contrast: the token that it is compared with; None means the likeliest after the corrupted
            prompt, when that is another.
        stages: of "resid_pre", "attn_out" and "mlp_out".
        progress: called with (what, done, total).

    Raises:
        ContextLengthError: a prompt has more tokens than the model has positions.
        InputError: the prompts differ in length or not at all, a stage is not one of these, a
            target is not one token, or both prompts lead to the same logit difference.
    """
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"stage is {stage!r}, but it must be one of {', '.join(STAGES)}")
    order: list[str] = [stage for stage in STAGES if stage in stages]
    if not order:
        raise InputError(f"stages is empty; name some of {', '.join(STAGES)}")
    clean_ids, ids = passes.encode_pair(model, clean, corrupted)
    kept = [*STAGES, "logits"]
    donor, run = (
        passes.run_with_cache(model, clean_ids, kept),
        passes.run_with_cache(model, ids, kept),
    )
    donor_logits, logits = donor["logits"][-1], run["logits"][-1]
    chosen = targets.choose(model, donor_logits, target, contrast)
    if contrast is None and (other := targets.best(model, logits)) != chosen.token_id:
        chosen = targets.Target(
            chosen.token_id, chosen.token, other, passes.token_labels(model, [other])[0]
        )
    clean_logit_diff, corrupted_logit_diff = (
        float(chosen.logit_diff(donor_logits)),
        float(chosen.logit_diff(logits)),
    )
    gap = clean_logit_diff - corrupted_logit_diff
    if abs(gap) < 1e-3:
        name = targets.logit_diff_name(chosen.token, chosen.contrast)
        raise InputError(
            f"both prompts lead to the same {name} ({clean_logit_diff:.3f}): there is nothing to "
            "bring back; choose another target or another corrupted prompt"
        )

    branches = list(_branches(model.config, order, donor, run))
    weights = passes.weights(model)
    in_order = [
        chosen.logit_diff(finished.logits)
        for finished in sweep(branches, weights, model.config, len(ids), progress)
    ]
    # The runs come layer by layer, in each layer stage by stage.
    by_layer = np.concatenate(in_order).reshape(model.config.n_layer, len(order), len(ids))
    logit_diffs = by_layer.swapaxes(0, 1)
    return Patching(
        model=model_label(model),
        clean=passes.token_labels(model, clean_ids),
        corrupted=passes.token_labels(model, ids),
        target=chosen.token,
        contrast=chosen.contrast,
        clean_logit_diff=clean_logit_diff,
        corrupted_logit_diff=corrupted_logit_diff,
        stages=order,
        logit_diffs=logit_diffs,
        recovered=(logit_diffs - np.float32(corrupted_logit_diff)) / np.float32(gap),
    )


def _branches(
    config: ModelConfig, stages: Sequence[str], donor: ActivationCache, run: ActivationCache
) -> Iterator[Branch]:
    """For each layer and stage the runs with one position patched, in order of their steps."""

    def patched(step: int, stage: str, layer: int) -> Branch:
        # What is added to the residual stream is patched there; the stream itself, as a whole.
        names = ("resid_pre", "attn_out", "mlp_out")[: step - 2 * layer + 1]
        stream, instead = np.zeros((2, *run["resid_pre", layer].shape), np.float32)
        for name in names:
            stream += run[name, layer]
            instead += (donor if name == stage else run)[name, layer]

        def streams(some: slice) -> Array:
            at = np.arange(len(stream))[some]
            out = np.repeat(stream[None], len(at), axis=0)
            out[np.arange(len(at)), at] = instead[at]
            return out

        return Branch(step, len(stream), streams)

    # Attention and feed-forward that read the same input are one step: nothing lies between.
    after_attention = 2 if config.parallel_residual else 1
    steps = {"resid_pre": 0, "attn_out": after_attention, "mlp_out": 2}
    for layer in range(config.n_layer):
        for stage in stages:
            yield patched(2 * layer + steps[stage], stage, layer)


def patching_tap(
    model: Model,
    clean: passes.Text,
    corrupted: passes.Text,
    *,
    stage: str,
    layer: int,
    positions: Sequence[int],
) -> Tap:
    """A tap that patches positions of one activation: to continue the corrupted prompt under it.

    It acts on the pass over the whole prompt, and leaves the tokens that follow as they come.

    Args:
        model: the model.
        clean: the prompt that the activation is taken from.
        corrupted: a prompt of as many tokens that it is put into.
        stage: "resid_pre", "attn_out" or "mlp_out".
        layer: where.
        positions: of the prompt; negative ones count from its end.

    Raises:
        ContextLengthError: a prompt has more tokens than the model has positions.
        InputError: the prompts differ in length or are one token, or the stage, the layer or a
            position is not there.
    """
    if stage not in STAGES:
        raise InputError(f"stage is {stage!r}, but it must be one of {', '.join(STAGES)}")
    passes.check_layer(model, layer)
    clean_ids, ids = passes.encode_pair(model, clean, corrupted)
    if len(ids) == 1:
        raise InputError("a prompt of one token cannot be told from the tokens that follow it")
    where = [passes.check_position(ids, position) for position in positions]
    instead = passes.run_with_cache(model, clean_ids, [stage])[stage, layer]

    def tap(name: str, at: int | None, x: Array) -> Array | None:
        if (name, at) != (stage, layer) or len(x) != len(instead):
            return None
        out = x.copy()
        out[where] = instead[where]
        return out

    return tap


def patched_generation(
    model: Model,
    clean: passes.Text,
    corrupted: passes.Text,
    *,
    layer: int,
    positions: Sequence[int],
    stages: Sequence[str] = ("resid_pre",),
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> Continuations:
    """Continue a corrupted prompt as it is, and with positions of one layer patched.

    Args:
        model: the model.
        clean: the prompt that activations are taken from.
        corrupted: the prompt that is continued, of as many tokens.
        layer: where.
        positions: of the prompt; negative ones count from its end.
        stages: of "resid_pre", "attn_out" and "mlp_out"; a text is written for each.
        max_new_tokens: tokens to write for each.
        temperature: as in ``laplm run``.
        top_k: as in ``laplm run``.
        seed: as in ``laplm run``; the same for each.

    Raises:
        ContextLengthError: a prompt, or the new tokens after it, do not fit in the context.
        InputError: as ``patching_tap``, or a setting is out of range.
    """
    where = ", ".join(map(str, positions))
    changes: dict[str, Tap | None] = {"nothing": None}
    for stage in stages:
        changes[f"{stage} of layer {layer} at {where}"] = patching_tap(
            model, clean, corrupted, stage=stage, layer=layer, positions=positions
        )
    return continuations(
        model,
        corrupted,
        changes,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )
