"""What the fused loss costs, counted rather than timed: FLOPs, host syncs, bytes kept for the backward."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cot_components import losses
from cot_components.losses import GroupSoftmax, Loss, LossOutput, supervised_rows

N, D, V = 96, 16, 128


def addmm_in_place_flops(out: torch.Size, a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


ADDMM = {torch.ops.aten.addmm_: addmm_in_place_flops}


def tensors(num_tokens: int = N, ignored: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    labels = torch.randint(0, V, (num_tokens,))
    labels[::ignored] = -100
    return {
        "hidden": torch.randn(num_tokens, D, dtype=dtype).requires_grad_(),
        "head": torch.randn(V, D, dtype=dtype).requires_grad_(),
        "labels": labels,
        "weights": torch.rand(num_tokens) + 0.5,
        "rows": supervised_rows(labels),
        "reference": (torch.randn(num_tokens, D, dtype=dtype), torch.randn(V, D, dtype=dtype)),
        "columns": {"sample": torch.arange(num_tokens) // 8, "groups": torch.arange(num_tokens) % 2},
    }


def flops(loss: Loss, batch: dict[str, Any], *, backward: bool = True, mapping: dict[Any, Any] | None = None) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=ADDMM if mapping is None else mapping)
    with counter:
        out = loss.fused(**batch)
        if backward:
            out.objective.sum().backward()
    return counter.get_total_flops()


RULE = GroupSoftmax(tau=2.0)


@pytest.mark.parametrize(
    ("loss", "head_passes"),
    [
        (losses.sft(chunk_rows=10), 3),
        (losses.dft(chunk_rows=10), 3),
        (losses.eaft(chunk_rows=10), 3),
        (losses.sft(chunk_rows=10, weight_rule=RULE), 4),
        (losses.sft(chunk_rows=10, per_token_grad=True), 4),
        (losses.distill(chunk_rows=10), 4),
        (losses.distill(chunk_rows=10, weight_rule=RULE), 5),
    ],
    ids=["nll", "p-weighted", "top-k", "adaptive", "recompute", "reference", "adaptive reference"],
)
def test_flops_are_those_of_the_supervised_rows_alone(loss: Loss, head_passes: int) -> None:
    batch = tensors()
    num_rows = len(batch["rows"])
    assert num_rows == N // 2
    assert flops(loss, batch) == 2 * head_passes * num_rows * D * V


def test_the_flop_count_would_notice_a_missing_product() -> None:
    """Negative control: without the mapping the counter takes `addmm_` for free, and the equality above fails."""
    batch = tensors()
    assert flops(losses.sft(chunk_rows=10), batch, mapping={}) == 2 * len(batch["rows"]) * D * V


def test_no_gradient_work_without_gradients() -> None:
    batch = tensors()
    with torch.no_grad():
        assert flops(losses.sft(), batch, backward=False) == 2 * len(batch["rows"]) * D * V
    frozen = {**batch, "head": batch["head"].detach()}
    assert flops(losses.sft(), frozen) == 4 * len(batch["rows"]) * D * V


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")


class Watch(TorchDispatchMode):
    """Counts operators by name, and remembers their results weakly: what is alive later is what somebody kept."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket.__name__] += 1
        self._made += [weakref.ref(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        return out

    def waits(self) -> int:
        return sum(count for name, count in self.calls.items() if any(name.startswith(wait) for wait in WAITS))

    def bytes_alive(self) -> int:
        alive = [tensor for ref in self._made if (tensor := ref()) is not None]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}.values())


@pytest.mark.parametrize(
    "loss",
    [
        losses.sft(),
        losses.dft(),
        losses.eaft(),
        losses.sft(weight_rule=RULE),
        losses.gem(),
        losses.sft(per_token_grad=True),
    ],
    ids=["sft", "dft", "eaft", "adaptive", "gem", "per_token"],
)
def test_the_host_never_waits_for_the_device_when_rows_are_given(loss: Loss) -> None:
    batch = tensors()
    with Watch() as watch:
        (loss.fused(**batch).objective.sum() * 0.5).backward()
    assert watch.waits() == 0 and sum(watch.calls.values()) > 10


def test_the_watch_sees_the_wait_when_rows_are_not_given() -> None:
    """Negative control."""
    batch = tensors()
    with Watch() as watch:
        losses.sft().fused(**{**batch, "rows": None}).objective.backward()
    assert watch.waits() > 0


def kept(loss: Loss, num_tokens: int) -> tuple[int, LossOutput]:
    batch = tensors(num_tokens)
    with Watch() as watch:
        out = loss.fused(**batch)
    return watch.bytes_alive(), out


@pytest.mark.parametrize("per_token_grad", [False, True])
def test_bytes_kept_for_the_backward_do_not_grow_with_tokens_times_vocabulary(per_token_grad: bool) -> None:
    loss = losses.dft(per_token_grad=per_token_grad)
    small, out_small = kept(loss, N)
    large, out_large = kept(loss, 9 * N)
    per_token = (large - small) / (8 * N)
    assert per_token < 4 * (2 * D + 16)  # rows gathered, their gradient and a few columns, all fp32; V would be 4 * 128
    assert out_small.nll.shape[0] * 9 == out_large.nll.shape[0]


def test_the_watch_sees_logits_that_are_kept() -> None:
    """Negative control: whole logits and autograd keep at least 4 bytes per token and vocabulary entry."""

    def naive(num_tokens: int) -> int:
        batch = tensors(num_tokens)
        with Watch() as watch:
            objective = torch.nn.functional.cross_entropy(batch["hidden"] @ batch["head"].t(), batch["labels"])
        assert objective.requires_grad
        return watch.bytes_alive()

    assert (naive(9 * N) - naive(N)) / (8 * N) >= 4 * V
