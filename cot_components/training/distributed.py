"""One process or several: PyTorch's process group and FSDP2, or nothing at all for one process. The loop is the same
for both."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from cot_components.errors import UserError
from cot_components.models.adapter import FORWARD_METHODS


@dataclass(frozen=True)
class World:
    """Rank and size of the job; every method is a no-op or the identity for one process."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all processes, in fp64 (one all-reduce)."""
        if self.size == 1:
            return values
        buffer = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(buffer)
        return buffer.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank; every process gets all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first_decides(self, decide: Callable[[], Any]) -> Any:
        """The result or error of the first process, on every process, so that none waits for one that failed."""
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = decide()
            except Exception as error:
                if self.size == 1:
                    raise
                outcome[1] = error
        if self.size > 1:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that every process has the same facts, by name: config, data, versions.

        Raises:
            UserError: on every process; names the first rank and fact that differ from rank 0's.
        """
        first, *others = self.gather(dict(facts))
        for rank, theirs in enumerate(others, start=1):
            for name in sorted({*first, *theirs}):
                if first.get(name) != theirs.get(name):
                    raise UserError(
                        f"{name} is {theirs.get(name)!r} on rank {rank} and {first.get(name)!r} on rank 0; start every "
                        "process with the same command, files and versions"
                    )

    def sync_gradients(self, model: nn.Module, sync: bool) -> None:
        """Reduce gradients across processes only with the last micro-batch of a step."""
        if self.size > 1:
            model.set_requires_gradient_sync(sync)  # type: ignore[operator]

    def full(self, value: Tensor) -> Tensor:
        """A sharded scalar as an ordinary tensor."""
        return value.full_tensor() if hasattr(value, "full_tensor") else value

    def close(self) -> None:
        """Leave the process group together: a process that leaves early would take the others down."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def start(device: torch.device) -> World:
    """Join the process group that torchrun set up in the environment; one process needs none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, device)


def first_says(sentence: str) -> bool:
    """Whether the first process ends with the same message, so that the others need not repeat it.

    Before the group is formed, processes on one machine are assumed to end the same way.
    """
    if os.environ.get("RANK", "0") == "0":
        return False
    if not dist.is_initialized():
        return os.environ.get("LOCAL_RANK", "0") != "0"
    try:
        store = dist.distributed_c10d._get_default_store()
        store.wait([_LAST_WORD], timedelta(seconds=SECONDS_FOR_RANK_0))
        return store.get(_LAST_WORD).decode() == sentence
    except RuntimeError:  # the first process has not failed, or has exited
        return False


def leave_word(sentence: str) -> None:
    """Publish the message the first process ends with to the others."""
    if dist.is_initialized() and dist.get_rank() == 0:
        dist.distributed_c10d._get_default_store().set(_LAST_WORD, sentence)


_LAST_WORD = "last word of rank 0"
SECONDS_FOR_RANK_0 = 3.0


def shard(model: Any, world: World) -> None:
    """Shard each layer and the root with FSDP2, in place; head and embedding stay with the root, where the loss runs.

    The root reshards its weights after every forward. If a forward without a backward (held-out loss, blurred tokens)
    left them gathered, clipping would miss the sharded gradients and the next step would use stale weights.

    Raises:
        UserError: 4-bit weights that cannot be divided among so many processes.
    """
    if world.size == 1:
        return
    _check_nf4_divides(model, world)
    for layer in model.layers:
        fully_shard(layer, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=True)
    for method in FORWARD_METHODS:
        register_fsdp_forward_method(model, method)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as ordinary CPU tensors; every process must call it, because sharded tensors are gathered.

    4-bit weights are returned dequantised in their original dtype, where torchtune's own state dict would round them to
    bf16.
    """
    quantized = {plain_name(name): p for name, p in model.named_parameters() if _is_nf4(p)}
    weights = {}
    for name, value in model.state_dict().items():
        if name in quantized:
            parameter = quantized[name]
            value = divided(_local(parameter).get_original_weight().to(parameter.dtype), parameter)
        weights[name] = (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
    return weights


def divided(mine: Tensor, like: Tensor) -> Tensor:
    """A sharded tensor like `like` from this process's rows; for one process, the rows themselves."""
    if not isinstance(like, DTensor):
        return mine
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _check_nf4_divides(model: nn.Module, world: World) -> None:
    """NF4 keeps one scale of scales per `_NF4_NUMBERS` numbers, and torchao splits tensors only evenly into whole
    ones."""
    for name, parameter in model.named_parameters():
        if _is_nf4(parameter) and parameter.numel() % (_NF4_NUMBERS * world.size):
            raise UserError(
                f"model: the 4-bit weight {plain_name(name)} has {parameter.numel():,} numbers and cannot be divided "
                f"among {world.size} processes, only by multiples of {_NF4_NUMBERS:,}; use fewer processes, or "
                "quantize_base: false"
            )


_NF4_NUMBERS = 64 * 256
"""Numbers per block of torchao's NF4, times blocks per scale of scales."""


def _is_nf4(parameter: Tensor) -> bool:
    return hasattr(_local(parameter), "get_original_weight")


def _local(parameter: Tensor) -> Any:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def plain_name(name: str) -> str:
    """The name of a weight without the parts added by wrappers."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
