"""The surgery benchmark: both sides agree, ours makes no device wait, and a difference would be noticed."""

from dataclasses import replace

import pytest
import torch

from benchmarks import surgery
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.models.gpt2_bpe import compact_tokenizer


@pytest.fixture(name="chat")
def _chat() -> ICoTFormat:
    return ICoTFormat(compact_tokenizer().text)


def test_rows_carry_time_operations_and_syncs() -> None:
    measured = list(surgery.rows("cpu", "tiny"))
    assert [row.case.split(",")[0] for row in measured] == ["removal", "finished", "operations", "syncs"]
    assert measured[-1].ours == 0 and measured[-1].verdict == "ok" and measured[-1].peer > 100


def test_a_difference_is_noticed(chat) -> None:
    _, finished, peer = surgery.workers(chat, 3, 4, "cpu")
    ours, theirs = finished(), peer()
    surgery.check_equal(ours, theirs)
    noticed = 0
    for name in ("tokens", "labels"):
        changed = getattr(ours, name).clone()
        changed[5, 3] += 1
        with pytest.raises(AssertionError):
            surgery.check_equal(replace(ours, **{name: changed}), theirs)
        noticed += 1
    assert noticed == 2


def test_the_peer_says_when_every_thought_is_gone(chat) -> None:
    assert [surgery.workers(chat, 2, stage, "cpu")[2]().all_gone for stage in (0, 99)] == [False, True]
    assert torch.equal(*(surgery.workers(chat, 2, 99, "cpu")[2]().tokens for _ in range(2)))
