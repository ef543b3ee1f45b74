"""Supervised rows through the head in chunks: equal to whole logits and autograd, whatever the head and the chunk."""

import pytest
import torch
import torch.nn.functional as F
from losses_for_tests import CASES, Case
from torch import Tensor

from cot_components import losses
from cot_components.losses import Pairs, dense_loss, supervised_rows

N, D, V = 23, 6, 17
EXACT = {"dtype": torch.float64}


def gradients(objective: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(objective.sum(), inputs, retain_graph=True)


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], **tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


class Batch:
    """Hidden states, heads of student and reference, labels with ignored ones, weights with zeros, and all columns."""

    def __init__(self, *, ignored: float = 0.4, dtype: torch.dtype = torch.float64) -> None:
        self.hidden = torch.randn(N, D, dtype=dtype).requires_grad_()
        self.head = torch.randn(V, D, dtype=dtype).requires_grad_()
        self.reference = (torch.randn(N, 2 * D, dtype=dtype), torch.randn(V, 2 * D, dtype=dtype))
        self.labels = torch.randint(0, V, (N,))
        self.labels[torch.rand(N) < ignored] = -100
        self.weights = torch.rand(N) * 2
        self.weights[::5] = 0.0
        self.columns = {
            "old_logp": -3 * torch.rand(N, dtype=dtype),
            "roles": torch.randint(2, 5, (N,)),
            "sample": torch.arange(N) // 5,
            "groups": torch.randint(0, 2, (N,)),
        }
        self.rows = supervised_rows(self.labels, self.weights)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("chunk_rows", [3, 256])
@pytest.mark.parametrize("per_token_grad", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_preset_equals_whole_logits_and_autograd(case: Case, per_token_grad: bool, chunk_rows: int) -> None:
    batch = Batch()
    loss = case.loss(chunk_rows=chunk_rows, per_token_grad=per_token_grad)
    reference = batch.reference if loss.needs_reference else None
    out = loss.fused(batch.hidden, batch.head, batch.labels, batch.weights, columns=batch.columns, reference=reference)
    found = torch.autograd.grad(out.objective.sum(), (batch.hidden, batch.head))

    rows = batch.rows
    logits = (batch.hidden @ batch.head.t())[rows]
    labels, weights = batch.labels[rows], batch.weights[rows]
    other = (batch.reference[0] @ batch.reference[1].t())[rows]
    columns = {name: column[rows] for name, column in batch.columns.items()}
    slow = dense_loss(loss, logits, labels, columns=columns, reference=other)
    expected = torch.autograd.grad((slow * weights).sum(), (batch.hidden, batch.head), retain_graph=True)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-10

    nll = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(out.nll, nll)
    torch.testing.assert_close(out.loss, (nll * weights).sum())
    published = [
        case.formula(logits[i], logits[i], int(labels[i]), other[i], float(columns["old_logp"][i]))
        for i in range(len(rows))
    ]
    torch.testing.assert_close(out.objective.sum(), (torch.stack(published) * weights).sum())


def test_upstream_scalar_and_per_token_upstream() -> None:
    batch = Batch()
    inputs = (batch.hidden, batch.head)
    plain = gradients(losses.dft().fused(*inputs, batch.labels).objective, *inputs)
    scaled = gradients(losses.dft().fused(*inputs, batch.labels).objective * 0.25, *inputs)
    assert_close(scaled, tuple(grad * 0.25 for grad in plain))
    upstream = torch.rand(int((batch.labels != -100).sum()), **EXACT)
    per_token = losses.dft(per_token_grad=True).fused(*inputs, batch.labels).objective
    found = torch.autograd.grad(per_token, inputs, upstream, retain_graph=True)
    weights = torch.zeros(N).index_copy(0, supervised_rows(batch.labels), upstream.float())
    expected = gradients(losses.dft().fused(*inputs, batch.labels, weights).objective, *inputs)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    again = torch.autograd.grad(per_token, inputs, upstream)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_second_backward_is_an_error_not_a_second_scaling() -> None:
    batch = Batch()
    out = losses.sft().fused(batch.hidden, batch.head, batch.labels)
    out.objective.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="per_token_grad=True"):
        out.objective.backward()


@pytest.mark.parametrize("per_token_grad", [False, True])
def test_no_supervised_token_gives_zero_gradients_for_hidden_and_every_weight(per_token_grad: bool) -> None:
    batch = Batch(ignored=1.1)
    low_rank = [torch.randn(*shape, **EXACT).requires_grad_() for shape in ((2, D), (V, 2))]
    out = losses.sft(per_token_grad=per_token_grad).fused(
        batch.hidden, lambda h: [(h, batch.head), (h @ low_rank[0].t(), low_rank[1])], batch.labels
    )
    assert float(out.objective.detach().sum()) == 0.0 and float(out.loss) == 0.0 and out.nll.shape == (0,)
    out.objective.sum().backward()
    for tensor in (batch.hidden, batch.head, *low_rank):
        assert tensor.grad is not None and torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_lora_head_is_a_sum_of_pairs() -> None:
    batch = Batch()
    down, up = torch.randn(3, D, **EXACT).requires_grad_(), torch.randn(V, 3, **EXACT).requires_grad_()

    def head(hidden: Tensor) -> Pairs:
        return [(hidden, batch.head.detach()), (0.5 * hidden @ down.t(), up)]

    inputs, given, (hidden, weight) = (batch.hidden, down, up), (batch.labels, batch.weights), batch.reference
    out = losses.asft(chunk_rows=4).fused(batch.hidden, head, *given, rows=batch.rows, reference=batch.reference)
    logits = batch.hidden @ (batch.head.detach() + 0.5 * up @ down).t()
    slow = losses.asft().from_logits(logits, *given, reference=hidden @ weight.t())
    pairs = zip(gradients(out.objective, *inputs), gradients(slow.objective, *inputs), strict=True)
    assert max(relative(a, b) for a, b in pairs) < 1e-10
    torch.testing.assert_close(out.nll, slow.nll)


