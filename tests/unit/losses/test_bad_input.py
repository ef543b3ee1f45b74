"""Bad input is one sentence that names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cot_components import losses
from cot_components.errors import UserError
from cot_components.losses import supervised_rows

N, D, V = 5, 4, 7


def given(**changed: Any) -> dict[str, Any]:
    return {"hidden": torch.randn(N, D), "head": torch.randn(V, D), "labels": torch.randint(0, V, (N,))} | changed


@pytest.mark.parametrize(
    ("loss", "changed", "sentence"),
    [
        (losses.sft(), {"hidden": torch.randn(1, N, D)}, r"must be \[tokens, width\], got the shape \[1, 5, 4\]"),
        (
            losses.sft(),
            {"labels": torch.zeros(4, dtype=torch.int64)},
            r"labels has the shape \[4\], but there are 5 tokens",
        ),
        (losses.sft(), {"weights": torch.ones(6)}, r"weights has the shape \[6\], but there are 5 tokens"),
        (losses.sft(), {"columns": {"roles": torch.ones(2)}}, r"roles has the shape \[2\], but there are 5 tokens"),
        (losses.sft(), {"head": torch.randn(V, D + 1)}, r"hidden states \[5, 4\] do not fit a head of shape \[7, 5\]"),
        (
            losses.sft(),
            {"head": torch.randn(V, D).bfloat16()},
            "hidden states are torch.float32, but the head's weight is",
        ),
        (losses.sft(), {"head": lambda h: h}, "a head function returns pairs .* got Tensor"),
        (
            losses.sft(),
            {"head": lambda h: [(h, torch.randn(V, D)), (h, torch.randn(V + 1, D))]},
            "the parts of the head have vocabularies of 7 and 8",
        ),
        (
            losses.sft(),
            {"labels": torch.tensor([0, 1, 7, 2, 3])},
            "label 7 of target 2 is neither .* nor in the vocabulary of 7",
        ),
        (losses.sft(), {"labels": torch.tensor([0, -1, 6, 2, 3])}, r"label -1 of target 1 is neither ignored \(-100\)"),
        (
            losses.sft(),
            {"weights": torch.tensor([1, 1, -0.5, 1, 1])},
            "weight -0.5 of target 2 is not a number from 0 to 10000",
        ),
        (losses.sft(), {"weights": torch.tensor([1, float("nan"), 1, 1, 1])}, "weight nan of target 1"),
        (losses.sft(), {"weights": torch.tensor([1, 1, 1, 1, 1e9])}, r"weight 1e\+09 of target 4"),
        (losses.distill(), {}, r"distill needs a reference model, as \(hidden, head\) or TopK"),
        (losses.psft(), {}, "psft needs the column 'old_logp', one value per target token; columns given: none"),
        (
            losses.distill(),
            {"reference": (torch.randn(N, D), torch.randn(V + 2, D))},
            "the reference has a vocabulary of 9 and the student one of 7",
        ),
        (
            losses.distill(),
            {"reference": (torch.randn(N - 1, D), torch.randn(V, D))},
            r"the reference's hidden states must be \[5 tokens, width\], got the shape \[4, 4\]",
        ),
    ],
)
def test_fused(loss: losses.Loss, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        loss.fused(**given(**changed))
    assert "\n" not in str(error.value)


def test_another_ignore_index() -> None:
    labels = torch.tensor([0, -1, 6, 2, 3])
    out = losses.sft(ignore_index=-1).fused(**given(labels=labels))
    assert out.nll.shape == (4,)
    with pytest.raises(UserError, match=r"label -100 of target 0 is neither ignored \(-1\)"):
        losses.sft(ignore_index=-1).fused(**given(labels=torch.full((N,), -100)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: losses.target_sft(eta=1.2), r"eta must be at least 0 and at most 1, got 1\.2"),
        (lambda: losses.target_sft(eta=float("nan")), "eta must be at least 0 and at most 1, got nan"),
        (lambda: losses.label_smoothing(smoothing=-0.1), "smoothing must be at least 0 and at most 1"),
        (lambda: losses.beyond_log(exponent=0.0), "exponent must be above 0, got 0"),
        (lambda: losses.profit(threshold=2.0), "threshold must be"),
        (lambda: losses.eaft(k=1), "k must be at least 2, got 1"),
        (lambda: losses.otr(temperature=0.0), "temperature must be above 0"),
        (lambda: losses.asft(kl_weight=-1.0), "kl_weight must be at least 0, got -1"),
        (lambda: losses.sft_kl(kl_weight=float("inf")), "kl_weight must be at least 0, got inf"),
        (lambda: losses.hybrid_distill(teacher_weight=1.1), "teacher_weight must be"),
        (lambda: losses.psft(epsilon=-0.1), "epsilon must be at least 0"),
        (lambda: losses.gem(beta=0.0), "beta must be above 0"),
        (lambda: losses.sft(chunk_rows=0), "chunk_rows must be at least 1, got 0"),
    ],
)
def test_settings(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_whole_logits() -> None:
    logits, labels = torch.randn(N, V), torch.randint(0, V, (N,))
    with pytest.raises(UserError, match="the reference has a vocabulary of 8 and the student one of 7"):
        losses.distill().from_logits(logits, labels, reference=torch.randn(N, V + 1))
    with pytest.raises(UserError, match="the reference's logits must be"):
        losses.distill().from_logits(logits, labels, reference=torch.randn(N + 1, V))
    with pytest.raises(UserError, match=r"asft needs a reference model.*; \(logits, labels\) alone cannot give it"):
        losses.asft()(logits, labels)
    with pytest.raises(UserError, match=r"psft needs the column 'old_logp'.* alone cannot give it"):
        losses.psft()(logits, labels)
    with pytest.raises(UserError, match="dft takes the logits as one tensor, got a list"):
        losses.dft()([logits], labels)  # type: ignore[arg-type]


def test_supervised_rows() -> None:
    labels = torch.tensor([-100, 3, 4, -100, 0])
    assert supervised_rows(labels).tolist() == [1, 2, 4]
    assert supervised_rows(labels, torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])).tolist() == [2, 4]
    assert supervised_rows(torch.full((3,), -100)).shape == (0,)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_show_in_objective_and_in_their_own_nll(poison: float) -> None:
    hidden = torch.randn(N, D)
    hidden[3] = poison
    rows = torch.tensor([0, 2, 3, 4])
    out = losses.dft().fused(**given(hidden=hidden, rows=rows))
    assert not bool(torch.isfinite(out.objective))
    assert torch.isfinite(out.nll).tolist() == [True, True, False, True]  # the loop names the rows from these


def test_a_sharded_head_is_told_where_the_loss_belongs() -> None:
    class Sharded(torch.Tensor):
        def full_tensor(self) -> None: ...

    with pytest.raises(UserError, match="inside the forward of the FSDP root"):
        losses.sft().fused(**given(head=torch.randn(V, D).as_subclass(Sharded)))
