from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tuning_examples import VOCAB, counting_data, tiny_model

from laplm.errors import CheckpointError, InputError
from laplm.tune.data.packing import Documents, EncodedDocument
from laplm.tune.models.gpt2 import TorchGPT, continue_ids
from laplm.tune.trainer import EvalMetrics, TrainConfig, Trainer, best_precision, grad_norm
from recipes.pocket.token_data import TokenData

CONFIG = TrainConfig(
    max_steps=24, learning_rate=1e-2, batch_size=4, grad_accum_steps=2, n_positions=16,
    warmup_steps=4, eval_interval=8, eval_windows=10, log_interval=2, seed=3,
)  # fmt: skip


def changed(**changes: object) -> TrainConfig:
    return TrainConfig(**(vars(CONFIG) | changes))


def make_trainer(
    directory: Path, config: TrainConfig = CONFIG, *, data: TokenData | None = None, **more: object
) -> Trainer:
    return Trainer(
        tiny_model(),
        counting_data(60, seed=1) if data is None else data,
        counting_data(12, seed=2),
        config,
        directory,
        console=Console(file=io.StringIO()),
        **more,
    )


def metrics(directory: Path) -> list[dict[str, object]]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def same_weights(one: TorchGPT, two: TorchGPT) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_the_text(tmp_path: Path, precision: str) -> None:
    trainer = make_trainer(tmp_path, changed(max_steps=150, precision=precision))
    before = trainer.heldout_loss()
    result = trainer.run()
    assert before == pytest.approx(math.log(61), abs=0.3)
    assert result.heldout_loss < 0.5 * before
    assert result.steps == 150
    assert result.seconds > 0


@pytest.mark.parametrize("stop_at", [1, 11, 16])
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole_result = whole.run()
    first = make_trainer(tmp_path / "parts")
    first.run(stop_at=stop_at)
    second = make_trainer(tmp_path / "parts")
    assert second.step == stop_at
    assert same_weights(first.model, second.model)
    second_result = second.run()
    assert same_weights(whole.model, second.model)
    assert second_result.heldout_loss == whole_result.heldout_loss


