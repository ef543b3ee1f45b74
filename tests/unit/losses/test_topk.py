"""A reference known by its top k and the mass of the rest."""

import pytest
import torch

from cot_components import losses
from cot_components.errors import UserError
from cot_components.losses import Loss, TopK
from cot_components.losses.target import spread_tail

N, D, V = 9, 5, 13
NEEDY = [
    losses.sft_kl(kl_weight=0.5),
    losses.asft(),
    losses.distill(),
    losses.hybrid_distill(teacher_weight=0.3),
    losses.target_sft(eta=0.4),
    losses.target_sft(eta=0.0),
]


def cut(logits: torch.Tensor, k: int) -> TopK:
    logp, ids = logits.log_softmax(-1).topk(k)
    return TopK(ids, logp.float(), (1 - logp.exp().sum(-1)).clamp(min=0).float())


@pytest.mark.parametrize("loss", NEEDY, ids=lambda loss: loss.name)
def test_all_of_the_vocabulary_is_the_whole_reference(loss: Loss) -> None:
    student, teacher = torch.randn(N, V).requires_grad_(), torch.randn(N, V)
    labels = torch.randint(0, V, (N,))
    outs = [loss.from_logits(student, labels, reference=r).objective for r in (teacher, cut(teacher, V))]
    torch.testing.assert_close(outs[1], outs[0])
    grads = [torch.autograd.grad(out.sum(), student)[0] for out in outs]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", NEEDY, ids=lambda loss: loss.name)
def test_the_tail_is_spread_as_the_student_has_it_in_every_way_in(loss: Loss) -> None:
    hidden, head, teacher = torch.randn(N, D).requires_grad_(), torch.randn(V, D), torch.randn(N, V)
    labels = torch.randint(0, V, (N,))
    labels[::4] = -100
    top = cut(teacher, 3)
    student = (hidden @ head.t()).detach()
    spread = student.softmax(-1).scatter(1, top.ids, 0.0)
    spread = spread / spread.sum(-1, keepdim=True) * top.tail[:, None]
    whole = spread.scatter(1, top.ids, top.logp.exp())
    torch.testing.assert_close(whole.sum(-1), torch.ones(N))

    slow = loss.from_logits(hidden @ head.t(), labels, reference=whole.log())
    fast = loss.fused(hidden, head, labels, reference=top)
    torch.testing.assert_close(fast.objective, slow.objective.sum())
    grads = [torch.autograd.grad(out.objective.sum(), hidden)[0] for out in (slow, fast)]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", NEEDY, ids=lambda loss: loss.name)
def test_no_tail_and_a_student_sure_of_the_top_stay_finite(loss: Loss) -> None:
    student = torch.zeros(1, V)
    student[0, 0] = 60.0
    student.requires_grad_()
    for tail in (0.0, 1e-30, 0.5):
        top = TopK(torch.tensor([[0]]), torch.tensor([[1 - tail]]).log(), torch.tensor([tail]))
        out = loss.from_logits(student, torch.tensor([3]), reference=top).objective
        (grad,) = torch.autograd.grad(out.sum(), student)
        assert bool(torch.isfinite(out)) and bool(torch.isfinite(grad).all())
    filled = spread_tail(TopK(torch.tensor([[0]]), torch.tensor([[0.5]]).log(), torch.tensor([0.5])), student.detach())
    torch.testing.assert_close(filled.softmax(-1)[0, 1:], torch.full((V - 1,), 0.5 / (V - 1)))


def test_shapes_that_do_not_fit_are_one_sentence() -> None:
    logits, top = torch.randn(N, V), cut(torch.randn(N, V), 3)
    with pytest.raises(UserError, match="TopK of 9 tokens"):
        losses.distill().from_logits(logits, torch.zeros(N).long(), reference=top._replace(tail=top.tail[:4]))
