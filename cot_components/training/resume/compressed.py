"""torchao's 8-bit optimizer states, sharded or not: saved as the plain tensors they consist of, and restored.

A compressed state is `codes` (uint8, the shape of the weight), a `scale` for each block of 256 codes in a row and a
`qmap` from codes to numbers. torchao compresses a process's shard of a weight if it fills whole blocks and has at least
4,096 numbers, so with another number of processes, other states may be compressed and blocks may begin elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cot_components.training.distributed import World, divided

PLAIN = ""


def whole_parts(value: Tensor, world: World) -> dict[str, Tensor]:
    """The full tensor on the CPU: `{PLAIN: tensor}`, or the parts of a compressed one by name.

    All processes must call it together. If only some shards are compressed, all are returned as plain numbers.
    """
    if not isinstance(value, DTensor):
        return parts_of(value)
    local = value.to_local()
    compressed = world.sum([float(is_traceable_wrapper_subclass(local))])[0]
    if not compressed:
        return {PLAIN: value.full_tensor().detach().cpu()}
    if compressed < world.size and is_traceable_wrapper_subclass(local):
        local = local.dequantize()
    shares = world.gather(parts_of(local))
    return {part: shares[0][part] if part == "qmap" else torch.cat([s[part] for s in shares]) for part in shares[0]}


def put_back(parts: Mapping[str, Tensor], parameter: Tensor, empty: Tensor | None) -> Tensor:
    """A state on its parameter's device, sharded like the parameter.

    Exact if shards begin and end at block boundaries, as they do with the number of processes it was saved with;
    otherwise numbers are compressed again.

    Args:
        parts: the result of `whole_parts`.
        parameter: the parameter it belongs to.
        empty: the optimizer's initial state; None for an optimizer that does not compress.
    """
    local = empty.to_local() if isinstance(empty, DTensor) else empty
    parts = {part: value.to(parameter.device) for part, value in parts.items()}
    begin, end = rows_of(parameter)
    mine = cut_to(parts, local, begin, end) if PLAIN not in parts and local is not None else None
    if mine is None:
        mine = (parts[PLAIN] if PLAIN in parts else numbers_of(parts))[begin:end]
        if local is not None and is_traceable_wrapper_subclass(local):
            mine = local.copy_(mine)
    return divided(mine, parameter)


def share_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's rows of a full tensor, as FSDP2 shards it; the full tensor for one process."""
    begin, end = rows_of(like)
    return divided(whole[begin:end], like) if isinstance(like, DTensor) else whole


def rows_of(like: Tensor) -> tuple[int, int]:
    """The first of this process's rows, and one past the last."""
    if not isinstance(like, DTensor):
        return 0, len(like) if like.ndim else 1
    assert like.placements == (Shard(0),)
    rows = -(-len(like) // like.device_mesh.size())
    begin = min(rows * like.device_mesh.get_local_rank(), len(like))
    return begin, min(begin + rows, len(like))


def cut_to(parts: Mapping[str, Tensor], local: Tensor, begin: int, end: int) -> Tensor | None:
    """A compressed shard, bit for bit; None if this process does not compress it, or blocks cross its ends."""
    if not is_traceable_wrapper_subclass(local):
        return None
    codes, scale = parts["codes"], parts["scale"]
    width, block = codes[0].numel(), codes.numel() // len(scale)
    if begin * width % block or end * width % block:
        return None
    mine = {**parts, "codes": codes[begin:end], "scale": scale[begin * width // block : end * width // block]}
    return type(local).__tensor_unflatten__(mine, local.__tensor_flatten__()[1], None, None)  # type: ignore[attr-defined]


def numbers_of(parts: Mapping[str, Tensor]) -> Tensor:
    """The numbers encoded by compressed parts, fp32."""
    values, scale = parts["qmap"][parts["codes"].long()], parts["scale"]
    return (values.reshape(len(scale), -1) * scale[:, None]).view(parts["codes"].shape)


def parts_of(value: Tensor) -> dict[str, Tensor]:
    if not is_traceable_wrapper_subclass(value):
        return {PLAIN: value.detach().cpu()}
    return {part: getattr(value, part).detach().cpu() for part in value.__tensor_flatten__()[0]}