KILLED = """
import sys, time
from pathlib import Path
import test_trainer as t
directory = Path(sys.argv[1])
trainer = t.make_trainer(directory, t.changed(checkpoint_seconds=0))
update = trainer._train_step
def slow():
    time.sleep(0.02)
    if trainer.step == 9:
        (directory / "here").touch()
        time.sleep(1.0 if sys.argv[2] == "TERM" else 60)
    return update()
trainer._train_step = slow
try:
    trainer.run()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_killed_run_goes_on_and_ends_bit_for_bit_the_same(tmp_path: Path, name: str) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.run()
    here = Path(__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), name],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "PYTHONPATH": os.pathsep.join([str(here.parents[2]), str(here.parent)]),
        },
    )
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "killed" / "here").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(getattr(signal, f"SIG{name}"))
        code = process.wait(timeout=60)
    finally:
        process.kill()
    assert code == (-signal.SIGKILL if name == "KILL" else 130)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir() if p.suffix != ".tmp") == [
        "best.pt", "checkpoint.previous.pt", "checkpoint.pt", "here", "metrics.jsonl",
    ]  # fmt: skip
    again = make_trainer(tmp_path / "killed", changed(checkpoint_seconds=0))
    assert again.step == (9 if name == "KILL" else 10)  # asked politely, it ends the update first
    again.run()
    assert same_weights(whole.model, again.model)

    def numbers(directory: Path) -> list[dict[str, object]]:
        timing = ("seconds", "tokens_per_second")
        return [{k: v for k, v in m.items() if k not in timing} for m in metrics(directory)]

    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_half_written_metrics_line_is_dropped_on_resume(tmp_path: Path) -> None:
    make_trainer(tmp_path).run(stop_at=6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train_loss": 1.0}\n{"step": 1')
    make_trainer(tmp_path)
    assert max(m["step"] for m in metrics(tmp_path)) == 6


def test_accumulated_steps_are_the_step_of_one_large_batch(tmp_path: Path) -> None:
    one = make_trainer(tmp_path / "1", changed(batch_size=8, grad_accum_steps=1))
    two = make_trainer(tmp_path / "2", changed(batch_size=2, grad_accum_steps=4))
    for _ in range(3):
        loss_one, loss_two = one._train_step()[0], two._train_step()[0]
        assert loss_one == pytest.approx(loss_two, rel=1e-4)
        one.step, two.step = one.step + 1, two.step + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3,), (3000, 1001)])
def test_length_of_a_large_gradient_loses_no_digits(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
    assert grad_norm(gradient).item() == pytest.approx(exact, rel=1e-5)


def test_a_step_is_torchs_adamw_with_clipping_and_decay_for_matrices_only(tmp_path: Path) -> None:
    config = changed(grad_accum_steps=1, weight_decay=0.5, grad_clip=0.1, warmup_steps=0)
    trainer = make_trainer(tmp_path, config)
    plain = tiny_model()
    inputs, targets, _ = trainer._windows.batch(0, 4)
    logits = plain(torch.from_numpy(inputs)).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).flatten()).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in plain.parameters()))
    assert norm > 0.1
    _, measured = trainer._train_step()
    assert measured == pytest.approx(norm, rel=1e-4)
    for name, p in plain.named_parameters():
        # The first step of Adam: gradient over its own size (Kingma and Ba 2015, algorithm 1).
        g = p.grad * (0.1 / norm)
        decay = 0.5 if p.dim() >= 2 else 0.0
        expected = p * (1 - 0.01 * decay) - 0.01 * g / (g.abs() + 1e-8)
        got = dict(trainer.model.named_parameters())[name]
        sure = g.abs() > 1e-5  # where rounding cannot turn the sign
        torch.testing.assert_close(got[sure], expected[sure], rtol=1e-3, atol=2e-5)
        assert sure.any(), name


def test_learning_rate_rises_straight_and_falls_as_a_cosine() -> None:
    config = TrainConfig(max_steps=110, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [config.learning_rate_at(step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_metrics_and_samples_are_written(tmp_path: Path) -> None:
    evals: list[EvalMetrics] = []
    trainer = make_trainer(
        tmp_path, sample=lambda generate, step: f"at {step}", on_eval=evals.append
    )
    result = trainer.run()
    assert [(e.step, e.sample) for e in evals] == [(8, "at 8"), (16, "at 16"), (24, "at 24")]
    lines = metrics(tmp_path)
    assert [m["step"] for m in lines if "train_loss" in m] == list(range(2, 25, 2))
    evaluations = [m for m in lines if "heldout_loss" in m]
    assert [(m["step"], m["sample"]) for m in evaluations] == [
        (8, "at 8"), (16, "at 16"), (24, "at 24"),
    ]  # fmt: skip
    assert evaluations[-1]["heldout_loss"] == pytest.approx(result.heldout_loss, abs=1e-5)
    bits = result.heldout_loss / math.log(2) / counting_data(12, seed=2).bytes_per_token
    assert result.heldout_bits_per_byte == pytest.approx(bits)


def test_samples_are_drawn_from_the_model_as_it_is_then(tmp_path: Path) -> None:
    drawn = []
    trainer = make_trainer(
        tmp_path, sample=lambda generate, _: drawn.append(generate([5, 6], 9, 3)) or ""
    )
    trainer.run()
    assert len(drawn) == 3
    assert drawn[-1] == continue_ids(trainer.model, [5, 6], 9, seed=3)
    assert drawn[0] != drawn[-1]


def test_finished_run_called_again_only_measures(tmp_path: Path) -> None:
    first = make_trainer(tmp_path)
    result = first.run()
    again = make_trainer(tmp_path)
    repeated = again.run()
    assert repeated.heldout_loss == result.heldout_loss
    assert repeated.train_loss == result.train_loss
    assert repeated.seconds == result.seconds
    assert same_weights(first.model, again.model)


def test_longer_run_goes_on_from_a_shorter_ones_checkpoint(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    longer = make_trainer(tmp_path, changed(max_steps=30))
    assert longer.step == 24
    assert longer.run().steps == 30


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (changed(seed=4), None, "seed 3, not 4"),
        (changed(learning_rate=0.5), None, "learning_rate 0.01, not 0.5"),
        (CONFIG, counting_data(60, seed=9), "train_data"),
    ],
)
def test_other_settings_or_data_do_not_go_on_with_a_run(
    tmp_path: Path, config: TrainConfig, data: TokenData | None, message: str
) -> None:
    make_trainer(tmp_path).run(stop_at=2)
    with pytest.raises(InputError, match=message):
        make_trainer(tmp_path, config, data=data)


def test_unreadable_checkpoint_is_named(tmp_path: Path) -> None:
    make_trainer(tmp_path).run(stop_at=2)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be read; delete it"):
        make_trainer(tmp_path)


def test_loss_that_is_no_number_stops_with_the_step_and_keeps_the_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run(stop_at=2)
    with torch.no_grad():
        trainer.model.ln_f.weight[0] = math.nan
    with pytest.raises(
        InputError, match=r"step 2 \(batches 4 to 5\).*lower learning rate.*checkpoint\.pt"
    ):
        trainer.run()
    assert torch.isfinite(make_trainer(tmp_path).model.ln_f.weight).all()


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    data = counting_data(60, seed=1)
    data.tokens[7] = 61
    with pytest.raises(InputError, match="token id 61, but the model's vocabulary ends at 60"):
        make_trainer(tmp_path, data=data)


def test_window_beyond_the_models_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"n_positions is 33, .* 32 positions"):
        make_trainer(tmp_path, changed(n_positions=33))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0), ("batch_size", -1), ("learning_rate", math.nan), ("grad_clip", 0.0),
        ("beta2", 1.0), ("precision", "fp16"), ("weight_decay", -0.1), ("warmup_steps", -1),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name} is "):
        changed(**{name: value})


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "avx2"])
def test_bfloat16_is_best_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    """And on no other device: what the CPU can do says nothing of it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)
    want = "fp32" if feature == "avx2" else "bf16"
    assert best_precision() == best_precision(torch.device("cpu")) == want
    assert best_precision(torch.device("mps")) == "fp32"


