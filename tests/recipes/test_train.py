"""What the recipe adds to the trainer: Muon, short windows first, quantisation-aware steps."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tuning_examples import counting_data, tiny_model

from laplm.errors import InputError
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.trainer import TrainConfig, Trainer
from recipes.pocket import train
from recipes.pocket.train import RecipeConfig

TRAIN = {
    "max_steps": 24, "learning_rate": 1e-2, "batch_size": 4, "grad_accum_steps": 2,
    "n_positions": 16, "warmup_steps": 4, "eval_interval": 8, "eval_windows": 10, "seed": 3,
}  # fmt: skip
SHORT_FIRST = {"optimizer": "muon", "short_positions": 8, "short_share": 0.5}


def config(precision: str = "fp32", max_steps: int = 24, **recipe: object) -> RecipeConfig:
    settings = TRAIN | {"precision": precision, "max_steps": max_steps}
    return RecipeConfig(train=TrainConfig(**settings), **recipe)


def make_trainer(directory: Path, recipe: RecipeConfig) -> Trainer:
    return train.make_trainer(
        tiny_model(), counting_data(60, seed=1), counting_data(12, seed=2), recipe, directory,
        console=Console(file=io.StringIO()),
    )  # fmt: skip


def same_weights(one: TorchGPT, two: TorchGPT) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_training_with_muon_learns_the_text(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, config(max_steps=150, optimizer="muon"))
    before = trainer.heldout_loss()
    assert trainer.run().heldout_loss < 0.5 * before


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (5, SHORT_FIRST), (17, SHORT_FIRST), (20, {"int4_share": 0.3}),
        (5, {"optimizer": "muon", "precision": "autocast"}),
    ],
)  # fmt: skip
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, stop_at: int, changes: dict[str, object]
) -> None:
    recipe = config(**changes)
    whole = make_trainer(tmp_path / "whole", recipe)
    whole_result = whole.run()
    first = make_trainer(tmp_path / "parts", recipe)
    first.run(stop_at=stop_at)
    second = make_trainer(tmp_path / "parts", recipe)
    assert second.step == stop_at
    assert same_weights(first.model, second.model)
    second_result = second.run()
    assert same_weights(whole.model, second.model)
    assert second_result.heldout_loss == whole_result.heldout_loss


@pytest.mark.parametrize(
    "changes", [{"optimizer": "muon"}, {"int4_share": 0.5}, {"short_positions": 8}]
)
def test_other_settings_of_the_recipe_do_not_go_on_with_a_run(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    make_trainer(tmp_path, config()).run(stop_at=2)
    with pytest.raises(InputError, match="use the same settings"):
        make_trainer(tmp_path, config(**changes))


def test_a_checkpoint_from_before_goes_on_and_keeps_its_settings(tmp_path: Path) -> None:
    """Muon and its like stood once among the trainer's settings."""
    make_trainer(tmp_path, config(**SHORT_FIRST)).run(stop_at=2)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["settings"]["train"] |= state["settings"]["run"]
    state["settings"]["run"] = {}
    torch.save(state, path)
    assert make_trainer(tmp_path, config(**SHORT_FIRST)).step == 2
    with pytest.raises(InputError, match="optimizer 'muon', not 'adamw'"):
        make_trainer(tmp_path, config())


@pytest.mark.parametrize(
    "changes",
    [
        {"short_share": 1.0}, {"int4_share": -0.1}, {"optimizer": "sgd"}, {"short_positions": -8},
        {"optimizer": "muon", "precision": "bf16"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        config(**changes)


def test_windows_that_are_no_multiple_of_the_short_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="short_positions is 7, but n_positions, 16"):
        make_trainer(tmp_path, config(short_positions=7, short_share=0.5))


def test_settings_reach_muon(tmp_path: Path) -> None:
    recipe = config(optimizer="muon")
    adamw, muon = make_trainer(tmp_path, recipe)._optimizers
    assert adamw.defaults["betas"] == (recipe.train.beta1, recipe.train.beta2)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert [group["weight_decay"] for group in muon.param_groups] == [0.1]
    assert {g["lr"] for g in (*adamw.param_groups, *muon.param_groups)} == {1e-2}


def test_every_other_of_the_last_steps_is_computed_on_rounded_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, config(int4_share=0.25))  # 6 of 24 steps
    rounded_at = []

    @contextlib.contextmanager
    def spy(model: TorchGPT) -> Iterator[None]:
        rounded_at.append(trainer.step)
        yield

    monkeypatch.setattr("recipes.pocket.train.fake_quantized_weights", spy)
    trainer.run()
    assert rounded_at == [19, 21, 23]


def test_short_windows_come_first_and_hold_as_many_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, config(**SHORT_FIRST))
    shapes: list[tuple[int, int]] = []
    inner = trainer.model.hidden

    def watch(ids: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
        if trainer.model.training:
            shapes.append(tuple(ids.shape))
        return inner(ids, segments)

    monkeypatch.setattr(trainer.model, "hidden", watch)
    trainer.run()
    # 24 steps of 2 passes each: 4 windows of 16 tokens, or 8 of 8.
    assert shapes == [(8, 8)] * 24 + [(4, 16)] * 24


def test_muon_has_the_matrices_inside_the_layers_and_adamw_the_rest(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, config(optimizer="muon"))
    trainer.run(stop_at=1)
    (adamw, muon) = trainer._optimizers
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert by_muon == {
        f"h.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert by_muon | by_adamw == set(names.values())
    assert not by_muon & by_adamw
