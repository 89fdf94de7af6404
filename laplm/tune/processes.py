"""One run in several processes, on one machine or many, as ``torchrun`` starts them.

Each process takes its windows of every batch. Gradients are summed (DDP; Li et al. 2020,
arXiv:2006.15704), or weights, gradients and moments are divided among the processes and gathered a
block at a time (FSDP2; Zhao et al. 2023, arXiv:2304.11277), so that a batch of the same windows
gives the same step, however many share it. The main process alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from laplm.errors import InputError, MissingExtraError
from laplm.tune.data.corpus import Batch
from laplm.tune.loss import chunked_cross_entropy
from laplm.tune.models.gpt2 import QKVCache, TorchGPT

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


@dataclass(frozen=True)
class Processes:
    """Who takes part in a run.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        device: what this one computes on.
        shard: divide weights among them, instead of giving each a copy.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    shard: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def local_batch_size(self, batch_size: int) -> int:
        """Windows of a batch for each process.

        Raises:
            InputError: they cannot be divided evenly.
        """
        if batch_size % self.size:
            raise InputError(
                f"batch_size is {batch_size}, but {self.size} processes share each batch: choose "
                f"a multiple of {self.size}"
            )
        return batch_size // self.size

    def local_batch(self, batch: Batch) -> Batch:
        """This process's windows of a batch; raises as ``local_batch_size``."""
        each = self.local_batch_size(len(batch.inputs))
        return batch.rows(self.rank * each, (self.rank + 1) * each)

    def sum(self, number: float) -> float:
        """The sum of a number over all processes (all-reduce)."""
        if self.size == 1:
            return number
        value = torch.tensor([number], dtype=torch.float64)
        if self.device.type == "cuda":
            value = value.to(self.device)
        torch.distributed.all_reduce(value)
        return float(value)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's tensor, in all processes."""
        if self.size > 1:
            torch.distributed.broadcast(tensor, 0)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; all of them get the same answer."""
        return self.sum(float(flag)) > 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def join_processes(device: str | None = None, *, shard: bool = False) -> Iterator[Processes]:
    """Take part in what ``torchrun`` started, and leave it again; alone where it did not.

    Args:
        device: cpu (which is taken for None), cuda, cuda:1, mps, ...; under torchrun every
            process takes the cuda device of its number on its machine.
        shard: divide weights among the processes.

    Raises:
        InputError: there is no such device, or nobody to divide weights with.
    """
    place = _device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if shard:
            raise InputError(
                "--shard divides the weights among several processes, and there is one: start "
                "them with torchrun --nproc-per-node 2 -m laplm tune …"
            )
        yield Processes(device=place)
        return
    import torch.distributed

    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    joined = torch.distributed.is_initialized()
    if not joined:
        torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    yield Processes(torch.distributed.get_rank(), size, place, shard)
    # Not after an error: the others would be waited for, who wait for this one.
    if not joined:
        torch.distributed.destroy_process_group()


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or "cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used ({reason}); leave --device out to train on the CPU"
        ) from None
    return device


class ModelWithLoss(nn.Module):
    """The model and its loss in one forward pass, which is what DDP and FSDP2 stand around.

    Without targets it gives the logits after the last token instead.
    """

    def __init__(self, model: TorchGPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        segments: Tensor | None = None,
        count: int = 1,
        kv_cache: QKVCache | None = None,
    ) -> Tensor:
        """Sum of the losses of a batch over ``count``, in nats. Ids, targets, segments (B, T)."""
        if targets is None:
            return self.model.last_logits(inputs, kv_cache)
        hidden = self.model.hidden(inputs, segments)
        return chunked_cross_entropy(hidden, self.model.output_weight, targets, count=count)


def wrap_ddp(model: TorchGPT, processes: Processes) -> nn.Module:
    """A ``ModelWithLoss`` in DDP or FSDP2: its gradients are those of all processes together.

    What comes of ``backward`` is the mean over processes, so a loss is first multiplied by their
    number.
    """
    model_with_loss = ModelWithLoss(model)
    if processes.size == 1:
        return model_with_loss
    if not processes.shard:
        return nn.parallel.DistributedDataParallel(model_with_loss, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.size,))
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model_with_loss, mesh=mesh)
    return model_with_loss


def local_shard(tensor: Any) -> Any:
    """This process's shard of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Any) -> Any:
    """A sharded tensor gathered, which all processes must ask for; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, like: Any) -> Any:
    """This process's shard of a full tensor, sharded as ``like`` is."""
    if not hasattr(like, "to_local"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