def test_best_precision_can_be_trained_in() -> None:
    assert TrainConfig(max_steps=1, precision=best_precision()).precision in ("fp32", "bf16")


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before_it(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.run()
    first = make_trainer(tmp_path / "parts")
    for stop_at in (5, 9):
        first.run(stop_at=stop_at)
    last = tmp_path / "parts" / "checkpoint.pt"
    last.write_bytes(last.read_bytes()[:100])
    second = make_trainer(tmp_path / "parts")
    assert second.step == 5
    second.run()
    assert same_weights(whole.model, second.model)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.run(stop_at=5)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            CheckpointError, match=r"No space.*after step 7.*kept.*go on with the run"
        ):
            trainer.run(stop_at=7)
    assert make_trainer(tmp_path).step == 5
    assert not list(tmp_path.glob("*.tmp"))


def test_dropout_is_the_same_for_a_resumed_run(tmp_path: Path) -> None:
    config = changed(dropout=0.3)
    whole = make_trainer(tmp_path / "whole", config)
    whole.run()
    make_trainer(tmp_path / "parts", config).run(stop_at=7)
    torch.manual_seed(99)
    second = make_trainer(tmp_path / "parts", config)
    second.run()
    assert same_weights(whole.model, second.model)
    plain = make_trainer(tmp_path / "plain")
    plain.run()
    assert not same_weights(whole.model, plain.model)


def test_the_best_weights_are_kept_and_a_run_that_stands_still_ends_early(tmp_path: Path) -> None:
    config = changed(max_steps=200, learning_rate=0.3, warmup_steps=0, eval_interval=4, patience=3)
    trainer = make_trainer(tmp_path, config, data=counting_data(2, seed=1))
    result = trainer.run()
    assert result.steps < 200 and trainer.ended_early
    assert result.steps == result.best_step + 3 * 4
    losses = {m["step"]: m["heldout_loss"] for m in metrics(tmp_path) if "heldout_loss" in m}
    assert min(losses, key=losses.get) == result.best_step
    with torch.no_grad():
        for name, value in trainer.best_weights().items():
            trainer.model.get_parameter(name).copy_(value)
    assert trainer.heldout_loss() == pytest.approx(result.best_heldout_loss, rel=1e-5)
    again = make_trainer(tmp_path, config, data=counting_data(2, seed=1))
    assert again.run() == dataclasses.replace(result, seconds=again.seconds)


def test_timing_updates_changes_nothing(tmp_path: Path) -> None:
    timed, plain = make_trainer(tmp_path / "timed"), make_trainer(tmp_path / "plain")
    assert timed.time_steps() > 0
    assert same_weights(timed.model, plain.model)
    for trainer in (timed, plain):
        trainer.run()
    assert same_weights(timed.model, plain.model)


def test_callbacks_see_every_step_and_every_measurement(tmp_path: Path) -> None:
    steps, evals = [], []
    trainer = make_trainer(tmp_path, on_step=steps.append, on_eval=evals.append)
    trainer.run()
    assert [s.step for s in steps] == list(range(1, 25))
    assert [e.step for e in evals] == [8, 16, 24]
    assert [e.sample for e in evals] == [None] * 3
    assert math.isnan(steps[0].heldout_loss) and evals[-1].heldout_loss == steps[-1].heldout_loss
    assert [s.learning_rate for s in steps] == [CONFIG.learning_rate_at(n) for n in range(24)]
    assert steps[3].tokens_per_second > 0


