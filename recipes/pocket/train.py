"""Step 3: train the model, with the tuning room's trainer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.tune.data.corpus import TokenData
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.trainer import TrainConfig, Trainer, TrainResult, Write, best_precision
from recipes.pocket.make_corpus import END_OF_TEXT, write_text

VOCAB_SIZE = 5120
SAMPLE_PROMPT = "Once upon a time"


def model_config(tokenizer: Tokenizer) -> ModelConfig:
    """The built-in model: 6.2 million parameters, 12.4 MB in fp16."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        n_ctx=512,
        n_embd=256,
        n_layer=6,
        n_head=8,
        bos_token_id=end,
        eos_token_ids=(end,),
    )


def train_config(max_steps: int) -> TrainConfig:
    """The settings of the built-in model's training: 8192 tokens a step."""
    return TrainConfig(
        max_steps=max_steps,
        learning_rate=4e-3,
        optimizer="muon",
        batch_size=16,
        n_positions=512,
        short_positions=256,
        short_share=0.36,
        int4_share=0.3,
        warmup_steps=60,
        eval_interval=100,
        eval_windows=96,
        precision="autocast" if best_precision() == "bf16" else "fp32",
        seed=1,
    )


def train(
    work: Path,
    *,
    config: TrainConfig,
    model: ModelConfig | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Train on ``train.npz``; go on from the last checkpoint when there is one.

    The process id is in ``train.pid`` while it runs, so that it can be paused
    (``kill -STOP``/``-CONT``). Writes ``training.json``, the settings and what they cost.

    Raises:
        InputError: another process trains in ``work``, or its checkpoint has other settings.
    """
    pid = work / "train.pid"
    if pid.exists() and _is_running(int(pid.read_text(encoding="utf-8"))):
        raise InputError(
            f"process {pid.read_text(encoding='utf-8').strip()} is training in {work}; wait for "
            f"it, or delete {pid} if that is another program"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    gpt = TorchGPT(model_config(tokenizer) if model is None else model)
    gpt.initialise(config.seed)
    gpt.to("cuda" if torch.cuda.is_available() else "cpu")
    prompt = tokenizer.encode(SAMPLE_PROMPT).ids

    def sample(write: Write, step: int) -> str:
        return str(tokenizer.decode(prompt + write(prompt, 60, step)))

    trainer = Trainer(
        gpt,
        TokenData.load(work / "train.npz"),
        TokenData.load(work / "heldout.npz"),
        config,
        work / "run",
        sample=sample,
    )
    pid.write_text(f"{os.getpid()}\n", encoding="utf-8")
    try:
        result = trainer.run()
    finally:
        pid.unlink(missing_ok=True)
    report = {
        "parameters": gpt.config.n_parameters,
        "steps": result.steps,
        "tokens": result.steps * config.tokens_per_step,
        "seconds": round(result.seconds),
        "threads": torch.get_num_threads(),
        "precision": config.precision,
        "train_loss": round(result.train_loss, 4),
        "heldout_loss": round(result.heldout_loss, 4),
        "heldout_bits_per_byte": round(result.heldout_bits_per_byte, 4),
    }
    write_text(work / "training.json", json.dumps(report, indent=2) + "\n")
    return result


def load_trained(work: Path) -> TorchGPT:
    """The model of the last checkpoint.

    Raises:
        InputError: nothing has been trained yet.
    """
    path = work / "run" / "checkpoint.pt"
    if not path.exists():
        raise InputError(f"{path} is missing; train the model first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = TorchGPT(ModelConfig(**state["settings"]["model"]))
    model.load_state_dict(state["model"])
    return model.eval()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
