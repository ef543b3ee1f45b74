"""Losses before and after, token by token, and what stands out of them."""

import pytest

from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.token_losses import PieceLoss, TokenLosses
from cot_components.viz.learnt import HARDEST, Cell, RoleChange, learnt


def scored(*rows):
    """An evaluation of rows, each of pieces `(text, role, loss)`."""
    kept = (TokenLosses(i, tuple(PieceLoss(*piece) for piece in row)) for i, row in enumerate(rows))
    return Evaluation((), token_losses=tuple(kept))


def test_pieces_are_paired_and_summed_up_by_role():
    before = scored([("q", "prompt", None), ("a", "thought", 3.0), ("b", "thought", 5.0), ("4", "answer", 2.0)])
    after = scored([("q", "prompt", None), ("a", "thought", 1.0), ("b", "thought", None), ("4", "answer", 2.5)])
    found = learnt(before, after)
    assert found.rows[0] == [
        Cell("q", "prompt", None, None),
        Cell("a", "thought", 3.0, 1.0),
        Cell("b", "thought", 5.0, None),
        Cell("4", "answer", 2.0, 2.5),
    ]
    assert found.roles == [RoleChange("thought", 1, 3.0, 1.0), RoleChange("answer", 1, 2.0, 2.5)]
    assert [cell.text for _, cell in found.hardest] == ["4", "a"]


def test_rows_of_other_texts_are_not_compared():
    one, other = [("a", "answer", 1.0)], [("b", "answer", 1.0)]
    assert list(learnt(scored(one, one), scored(other, one)).rows) == [1]
    assert learnt(scored(one), scored(other)) is None and learnt(Evaluation(()), scored(one)) is None


@pytest.mark.parametrize(("nats", "tint"), [(0.0, 0.0), (None, 0.0), (5.0, 0.5), (-5.0, 0.5), (99.0, 1.0)])
def test_one_loss_has_the_same_tint_everywhere(nats, tint):
    row = [("a", "answer", 10.0)] * (HARDEST + 1)
    found = learnt(scored(row), scored(row))
    assert found.scale == 10.0 and found.tint(nats) == tint and len(found.hardest) == HARDEST


def test_text_that_would_act_is_a_picture_of_itself():
    row = [("\x1b\n", "answer", 1.0)]
    assert learnt(scored(row), scored(row)).rows[0][0].text == "\u241b\u21b5\n"