def test_tokens_count_the_same_whatever_part_of_a_batch_they_are_in(tmp_path: Path) -> None:
    """Two parts with unequal numbers of learned tokens learn as one batch of both."""
    rng = np.random.default_rng(0)
    made = [
        EncodedDocument(
            np.append(rng.integers(0, VOCAB - 1, n), VOCAB - 1).astype(np.int32),
            np.arange(n + 1) >= prompt,
        )
        for n, prompt in ((16, 12), (16, 1), (16, 8), (16, 15))
    ]
    data = Documents(made, n_bytes=64, padding=VOCAB - 1)
    sizes = {"batch_size": 2, "grad_accum_steps": 2}, {"batch_size": 4, "grad_accum_steps": 1}
    models = []
    for i, size in enumerate(sizes):
        config = changed(**size)
        trainer = Trainer(
            tiny_model(), data, data, config, tmp_path / str(i), console=Console(file=io.StringIO())
        )
        trainer._train_step()
        models.append(trainer.model)
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def uneven_documents() -> Documents:
    """Documents of very different lengths, with more or less in them that is learned."""
    rng = np.random.default_rng(5)
    made = [
        EncodedDocument(
            np.append(rng.integers(0, VOCAB - 1, n), VOCAB - 1).astype(np.int32),
            np.arange(n + 1) >= prompt,
        )
        for n, prompt in ((16, 15), (16, 1), (15, 3), (14, 2), (9, 8), (3, 1), (16, 10))
    ]
    return Documents(made, n_bytes=77, padding=VOCAB - 1)


def uneven_trainer(directory: Path, **changes: object) -> Trainer:
    data = uneven_documents()
    console = Console(file=io.StringIO())
    return Trainer(tiny_model(), data, data, changed(**changes), directory, console=console)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_held_out_loss_counts_every_token_alike_however_windows_are_filled(
    tmp_path: Path, batch_size: int
) -> None:
    trainer = uneven_trainer(tmp_path, batch_size=batch_size, dropout=0.5)
    plain, total, count = tiny_model(), 0.0, 0
    for document in uneven_documents().documents:
        ids = torch.from_numpy(document.ids.astype(np.int64))
        counted = torch.from_numpy(document.loss_mask[1:])
        logits = plain(ids[None, :-1])[0]
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total, count = total + float(losses[counted].sum()), count + int(counted.sum())
    assert trainer.heldout_loss() == pytest.approx(total / count, rel=1e-5)
    assert trainer.model.training, "what is dropped while training is dropped again"


def test_only_as_many_held_out_windows_are_measured_as_are_asked_for(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, changed(eval_windows=3, batch_size=2))
    inputs, targets, _ = counting_data(12, seed=2).heldout(16, 3)
    assert len(inputs) == 3
    logits = tiny_model()(torch.from_numpy(inputs)).flatten(0, 1)
    exact = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).flatten())
    assert trainer.heldout_loss() == pytest.approx(float(exact), rel=1e-5)


def moments(trainer: Trainer, name: str) -> float:
    """The length of all moments of a kind together."""
    states = [state for each in trainer._optimizers for state in each.state.values()]
    return math.sqrt(sum(float(state[name].double().square().sum()) for state in states))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("grad_clip", [0.1, 1e6])
def test_gradients_together_are_never_longer_than_grad_clip(
    tmp_path: Path, precision: str, parts: int, grad_clip: float
) -> None:
    """Told by the first moment, since Adam's first update does not depend on the length."""
    config = changed(precision=precision, grad_accum_steps=parts, grad_clip=grad_clip)
    trainer = make_trainer(tmp_path, config)
    norm = trainer._train_step()[1]
    assert 0.2 < norm < 100
    assert moments(trainer, "exp_avg") / 0.1 == pytest.approx(min(norm, grad_clip), rel=2e-3)
    plain = make_trainer(tmp_path / "fp32", changed(grad_accum_steps=parts))
    assert norm == pytest.approx(plain._train_step()[1], rel=0.02)


