"""bf16 inputs against float64: the loss as exact as its inputs, the gradients as good as those of whole logits."""

import torch
import torch.nn.functional as F

from cot_components import losses
from cot_components.losses import supervised_rows

N, D, V = 1024, 64, 2048


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def bf16_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(N, D).bfloat16().requires_grad_()
    head = (torch.randn(V, D) * 0.1).bfloat16().requires_grad_()
    labels = torch.randint(0, V, (N,))
    labels[torch.rand(N) < 0.5] = -100
    return hidden, head, labels


def test_loss_and_gradients_in_bf16() -> None:
    hidden, head, labels = bf16_inputs()
    exact_in = (hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_())
    exact = F.cross_entropy(exact_in[0] @ exact_in[1].t(), labels)
    exact_grads = torch.autograd.grad(exact, exact_in)
    naive = F.cross_entropy((hidden @ head.t()).float(), labels)
    naive_errors = [error(*pair) for pair in zip(torch.autograd.grad(naive, (hidden, head)), exact_grads, strict=True)]
    count = len(supervised_rows(labels))
    for chunk_rows in (16, 256, 2048):  # 32 chunks, 2 chunks, 1 chunk
        out = losses.sft(chunk_rows=chunk_rows).fused(hidden, head, labels)
        assert abs(float(out.objective.detach()) / count - float(exact.detach())) <= 2e-4 * float(exact.detach())
        found = torch.autograd.grad(out.objective / count, (hidden, head))
        errors = [error(*pair) for pair in zip(found, exact_grads, strict=True)]
        assert all(ours <= 1.1 * peer for ours, peer in zip(errors, naive_errors, strict=True)), (errors, naive_errors)
        assert out.nll.dtype == torch.float32