def test_tied_weight_gets_the_gradient_of_both_its_uses() -> None:
    batch = Batch()
    tokens = torch.randint(0, V, (N,))
    hidden = batch.head[tokens].tanh()
    fused = losses.sft(chunk_rows=4).fused(hidden, batch.head, batch.labels).objective
    whole = F.cross_entropy(hidden @ batch.head.t(), batch.labels, reduction="sum")
    assert relative(*gradients(fused, batch.head), *gradients(whole, batch.head)) < 1e-12


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_parts_get_no_gradient_and_no_work(frozen: int) -> None:
    batch = Batch()
    inputs = [batch.hidden, batch.head]
    inputs[frozen] = inputs[frozen].detach()
    out = losses.sft().fused(*inputs, batch.labels)
    assert out.objective.grad_fn.grads.sums[frozen] is None
    out.objective.backward()
    assert inputs[frozen].grad is None and inputs[1 - frozen].grad is not None


def test_nothing_is_differentiable_under_no_grad_or_without_leaves() -> None:
    batch = Batch()
    with torch.no_grad():
        quiet = losses.dft().fused(batch.hidden, batch.head, batch.labels)
    loud = losses.dft().fused(batch.hidden, batch.head, batch.labels)
    assert not quiet.objective.requires_grad
    assert torch.equal(quiet.objective, loud.objective) and torch.equal(quiet.nll, loud.nll)
    assert loud.objective.requires_grad and not loud.loss.requires_grad and not loud.nll.requires_grad


def test_weights_of_one_are_no_weights_bit_for_bit_and_torch_cross_entropy_within_1e_6() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        batch = Batch(dtype=dtype)
        outs = [losses.sft().fused(batch.hidden, batch.head, batch.labels, w) for w in (None, torch.ones(N))]
        grads = [torch.autograd.grad(out.objective, (batch.hidden, batch.head)) for out in outs]
        assert torch.equal(outs[0].objective, outs[1].objective) and torch.equal(outs[0].loss, outs[1].loss)
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
        assert all(x.dtype == torch.float32 for x in outs[0])
    batch = Batch(dtype=torch.float32)
    mean = losses.sft().fused(batch.hidden, batch.head, batch.labels).objective / (batch.labels != -100).sum()
    torch.testing.assert_close(mean, F.cross_entropy(batch.hidden @ batch.head.t(), batch.labels), rtol=1e-6, atol=1e-6)


def test_one_batch_of_eight_is_eight_batches_of_one() -> None:
    batch = Batch()
    inputs = (batch.hidden, batch.head)
    whole = losses.dft().fused(*inputs, batch.labels, batch.weights)
    parts = [
        losses.dft().fused(batch.hidden[part], batch.head, batch.labels[part], batch.weights[part])
        for part in torch.arange(N).chunk(8)
    ]
    objective = sum(part.objective for part in parts)
    torch.testing.assert_close(objective, whole.objective)
    assert_close(gradients(objective, *inputs), gradients(whole.objective, *inputs))


def test_a_reference_may_be_a_function_of_its_hidden_rows_and_gets_no_gradient() -> None:
    batch = Batch()
    hidden_ref, head_ref = (tensor.clone().requires_grad_() for tensor in batch.reference)
    loss = losses.target_sft(eta=0.5)
    plain = loss.fused(batch.hidden, batch.head, batch.labels, reference=batch.reference)
    out = loss.fused(batch.hidden, batch.head, batch.labels, reference=(hidden_ref, lambda h: [(h, head_ref)]))
    assert torch.equal(out.objective, plain.objective)
    out.objective.backward()
    assert hidden_ref.grad is None and head_ref.grad is None


def test_the_row_function_compiles_whole_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda fn, **kw: real(fn, backend="aot_eager", **kw))
    batch = Batch(dtype=torch.bfloat16)
    inputs, more = (batch.hidden, batch.head), {"columns": batch.columns, "reference": batch.reference}
    for make in (losses.dft, losses.otr, lambda **settings: losses.target_sft(eta=0.3, **settings)):
        plain, compiled = (
            make(chunk_rows=4, floor={"answer": 1.0}, compile_rows=compile_rows)
            .fused(*inputs, batch.labels, batch.weights, **more)
            .objective
            for compile_rows in (False, True)
        )
        torch.testing.assert_close(compiled, plain)
        assert_close(gradients(compiled, *inputs), gradients(plain, *inputs))


def test_under_autocast_the_loss_keeps_its_dtypes() -> None:
    batch = Batch(dtype=torch.float32)
    for loss in (losses.sft(), losses.target_sft(eta=0.5)):
        plain = loss.fused(batch.hidden, batch.head, batch.labels, reference=batch.reference)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = loss.fused(batch.hidden, batch.head, batch.labels, reference=batch.reference)
        assert torch.equal(plain.objective, cast.objective)