def test_of_several_batches_gradients_are_added_up_in_fp32(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, changed(precision="bf16", grad_accum_steps=2))
    trainer._train_step()
    (optimizer,) = trainer._optimizers
    assert len(optimizer.grad_sums) == len(list(trainer.model.parameters()))
    assert {each.dtype for each in optimizer.grad_sums.values()} == {torch.float32}
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_dropout_drops_other_places_in_each_part_and_in_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one and the same batch, with weights that stay, chance alone makes losses differ."""
    losses: list[float] = []
    batch = counting_data(60, seed=1).windows(16, seed=0).batch(0, 4)

    def update(trainer: Trainer, step: int) -> list[float]:
        losses.clear()
        trainer.step = step
        trainer._train_step(rate=0.0)
        return list(losses)

    def make(name: str, **changes: object) -> Trainer:
        trainer = make_trainer(tmp_path / name, changed(dropout=0.5, weight_decay=0.0, **changes))
        inner = trainer._loss
        monkeypatch.setattr(trainer._windows, "batch", lambda number, size: batch)

        def loss(*arguments: object) -> torch.Tensor:
            found = inner(*arguments)
            losses.append(float(found))
            return found

        monkeypatch.setattr(trainer, "_loss", loss)
        return trainer

    trainer = make("a")
    first, second, again = (update(trainer, step) for step in (0, 1, 0))
    assert first == again and len({*first, *second}) == 4
    assert not {*first, *second} & {*update(make("b", seed=4), 0)}


def test_a_run_that_stops_between_measurements_measures_and_logs_there(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    trainer = make_trainer(tmp_path)
    update = trainer._train_step
    trainer._train_step = lambda: seen.append(update()) or seen[-1]  # type: ignore[method-assign]
    trainer.run(stop_at=5)
    lines = metrics(tmp_path)
    logged = [m for m in lines if "train_loss" in m]
    assert [m["step"] for m in logged] == [2, 4, 5]
    for line in logged:
        loss, norm = seen[line["step"] - 1]
        assert line["train_loss"] == pytest.approx(loss, abs=1e-5)
        assert line["grad_norm"] == pytest.approx(norm, abs=1e-4)
        assert line["learning_rate"] == CONFIG.learning_rate_at(line["step"] - 1)
    (measured,) = (m for m in lines if "heldout_loss" in m)
    assert measured["step"] == 5
    bits = counting_data(12, seed=2).bits_per_byte(measured["heldout_loss"])
    assert measured["heldout_bits_per_byte"] == pytest.approx(bits, abs=1e-4)
    now = trainer._step_metrics(2.0)
    assert (now.step, now.max_steps, now.tokens_per_second) == (5, 24, 4 * 2 * 16 / 2)


def test_what_does_not_touch_the_weights_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    make_trainer(tmp_path).run(stop_at=2)
    other = changed(
        eval_interval=5, eval_windows=2, log_interval=1, checkpoint_seconds=7, patience=9,
        max_steps=3,
    )  # fmt: skip
    assert make_trainer(tmp_path, other).step == 2
    for name, value in (("dropout", 0.1), ("beta2", 0.9), ("grad_clip", 2.0), ("warmup_steps", 5)):
        with pytest.raises(InputError, match=name):
            make_trainer(tmp_path, changed(**{name: value}))


def test_before_anything_is_measured_the_best_weights_are_those_there_are(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(tmp_path / precision, changed(precision=precision))
        best = trainer.best_weights()
        # In bfloat16 with what rounding took put back.
        assert all(torch.equal(best[name], p) for name, p in tiny_model().named_parameters())


def test_settings_reach_the_optimisers(tmp_path: Path) -> None:
    config = changed(beta1=0.8, beta2=0.7, weight_decay=0.3, learning_rate=0.02)
    (adamw,) = make_trainer(tmp_path, config)._optimizers
    assert adamw.defaults["betas"] == (0.8, 0.7)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert all(p.dim() == 1 for p in adamw.param_groups[1]["params"])
    trainer = make_trainer(tmp_path, config)
    trainer.step = 2
    trainer._train_step()
    assert {g["lr"] for o in trainer._optimizers for g in o.param_groups} == {0.015}


def test_timing_tells_how_far_it_is_and_leaves_no_gradients(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    trainer = make_trainer(tmp_path)
    trainer.time_steps(3, progress=lambda *what: told.append(what))
    assert told == [("timing steps", n, 3) for n in range(4)]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert not any(each.state for each in trainer._optimizers)


def test_checkpoints_are_written_when_their_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("laplm.tune.trainer.time.monotonic", lambda: clock[0])
    trainer = make_trainer(tmp_path, changed(checkpoint_seconds=10.0))
    saved: list[int] = []
    monkeypatch.setattr(trainer, "_save_checkpoint", lambda: saved.append(trainer.step))

    def update() -> tuple[float, float]:
        clock[0] += 4.0
        return 1.0, 1.0

    monkeypatch.setattr(trainer, "_train_step", update)
    trainer.run(stop_at=7)
    assert saved == [3, 6, 7]
    assert trainer.seconds == 28.0


def test_a_held_out_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.wte.weight[0] = math.inf
    with pytest.raises(InputError, match="held-out loss is no number at step 0; start again"):
        trainer.heldout_loss()
