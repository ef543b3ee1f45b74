"""Weights from columns of scores: thresholds, and Q-Tuning's tokens, each against a loop over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rows import assert_same_flat, make

from cot_components.clock import Clock
from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.scores import open_scores, scored_tokens
from cot_components.selectors.qtuning import error_uncertainty
from cot_components.transforms import QTuning, Threshold, TopGap
from cot_components.transforms.qtuning import smoothed
from cot_components.transforms.remove import keep_tokens

NOW = Clock(0, 0)
ROWS = 40


@pytest.fixture(scope="module", name="scored")
def _scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Flat]:
    rows, _ = make(ROWS)
    random = np.random.default_rng(1)
    table = {"nll": random.exponential(size=(50, 8)), "entropy": random.random((50, 8)).round(1)}

    def look_up(flat: Flat) -> dict[str, np.ndarray]:
        row = flat.ids[flat.row_of_token] % 8
        return {name: values[flat.tokens, row] for name, values in table.items()}

    folder = tmp_path_factory.mktemp("scores")
    score_rows(rows, look_up, folder, columns={name: Column("m") for name in table}, tokenizer="t")
    return str(folder), rows.flat(range(ROWS))


def tokens(scored: tuple[str, Flat], *names: str) -> list[tuple[int, ...]]:
    """Index and scores of every scored token."""
    folder, flat = scored
    columns = open_scores(folder).gather(flat, *names)
    return [(i, *(float(c[i]) for c in columns)) for i in range(len(flat.tokens)) if scored_tokens(flat)[i]]


@pytest.mark.parametrize("side", ["highest", "lowest"])
@pytest.mark.parametrize("keep", [0.2, 0.7, 1.0])
def test_a_share_of_the_tokens_counts(scored, side: str, keep: float) -> None:
    folder, flat = scored
    found = tokens(scored, "entropy")
    ordered = sorted((score for _, score in found), reverse=side == "highest")
    last = ordered[int(np.ceil(round(keep * (len(found) - 1), 9)))] if keep < 1 else ordered[-1]
    inside = {i for i, score in found if (score >= last if side == "highest" else score <= last)}
    weights = Threshold(scores=folder, keep=keep, side=side, factor=0.25)(flat, NOW).weights
    outside = {i for i, _ in found} - inside
    slow = [w * np.float32(0.25) if i in outside else w for i, w in enumerate(flat.weights)]
    assert weights.tolist() == slow and weights.dtype == np.float32
    assert bool(outside) == (keep < 1) and len(inside) >= keep * len(found) - 1


def test_a_threshold_and_a_gap(scored) -> None:
    folder, flat = scored
    weights = Threshold(scores=folder, column="nll", value=1.0)(flat, NOW).weights
    low = {i for i, nll in tokens(scored, "nll") if nll < 1}
    assert [i for i, (w, before) in enumerate(zip(weights, flat.weights, strict=True)) if w != before] == sorted(low)
    gap = Threshold(scores=folder, column="nll", minus="entropy", value=0.5)(flat, NOW).weights
    assert {i for i in range(len(gap)) if gap[i] != flat.weights[i]} == {
        i for i, nll, entropy in tokens(scored, "nll", "entropy") if np.float32(nll) - np.float32(entropy) < 0.5
    }
    by_share = Threshold(scores=folder, column="nll", minus="entropy", keep=0.3)(flat, NOW)
    assert_same_flat(by_share, TopGap(scores=folder, model="nll", reference="entropy", keep=0.3)(flat, NOW))


SPIKES = [1.2, 9.0, 1.1, 6.0, 7.0, 8.0, 5.0, 1.3, 1.1]


@pytest.mark.parametrize(
    ("smoothing", "scores", "highest"),
    [
        (0.5, [5.1, 5.65, 8.05, 7.05, 10.5, 10.0, 7.15, 3.7, 1.2], {2, 4, 5}),
        (0.25, None, {1, 4, 5}),
        (0, SPIKES, {1, 4, 5}),
    ],
)
def test_neighbours_smooth_perplexity_within_a_row(smoothing: float, scores: list[float] | None, highest: set) -> None:
    losses = np.log(np.array([np.nan, *SPIKES, 50.0], dtype=np.float64))
    found = smoothed(losses, np.array([0, 10, 10, 11]), smoothing)[1:10]
    assert scores is None or found.tolist() == pytest.approx(scores)
    assert set(np.argsort(-found)[:3].tolist()) == highest


def slowly_pruned(scored, keep_rows: float, keep_tokens: float) -> set[int]:
    """Indices of the tokens that leave the loss: all candidates sorted, the hardest first, until the budget is met."""
    folder, flat = scored
    nll, entropy = open_scores(folder).gather(flat, "nll", "entropy")
    spans = [range(a, b) for a, b in zip(flat.row_start, flat.row_start[1:], strict=False)]
    rows = [[i for i in span if not np.isnan(nll[i])] for span in spans]
    means = [np.array([np.mean(column[row].astype(np.float64)) for row in rows]) for column in (nll, entropy)]
    plane = error_uncertainty(np.exp(means[0]), means[1], keep_rows)
    p = {i: float(np.exp(np.float64(nll[i]))) for row in rows for i in row}
    hard = {
        i: 0.5 * p[i] + 0.5 * ((p[i - 1] if i - 1 in row else 0.0) + (p[i + 1] if i + 1 in row else 0.0))
        for row, wrong in zip(rows, plane.misconceived, strict=True)
        if wrong
        for i in row
    }
    left = sum(len(row) for row, kept in zip(rows, plane.misconceived | plane.unsure, strict=True) if kept)
    leaving = max(left - round(keep_rows * keep_tokens * len(p)), 0)
    return set(sorted(hard, key=lambda i: -hard[i])[:leaving])


@pytest.mark.parametrize(("keep_rows", "keep_tokens"), [(0.5, 0.9), (0.5, 0.5), (0.3, 0.0), (1.0, 0.8), (0.2, 1.0)])
def test_the_hardest_tokens_of_misconceived_rows_leave_the_loss(scored, keep_rows: float, keep_tokens: float) -> None:
    folder, flat = scored
    rule = QTuning(scores=folder, keep_rows=keep_rows, keep_tokens=keep_tokens)
    pruned, gone = rule(flat, NOW), slowly_pruned(scored, keep_rows, keep_tokens)
    assert {i for i in range(len(flat.tokens)) if pruned.weights[i] != flat.weights[i]} == gone
    assert not pruned.weights[sorted(gone)].any() and pruned.tokens is flat.tokens and pruned.labels is flat.labels
    assert bool(gone) == (keep_tokens < 1)


@pytest.mark.parametrize("options", [{"keep": 0.2}, {"column": "nll", "value": 1.0}])
def test_no_weight_depends_on_the_batch(scored, options) -> None:
    folder, flat = scored
    for rule in (Threshold(scores=folder, **options), QTuning(scores=folder)):
        whole = rule(flat, NOW).weights
        for row in (0, 7, ROWS - 1):
            keep = flat.row_of_token == row
            alone = make(ROWS)[0].flat([row])
            assert rule(alone, NOW).weights.tolist() == whole[keep].tolist()
        emptied = keep_tokens(flat, flat.row_of_token != 3)
        assert rule(emptied, NOW).weights.tolist() == whole[flat.row_of_token != 3].tolist()


def test_scores_are_part_of_what_a_resumed_run_compares(scored, tmp_path: Path) -> None:
    folder, _ = scored
    rows, other = make(ROWS)[0], str(tmp_path / "other")
    columns = {name: Column("m") for name in ("nll", "entropy")}
    score_rows(rows, lambda f: dict.fromkeys(columns, f.tokens * 1.0), Path(other), columns=columns, tokenizer="t")
    for rule in (Threshold, QTuning):
        of = [
            rule(scores=where, **({"keep": 0.5} if rule is Threshold else {})).fingerprint()
            for where in (folder, other)
        ]
        assert of[0] != of[1]
