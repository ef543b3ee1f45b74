"""The shuffle-aware discriminator: who gets whose output, what the classes are, how they are told; on agent data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rows import make_flat, random_rows, trace_roles

from cot_components import losses
from cot_components.data.rows.batches import pad
from cot_components.data.rows.encode import EncodedRow
from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.losses import GroupSoftmax
from cot_components.roles import Role
from cot_components.transforms.discriminator import (
    BOILERPLATE,
    REASONING,
    Confusion,
    classify,
    derange,
    loss_difference,
    phrases,
    sample_rows,
    shuffle_outputs,
    token_losses,
)

ORIGINAL = np.array([0.50, 1.20, 0.90, 2.00, 0.10, 3.00], dtype=np.float32)
SHUFFLED = np.array([0.20, 0.70, 1.40, 2.60, 0.10, 3.50], dtype=np.float32)
CURRENT = [0.30, 0.60, 1.00, 2.20, 0.10, 2.80]


def store(count: int, *, seed: int = 0, outputs: int | None = None) -> Rows:
    """Random rows; with `outputs`, only so many different ones after the prompt."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt = int(random.integers(1, 6))
        kind = int(random.integers(outputs)) if outputs else int(random.integers(10**6))
        fixed = np.random.default_rng(kind)
        roles = np.array(trace_roles(prompt, int(fixed.integers(0, 9)), 3), dtype=np.uint8)
        tokens = np.concatenate([random.integers(0, 50, prompt), fixed.integers(0, 10**6, len(roles) - prompt)])
        counters = np.where(roles == Role.THOUGHT, np.cumsum(roles == Role.THOUGHT) - 1, -1)
        weights = np.full(len(roles), kind % 7 + 1)
        made.append(EncodedRow(tokens.astype(np.int32), roles, counters.astype(np.int32), weights.astype(np.float32)))
    return Rows.of(made, [5 + 3 * i for i in range(count)])


def output_of(rows: Rows, index: int) -> tuple[list[int], list[int], list[int], list[float]]:
    here = slice(rows.row_start[index], rows.row_start[index + 1])
    start = int(np.argmax(rows.roles[here] != Role.PROMPT))
    columns = (rows.tokens, rows.roles, rows.counters, rows.weights)
    return tuple(column[here][start:].tolist() for column in columns)  # type: ignore[return-value]


def prompt_of(rows: Rows, index: int) -> list[int]:
    here = slice(rows.row_start[index], rows.row_start[index + 1])
    return rows.tokens[here][rows.roles[here] == Role.PROMPT].tolist()


# Published vectors


def test_published_classes_of_loss_differences() -> None:
    np.testing.assert_allclose(loss_difference(ORIGINAL, SHUFFLED), [-0.3, -0.5, 0.5, 0.6, 0.0, 0.5], atol=1e-6)
    b, r = BOILERPLATE, REASONING
    assert classify(ORIGINAL, SHUFFLED).tolist() == [b, b, r, r, b, r]
    assert classify(ORIGINAL, SHUFFLED, threshold=0.55).tolist() == [b, b, b, r, b, b]
    assert classify(np.array([np.nan, 1.0]), np.array([np.nan, 2.0])).tolist() == [b, r]


def test_weights_with_gradient_would_push_boilerplate_down() -> None:
    """Through the loss itself, on logits whose losses are the published ones: slopes are d loss / d nll of a token."""
    probabilities = torch.exp(-torch.tensor(CURRENT, dtype=torch.float64))
    logits = torch.stack([probabilities, 1 - probabilities], -1).log().requires_grad_()
    labels = torch.zeros(6, dtype=torch.int64)
    groups = torch.from_numpy(classify(ORIGINAL, SHUFFLED)).long()
    columns = {"groups": groups, "sample": torch.zeros(6, dtype=torch.int64)}

    def per_nll(loss: torch.Tensor) -> tuple[float, float]:
        (grad,) = torch.autograd.grad(loss, logits)
        slope = grad[:, 0] / (probabilities - 1)  # d nll / d logit of the label is p - 1
        return float(slope[3]), float(slope[0])

    out = losses.sft(weight_rule=GroupSoftmax(tau=1.0)).from_logits(logits, labels, columns=columns)
    assert per_nll(out.objective.sum() / 6) == pytest.approx((0.280377, 0.052956), abs=1e-5)
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    undetached = (GroupSoftmax(tau=1.0)(nll, **columns) * nll).sum() / 6
    assert per_nll(undetached) == pytest.approx((0.354616, -0.021282), abs=1e-5)


# Sampling and shuffling


def test_the_sample_is_a_share_with_a_floor_and_grows_by_adding() -> None:
    rows = store(400)
    assert len(sample_rows(rows)) == 256 and len(sample_rows(store(40))) == 40
    small, large = (sample_rows(rows, share=share, at_least=2) for share in (0.05, 0.2))
    assert (len(small), len(large)) == (20, 80) and set(small) < set(large)
    assert (np.diff(small) > 0).all() and small.tolist() != sample_rows(rows, share=0.05, at_least=2, seed=1).tolist()
    backwards = rows.select(range(399, -1, -1))
    assert sorted(backwards.ids[sample_rows(backwards, share=0.05, at_least=2)]) == sorted(rows.ids[small])


