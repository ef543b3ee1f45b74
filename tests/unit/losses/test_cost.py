"""What the fused loss costs, counted rather than timed: FLOPs, host syncs, bytes kept for the backward."""

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cot_components import losses
from cot_components.losses import GroupSoftmax, Loss, supervised_rows

N, D, V = 96, 16, 128


ADDMM = {torch.ops.aten.addmm_: lambda out, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}


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


HEAD_PASSES = {
    "nll": (losses.sft(chunk_rows=10), 3),
    "p-weighted": (losses.dft(chunk_rows=10), 3),
    "top-k": (losses.eaft(chunk_rows=10), 3),
    "adaptive": (losses.sft(chunk_rows=10, weight_rule=RULE), 4),
    "recompute": (losses.sft(chunk_rows=10, per_token_grad=True), 4),
    "reference": (losses.distill(chunk_rows=10), 4),
    "adaptive reference": (losses.distill(chunk_rows=10, weight_rule=RULE), 5),
}


@pytest.mark.parametrize(("loss", "head_passes"), HEAD_PASSES.values(), ids=HEAD_PASSES)
def test_flops_are_those_of_the_supervised_rows_alone(loss: Loss, head_passes: int) -> None:
    batch = tensors()
    assert len(batch["rows"]) == N // 2
    assert flops(loss, batch) == 2 * head_passes * (N // 2) * D * V


def test_the_flop_count_would_notice_a_missing_product() -> None:
    """Negative control: without the mapping the counter takes `addmm_` for free, and the equality above fails."""
    assert flops(losses.sft(chunk_rows=10), tensors(), mapping={}) == 2 * (N // 2) * D * V


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


RULES = {"adaptive": losses.sft(weight_rule=RULE), "per_token": losses.sft(per_token_grad=True)}
WAITING = {"sft": losses.sft(), "dft": losses.dft(), "eaft": losses.eaft(), "gem": losses.gem(), **RULES}


@pytest.mark.parametrize("loss", WAITING.values(), ids=WAITING)
def test_the_host_waits_for_the_device_only_where_rows_are_not_given(loss: Loss) -> None:
    batch, watches = tensors(), (Watch(), Watch())
    for watch, rows in zip(watches, (batch["rows"], None), strict=True):
        with watch:
            (loss.fused(**{**batch, "rows": rows}).objective.sum() * 0.5).backward()
    assert watches[0].waits() == 0 < watches[1].waits() and sum(watches[0].calls.values()) > 10


def whole_logits(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(hidden @ head.t(), labels)


def kept_per_token(loss: Any) -> float:
    """Bytes that are alive between forward and backward, for each token more."""
    found = []
    for num_tokens in (N, 9 * N):
        batch = tensors(num_tokens)
        with Watch() as watch:
            out = loss(**batch)
        found.append(watch.bytes_alive())
        del out
    return (found[1] - found[0]) / (8 * N)


def test_bytes_kept_for_the_backward_do_not_grow_with_tokens_times_vocabulary() -> None:
    """Rows gathered, their gradient and a few columns, all fp32; whole logits and autograd keep 4 bytes times V."""
    for per_token_grad in (False, True):
        assert kept_per_token(losses.dft(per_token_grad=per_token_grad).fused) < 4 * (2 * D + 16)
    assert kept_per_token(whole_logits) >= 4 * V
