"""Per-role floors: on the roles named, the observed token keeps at least that pull."""

import pytest
import torch
import torch.nn.functional as F
from losses_for_tests import CASES, Case

from cot_components import losses
from cot_components.losses import induced_target
from cot_components.roles import Role

N, V = 8, 11
ROLES = torch.tensor([Role.THOUGHT, Role.ANSWER] * (N // 2))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_floor_of_one_is_plain_cross_entropy_there_and_changes_nothing_elsewhere(case: Case) -> None:
    z, ref = (torch.randn(N, V, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, V, (N,))
    columns = {"roles": ROLES, "old_logp": torch.full((N,), -3.0)}
    floored, free = case.loss(floor={"answer": 1.0}), case.loss()
    reference = ref if free.needs_reference else None
    if case.name in ("otr", "otr_1", "psft"):  # their pull can exceed 1 by itself, so give the floor something to lift
        z.scatter_(1, labels[:, None], -3.0)
    found, without = (
        (
            loss.from_logits(z, labels, columns=columns, reference=reference).objective,
            induced_target(loss.from_logits, z, labels, columns=columns, reference=reference),
        )
        for loss in (floored, free)
    )
    answer = ROLES == Role.ANSWER
    torch.testing.assert_close(found[0][answer], F.cross_entropy(z, labels, reduction="none")[answer])
    torch.testing.assert_close(found[1][answer], F.one_hot(labels, V).double()[answer])
    for a, b in zip(found, without, strict=True):
        assert torch.equal(a[~answer], b[~answer])


def test_a_floor_below_one_lifts_the_pull_of_improbable_tokens_only() -> None:
    z = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    labels, columns = torch.tensor([0, 1]), {"roles": torch.tensor([Role.ANSWER] * 2)}
    p = z.softmax(-1)
    teacher = torch.tensor([[0.0, 1.0, 2.0]] * 2, dtype=torch.float64)
    q = induced_target(
        losses.target_sft(eta=1.0, floor={"answer": 0.3}).from_logits, z, labels, columns=columns, reference=teacher
    )
    sure = float(p[0, 0]) * F.one_hot(labels[:1], 3)[0] + (1 - float(p[0, 0])) * teacher[0].softmax(-1)
    torch.testing.assert_close(q[0], sure)
    torch.testing.assert_close(q[1], 0.3 * F.one_hot(labels[1:], 3)[0] + 0.7 * teacher[1].softmax(-1))


def test_a_floor_of_zero_asks_for_no_roles() -> None:
    assert losses.dft(floor={"answer": 0.0}).needs == ()
    assert losses.dft(floor={"answer": 0.5}).needs == ("roles",)