def test_rows_with_nothing_to_learn_are_not_sampled() -> None:
    rows = store(6)
    weights = rows.weights.copy()
    weights[: rows.row_start[3]] = 0
    assert sample_rows(Rows(**{**vars(rows), "weights": weights})).tolist() == [3, 4, 5]
    one = rows.select([0])
    for few, knobs, said in ((one, {}, "1 rows"), (rows, {"share": 0.0}, "share"), (rows, {"at_least": 1}, "at_least")):
        with pytest.raises(UserError, match=said):
            sample_rows(few, **knobs)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 1000))
def test_no_row_keeps_its_output_and_none_gets_an_equal_one_where_that_can_be(kinds: list[int], seed: int) -> None:
    ids = np.arange(len(kinds)) * 11 + 2
    outputs = [bytes([kind]) for kind in kinds]
    source = derange(ids, outputs, seed=seed)
    assert sorted(source) == list(range(len(kinds)))
    assert (source != np.arange(len(kinds))).all()
    if max(map(kinds.count, kinds)) <= len(kinds) // 2:
        assert all(kinds[i] != kinds[j] for i, j in enumerate(source))
    assert source.tolist() == derange(ids, outputs, seed=seed).tolist()


def test_derangements_differ_by_seed() -> None:
    ids, outputs = np.arange(30), [bytes([i]) for i in range(30)]
    assert len({tuple(derange(ids, outputs, seed=seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("outputs", [None, 3])
def test_shuffled_rows_are_a_prompt_and_another_rows_output(outputs: int | None) -> None:
    rows = store(50, outputs=outputs)
    indices = sample_rows(rows, share=0.6, at_least=2)
    shuffled = shuffle_outputs(rows, indices)
    assert shuffled.ids.tolist() == rows.ids[indices].tolist()
    given_outputs = sorted(output_of(rows, i) for i in indices)
    assert sorted(output_of(shuffled, i) for i in range(len(shuffled))) == given_outputs
    for place, index in enumerate(indices):
        assert prompt_of(shuffled, place) == prompt_of(rows, index)
        assert output_of(shuffled, place) != output_of(rows, index)
    again = shuffle_outputs(rows, indices)
    assert (again.tokens == shuffled.tokens).all() and len(indices) > 0
    assert all(getattr(shuffled, name).dtype == getattr(rows, name).dtype for name in vars(rows))


def test_long_shuffled_rows_lose_the_end_of_their_output() -> None:
    rows = store(60)
    whole, cut = (shuffle_outputs(rows, range(60), max_seq_len=limit) for limit in (None, 9))
    assert whole.lengths.max() > 9 and cut.lengths.max() <= 9 and len(cut) == 60
    for i in range(60):
        a, b = whole.row_start[i], cut.row_start[i]
        assert cut.tokens[b : cut.row_start[i + 1]].tolist() == whole.tokens[a : a + cut.lengths[i]].tolist()
    assert 0 < len(shuffle_outputs(rows, range(60), max_seq_len=4)) < 60
    with pytest.raises(UserError, match="no prompt"):
        shuffle_outputs(rows, range(60), max_seq_len=1)


# Scores and classes


def test_losses_of_positions_become_losses_of_tokens() -> None:
    flat = random_rows(6).flat(range(6))
    batch = pad(flat, pad_id=0, multiple=4)
    values = token_losses(batch.next_tokens.numpy().astype(np.float32), flat)
    first = np.zeros(len(flat.tokens), dtype=bool)
    first[flat.row_start[:-1]] = True
    assert np.isnan(values[first]).all() and (values[~first] == flat.tokens[~first]).all()


def test_confusion() -> None:
    truth, found = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 1, 0, 1, 1])
    where = np.array([True] * 5 + [False])
    confusion = Confusion.of(truth, found, where)
    assert confusion.counts.tolist() == [[1, 1], [1, 2]] and confusion.error_rate == pytest.approx(0.4)
    assert [line.split()[-1] for line in confusion.table().splitlines()[-2:]] == ["40.00%", "66.67%"]
    assert np.isnan(Confusion.of(truth, found, ~where & where).error_rate)


def test_phrases_are_runs_of_one_side_within_a_row() -> None:
    flat = make_flat([[Role.PROMPT] + [Role.ANSWER] * 5, [Role.PROMPT] + [Role.ANSWER] * 4])
    tokens = np.array([9, 1, 2, 3, 4, 1, 9, 1, 2, 5, 5], dtype=np.int32)
    rows = Rows(tokens, flat.roles, flat.counters, flat.weights, flat.row_start, flat.ids)
    difference = np.array([np.nan, -1, -1, 2, 4, -3, np.nan, -2, -2, 9, 9], dtype=np.float32)
    low, high = phrases(rows, difference, lambda ids: " ".join(map(str, ids)))
    assert [tuple(p) for p in low] == [("1", -3.0, 1), ("1 2", -1.5, 2)]
    assert [tuple(p) for p in high] == [("5 5", 9.0, 1), ("3 4", 3.0, 1)]
    low, high = phrases(rows, difference, str, at_least=2)
    assert [p.times for p in low] == [2] and not high
    assert [p.text for p in phrases(rows, difference, str, max_tokens=1, most=1)[1]] == ["[5]"]
